# SPDX-License-Identifier: Apache-2.0
"""Whether what the policy says of the functions that a start takes from the host can be done, PVP257 to PVP259.

They say before a start what the hook refuses at it (lifecycle/handover.py, lifecycle/settings.py).
"""

from __future__ import annotations

from pvepassthru.host import state
from pvepassthru.model import bars
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import listed, shown
from pvepassthru.rules.subject import Hit, chosen, group_mates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.policy import DevicePolicy
    from pvepassthru.rules.subject import Subject

VFIO_PCI = "vfio-pci"
KEEP = "keep"


class Ruled(NamedTuple):
    """A function that a start takes from the host."""

    entry: HostpciEntry
    """By which it comes; a group mate with that of the function in its group."""
    address: str
    wanted: DevicePolicy
    keeps: bool
    """Whether that entry passes it with driver=keep."""


def reset_not_offered(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a function has the reset methods that the policy (`reset_method`) sets on it.

    They are compared with what its file `reset_method` reads now, unless an earlier start has written that; `auto`
    takes what there is.

    Why it matters: the hook refuses to start the VM.

    How to fix: write methods that the function has into the policy, or `auto`. `echo default` to the file shows all.
    """
    if subject.host.exists(state.journal_path(subject.vmid)):
        return
    for one in _ruled(subject):
        words = (one.wanted.reset_method or "auto").split()
        offered = subject.inventory.attribute(one.address, "reset_method")
        if words == ["auto"] or (offered is None and not subject.inventory.has(one.address, "driver_override")):
            continue
        missing = [word for word in words if word not in (offered or "").split()]
        if missing:
            has = shown(offered or "no method")
            message = f"the policy resets {one.address} by {listed(missing)}, and it has {has}"
            yield _hit(subject, one, message, "correct reset_method in the policy, or write auto")


def bar_not_offered(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a function's BARs can have the sizes that the policy (`bars`) gives them.

    Its files resourceN_resize say which it can have.

    Why it matters: the hook refuses to start the VM.

    How to fix: write a size that the BAR can have into the policy, or take it out. Kernels from 6.1 on can resize.
    """
    for one in _ruled(subject):
        present = subject.inventory.driver(one.address) or ""
        stays = one.wanted.driver == KEEP or (one.wanted.driver == VFIO_PCI != present and "vfio" in present)
        for bar, size in one.wanted.bars if not stays and subject.inventory.has(one.address, "resource") else ():
            offered = bars.sizes(subject.inventory.attribute(one.address, f"resource{bar}_resize") or "")
            if size not in offered:
                can = f"it can be {listed(map(bars.words, offered))}" if offered else "it is not resizable"
                message = f"the policy makes BAR {bar} of {one.address} {bars.words(size)} large, but {can}"
                yield _hit(subject, one, message, "correct bars in the policy")


def driver_not_usable(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a function can be bound to the driver that the policy (`driver`) wants for it.

    PVE binds to vfio-pci what an entry without driver=keep passes, and the rest of its IOMMU group. The driver must be
    there, or a module of its name.

    Why it matters: the hook refuses to start the VM.

    How to fix: add driver=keep to the entry, for it alone; install the driver; or take it out of the policy.
    """
    for one in _ruled(subject):
        driver = one.wanted.driver
        if driver in {VFIO_PCI, KEEP}:
            continue
        if not one.keeps:
            message = (
                f"the policy wants {shown(driver)} for {one.address}, but PVE binds it to vfio-pci, since "
                f"{one.entry.key} has no driver=keep"
            )
            yield _hit(subject, one, message, "add driver=keep to that entry, or take the driver out of the policy")
        elif subject.inventory.driver_available(driver) is False:
            message = f"the policy wants {shown(driver)} for {one.address}: there is no such driver, and no such module"
            yield _hit(subject, one, message, "install it, or correct driver in the policy")


def _ruled(subject: Subject) -> Iterator[Ruled]:
    """Each function that a start takes from the host; none if there is no policy to use."""
    try:
        policies = subject.around.policies
    except PassthruError:  # told by hosts.policy_unusable
        return
    if not policies.document or subject.config.template:
        return
    pairs = [(device, functions) for device, functions in chosen(subject) if not device.nvidia]
    told = {address for _, functions in pairs for address in functions}
    for device, functions in pairs:
        keeps = device.entry.keeps_driver
        for address in functions:
            mapping = device.entry.mapping or None
            wanted = policies.device(subject.inventory, address, mapping, subject.vmid)
            if device.bound_to_vfio or wanted.driver not in {VFIO_PCI, KEEP}:
                yield Ruled(device.entry, address, wanted, keeps)
        for mate in group_mates(subject, functions) if device.bound_to_vfio else ():
            if mate not in told:
                told.add(mate)
                wanted = policies.device(subject.inventory, mate, None, subject.vmid)
                yield Ruled(device.entry, mate, wanted, keeps=False)


def _hit(subject: Subject, one: Ruled, message: str, hint: str) -> Hit:
    return Hit(subject.at(one.entry.key, one.entry.line), message, hint)
