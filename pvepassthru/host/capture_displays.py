# SPDX-License-Identifier: Apache-2.0
"""The part of a copy of a host (host/capture.py) that is about its console, and about functions in quarantine."""

from __future__ import annotations

from pvepassthru.host import quarantine, state
from pvepassthru.host.displays import CONSOLES, DRM, GRAPHICS, PLATFORM, PLATFORM_DRIVERS
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from pvepassthru.host.capture import Copy


def displays(copy: Copy) -> None:
    """Copy consoles, frame buffers, and the firmware's picture with its drivers."""
    source = copy.source
    copy.attribute("/proc/iomem")
    for name in source.names(CONSOLES):
        for file in ("name", "bind"):
            copy.attribute(f"{CONSOLES}/{name}/{file}")
    for folder in (GRAPHICS, DRM):
        for name in source.names(folder):
            real, device = source.resolve(f"{folder}/{name}"), source.resolve(f"{folder}/{name}/device")
            if real and device:
                copy.link(f"{folder}/{name}", real)
                copy.link(f"{real}/device", device)
    for driver in PLATFORM_DRIVERS:
        path = f"{PLATFORM}/drivers/{driver}"
        if source.exists(path):
            copy.folder(path)
        for name in source.names(path):
            real = source.resolve(f"{path}/{name}") if name.startswith(driver) else None
            if real:
                copy.folder(real)
                copy.link(f"{path}/{name}", real)
                copy.link(f"{real}/driver", path)
                copy.link(f"{PLATFORM}/devices/{name}", real)


def quarantined(copy: Copy) -> None:
    """Copy how the configuration spaces of functions in quarantine begin: whether they answer again."""
    for name in copy.source.names(state.FOLDER):
        address = name.removesuffix(state.QUARANTINE)
        answers = quarantine.answers(copy.source, address) if address != name else None
        if answers is not None:
            header = (b"\0" if answers else b"\xff") * quarantine.HEADER
            copy.target.put(f"{copy.real(f'{DEVICES}/{address}')}/config", header)
