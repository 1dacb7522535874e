# SPDX-License-Identifier: Apache-2.0
"""Which devices the hostpci entries of a VM mean on this host, and everything that makes PVE refuse them.

Follows PVE's own order: entries 0 to 15, each with its host or mapping, its addresses, mdev and q35; then
legacy-igd; then, over all entries, which alternative is taken. PVE stops at the first problem; this goes
on, so that people see all. Source: behaviour of qemu-server's hostpci code.
"""

from __future__ import annotations

from pvepassthru.model import mapped, pci, start
from pvepassthru.model.passed import Passed
from pvepassthru.model.problem import Problem
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.mapping import Mappings
    from pvepassthru.model.problem import Hardware
    from pvepassthru.model.start import Guest
    from pvepassthru.model.vmconfig import Section

_VENDOR_VGPU = "nvidia-"
"""What an mdev type begins with that can be a number of NVIDIA's vendor interface."""


class Resolution(NamedTuple):
    """What a start would pass through. PVE refuses the start exactly when there are problems."""

    passed: tuple[Passed, ...]
    problems: tuple[Problem, ...]


EMPTY = Resolution((), ())


def resolve(  # noqa: PLR0913 - all that a start depends on
    section: Section,
    mappings: Mappings,
    hardware: Hardware,
    node: str,
    vmid: int | None = None,
    *,
    guest: Guest | None = None,
    fitting: set[str] | None = None,
) -> Resolution:
    """The devices that a start with this section passes through on `node`, and what is wrong with them.

    With a `vmid` its own mediated devices that exist already count as there. Reservations are not looked at. What
    `guest` says of other VMs goes into hints only. `fitting` is what `mapped.find` remembers of these mappings on this
    hardware, for VMs that are resolved one after the other.
    """
    resolver = _Resolver(section, mappings, hardware, node, set() if fitting is None else fitting)
    return resolver.resolve(vmid, guest)


class _Resolver:
    """One VM's entries on their way to devices."""

    def __init__(self, section: Section, mappings: Mappings, hardware: Hardware, node: str, fitting: set[str]) -> None:
        self.section = section
        self.mappings = mappings
        self.hardware = hardware
        self.node = node
        self.fitting = fitting
        self.machine = section.machine
        self.problems: list[Problem] = []

    def resolve(self, vmid: int | None, guest: Guest | None) -> Resolution:
        fault = self.machine.fault
        if fault:
            self.problems.append(Problem("machine-invalid", "machine", self.section.line("machine"), *fault))
        devices: list[Passed] = []
        igd_before = False
        for _, entry in sorted(self.section.entries.items()):
            device = self._device(entry)
            if entry.pcie and not self.machine.q35:
                self._refuse("pcie-needs-q35", entry, "pcie=1 needs a q35 machine", self._q35_hint())
            if entry.legacy_igd:
                self._check_igd(entry, device, again=igd_before)
                igd_before = True
            if device:
                devices.append(device)
        passed = self._choose(devices)
        self.problems += start.problems(passed, self.hardware, vmid, guest)
        return Resolution(tuple(passed), tuple(self.problems))

    def _refuse(self, code: str, entry: HostpciEntry, message: str, hint: str) -> None:
        self.problems.append(Problem(code, entry.key, entry.line, message, hint))

    # ---- one entry

    def _device(self, entry: HostpciEntry) -> Passed | None:
        """The device of an entry with all its alternatives, or None when it names none that is there."""
        if entry.host and entry.mapping:
            self._refuse("host-and-mapping", entry, "both a PCI address and mapping= are given", "keep one of them")
            return None
        if entry.mapping:
            mapping = mapped.find(self.mappings, entry, self.node, self.hardware, self.problems, self.fitting)
            if mapping is None:
                return None
            selections = [other.paths for other in mapping.on(self.node)]
        elif entry.host:
            selections = [tuple(entry.host.split(";"))]
        else:
            hint = f"write {entry.key}: 0000:01:00.0, or {entry.key}: mapping=NAME"
            self._refuse("host-or-mapping-required", entry, "neither a PCI address nor mapping= is given", hint)
            return None
        alternatives = [self._functions(entry, selectors) for selectors in selections]
        found = tuple(functions for functions in alternatives if functions)
        if len(found) != len(alternatives):
            return None
        return self._passed(entry, found)

    def _passed(self, entry: HostpciEntry, alternatives: tuple[tuple[str, ...], ...]) -> Passed:
        multifunction = any(len(functions) > 1 for functions in alternatives)
        mdev = entry.mdev if entry.wants_mdev else None
        nvidia = None
        if mdev is not None and multifunction:
            functions = next(functions for functions in alternatives if len(functions) > 1)
            message = f"mdev={shown(mdev)} on several functions ({listed(functions)})"
            self._refuse("mdev-with-multifunction", entry, message, f"name one function, such as {functions[0]}")
        number = (mdev or "").removeprefix(_VENDOR_VGPU)
        if (number.isascii() and number.isdecimal() and number != mdev) and all(
            self.hardware.has(address, "nvidia") for functions in alternatives for address in functions
        ):
            mdev, nvidia = None, number
        return Passed(entry.index, entry, alternatives, (), mdev, nvidia, multifunction)

    def _functions(self, entry: HostpciEntry, selectors: tuple[str, ...]) -> tuple[str, ...]:
        """The functions that selectors mean, in order; none, and a problem, if one means nothing."""
        functions: list[str] = []
        missing = False
        for selector in selectors:
            wanted = pci.with_domain(selector)
            slot = self.hardware.in_slot(pci.slot(wanted))
            matching = [address for address in slot if address.startswith(wanted)]
            if not matching:
                missing = True
                message = f"there is no PCI device {wanted}"
                hint = self._other(wanted, slot)
                self.problems.append(Problem("device-not-found", entry.key, entry.line, message, hint, wanted))
            functions += matching
        return () if missing else tuple(functions)

    def _other(self, wanted: str, slot: Sequence[str]) -> str:
        """What might have been meant instead of a device that is not there."""
        if slot:
            return f"that slot has {listed(slot)}"
        _, _, rest = wanted.partition(":")
        elsewhere = [address for address in self.hardware.addresses() if address.partition(":")[2].startswith(rest)]
        if elsewhere:
            return f"write it with its domain: {listed(elsewhere)}"
        return "lspci -D lists the devices; an added or removed card moves others to new addresses"

    def _q35_hint(self) -> str:
        dropped = next((dropped for dropped in self.section.dropped if dropped.key == "machine"), None)
        if dropped:
            return (
                f'PVE drops "machine: {shown(dropped.value)}" (line {dropped.line}): correct it, such as machine: q35'
            )
        return "set machine: q35, or remove pcie=1"

    # ---- legacy-igd

    def _check_igd(self, entry: HostpciEntry, device: Passed | None, *, again: bool) -> None:
        """PVE's rules for passing an Intel GPU the old way."""
        vga = self.section.get("vga")
        has = f"vga is {shown(vga)}" if vga else "vga is not set"
        without = "legacy-igd=1 does not go with"
        use_i440fx = "use an i440fx machine (remove machine: q35), or remove legacy-igd=1"
        for refused, code, message, hint in (
            (again, "igd-twice", "a second entry has legacy-igd=1", "keep it on one entry"),
            (vga != "none", "igd-needs-vga-none", f"legacy-igd=1 needs vga: none, and {has}", "set vga: none"),
            (not entry.rombar, "igd-needs-rombar", f"{without} rombar=0", "remove rombar=0"),
            (entry.x_vga, "igd-with-x-vga", f"{without} x-vga=1", "remove x-vga=1"),
            (entry.wants_mdev, "igd-with-mdev", f"{without} mdev=", "keep one of them"),
            (self.machine.q35, "igd-with-q35", f"{without} a q35 machine", use_i440fx),
        ):
            if refused:
                self._refuse(code, entry, message, hint)
        if device is None:
            return
        first = device.alternatives[0][0]
        if device.multifunction:
            message = f"{without} several functions"
            self._refuse("igd-with-multifunction", entry, message, f"name one function, such as {first}")
        elif len(device.alternatives) > 1:
            message = f"{without} a mapping that has {len(device.alternatives)} devices on this node"
            self._refuse("igd-with-alternatives", entry, message, "use a mapping with one device, or its PCI address")
        elif not first.endswith("02.0"):
            message = f"legacy-igd=1 is for the Intel GPU at 00:02.0, and this is {first}"
            self._refuse("igd-wrong-address", entry, message, "pass 00:02.0, or remove legacy-igd=1")

    # ---- all entries together

    def _choose(self, devices: list[Passed]) -> list[Passed]:
        """Take the first free alternative of each entry in turn, without going back, as PVE does."""
        used: dict[str, str] = {}
        chosen = []
        for device in devices:
            key = device.entry.key
            if device.mdev is not None:
                addresses = tuple(address for functions in device.alternatives for address in functions)
            elif len(device.alternatives) == 1:
                addresses = device.alternatives[0]
                for address in addresses:
                    if address in used:
                        message = f"{address} is assigned twice: by {used[address]} too"
                        self._refuse("device-assigned-twice", device.entry, message, "remove one of the two")
                    used[address] = key
            else:
                free = [functions for functions in device.alternatives if not used.keys() & set(functions)]
                if not free:
                    count = len(device.alternatives)
                    message = f"the VM's other entries use all {count} devices of mapping {device.entry.mapping}"
                    hint = f"add devices of {self.node} to the mapping, or remove an entry"
                    self._refuse("no-free-device", device.entry, message, hint)
                    continue
                addresses = free[0]
                used.update(dict.fromkeys(addresses, key))
            chosen.append(device._replace(addresses=addresses))
        return chosen
