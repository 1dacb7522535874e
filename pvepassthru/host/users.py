# SPDX-License-Identifier: Apache-2.0
"""Which programs of the host have a PCI function open, through the device nodes that its host driver made.

Sources: Linux Documentation/gpu/drm-uapi.rst (/dev/dri), sound/designs/procfile.rst (/dev/snd), admin-guide/devices.txt
(/dev/bus/usb), NVIDIA's driver README (/proc/driver/nvidia/gpus).
"""

from __future__ import annotations

from pvepassthru.host import holders
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.host.holders import Holder
    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Inventory

NODES = ("/dev/dri/", "/dev/snd/", "/dev/nvidia", "/dev/bus/usb/", "/dev/sd", "/dev/sr", "/dev/nvme", "/dev/vd")
"""How the nodes begin that are looked at: graphics, sound, NVIDIA's own, USB devices, disks."""
STORAGE, USB = "01", "0c03"
"""How the classes begin of functions with disks behind them; those on USB are looked at as disks, too."""


def nodes(inventory: Inventory, address: str) -> list[str]:
    """The device nodes through which programs use a function that a driver of the host has; of sound the card.

    None of a function that has no driver or one of VFIO's. A card is written `/dev/snd/C1`.
    """
    driver = inventory.driver(address)
    if driver is None or "vfio" in driver:
        return []
    host = inventory.host
    folder = f"{DEVICES}/{address}"
    found = [f"/dev/dri/{name}" for name in host.names(f"{folder}/drm") if name[:1] in "cr"]
    found += [f"/dev/snd/C{name[4:]}" for name in host.names(f"{folder}/sound") if number(name[4:]) is not None]
    if driver == "nvidia":
        for line in (host.text(f"/proc/driver/nvidia/gpus/{address}/information") or "").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Device Minor" and number(value.strip()) is not None:
                found.append(f"/dev/nvidia{value.strip()}")
    kind = inventory.pci_class(address)
    if kind.startswith((STORAGE, USB)):
        from pvepassthru.host.blocks import Blocks  # noqa: PLC0415 - few devices that are passed have disks

        found += [f"/dev/{name}" for name in Blocks(host).on(address)]
    if kind.startswith(USB):
        found += _usb(host, folder)
    return found


def opened(host: Host) -> dict[str, tuple[Holder, ...]]:
    """The nodes of NODES that programs have open, each with its processes. Raises as holders.opened."""
    return holders.opened(host, NODES)


def of(name: str, found: dict[str, tuple[Holder, ...]]) -> tuple[Holder, ...]:
    """The processes that have a node (as `nodes` writes it) open, of what `opened` returned."""
    return tuple(sorted({user for node, held in found.items() if _is_node(node, name) for user in held}))


def users(inventory: Inventory, addresses: Iterable[str]) -> list[tuple[str, str, tuple[Holder, ...]]]:
    """Who uses these functions now: (address, node, processes) for each node that is open. Raises as `opened`."""
    asked = [(address, name) for address in addresses for name in nodes(inventory, address)]
    found = opened(inventory.host) if asked else {}
    return [(address, name, held) for address, name in asked if (held := of(name, found))]


def _usb(host: Host, folder: str) -> list[str]:
    """The nodes of the USB devices behind a controller, hubs among them."""
    found = []
    ends = [f"{folder}/{name}" for name in host.names(folder) if name.startswith("usb") and name[3:].isdecimal()]
    while ends:
        end = ends.pop()
        bus, device = (number(host.text(f"{end}/{name}")) for name in ("busnum", "devnum"))
        if bus is not None and device is not None:
            found.append(f"/dev/bus/usb/{bus:03d}/{device:03d}")
        # 1-4, and behind a hub 1-4.2; an interface is 1-4:1.0
        ends += [f"{end}/{name}" for name in host.names(end) if name[:1].isdigit() and "-" in name and ":" not in name]
    return found


def _is_node(node: str, name: str) -> bool:
    """Whether an open node is the one of this name; of sound card 1 `/dev/snd/C1` stands for pcmC1D0p and its like."""
    if not name.startswith("/dev/snd/C"):
        return node == name
    card = node.rpartition("/")[2].partition("C")[2]
    digits = card[: len(card) - len(card.lstrip("0123456789"))]
    return node.startswith("/dev/snd/") and digits == name.removeprefix("/dev/snd/C")
