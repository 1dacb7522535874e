# SPDX-License-Identifier: Apache-2.0
"""The settings of a simulated host: what drivers do and hardware can, as far as sysfs does not show it.

They lie in one JSON file of the tree, `DIR/.sim/settings.json`, and are read anew for every write:

    {"drivers": {DRIVER: D}, "devices": {ADDRESS: A}}

A driver listed here is loaded. D may have:

- `ids`: the devices that it matches, each "VENDOR:DEVICE" in hex;
- `sriov`: whether it can create VFs (default true, but never for vfio-pci), and `removes_vfs`: whether unbinding it
  from a PF removes the VFs (default false);
- `framebuffer`: whether binding it gives a function a frame buffer, and the host a console on it (default false);
- `mdev`: binding it makes the device an mdev parent, M below;
- `vgpu`: binding it gives a function that is no PF the folder `nvidia` of the vendor vGPU interface, G below.

A may have:

- `driver`: the driver that binds it by itself (default: the one that it was first seen bound to);
- `config`: the start of its configuration space, in hex, when it is woken or looked for again (default: as it is; a
  rescan does not find what reads 0xFF everywhere);
- `bar_room`: the bytes of the largest BAR that the bridge above has room for (default: no limit);
- `vf`: of a PF: `vendor` and `device` of its VFs ("0x...", default: the PF's vendor and its sriov_vf_device), `driver`,
  which binds them by itself (default none), `offset` and `stride` (default: sriov_offset and sriov_stride, else 16, 1);
- `mdev`: M, over what its driver has; `vgpu`: G, for a PF, over what its driver has.

M is `{"types": {ID: {"name", "units"}}, "capacity", "exclusive", "full_errno", "core_count", "delay_ms"}`: the parent
has `capacity` units, of which an instance takes its type's `units` (1); without a capacity each type counts its own
available_instances. `exclusive` parents (with a capacity) hold instances of one type at a time. A create without room
fails with `full_errno` (a name or number, default ENOSPC). With `core_count` not 0 the kernel's core counts instead, up
to that many instances, and answers EUSERS. Creating and removing take `delay_ms`.

G is `{"types": {ID: {"name", "units"}}, "capacity", "full_errno", "header"}`: all VFs of a PF share `capacity` units;
`header` (default true) is whether creatable_vgpu_types starts with a header line. Without G a VF offers what its own
creatable_vgpu_types listed at first, without regard to its siblings.
"""

from __future__ import annotations

import errno

from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any

SETTINGS = "/.sim/settings.json"

KINDS = (("1", "Testbed 1Q", 1), ("2", "Testbed 2Q", 2), ("4", "Testbed 4Q", 4))
"""The types of the kernel test driver (tests/kernel/tbmdev): suffix, name, units."""


class MdevSpec(NamedTuple):
    """How a parent hands out mdev instances."""

    names: dict[str, str]
    """Type id to name, of the types that binding the driver makes."""
    units: dict[str, int]
    capacity: int | None
    exclusive: bool
    full_errno: int
    core_count: int
    delay: float
    """Seconds."""


class VgpuSpec(NamedTuple):
    """How a PF hands out vendor vGPU types to its VFs."""

    names: dict[str, str]
    units: dict[str, int]
    capacity: int
    full_errno: int
    header: bool


class VfSpec(NamedTuple):
    """What the VFs of a PF are."""

    vendor: str | None
    device: str | None
    driver: str | None
    offset: int | None
    stride: int | None


class Settings:
    """The settings as read from their file."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._drivers: dict[str, dict[str, Any]] = values.get("drivers", {})
        self._devices: dict[str, dict[str, Any]] = values.get("devices", {})

    def drivers(self) -> tuple[str, ...]:
        """The drivers that the settings name, in their order; all of them are loaded."""
        return tuple(self._drivers)

    def ids(self, driver: str) -> tuple[tuple[int, int], ...]:
        """The (vendor, device) pairs that a driver matches by itself."""
        pairs = (text.partition(":") for text in self._drivers.get(driver, {}).get("ids", ()))
        return tuple((int(vendor, 16), int(device, 16)) for vendor, _, device in pairs)

    def sriov(self, driver: str) -> bool:
        """Whether a driver can create VFs."""
        return driver != "vfio-pci" and bool(self._drivers.get(driver, {}).get("sriov", True))

    def removes_vfs(self, driver: str) -> bool:
        """Whether unbinding a driver from a PF removes its VFs."""
        return bool(self._drivers.get(driver, {}).get("removes_vfs", False))

    def native(self, address: str) -> str | None:
        """The driver that binds a function by itself, if the settings say so."""
        return self._devices.get(address, {}).get("driver")

    def framebuffer(self, driver: str) -> bool:
        """Whether a driver makes a frame buffer of a function."""
        return bool(self._drivers.get(driver, {}).get("framebuffer", False))

    def config(self, address: str) -> bytes | None:
        """The start of a function's configuration space after a wake-up or rescan, if the settings say so."""
        text = self._devices.get(address, {}).get("config")
        return None if text is None else bytes.fromhex(text)

    def bar_room(self, address: str) -> int | None:
        """The bytes of the largest BAR that there is room for, if the settings say so."""
        room = self._devices.get(address, {}).get("bar_room")
        return None if room is None else int(room)

    def vf(self, pf: str) -> VfSpec:
        """What the VFs of a PF are, as far as the settings say so."""
        values = self._devices.get(pf, {}).get("vf", {})
        return VfSpec(*(values.get(field) for field in VfSpec._fields))

    def mdev(self, address: str, driver: str | None) -> MdevSpec:
        """How this parent hands out instances: its driver's settings and, over them, its own."""
        values = self._merged("mdev", address, driver)
        return MdevSpec(
            *_types(values),
            values.get("capacity"),
            bool(values.get("exclusive", False)),
            _number(values.get("full_errno", errno.ENOSPC)),
            int(values.get("core_count", 0)),
            int(values.get("delay_ms", 0)) / 1000,
        )

    def vgpu(self, pf: str, driver: str | None) -> VgpuSpec | None:
        """How this PF hands out vendor vGPU types, or None without a word about it."""
        values = self._merged("vgpu", pf, driver)
        if not values:
            return None
        full_errno = _number(values.get("full_errno", errno.ENOSPC))
        return VgpuSpec(*_types(values), int(values["capacity"]), full_errno, bool(values.get("header", True)))

    def _merged(self, kind: str, address: str, driver: str | None) -> dict[str, Any]:
        return {**self._drivers.get(driver or "", {}).get(kind, {}), **self._devices.get(address, {}).get(kind, {})}


def _types(values: dict[str, Any]) -> tuple[dict[str, str], dict[str, int]]:
    types = values.get("types", {})
    names = {type_id: str(type_values.get("name", type_id)) for type_id, type_values in types.items()}
    return names, {type_id: int(type_values.get("units", 1)) for type_id, type_values in types.items()}


def _number(value: str | int) -> int:
    return int(getattr(errno, value)) if isinstance(value, str) else value


def tbmdev_settings(**parameters: int | str) -> dict[str, Any]:
    """The settings that mirror the kernel test driver (tests/kernel/tbmdev), loaded with these module parameters.

    They are capacity (default 4), full_errno (here also a name), exclusive, core_count and delay_ms.
    """
    shared = {"capacity": 4, **parameters}
    types = {f"tbmdev-{suffix}": {"name": name, "units": units} for suffix, name, units in KINDS}
    vgpu_types = {str(100 + index): {"name": name, "units": units} for index, (_, name, units) in enumerate(KINDS)}
    return {
        "drivers": {
            "tbmdev": {"ids": ["1234:11e8"], "mdev": {"types": types, **shared}},
            "tbvgpu": {"vgpu": {"types": vgpu_types, **shared}, "removes_vfs": True},
        },
    }
