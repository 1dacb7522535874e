# SPDX-License-Identifier: Apache-2.0
"""Rules on the state of the functions that a VM gets: reset, bus, link, memory, errors. PVP226, PVP227, PVP281 on."""

from __future__ import annotations

from pvepassthru.host import quarantine
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model import quirks
from pvepassthru.model.pci import is_address
from pvepassthru.model.problem import plain_id
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, number, shown
from pvepassthru.rules.rule import NotApplicable
from pvepassthru.rules.subject import Hit, chosen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.model.passed import Passed
    from pvepassthru.rules.subject import Subject, Surroundings

CONFIG_HEADER = 64
"""Bytes of a function's configuration space that everybody can read."""
ALL_ONES = b"\xff".decode("utf-8", "surrogateescape") * CONFIG_HEADER
"""What they are, as text, when the function does not answer."""
_RESET_BY_DRIVERS = ("06", "0c03", "0106", "0403")
"""Bridges, which nobody passes, and controllers whose drivers begin with a reset of their own."""
_NO_FLAGS = " 0x0000000000000000"
_BARS = 6
_MEMORY = 0x200
_UNSET = 0x20000000
"""Flags of a line of `resource`: memory; no address was found for it. Source: Linux include/linux/ioport.h."""


def pf_down(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the network interface of a Broadcom card is up, of which the VM gets a virtual function.

    Only for the driver bnxt_en.

    Why it matters: the card's virtual functions work only while the interface of their physical function is up.

    How to fix: `ip link set NAME up`, and `auto NAME` in /etc/network/interfaces so that it is up before the VMs start.
    """
    for device, address in _functions(subject):
        physical = subject.inventory.physical_function(address)
        if physical is None or subject.inventory.driver(physical) != "bnxt_en":
            continue
        for name in subject.host.names(f"{DEVICES}/{physical}/net"):
            if subject.inventory.attribute(physical, f"net/{name}/operstate") == "down":
                message = f"{address} is a virtual function of {physical}, whose interface {shown(name)} is down"
                yield _hit(subject, device, message, f"ip link set {shown(name)} up")


def vfs_missing(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether each physical function has as many virtual functions as it is set to.

    Why it matters: VMs whose virtual function is not there do not start. Firmware that leaves no room for their memory,
    or a driver that gave up half way, can be the cause.

    How to fix: see the kernel log; enable "SR-IOV" and "Above 4G decoding" in the firmware; set sriov_numvfs to 0 and
    then to the number again.
    """
    wanted: dict[str, int] = {}
    has: dict[str, int] = {}
    for address in around.inventory.addresses():
        physical = around.inventory.physical_function(address)
        if physical:
            has[physical] = has.get(physical, 0) + 1
        elif count := number(around.inventory.attribute(address, "sriov_numvfs")):
            wanted[address] = count
    if not wanted:
        raise NotApplicable("no virtual functions are enabled")
    for address, count in wanted.items():
        path = f"{DEVICES}/{address}/sriov_numvfs"
        if has.get(address, 0) < count:
            message = f"{address} is set to {count} virtual functions and has {has.get(address, 0)}"
            yield Hit(path, message, f"see the kernel log; then: echo 0 > {path}; echo {count} > {path}")


# ---- reset


def no_reset(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the kernel has a way to reset the function.

    It has none when `reset_method` is empty, or absent where other functions of the host have it. The sound of a
    graphics card is such a function as a rule, and no fault: VFIO resets a whole bus at once when all that is on it
    goes to one VM, or is bound to vfio-pci with it. Nor are controllers for USB, SATA and sound told of: their drivers
    begin with a reset.

    Why it matters: the device may work for the first start only, since it stays in whatever state the guest left it.

    How to fix: pass all functions of the card; see the kernel log for the reason; for some AMD GPUs there is the module
    vendor-reset; else reboot the host between uses.
    """
    covered = _covered(subject)
    for device, address in _functions(subject):
        methods = subject.inventory.attribute(address, "reset_method")
        if methods or subject.inventory.pci_class(address).startswith(_RESET_BY_DRIVERS):
            continue
        if methods is None and (
            subject.inventory.has(address, "reset")
            or not subject.inventory.has(address, "config")
            or not subject.around.once(_knows_methods)
        ):
            continue
        if _bus_goes_as_one(subject, address, covered):
            continue
        if quirks.vendor_reset(_id(subject, address)) is None:  # of which another rule tells
            message = f"the kernel cannot reset {address}: it has no reset method"
            hint = "if a second start fails, reboot the host between uses; the kernel log may say why"
            yield _hit(subject, device, message, hint)


def _covered(subject: Subject) -> set[str]:
    """The functions that the VM gets, and those that are bound to vfio-pci with them."""
    mine = {address for _, address in _functions(subject)}
    return mine | {mate for address in mine for mate in subject.inventory.group_members(address)}


def _foreign(subject: Subject, address: str, covered: set[str]) -> list[str]:
    """What is on a function's bus besides what the VM gets."""
    bus = address.rpartition(":")[0]
    return [other for other in subject.inventory.addresses() if other.startswith(f"{bus}:") and other not in covered]


def _bus_goes_as_one(subject: Subject, address: str, covered: set[str]) -> bool:
    """Whether VFIO can reset a function with its whole bus, which has a bridge above it and belongs to this VM.

    Not if the kernel knows that a reset of that bus does harm: then no function there has the method `bus`, and the
    first one, which is looked at when it is still alone on its bus, would have it. Source: Linux drivers/pci/pci.c
    (pci_parent_bus_reset), drivers/vfio/pci/vfio_pci_core.c (VFIO_DEVICE_PCI_HOT_RESET).
    """
    if _port(subject, address) is None:
        return False
    bus = address.rpartition(":")[0]
    siblings = [other for other in covered if other.startswith(f"{bus}:")]
    can = any("bus" in (subject.inventory.attribute(other, "reset_method") or "").split() for other in siblings)
    return can and not _foreign(subject, address, covered)


def _knows_methods(around: Surroundings) -> bool:
    """Whether any function of the host has `reset_method`, which kernels have from 5.15 on."""
    return any(around.inventory.has(address, "reset_method") for address in around.inventory.addresses())


def bus_reset_shared(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a function that only a reset of its bus resets has that bus to itself.

    What goes to the same VM, or is bound to vfio-pci with the function's IOMMU group, does not count.

    Why it matters: such a reset would hit the others on the bus too, so the kernel does not do it: the device works for
    the first start, and stays in whatever state the guest left it.

    How to fix: pass the others to the same VM, or move the card to a slot with a bus of its own.
    """
    covered = _covered(subject)
    told: set[str] = set()
    for device, address in _functions(subject):
        bus = address.rpartition(":")[0]
        if bus in told or (subject.inventory.attribute(address, "reset_method") or "").split() != ["bus"]:
            continue
        foreign = _foreign(subject, address, covered)
        if foreign:
            told.add(bus)
            words = listed(f"{other} ({subject.inventory.driver(other) or 'no driver'})" for other in foreign)
            message = f"{address} can only be reset with its whole bus, which it shares with {words}"
            yield _hit(subject, device, message, "pass them to the same VM, or move the card to another slot")


def reset_bug(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether an AMD GPU that is known to reset badly has the module vendor-reset.

    Polaris, Vega, Arcturus and Navi 1x are meant.

    Why it matters: after its first use by a VM such a GPU hangs at the next start until the host reboots.

    How to fix: install the module vendor-reset (github.com/gnif/vendor-reset), load it early, and write
    `device_specific` to the GPU's reset_method.
    """
    for device, address in _functions(subject):
        family = quirks.vendor_reset(_id(subject, address))
        methods = (subject.inventory.attribute(address, "reset_method") or "").split()
        if subject.host.partial and not methods:
            continue
        if family and "device_specific" not in methods and not subject.host.exists("/sys/module/vendor_reset"):
            message = f"{address} is an AMD GPU ({family}) that the kernel cannot reset properly by itself"
            yield _hit(subject, device, message, "install the module vendor-reset and load it at boot")


def vendor_reset_unused(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the module vendor-reset, where it is loaded, is what resets its GPUs.

    Why it matters: from kernel 5.15 on the module only acts when `reset_method` has `device_specific` first; with
    another method the GPU hangs at its second start.

    How to fix: `echo device_specific > /sys/bus/pci/devices/ADDRESS/reset_method`, at each boot.
    """
    for device, address in _functions(subject):
        methods = subject.inventory.attribute(address, "reset_method")
        if (
            quirks.vendor_reset(_id(subject, address))
            and methods is not None
            and methods.split()[:1] != ["device_specific"]
            and (subject.host.exists("/sys/module/vendor_reset") or "device_specific" in methods.split())
        ):
            message = f"{address} is reset by {shown(methods) or 'nothing'}, not by the module vendor-reset"
            yield _hit(subject, device, message, f"echo device_specific > {DEVICES}/{address}/reset_method")


def hanging_method(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the first reset method of a function is one that is known to hang it.

    A bus reset for some NVIDIA GPUs, a function level reset for some AMD and Intel controllers. Newer kernels know.

    Why it matters: the reset at the VM's start takes the device off the bus until the host reboots.

    How to fix: use a newer kernel, or write another method to the function's reset_method.
    """
    for device, address in _functions(subject):
        methods = (subject.inventory.attribute(address, "reset_method") or "").split()
        bad = quirks.hangs_on(_id(subject, address))
        if bad and methods[:1] == [bad]:
            others = " ".join(method for method in methods if method != bad)
            hint = f'echo "{others}" > {DEVICES}/{address}/reset_method' if others else "use a newer kernel"
            yield _hit(subject, device, f"{address} hangs when it is reset by {bad}, its first method", hint)


# ---- the bus


def off_the_bus(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the function answers on its bus.

    One that has fallen off reads all ones. A virtual function's own registers always look half like that and are left
    out.

    Why it matters: the start fails, or the guest gets a dead device; a failed reset or lost power is the usual cause.

    How to fix: remove and rescan it (the hint has the commands); as a rule only powering the host off helps.
    """
    for device, address in _functions(subject):
        if subject.inventory.physical_function(address) or address in subject.around.quarantined:
            continue  # of one in quarantine another rule tells
        if (subject.inventory.attribute(address, "config") or "")[:CONFIG_HEADER] == ALL_ONES:
            message = f"{address} does not answer: its configuration space reads all ones"
            yield _hit(subject, device, message, quarantine.way_out(address))


def narrow_link(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the card's link has more than a quarter of the lanes that card and slot could have.

    Half of them is common: cards claim 16 lanes and have contacts for 8. The speed is not judged: idle devices lower
    it.

    Why it matters: fewer lanes mean less bandwidth. Dirt on the contacts, a riser, or a card that sits badly is the
    usual cause.

    How to fix: reseat the card, or try it without the riser; see whether the firmware splits the slot.
    """
    told: set[str] = set()
    for device, address in _functions(subject):
        now = number(subject.inventory.attribute(address, "current_link_width"))
        slot = address.partition(".")[0]
        if not now or slot in told or subject.inventory.physical_function(address):
            continue
        port = _port(subject, address)
        if port is None:
            continue
        ends = [number(subject.inventory.attribute(end, "max_link_width")) for end in (address, port)]
        most = min((width for width in ends if width), default=0) if all(ends) else 0
        if now * 4 <= most:
            told.add(slot)
            message = f"{address} has {now} of {most} lanes that it and its slot ({port}) could have"
            yield _hit(subject, device, message, "reseat the card, or see whether the firmware splits the slot")


def bar_unassigned(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether each memory region of the function has an address.

    Why it matters: the firmware or the kernel found no room for it, so the guest's driver cannot use the device.

    How to fix: enable "Above 4G decoding" in the firmware, or `pci=realloc` on the kernel command line.
    """
    for device, address in _functions(subject):
        lines = (subject.inventory.attribute(address, "resource") or "").splitlines()[:_BARS]
        bad = [str(bar) for bar, line in enumerate(lines) if _is_unset(line)]
        if bad:
            message = f"{address} has no address for its memory region {listed(bad)}: no room was found for it"
            yield _hit(subject, device, message, 'enable "Above 4G decoding" in the firmware')


def _is_unset(line: str) -> bool:
    """Whether a line of `resource` (start, end, flags) is memory without an address."""
    if line.endswith(_NO_FLAGS):  # a region that the function does not have, as most are
        return False
    words = line.split()
    if len(words) != 3 or not all(word.startswith("0x") and len(word) <= 18 for word in words):
        return False
    try:
        flags = int(words[2], 16)
    except ValueError:
        return False
    return bool(flags & _MEMORY and flags & _UNSET)


def fatal_errors(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the function has had fatal PCIe errors since the host booted.

    Why it matters: each makes the link unusable for a moment; a VM may crash, or the host.

    How to fix: see the kernel log (`journalctl -k | grep -i aer`); reseat the card, try another slot or riser.
    """
    for device, address in _functions(subject):
        for line in (subject.inventory.attribute(address, "aer_dev_fatal") or "").splitlines():
            name, _, count = line.strip().partition(" ")
            if name == "TOTAL_ERR_FATAL" and number(count):
                message = f"{address} has had {count} fatal PCIe errors since the host booted"
                yield _hit(
                    subject, device, message, "journalctl -k | grep -i aer; reseat the card, or try another slot"
                )


def _functions(subject: Subject) -> list[tuple[Passed, str]]:
    """The functions that the VM gets whole or as a vendor vGPU, each with its device."""
    return subject.around.of(subject, _find_functions)


def _find_functions(subject: Subject) -> list[tuple[Passed, str]]:
    return [(device, address) for device, functions in chosen(subject) for address in functions]


def _port(subject: Subject, address: str) -> str | None:
    """The bridge above a function, or None: it is on a root bus, or in a copy of a host that does not tell."""
    path = subject.host.target(f"{DEVICES}/{address}") or ""
    above = path.rsplit("/", 2)[-2] if path.count("/") > 1 else ""
    return above if is_address(above) else None


def _id(subject: Subject, address: str) -> str:
    return (plain_id(subject.inventory, address, "vendor", "device") or "").lower()


def _hit(subject: Subject, device: Passed, message: str, hint: str) -> Hit:
    return Hit(subject.at(device.entry.key, device.entry.line), message, hint)
