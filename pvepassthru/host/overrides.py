# SPDX-License-Identifier: Apache-2.0
"""Devices that are kept for vfio-pci one by one, by driver_override: what identical ones are told apart by.

Addresses change when a card is added, and the host's own disk may get that of a device which was passed through. So a
device is told by its place below its root port, with all bridges between, and by its id too.

Sources: Linux Documentation/ABI/testing/sysfs-bus-pci (driver_override); initramfs-tools(7); udev(7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.host.draft import HEAD
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model.errors import UsageError
from pvepassthru.model.pci import is_address
from pvepassthru.model.text import listed

if TYPE_CHECKING:
    from pvepassthru.host.draft import Draft
    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Inventory

INIT_TOP = "/etc/initramfs-tools/scripts/init-top/pvepassthru"
UDEV = "/etc/udev/rules.d/61-pvepassthru.rules"
SCRIPT = """#!/bin/sh
{head}# Runs before udev in the initramfs: no driver but vfio-pci takes these devices. Each stands here by its place
# below its root port and by its id: when a card is added, addresses change and may be those of other devices.
case "$1" in
prereqs)
    echo ""
    exit 0
    ;;
esac
for one in {devices}; do
    folder=${{one%=*}}
    if [ -e "$folder/driver_override" ] && read -r vendor < "$folder/vendor" && read -r device < "$folder/device" &&
        [ "$vendor:$device" = "${{one#*=}}" ]; then
        echo vfio-pci > "$folder/driver_override"
    fi
done
"""
RULE = (
    'ACTION=="add", SUBSYSTEM=="pci", DEVPATH=="{path}", ATTR{{vendor}}=="{vendor}", ATTR{{device}}=="{device}", '
    'ATTR{{driver_override}}="vfio-pci"'
)


def add(host: Host, inventory: Inventory, draft: Draft, devices: tuple[str, ...]) -> None:
    """Have these functions kept for vfio-pci, in a draft of udev's rules and of a script in the initramfs.

    Raises UsageError for a function that does not tell its id, InputError when a file cannot be changed.
    """
    why = f"only vfio-pci takes {listed(devices)}"
    places = _places(draft)
    for address in devices:
        folder = host.resolve(f"{DEVICES}/{address}") or f"{DEVICES}/{address}"
        vendor, device = (inventory.attribute(address, name) for name in ("vendor", "device"))
        if not (vendor and device):
            raise UsageError(f"{address} does not tell its id in sysfs", "see what the kernel log says of it")
        places[folder] = f"{vendor}:{device}"
        rule = RULE.format(path=folder.removeprefix("/sys"), vendor=vendor, device=device)
        if rule not in draft.text(UDEV).split("\n"):
            draft.add_line(UDEV, rule, why, HEAD)
    known = " ".join(f"{folder}={words}" for folder, words in sorted(places.items()))
    draft.put(INIT_TOP, SCRIPT.format(head=HEAD, devices=known), f"{why}, before a driver in the initramfs does", 0o755)


def _places(draft: Draft) -> dict[str, str]:
    """What our script in the initramfs has already: the folder of each device in sysfs, with its id."""
    for line in draft.text(INIT_TOP).split("\n"):
        if line.startswith("for one in "):
            words = [word.rstrip(";").partition("=") for word in line.split()[3:]]
            return {folder: known for folder, _, known in words if known and is_address(folder.rpartition("/")[2])}
    return {}
