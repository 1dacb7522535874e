# SPDX-License-Identifier: Apache-2.0
"""Devices are kept for vfio-pci, away from the host's own drivers: by their ids, a blacklist, or a driver override.

Sources: the manual of PVE, chapter "PCI(e) Passthrough"; modprobe.d(5), and Linux
Documentation/ABI/testing/sysfs-bus-pci (driver_override).
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from pvepassthru.host import claims, overrides
from pvepassthru.host.draft import HEAD
from pvepassthru.host.options import MODPROBE
from pvepassthru.model.errors import NotFoundError, UsageError
from pvepassthru.model.modprobe import plain
from pvepassthru.model.pci import is_selector, slot, with_domain
from pvepassthru.model.problem import plain_id
from pvepassthru.model.text import listed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Inventory
    from pvepassthru.host.options import Options

Method = Literal["vfio-ids", "blacklist", "override"]
METHODS: tuple[Method, ...] = ("vfio-ids", "blacklist", "override")


class Keeper:
    """Plans that for one host."""

    def __init__(self, host: Host, inventory: Inventory, options: Options) -> None:
        self.host = host
        self.inventory = inventory
        self.options = options
        self.modules = options.modules
        self.draft = options.draft
        self.notes = options.notes

    def devices(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """The functions that are named, sorted. Raises NotFoundError and UsageError."""
        found: list[str] = []
        for word in wanted:
            selector = with_domain(word.lower())
            if not is_selector(selector):
                raise UsageError(f"--for {word} is no PCI address", "0000:01:00.0, 01:00.0, or 01:00 for all functions")
            here = (selector,) if "." in selector else self.inventory.in_slot(selector)
            here = tuple(address for address in here if address in self.inventory.addresses())
            if not here:
                raise NotFoundError(
                    f"there is no PCI device {selector}", "pvepassthru devices lists those of this host"
                )
            found += here
        for address in found:
            if self.inventory.pci_class(address).startswith("06"):
                raise UsageError(f"{address} is a bridge, which no VM can get", "name the device behind it")
            if self.inventory.physical_function(address):
                raise UsageError(
                    f"{address} is a VF, which is not there when the host boots", "PVE prepares it when the VM starts"
                )
        return tuple(sorted(set(found)))

    def keep(self, devices: tuple[str, ...], method: Method | None) -> tuple[str, ...]:
        """Plan that these are kept for vfio-pci; returns the functions that the host loses to it, or to no driver.

        Raises UsageError where the method cannot do it, DeviceError when the host would lose its own disk or network.
        """
        twins = self._twins(devices)
        drivers = sorted({name for address in devices for name in self._drivers(address)})
        fixed = [name for name in drivers if self.modules.is_builtin(name)]
        if method is None:
            method = "override" if twins or fixed else "vfio-ids"
        hit: dict[str, str] = dict.fromkeys(devices, "it is asked for")
        if method == "vfio-ids":
            hit = {**{twin: f"it has the same id as {which}" for twin, which in twins.items()}, **hit}
        elif method == "blacklist":
            hit = {**self._driven_by(drivers), **hit}
        claims.need_free(self.inventory, hit, devices, method, self.modules.option("vfio_pci", "ids"))
        self._tell_beside(hit, devices, method)
        self.notes += [note for note in claims.notes(self.inventory, hit) if note not in self.notes]
        self._tell_drivers(drivers, fixed, method)
        if method == "override":
            self._override(devices)
        elif method == "vfio-ids":
            self._ids(devices, drivers)
        elif drivers:
            for name in drivers:
                if self.modules.blacklisted(name) is None:
                    self.draft.add_line(
                        MODPROBE, f"blacklist {name}", f"no driver takes {listed(devices)} at boot", HEAD
                    )
        else:
            raise UsageError(
                f"no driver of {listed(devices)} is known to blacklist", "use --method vfio-ids or override"
            )
        return tuple(sorted(hit))

    def _tell_drivers(self, drivers: list[str], fixed: list[str], method: Method) -> None:
        """Note what a blacklist means for each driver, and that one that is built in (`fixed`) minds no list."""
        if fixed and method != "override":
            words = f"{listed(fixed)} is built into the kernel"
            self.options.note(f"{words}: {method} does not keep it from a device")
        if method == "blacklist" and drivers:
            lose = self._driven_by(drivers)
            self.options.note(
                f"nothing loads {listed(drivers)} any more: {listed(sorted(lose)) or 'no device'} loses it"
            )

    def _tell_beside(self, hit: dict[str, str], devices: tuple[str, ...], method: Method) -> None:
        """Note what the method takes beside what is asked for, what it leaves of a slot, and a lost console."""
        shown = [address for address in sorted(hit) if self.inventory.attribute(address, "boot_vga") == "1"]
        if shown:
            words = f"{listed(shown)} shows the host's console, which is gone after the next boot"
            self.options.note(f"{words}: have SSH ready")
        others = sorted(set(hit) - set(devices))
        if others:
            self.options.note(f"{method} takes {listed(others)} too; --method override takes only what is asked for")
        for address in devices:
            left = [other for other in self.inventory.in_slot(slot(address)) if other not in hit]
            left = [other for other in left if not self.inventory.physical_function(other)]
            if left:
                whole = f"--for {slot(address)} prepares the whole slot"
                self.options.note(f"{listed(left)} of the same slot as {address} stays as it is; {whole}")

    def _id(self, address: str) -> str | None:
        return plain_id(self.inventory, address, "vendor", "device")

    def _twins(self, devices: tuple[str, ...]) -> dict[str, str]:
        """Functions that are not asked for and have the id of one that is, each with that one."""
        ids = {self._id(address): address for address in reversed(devices)}
        return {
            address: ids[self._id(address)]
            for address in self.inventory.addresses()
            if address not in devices and self._id(address) in ids and self._id(address)
        }

    def _drivers(self, address: str) -> tuple[str, ...]:
        """The modules that would take a function at boot: that of its driver, and those that know its kind."""
        found = set()
        driver = self.inventory.driver(address)
        if driver:
            found.add(plain(self.modules.of_driver(driver)))
        alias = self.inventory.attribute(address, "modalias")
        listing = self.host.text(f"{self.modules.folder}/modules.alias") if alias else None
        for line in (listing or "").splitlines():
            words = line.split()
            if len(words) == 3 and words[1].startswith("pci:") and fnmatchcase(alias or "", words[1]):
                found.add(plain(words[2]))
        return tuple(sorted(found - {"vfio_pci", "pci_stub"}))

    def _driven_by(self, modules: Iterable[str]) -> dict[str, str]:
        """The functions whose driver is in one of these modules, each with why it is hit."""
        found = {}
        for address in self.inventory.addresses():
            driver = self.inventory.driver(address)
            module = plain(self.modules.of_driver(driver)) if driver else ""
            if module in modules:
                found[address] = f"its driver is {module}"
        return found

    def _ids(self, devices: tuple[str, ...], drivers: list[str]) -> None:
        why = f"vfio-pci takes {listed(devices)}"
        present = self.modules.option("vfio_pci", "ids")
        ids = [word for word in (present.value if present else "").split(",") if word]
        known = {":".join(word.split(":")[:2]).lower() for word in ids if word.count(":") == 1}
        missing = sorted({found for address in devices if (found := self._id(address))} - known)
        if missing:
            value = ",".join([*ids, *missing])
            self.options.set("vfio-pci" if present is None else "vfio_pci", "ids", value, why)
        for name in drivers:
            if not self.modules.loads_before("vfio_pci", name):
                self.draft.add_line(MODPROBE, f"softdep {name} pre: vfio-pci", f"before {name} does", HEAD)

    def _override(self, devices: tuple[str, ...]) -> None:
        overrides.add(self.host, self.inventory, self.draft, devices)
        drivers = {address: self.inventory.driver(address) for address in devices}
        early = [
            address
            for address, driver in drivers.items()
            if driver not in {None, "vfio-pci"} and self.modules.is_builtin(self.modules.of_driver(driver or ""))
        ]
        if early:
            self.notes.append(
                f"the driver of {listed(early)} is built into the kernel and takes it before any file is read; PVE "
                "gives it to vfio-pci when the VM starts"
            )
