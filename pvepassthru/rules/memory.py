# SPDX-License-Identifier: Apache-2.0
"""Advice on a VM's memory, its place on the host, and addresses for large BARs.

A device that is passed whole, or an SR-IOV vGPU, can reach all of the guest's memory, so VFIO pins all of it when the
VM starts. Sources: behaviour of qemu-server; QEMU's vfio and virtio-balloon; Linux Documentation/filesystems/proc.rst
and admin-guide/mm/hugetlbpage.rst; edk2 OvmfPkg, PlatformInitLib.
"""

from __future__ import annotations

from pvepassthru.model import property_string
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.property_string import Key, PropertyError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, number
from pvepassthru.rules.gpus import whole
from pvepassthru.rules.subject import Hit, chosen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.host import Host
    from pvepassthru.rules.subject import Subject, Surroundings

_DEFAULT = 512
"""MiB that a VM has without `memory`."""
_KEYS = {"current": Key("integer", least=16, default=True)}
_NUMA_KEYS = {name: Key(default=name == "cpus") for name in ("cpus", "hostnodes", "memory", "policy")}
_CPU_KEYS = {
    name: Key(default=name == "cputype")
    for name in ("cputype", "flags", "guest-phys-bits", "hidden", "hv-vendor-id", "phys-bits", "reported-model")
}
_NODES = "/sys/devices/system/node"
_GIGANTIC = "/sys/kernel/mm/hugepages/hugepages-1048576kB"
_WINDOW = 32 << 30
"""Bytes; where OVMF cannot trust the CPU's address width, all 64-bit BARs share a window of this size."""
_MEM_64 = 0x00100000
"""The flag of a 64-bit BAR in `resource` (IORESOURCE_MEM_64)."""
_HEX = Pattern("0x[0-9a-f]+", ASCII)
_MOST_CPUS = 8192
"""More than any kernel knows (NR_CPUS)."""


def configured(subject: Subject) -> int | None:
    """The VM's memory in MiB, or None if it cannot be told."""
    text = subject.section.get("memory")
    if text is None:
        return _DEFAULT
    try:
        return number(property_string.parse(text, _KEYS).get("current", str(_DEFAULT)))
    except PropertyError:
        return None


def _pins(subject: Subject) -> bool:
    """Whether a start pins all of the guest's memory; a classic mdev's driver pins what it needs."""
    return any(not device.mdev for device in subject.resolution.passed)


def _meminfo(around: Surroundings) -> dict[str, int]:
    """/proc/meminfo in MiB."""
    return _kibibytes(around.host.text("/proc/meminfo") or "")


def _kibibytes(text: str) -> dict[str, int]:
    found = {}
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        words = value.split()
        amount = number(words[0]) if colon and len(words) == 2 and words[1] == "kB" else None
        if amount is not None:
            found[name] = amount >> 10
    return found


def _arc(around: Surroundings) -> int:
    """MiB of ZFS's cache that it gives back when asked."""
    values = {}
    for line in (around.host.text("/proc/spl/kstat/zfs/arcstats") or "").split("\n"):
        words = line.split()
        if len(words) == 3 and (amount := number(words[2])) is not None:
            values[words[0]] = amount
    return max(0, values.get("size", 0) - values.get("c_min", values.get("size", 0))) >> 20


def balloon(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a VM with passthrough has a minimum of memory (`balloon`) below its memory.

    Why it matters: a device can reach all of the guest's memory, so QEMU keeps the balloon from giving any back. The
    host needs all of it, whatever the minimum says.

    How to fix: `balloon: 0`, and a `memory` that the host can spare.
    """
    least, most = number(subject.section.get("balloon")), configured(subject)
    if subject.resolution.passed and least and most and least < most:
        message = f"balloon: {least} has no effect: passthrough keeps all {most} MiB of the VM in use"
        yield Hit(subject.at("balloon", subject.section.line("balloon")), message, f"qm set {subject.vmid} --balloon 0")


def too_much(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a VM that passes a device whole has more memory than the host.

    Why it matters: all of it is pinned when the VM starts, so the start fails, or the host kills processes for it.

    How to fix: lower `memory`; the host needs some GiB for itself.
    """
    wanted, total = configured(subject), subject.around.once(_meminfo).get("MemTotal")
    if wanted and total and wanted > total and _pins(subject):
        message = f"the VM's {wanted} MiB of memory are all pinned at its start, and the host has {total} MiB"
        yield _at_memory(subject, message, "lower memory below what the host has")


def tight(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the memory that is free now is enough for a VM that passes a device whole.

    Asked of VMs that do not run and whose devices no other VM has: else that one must stop first, and its memory is
    free then. What ZFS would give back of its cache (ARC) counts as free; huge pages do not.

    Why it matters: all of the VM's memory is pinned when it starts. Without room the start fails, is very slow, or the
    host kills another VM for it.

    How to fix: stop another VM, lower `memory`, or limit ZFS's cache (zfs_arc_max).
    """
    around = subject.around
    wanted, known = configured(subject), around.once(_meminfo)
    free = known.get("MemAvailable")
    if not wanted or free is None or wanted > known.get("MemTotal", 0) or subject.section.get("hugepages"):
        return
    if not _pins(subject) or around.running(subject.vmid) is not None:
        return
    arc = around.once(_arc)
    if wanted > free + arc and not _waits(subject):
        held = f", {arc} MiB of them in ZFS's cache" if arc else ""
        message = f"the VM's {wanted} MiB of memory are all pinned at its start; {free + arc} MiB are free now{held}"
        yield _at_memory(subject, message, "stop another VM, or lower memory")


def _waits(subject: Subject) -> bool:
    """Whether another VM has a device of this one, and so must stop before this one starts."""
    return any(not functions or subject.held(functions) for _, functions in chosen(subject))


def _at_memory(subject: Subject, message: str, hint: str) -> Hit:
    return Hit(subject.at("memory", subject.section.line("memory")), message, hint)


def hugepages_without_numa(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether `numa: 1` is set for a VM with passthrough that has `hugepages`.

    Why it matters: PVE refuses to start the VM.

    How to fix: set `numa: 1`.
    """
    numa = property_string.boolean(subject.section.get("numa") or "0")
    if subject.section.get("hugepages") in {"any", "2", "1024"} and numa is False and subject.resolution.passed:
        where = subject.at("hugepages", subject.section.line("hugepages"))
        yield Hit(where, "hugepages needs numa: 1, which is not set", f"qm set {subject.vmid} --numa 1")


def _gigantic(around: Surroundings) -> int | None:
    """The huge pages of 1 GiB that are free, or None if the host has no such pages."""
    return number(around.host.text(f"{_GIGANTIC}/free_hugepages"))


def hugepages_missing(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether enough huge pages of 1 GiB are free for a VM with passthrough that does not run.

    Not asked while another VM has its device: that one must stop first, and its pages are free then.

    Why it matters: PVE asks the kernel for the missing ones when the VM starts. The kernel finds 1 GiB in one piece
    hardly ever once the host has run for a while, and then the start fails.

    How to fix: reserve them when the host starts: `hugepagesz=1G hugepages=N` on the kernel command line.
    """
    wanted = configured(subject)
    if subject.section.get("hugepages") != "1024" or not wanted or not subject.resolution.passed:
        return
    free = subject.around.once(_gigantic)
    pages = -(-wanted // 1024)
    runs = subject.around.running(subject.vmid) is not None
    if free is not None and pages > free and not runs and not _waits(subject):
        where = subject.at("hugepages", subject.section.line("hugepages"))
        message = f"the VM needs {pages} huge pages of 1 GiB, and {free} are free"
        yield Hit(where, message, "reserve them at boot: hugepagesz=1G hugepages=N on the kernel command line")


# ---- NUMA


def cpu_list(text: str) -> frozenset[int]:
    """The numbers of a list such as `0-5,12`; what is none in it is left out."""
    spans: set[tuple[int, int]] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        start, end = number(first), number(last) if dash else number(first)
        if start is not None and end is not None and end < _MOST_CPUS:
            spans.add((start, end))
    found: set[int] = set()
    reached = 0
    for start, end in sorted(spans):
        found.update(range(max(start, reached), end + 1))
        reached = max(reached, end + 1)
    return frozenset(found)


def _nodes(around: Surroundings) -> dict[int, frozenset[int]]:
    """The CPUs of each NUMA node of the host."""
    names = (name for name in around.host.names(_NODES) if name.startswith("node"))
    numbers = (found for name in names if (found := number(name.removeprefix("node"))) is not None)
    return {node: cpu_list(around.host.text(f"{_NODES}/node{node}/cpulist") or "") for node in numbers}


def _places(subject: Subject) -> tuple[str, set[int]] | None:
    """What keeps the VM to some NUMA nodes (a key of its config), and these nodes; None if nothing does."""
    nodes = subject.around.once(_nodes)
    if cpus := cpu_list(subject.section.get("affinity") or ""):
        return "affinity", {node for node, own in nodes.items() if own & cpus}
    keys = [f"numa{index}" for index in range(8) if subject.section.get(f"numa{index}")]
    bound: set[int] = set()
    for key in keys:
        try:
            hosts = property_string.parse(subject.section.get(key) or "", _NUMA_KEYS).get("hostnodes")
        except PropertyError:
            return None
        if hosts is None:
            return None
        bound |= cpu_list(hosts.replace(";", ","))
    return (keys[0], bound) if keys else None


def remote_node(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a VM that is kept to some NUMA nodes is kept to that of its device.

    `affinity`, or `hostnodes=` of every numaN, keeps a VM to nodes.

    Why it matters: each access to the device goes through the link between the processors, which costs bandwidth and
    time.

    How to fix: choose CPUs of the device's node (`cat /sys/bus/pci/devices/ADDRESS/local_cpulist`).
    """
    if len(subject.around.once(_nodes)) < 2:
        return
    kept = _places(subject)
    if kept is None or not kept[1]:
        return
    key, nodes = kept
    devices = [(device.entry, functions) for device, functions in chosen(subject) if functions]
    devices += [(device.entry, device.addresses) for device in subject.resolution.passed if device.mdev]
    for entry, functions in sorted(devices, key=lambda device: device[0].index):
        at = {number(subject.inventory.attribute(address, "numa_node")) for address in functions}
        node = at.pop() if len(at) == 1 else None
        if node is not None and node not in nodes:
            message = f"{functions[0]} is at NUMA node {node}, and {key} keeps the VM to {listed(sorted(nodes))}"
            hint = f"CPUs near it: cat /sys/bus/pci/devices/{functions[0]}/local_cpulist"
            yield Hit(subject.at(entry.key, entry.line), message, hint)


# ---- addresses


def _intel(around: Surroundings) -> bool:
    return intel_cpu(around.host)


def intel_cpu(host: Host) -> bool:
    """Whether the host's CPU says that it is Intel's."""
    lines = (host.text("/proc/cpuinfo") or "").split("\n", 40)[:40]
    return any(line.split() == ["vendor_id", ":", "GenuineIntel"] for line in lines)


def _has_width(subject: Subject) -> bool:
    """Whether the guest may know the CPU's real address width, or has a window that was set by hand."""
    arguments = subject.section.get("args") or ""
    if "phys-bits" in arguments or "X-PciMmio64Mb" in arguments or "-cpu" in arguments:
        return True
    try:
        cpu = property_string.parse(subject.section.get("cpu") or "kvm64", _CPU_KEYS)
    except PropertyError:
        return False  # PVE drops it, so its default counts
    kind = cpu.get("cputype", "kvm64")
    bits = cpu.get("phys-bits")
    return kind in {"host", "max"} or kind.startswith("custom-") or bits == "host" or (number(bits) or 0) > 40


def large_bars(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether OVMF has addresses for the BARs of all passed devices, on a host with an Intel CPU.

    Why it matters: other CPU types than `host` say 40 address bits, whatever the hardware has. OVMF knows that this
    may be untrue, and keeps to a window of 32 GiB for all 64-bit BARs: a device that does not fit has no memory in the
    guest.

    How to fix: `cpu: host`, or `phys-bits=host` for another type.
    """
    if subject.section.get("bios") != "ovmf" or _has_width(subject):
        return
    sizes = [
        (sum(bar_sizes(subject.inventory.attribute(address, "resource") or "")), address, device.entry)
        for device, functions in whole(subject)
        for address in functions
    ]
    total = sum(size for size, _, _ in sizes)
    if total >= _WINDOW and subject.around.once(_intel):
        _, address, entry = max(sizes, key=lambda size: size[0])
        message = f"OVMF has 32 GiB of addresses with this cpu type, and BARs take {total >> 30} GiB, most of {address}"
        yield Hit(subject.at(entry.key, entry.line), message, f"qm set {subject.vmid} --cpu host")


def bar_sizes(text: str) -> list[int]:
    """The sizes in bytes of a function's 64-bit BARs, of the first six lines of its `resource`."""
    sizes = []
    for line in text.split("\n")[:6]:
        words = line.split()
        if len(words) == 3 and all(len(word) == 18 and _HEX.fits(word) for word in words):
            start, end, flags = (int(word, 16) for word in words)
            if end > start and flags & _MEM_64:
                sizes.append(end - start + 1)
    return sizes
