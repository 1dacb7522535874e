# SPDX-License-Identifier: Apache-2.0
"""Rules across VMs and on the cluster's mappings, PVP4xx."""

from __future__ import annotations

from pvepassthru.host import holders, vms
from pvepassthru.model import pci, reservation
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed
from pvepassthru.rules.devices import not_there
from pvepassthru.rules.rule import Unknown
from pvepassthru.rules.subject import MAPPINGS, Hit, chosen, group_mates

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pvepassthru.model.passed import Passed
    from pvepassthru.rules.subject import Subject, Surroundings


def mapping_not_found(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the mapping that an entry names is there.

    Why it matters: PVE refuses to start the VM.

    How to fix: create the mapping (Datacenter, Resource Mappings), or correct the name; upper and lower case differ.
    """
    if not subject.around.mappings_read[1]:  # else nobody can tell
        yield from subject.problems("mapping-not-found")


def mapping_not_on_node(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the mapping that an entry names has a device on this node.

    Why it matters: PVE refuses to start the VM here.

    How to fix: add a device of this node to the mapping, or start the VM on a node that has one.
    """
    return subject.problems("mapping-not-on-node")


def mapping_device_not_found(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether every device of this node in the mapping is there.

    Why it matters: one that is not spoils the whole mapping here: PVE refuses to start the VM.

    How to fix: see which address the device has now (`lspci -D`), then update or remove the mapping's entry. VFs that
    the policy has are made by `pvepassthru sriov apply`; those that the start itself makes (`in_hook: true`) do not
    count as missing.
    """
    return not_there(subject, "mapping-device-not-found")


def mapping_id(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether vendor and device id of every device of this node are those in the mapping.

    They are compared as text, in lower case.

    Why it matters: another device is at that address now, as a rule; PVE refuses to start the VM.

    How to fix: see which address the device has now, then update the mapping.
    """
    return subject.problems("mapping-id-mismatch")


def mapping_subsystem(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the subsystem ids of every device of this node are those in the mapping.

    Why it matters: it is another card, as a rule; PVE refuses to start the VM.

    How to fix: see which device it is, then update the mapping.
    """
    return subject.problems("mapping-subsystem-mismatch")


def mapping_group(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the IOMMU group of every device of this node is that in the mapping.

    It is compared as text: `01` is not `1`.

    Why it matters: PVE refuses to start the VM. Groups are numbered anew when hardware or kernel options change.

    How to fix: see that the group holds nothing else by now, then update the mapping.
    """
    return subject.problems("mapping-iommugroup-mismatch")


def mapping_mdev(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the mapping says `mdev 1` exactly when its devices have mediated devices.

    Why it matters: PVE refuses to start the VM.

    How to fix: set or clear "Use with mediated devices"; a device also loses its types with its driver.
    """
    return subject.problems("mapping-mdev-mismatch")


def mapping_missing_property(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the mapping has every property that the device has: IOMMU group and subsystem ids.

    Why it matters: PVE refuses to start the VM.

    How to fix: add it, as the hint shows.
    """
    return subject.problems("mapping-missing-property")


def mapping_unexpected_property(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the mapping has a property that the device has not, such as an IOMMU group.

    Why it matters: PVE refuses to start the VM.

    How to fix: remove it, or see why the device has lost it: without an IOMMU there are no groups.
    """
    return subject.problems("mapping-unexpected-property")


def mapping_line_skipped(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether PVE can read each line of the mappings that the VM uses.

    Why it matters: PVE skips a bad line with a warning, so a device or a flag of the mapping is missing.

    How to fix: correct the line, as the hint shows.
    """
    if subject.config.template:
        return
    used = {entry.mapping for entry in subject.section.entries.values() if entry.mapping}
    for bad in subject.mappings.bad_lines if used else ():
        if bad.name in used:
            yield Hit(
                f"{MAPPINGS}:{bad.line} {bad.name}", f"PVE skips a line of mapping {bad.name}: {bad.message}", bad.hint
            )


def lines_skipped(around: Surroundings) -> Iterator[Hit]:
    """The same of all mappings, whether a VM uses them or not."""
    if around.mappings_read[1]:
        raise Unknown(f"{MAPPINGS} cannot be read")
    for bad in around.mappings_read[0].bad_lines:
        name = f" of mapping {bad.name}" if bad.name else ""
        yield Hit(f"{MAPPINGS}:{bad.line}", f"PVE skips line {bad.line}{name}: {bad.message}", bad.hint)


# ---- other VMs


def in_use(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether another running VM has a function that this VM wants, by PVE's reservations.

    Why it matters: PVE refuses to start the VM.

    How to fix: stop the other VM, or use a mapping with several devices.
    """
    return _taken(subject, "reserved-in-use")


def starting(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether another VM that is about to start has reserved a function that this VM wants.

    Why it matters: PVE refuses to start the VM until that reservation ends.

    How to fix: wait for the other VM's start to end; one that failed leaves its reservation for a few seconds.
    """
    return _taken(subject, "reserved-pending")


def _taken(subject: Subject, code: str) -> Iterator[Hit]:
    for device, functions in chosen(subject):
        for address in functions if len(device.alternatives) == 1 else ():
            found = subject.in_the_way(address)
            if found and found[0] == code:
                message = f"{address} is not free: {reservation.describe(found[1], subject.around.now)}"
                yield _hit(subject, device, message, f"stop VM {found[1].vmid}, or use a mapping with several devices")


def all_taken(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether other VMs leave one device of a mapping to each of this VM's entries.

    For a vGPU it must be one that offers the type, too: a GPU that other VMs fill offers it no more.

    Why it matters: PVE finds no free device and refuses to start the VM.

    How to fix: stop a VM that has one (the message names them), or add devices to the mapping.
    """
    told = {problem.key for problem in subject.resolution.problems if problem.code == "vgpu-no-alternative"}
    used: dict[str, str] = {}
    for device, functions in chosen(subject):
        key = device.entry.key
        if not functions and key not in told:
            words = [_why_not(subject, device, alternative, used) for alternative in device.alternatives]
            message = f"no device of mapping {device.entry.mapping} is free: {listed(words)}"
            yield _hit(subject, device, message, "stop one of these VMs, or add devices to the mapping")
        used.update(dict.fromkeys(functions, key))


def _why_not(subject: Subject, device: Passed, functions: tuple[str, ...], used: dict[str, str]) -> str:
    """Why PVE does not take this alternative: an earlier entry or another VM has it, or it lacks the vGPU type."""
    for address, who in subject.held(functions):
        return f"{address}: {who}"
    for address in functions:
        if address in used:
            return f"{address}: {used[address]} takes it"
    return f"{functions[0]} does not offer vGPU type {device.nvidia} now"


def group_in_use(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether another running VM uses something in the IOMMU group that this VM's device is in.

    That is one of the group's devices, or a mediated device on one of them.

    Why it matters: PVE binds every device of the group to vfio-pci, away from that VM; and a group belongs to one VM.

    How to fix: stop the other VM, or move one of the devices to a slot with an IOMMU group of its own.
    """
    if not subject.around.reservations_read[0] and not subject.around.has_mdevs:
        return  # nobody has anything, which spares looking at each group
    mine = {address for _, functions in chosen(subject) for address in functions}
    for device, functions in chosen(subject):
        if not (functions and device.bound_to_vfio):
            continue
        others = [mate for mate in group_mates(subject, functions) if mate not in mine]
        words = [f"{address}: {who}" for address, who in subject.held(others)]
        words += _mdev_users(subject, [*functions, *others])
        if words:
            group = subject.inventory.group(functions[0])
            message = f"{functions[0]} is in IOMMU group {group} with what another VM uses ({listed(words)})"
            yield _hit(subject, device, message, "stop that VM, or move one of the devices to another slot")


def open_elsewhere(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a process has a device open through VFIO that this VM gets whole.

    Or a device that PVE binds with it, of its IOMMU group, or a mediated device on one of them. This VM's own QEMU does
    not count, nor what another rule names another VM for.

    Why it matters: QEMU cannot open what another process has open, and PVE would wait for ever when it takes a device
    from its driver while a mediated device on it is open.

    How to fix: end that process, or pass another device.
    """
    wanted = [(device, functions) for device, functions in chosen(subject) if functions and not device.nvidia]
    if not wanted:
        return
    try:
        opened = subject.around.opened
    except PassthruError:
        subject.host.names("/proc")  # notes why it cannot be read: hosts.unreadable tells
        return
    own = {subject.around.running(subject.vmid), *vms.scope_pids(subject.host, subject.vmid)} if opened else set()
    in_use = {
        node: others
        for node, users in opened.items()
        if (others := tuple(user for user in users if user.pid not in own))
    }
    for device, functions in wanted if in_use else ():
        if _is_told(subject, device, functions):
            continue
        for node, what in _nodes(subject, device, functions):
            if node in in_use:
                message = f"{what} is in use: {holders.describe(in_use[node])} has it open ({node})"
                yield _hit(subject, device, message, "end that process, or pass another device")


def _nodes(subject: Subject, device: Passed, functions: tuple[str, ...]) -> list[tuple[str, str]]:
    """The VFIO device nodes of all that PVE or QEMU takes with these functions, each once, and what it is."""
    mates = group_mates(subject, functions) if device.bound_to_vfio else []
    found: dict[str, str] = {}
    for address in (*functions, *mates):
        for node, what in subject.around.nodes(address):
            if device.bound_to_vfio or what == address:
                found.setdefault(node, what)
    return list(found.items())


def _is_told(subject: Subject, device: Passed, functions: tuple[str, ...]) -> bool:
    """Whether another rule says already which VM has one of these functions, or what goes with it."""
    if not device.bound_to_vfio:
        return bool(subject.held(functions))
    taken = (*functions, *group_mates(subject, functions))
    return bool(subject.held(taken) or _mdev_users(subject, taken))


def _mdev_users(subject: Subject, addresses: Iterable[str]) -> list[str]:
    """Words for the mediated devices of other running VMs on these functions."""
    parents = [address for address in addresses if subject.inventory.has(address, "mdev_supported_types")]
    words = []
    for made in subject.inventory.mdevs() if parents else ():
        owner = pci.vmid_of_uuid(made.uuid)
        if made.parent in parents and owner and owner[1] != subject.vmid and subject.around.running(owner[1]):
            words.append(f"{made.parent}: VM {owner[1]} has an mdev {made.type} on it")
    return words


def _hit(subject: Subject, device: Passed, message: str, hint: str) -> Hit:
    return Hit(subject.at(device.entry.key, device.entry.line), message, hint)
