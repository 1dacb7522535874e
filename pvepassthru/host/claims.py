# SPDX-License-Identifier: Apache-2.0
"""What the preparation of devices takes from the host and its VMs: refused where they live on that, else told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.host.functions import virtual_functions
from pvepassthru.host.uses import CRITICAL, Uses
from pvepassthru.model import vfio_ids
from pvepassthru.model.errors import DeviceError
from pvepassthru.model.pci import vmid_of_uuid
from pvepassthru.model.text import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pvepassthru.host.inventory import Inventory
    from pvepassthru.host.modules import Setting

OWN = "this device is the host's own"
OVERRIDE = "--method override takes only what is asked for"
USB = "0c03"
"""The PCI class of USB controllers."""
IDS = "take that id out of ids= first"


def need_free(
    inventory: Inventory, hit: Mapping[str, str], devices: tuple[str, ...], method: str, ids: Setting | None
) -> None:
    """Refuse to prepare devices when the host needs what that takes.

    `hit` is what the method takes, each function with why; `ids` the value of vfio-pci's ids= so far. Raises
    DeviceError.
    """
    uses = Uses(inventory.host, inventory)
    for address, (why, hint) in sorted(_taken(inventory, hit, devices, ids).items()):
        words = _in_use(inventory, uses, address)
        if words:
            raise DeviceError(
                f"cannot prepare {listed(devices)} by {method}: that takes {address} ({why}), and {listed(words, 4)}",
                "stop what uses them, or pass one of its VFs or mediated devices",
            )
        for use in uses.of(address):
            if use.kind in {*CRITICAL, "network"}:
                raise DeviceError(
                    f"cannot prepare {listed(devices)} by {method}: that takes {address} ({why}), and {use.detail}",
                    hint,
                )


def _in_use(inventory: Inventory, uses: Uses, address: str) -> list[str]:
    """What VMs, or the host, have of a function's VFs and mediated devices now, in words."""
    found = []
    for one in (address, *virtual_functions(inventory.host, address)):
        owners = sorted({owner[1] for uuid in inventory.mdevs_of(one) if (owner := vmid_of_uuid(uuid))})
        if owners:
            found.append(f"{one} has mediated devices of VM {', '.join(map(str, owners))}")
        elif one != address and inventory.mdevs_of(one):
            found.append(f"its VF {one} has mediated devices")
        if inventory.vgpu_current(one) not in {None, "0"}:
            found.append(f"{one} has vGPU type {inventory.vgpu_current(one)}")
        if one != address:
            found += [f"of its VF {one} {use.detail}" for use in uses.critical(one)]
    return found


def notes(inventory: Inventory, taken: Iterable[str]) -> list[str]:
    """What else goes with functions that are taken, which may well be meant so."""
    uses = Uses(inventory.host, inventory)
    found = []
    for address in sorted(taken):
        found += [f"{address} is taken: {use.detail}" for use in uses.of(address)]
        vfs = virtual_functions(inventory.host, address)
        if vfs and inventory.driver(address) != "vfio-pci":
            found.append(f"the VFs of {address} ({len(vfs)}) go with its driver: there are none after the next boot")
        uuids = [uuid for one in (address, *vfs) for uuid in inventory.mdevs_of(one)]
        if uuids:
            found.append(f"{address} has mediated devices, gone after the next boot: {listed(uuids, 4)}")
        if inventory.pci_class(address).startswith(USB):
            found.append(f"{address} is a USB controller: the host loses what is plugged in there, keyboards too")
    return found


def _taken(
    inventory: Inventory, hit: Mapping[str, str], devices: tuple[str, ...], ids: Setting | None
) -> dict[str, tuple[str, str]]:
    """All functions that are taken, each with why, and with what to do when it must not be."""
    found = {address: (why, OWN if address in devices else OVERRIDE) for address, why in hit.items()}
    for address in devices:
        for member in inventory.group_members(address):
            if not inventory.has(member, "pci_bus"):
                why = f"it is in the IOMMU group of {address}, which PVE takes as a whole"
                found.setdefault(member, (why, OWN))
    for address in inventory.addresses() if ids else ():
        if ids and _is_listed(inventory, address, ids.value):
            why = f"vfio-pci's ids= in {ids.where} has its id, which takes effect with this"
            found.setdefault(address, (why, IDS))
    return found


def _is_listed(inventory: Inventory, address: str, ids: str) -> bool:
    """Whether vfio-pci takes a function by this ids= as soon as it comes before the function's driver."""
    names = ("vendor", "device", "subsystem_vendor", "subsystem_device", "class")
    has = [(inventory.attribute(address, name) or "").removeprefix("0x") for name in names]
    listed_here = any(one.fits(has[0], has[1], has[2], has[3], has[4]) for one in vfio_ids.parse(ids))
    return listed_here and not inventory.has(address, "pci_bus")
