# SPDX-License-Identifier: Apache-2.0
"""What has to be changed in a host's files, and run, to make it ready for passthrough: planned, not done.

How single devices are kept for VMs is in host/keeping.py.

Sources: the manual of PVE, chapter "PCI(e) Passthrough"; modprobe.d(5), modules-load.d(5), initramfs-tools(7), and
Linux Documentation/ABI/testing/sysfs-bus-pci (driver_override).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.host import boot as boots
from pvepassthru.host import firmware as firmwares
from pvepassthru.host import modules as moduless
from pvepassthru.host.bootline import BootLine
from pvepassthru.host.draft import HEAD, Draft
from pvepassthru.host.keeping import Keeper, Method
from pvepassthru.host.options import Options
from pvepassthru.model.errors import UsageError
from pvepassthru.model.modprobe import plain
from pvepassthru.model.pci import is_address
from pvepassthru.model.text import number as number_of

if TYPE_CHECKING:
    from pvepassthru.host.backups import Change
    from pvepassthru.host.boot import Boot
    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Inventory

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
        self.options = Options(self.modules, self.draft, self.bootline, self.notes)
        self.keeper = Keeper(host, inventory, self.options)

    def plan(self, wishes: Wishes) -> Plan:
        devices = self.keeper.devices(wishes.devices)
        if wishes.method and not devices:
            raise UsageError("--method says how devices are prepared, and none is named", "--for ADDRESS")
        self._command_line()
        self._modules()
        if wishes.unsafe_interrupts:
            self.options.set(
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
        taken = self.keeper.keep(devices, wishes.method) if devices else ()
        changes = self.draft.changes()
        if self.boot.loader and not self.boot.apply and any(change.path in self.boot.files for change in changes):
            self.notes.append(f"{self.boot.loader} takes the change when its entries are written anew, by hand")
        return Plan(changes, self._commands(changes), tuple(self.notes), taken)

    def _commands(self, changes: tuple[Change, ...]) -> tuple[tuple[str, ...], ...]:
        """The initramfs first: proxmox-boot-tool copies it."""
        paths = {change.path for change in changes}
        to_boot = {*self.boot.files, boots.CMDLINE}
        initramfs = bool(paths - to_boot)
        loader = bool(paths & to_boot) or (initramfs and self.boot.boot_tool)
        return (*((INITRAMFS,) if initramfs else ()), *((self.boot.apply,) if loader and self.boot.apply else ()))

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
                self.options.note(self.bootline.exchange(word.text, right, "the kernel minds the case"))
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
                self.options.note(self.bootline.exchange(words[-1].text, right, "the kernel is to use the IOMMU"))
            else:
                why = "a kernel before 6.8 uses Intel's IOMMU only when it is told to"
                self.options.note(self.bootline.add("intel_iommu=on", why))
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
                    self.options.note(self.bootline.exchange(word.text, right, "the kernel is to use the IOMMU"))

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
        self.options.set(plain(driver), "max_vfs", str(number), f"{driver} makes {number} VFs of each of its devices")

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
        self.options.set("i915", "enable_gvt", "1", "i915 offers GVT-g")
        if self.modules.listed("kvmgt") is None:
            self.draft.add_line(MODULES_LOAD, "kvmgt", "GVT-g needs kvmgt", HEAD)
