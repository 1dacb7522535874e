# SPDX-License-Identifier: Apache-2.0
"""What has to be changed in a host's files, and run, to make it ready for passthrough: planned, not done.

Sources: the manual of PVE, chapter "PCI(e) Passthrough"; modprobe.d(5), modules-load.d(5), initramfs-tools(7), and
Linux Documentation/ABI/testing/sysfs-bus-pci (driver_override).
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, NamedTuple

from pvepassthru.host import boot as boots
from pvepassthru.host import claims, overrides
from pvepassthru.host import firmware as firmwares
from pvepassthru.host import modules as moduless
from pvepassthru.host.bootline import BootLine
from pvepassthru.host.draft import HEAD, Draft
from pvepassthru.model import modprobe
from pvepassthru.model.cmdline import same_name
from pvepassthru.model.errors import DeviceError, NotFoundError, UsageError
from pvepassthru.model.modprobe import plain
from pvepassthru.model.pci import is_address, is_selector, slot, with_domain
from pvepassthru.model.problem import plain_id
from pvepassthru.model.text import listed
from pvepassthru.model.text import number as number_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.host.backups import Change
    from pvepassthru.host.boot import Boot
    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Inventory

Method = Literal["vfio-ids", "blacklist", "override"]
METHODS: tuple[Method, ...] = ("vfio-ids", "blacklist", "override")

MODPROBE = "/etc/modprobe.d/pvepassthru.conf"
MODULES_LOAD = "/etc/modules-load.d/pvepassthru.conf"
INITRAMFS = ("update-initramfs", "-u", "-k", "all")
MODULES = ("vfio", "vfio_iommu_type1", "vfio_pci")
FLAGS = ("intel_iommu", "amd_iommu", "iommu", "i915.enable_gvt", "vfio-pci.ids", "pcie_acs_override")
"""Parameters whose case is corrected; but for ids their values are in lower case too."""


class Wishes(NamedTuple):
    """What the owner asks for beside what every host needs."""

    devices: tuple[str, ...] = ()
    """Addresses, or slots for all their functions, as a hostpci entry names them."""
    method: Method | None = None
    """How the devices are kept for vfio-pci; None: by override where an identical one is not asked for, else by ids."""
    unsafe_interrupts: bool = False
    max_vfs: tuple[tuple[str, int], ...] = ()
    """Driver and number of VFs."""
    gvt: bool = False


class Plan(NamedTuple):
    """What is to be done."""

    changes: tuple[Change, ...]
    commands: tuple[tuple[str, ...], ...]
    """What is to be run when the files are changed, in this order."""
    notes: tuple[str, ...]
    """What else the owner should know: what cannot be done here, and why."""
    taken: tuple[str, ...] = ()
    """The functions that the host loses to vfio-pci, or to no driver."""


def plan(host: Host, inventory: Inventory, wishes: Wishes) -> Plan:
    """What makes this host ready.

    Raises NotFoundError for a device that is not there, UsageError for one that cannot be prepared or a wish that makes
    no sense, DeviceError when the host would lose its own disk or network, InputError when a file cannot be changed.
    """
    return _Planner(host, inventory).plan(wishes)


class _Planner:
    """Makes one plan."""

    def __init__(self, host: Host, inventory: Inventory) -> None:
        self.host = host
        self.inventory = inventory
        self.boot: Boot = boots.read(host)
        self.firmware = firmwares.read(host)
        line = self.boot.configured.line if self.boot.configured else self.boot.running
        self.modules = moduless.Modules(host, line)
        self.draft = Draft(host)
        self.bootline = BootLine(self.boot, self.draft)
        self.notes: list[str] = []
        self.taken: tuple[str, ...] = ()

    def plan(self, wishes: Wishes) -> Plan:
        devices = self._devices(wishes.devices)
        if wishes.method and not devices:
            raise UsageError("--method says how devices are prepared, and none is named", "--for ADDRESS")
        self._command_line()
        self._modules()
        if wishes.unsafe_interrupts:
            self._option(
                "vfio_iommu_type1",
                "allow_unsafe_interrupts",
                "1",
                "VFIO does without interrupt remapping, as asked for",
            )
            if firmwares.remapping(self.host):
                self.notes.append("--unsafe-interrupts is needless: this host's IOMMU remaps interrupts")
        for driver, number in wishes.max_vfs:
            self._max_vfs(driver, number)
        if wishes.gvt:
            self._gvt()
        if devices:
            self._prepare(devices, wishes.method)
        changes = self.draft.changes()
        if self.boot.loader and not self.boot.apply and any(change.path in self.boot.files for change in changes):
            self.notes.append(f"{self.boot.loader} takes the change when its entries are written anew, by hand")
        return Plan(changes, self._commands(changes), tuple(self.notes), self.taken)

    def _commands(self, changes: tuple[Change, ...]) -> tuple[tuple[str, ...], ...]:
        """The initramfs first: proxmox-boot-tool copies it."""
        paths = {change.path for change in changes}
        to_boot = {*self.boot.files, boots.CMDLINE}
        initramfs = bool(paths - to_boot)
        loader = bool(paths & to_boot) or (initramfs and self.boot.boot_tool)
        return (*((INITRAMFS,) if initramfs else ()), *((self.boot.apply,) if loader and self.boot.apply else ()))

    def _note(self, words: str) -> None:
        if words and words not in self.notes:
            self.notes.append(words)

    # ---- the kernel's command line

    def _command_line(self) -> None:
        configured = self.boot.configured
        older = self.firmware.older_than(6, 8)
        if configured is None:
            if self.firmware.vendor == "Intel" and older:
                self.notes.append(f"add intel_iommu=on to the kernel command line by hand: {self.boot.trouble}")
            return
        for name in FLAGS:
            for word in configured.line.miswritten(name):
                value = word.value if word.value is None or name.endswith("ids") else word.value.lower()
                right = word.name.lower() + ("" if value is None else f"={value}")
                self._note(self.bootline.exchange(word.text, right, "the kernel minds the case"))
        self._switch_on()
        if self.firmware.vendor != "Intel":
            return
        line = self.bootline.line()
        words = line.named("intel_iommu") if line else ()
        values = [value for word in words for value in (word.value or "").split(",")]
        if "on" not in values and (older or {"on", "off"} & {value.lower() for value in values}):
            if words:
                kept = [value for value in (words[-1].value or "").split(",") if value.lower() not in {"", "on", "off"}]
                right = f"intel_iommu={','.join(['on', *kept])}"
                self._note(self.bootline.exchange(words[-1].text, right, "the kernel is to use the IOMMU"))
            else:
                why = "a kernel before 6.8 uses Intel's IOMMU only when it is told to"
                self._note(self.bootline.add("intel_iommu=on", why))
        elif older is None and "on" not in values:
            self.notes.append("the kernel's version cannot be told; one before 6.8 needs intel_iommu=on on Intel")

    def _switch_on(self) -> None:
        """Take away what switches the IOMMU off whoever made it; intel_iommu=off becomes on."""
        line = self.bootline.line()
        for name in ("iommu", "amd_iommu"):
            for word in line.named(name) if line else ():
                values = (word.value or "").split(",")
                kept = [value for value in values if value != "off"]
                if kept != values:
                    right = f"{name}={','.join(kept)}" if kept else None
                    self._note(self.bootline.exchange(word.text, right, "the kernel is to use the IOMMU"))

    # ---- modules

    def _modules(self) -> None:
        for name in MODULES:
            if self.modules.listed(name) is None and not self.modules.is_builtin(name):
                self.draft.add_line(MODULES_LOAD, name, "the modules of VFIO are loaded at boot", HEAD)
        if self.firmware.older_than(6, 2) is not False:
            return
        for entry in (*self.modules.boot, *self.modules.initramfs):
            if plain(entry.name) == "vfio_virqfd" and entry.path.startswith("/etc/"):
                lines = self.draft.text(entry.path).split("\n")
                lines[entry.number - 1] = f"# {lines[entry.number - 1]}"
                why = "vfio_virqfd is part of vfio from kernel 6.2 on, and cannot be loaded"
                self.draft.put(entry.path, "\n".join(lines), why)

    def _option(self, module: str, name: str, value: str, why: str) -> None:
        """Give a module's parameter a value, in the place that counts."""
        present = self.modules.option(module, name)
        if present and present.value == value:
            return
        if present is None:
            self.draft.add_line(MODPROBE, f"options {module} {name}={value}", why, HEAD)
            return
        if present.where == moduless.CMDLINE:
            line = self.bootline.line()
            for word in line.parameters if line else ():
                if same_name(word.name, f"{module}.{name}"):
                    self._note(self.bootline.exchange(word.text, f"{word.name}={value}", why))
            return
        path, _, number = present.where.rpartition(":")
        lines = self.draft.text(path).split("\n")
        place = int(number) - 1
        words = lines[place].split()
        old = next((word for word in words if modprobe.setting(word) == (plain(name), present.value)), None)
        if old is None or not path.startswith("/etc/"):
            raise DeviceError(
                f"cannot set {name} of {module}: {present.where} sets it, and is not edited",
                f"set {name}={value} there",
            )
        head, _, tail = lines[place].rpartition(old)
        lines[place] = f"{head}{name}={value}{tail}"
        self.draft.put(path, "\n".join(lines), why)

    def _max_vfs(self, driver: str, number: int) -> None:
        if not self.host.exists(f"/sys/bus/pci/drivers/{driver}") and self.modules.available(driver) is not True:
            raise UsageError(
                f"--max-vfs {driver}={number}: this host has no driver {driver}", "lspci -k names those in use"
            )
        driven = [name for name in self.host.names(f"/sys/bus/pci/drivers/{driver}") if is_address(name)]
        totals = [number_of(self.inventory.attribute(address, "sriov_totalvfs")) for address in driven]
        most = max((total for total in totals if total is not None), default=number)
        if number > most:
            raise UsageError(f"--max-vfs {driver}={number} is more than its devices have", f"at most {most}")
        self._option(plain(driver), "max_vfs", str(number), f"{driver} makes {number} VFs of each of its devices")

    def _gvt(self) -> None:
        display = [
            address
            for address in self.inventory.addresses()
            if self.inventory.attribute(address, "vendor") == "0x8086"
            and self.inventory.pci_class(address).startswith("03")
        ]
        if not display:
            raise UsageError(
                "--gvt needs an Intel GPU, and there is none", "GVT-g is for Intel CPUs of generation 5 to 7"
            )
        self._option("i915", "enable_gvt", "1", "i915 offers GVT-g")
        if self.modules.listed("kvmgt") is None:
            self.draft.add_line(MODULES_LOAD, "kvmgt", "GVT-g needs kvmgt", HEAD)

    # ---- devices

    def _devices(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
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

    def _prepare(self, devices: tuple[str, ...], method: Method | None) -> None:
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
        self.taken = tuple(sorted(hit))
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

    def _tell_drivers(self, drivers: list[str], fixed: list[str], method: Method) -> None:
        """Note what a blacklist means for each driver, and that one that is built in (`fixed`) minds no list."""
        if fixed and method != "override":
            self._note(f"{listed(fixed)} is built into the kernel: {method} does not keep it from a device")
        if method == "blacklist" and drivers:
            lose = self._driven_by(drivers)
            self._note(f"nothing loads {listed(drivers)} any more: {listed(sorted(lose)) or 'no device'} loses it")

    def _tell_beside(self, hit: dict[str, str], devices: tuple[str, ...], method: Method) -> None:
        """Note what the method takes beside what is asked for, what it leaves of a slot, and a lost console."""
        shown = [address for address in sorted(hit) if self.inventory.attribute(address, "boot_vga") == "1"]
        if shown:
            self._note(f"{listed(shown)} shows the host's console, which is gone after the next boot: have SSH ready")
        others = sorted(set(hit) - set(devices))
        if others:
            self._note(f"{method} takes {listed(others)} too; --method override takes only what is asked for")
        for address in devices:
            left = [other for other in self.inventory.in_slot(slot(address)) if other not in hit]
            left = [other for other in left if not self.inventory.physical_function(other)]
            if left:
                whole = f"--for {slot(address)} prepares the whole slot"
                self._note(f"{listed(left)} of the same slot as {address} stays as it is; {whole}")

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
            self._option("vfio-pci" if present is None else "vfio_pci", "ids", value, why)
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
