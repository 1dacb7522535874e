# SPDX-License-Identifier: Apache-2.0
"""What the preparation of devices takes from the host: refused where it lives on that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.host.uses import CRITICAL, Uses
from pvepassthru.model import vfio_ids
from pvepassthru.model.errors import DeviceError
from pvepassthru.model.text import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pvepassthru.host.inventory import Inventory
    from pvepassthru.host.modules import Setting

OWN = "this device is the host's own"
OVERRIDE = "--method override takes only what is asked for"
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
        for use in uses.of(address):
            if use.kind in {*CRITICAL, "network"}:
                raise DeviceError(
                    f"cannot prepare {listed(devices)} by {method}: that takes {address} ({why}), and {use.detail}",
                    hint,
                )


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
