# SPDX-License-Identifier: Apache-2.0
"""What a reset of the bus of a function would hit besides it.

Such a reset (secondary bus reset) is made at the bridge above, so it hits all that is below that bridge, virtual
functions and what is behind further bridges included. Source: PCI Express Base Specification, 6.6.1; Linux
drivers/pci/pci.c, pci_parent_bus_reset.
"""

from __future__ import annotations

import time

from pvepassthru.host import holders, reservations, vms
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model import reservation
from pvepassthru.model.pci import is_address
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.inventory import Inventory


def below_same_bridge(inventory: Inventory, address: str) -> tuple[str, ...]:
    """The other functions below the bridge above a function; none on a root bus, or if sysfs does not tell."""
    above = (inventory.host.resolve(f"{DEVICES}/{address}") or "").rpartition("/")[0]
    if not is_address(above.rpartition("/")[2]):
        return ()
    folders = {other: inventory.host.resolve(f"{DEVICES}/{other}") or "" for other in inventory.addresses()}
    return tuple(other for other, folder in folders.items() if other != address and folder.startswith(f"{above}/"))


def active(inventory: Inventory, address: str, vmid: int) -> dict[str, str]:
    """Of those, the ones that are in use by another VM or the host, each with words for who uses it.

    What is reserved for this VM is not among them, nor are members of the IOMMU groups of such functions, which PVE
    binds with them, nor bridges. Raises InputError and PassthruError when that cannot be told.
    """
    host = inventory.host
    entries = reservation.parse(reservations.text(host))
    mine = {address, *(function for function, entry in entries.items() if entry.vmid == vmid)}
    mine |= {mate for function in tuple(mine) for mate in inventory.group_members(function)}
    now = int(time.time())
    found = {}
    for other in below_same_bridge(inventory, address):
        entry = entries.get(other)
        if entry and reservation.blocks(entry, vmid, now, lambda number: vms.running_pid(host, number)):
            found[other] = f"VM {entry.vmid}"
            continue
        if other in mine or inventory.is_bridge(other):
            continue
        driver = inventory.driver(other)
        users = holders.device_holders(host, f"{DEVICES}/{other}")
        if users:
            found[other] = holders.describe(users)
        elif driver is not None and "vfio" not in driver:
            found[other] = f"the host's driver {driver}"
    return found
