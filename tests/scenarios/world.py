# SPDX-License-Identifier: Apache-2.0
"""What a scenario needs: a node with PVE, the hookscript and the test machine, and a way to see what is left.

A scenario is a plain function that takes a World. It runs on a SimHost tree of the guest's machine (tests/lifecycle)
and, the essential ones, in the guest on real kernels (tests/kernel/lifecycle_*.py). Only the standard library.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from pvepassthru.host.host import Host
from pvepassthru.host.sim import SimHost
from pvepassthru.host.sim_settings import tbmdev_settings
from tests.kernel import guest, machine
from tests.kernel.checks import check, holds
from tests.pve import hook as pve_hook
from tests.pve.flows import Pve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.pve.hook import HookRun, Log

PCI, MDEVS, PARENTS, PF = guest.PCI, guest.MDEVS, guest.PARENTS, guest.PHYSICAL_FUNCTION
PARENT, OTHER = PARENTS
NIC = "0000:05:00.0"
GPU, AUDIO = "0000:01:00.0", "0000:01:00.1"
"""One slot and one IOMMU group; `drive_gpu` gives them drivers of the host."""
HOST_DRIVERS = {NIC: "e1000e", GPU: "bochs-drm", AUDIO: "snd_hda_intel"}
POLICY = "/etc/pvepassthru.yaml"
VFS = tuple(f"0000:02:00.{function}" for function in range(1, 5))
DRIVEN = (*PARENTS, PF, *VFS, NIC, GPU, AUDIO)
"""The functions whose drivers `state` shows."""
JOURNALS = "/run/pvepassthru"
RESERVATIONS = "/run/qemu-server/pci-id-reservations"
SCRIPT = f"{guest.PROJECT}/hookscripts/pvepassthru"
BENT = f"{guest.PROJECT}/tests/scenarios/bent_hook.py"
START, STOP = ["pre-start", "post-start"], ["pre-stop", "post-stop"]
ALL = [*START, *STOP]


Scenario = Callable[["World"], None]


def scenarios(module: ModuleType) -> list[Scenario]:
    """The scenarios of a module: its public functions of a World alone."""
    found = [value for value in vars(module).values() if isinstance(value, FunctionType)]
    return [
        value
        for value in found
        if value.__module__ == module.__name__
        and value.__code__.co_varnames[: value.__code__.co_argcount] == ("world",)
        and not value.__name__.startswith("_")
    ]


def uuid(index: int, vmid: int) -> str:
    """The UUID that PVE gives the mdev of hostpci entry `index` of a VM."""
    return f"{index:08d}-0000-0000-0000-{vmid:012d}"


def mdev(*types: int, parent: str = PARENT) -> str:
    """Config lines of entries with mdevs of so many units each, all on one parent."""
    return "".join(f"hostpci{index}: {parent},mdev=tbmdev-{units}\n" for index, units in enumerate(types))


class World:
    """A node with PVE and the hookscript."""

    simulated: bool
    node: str
    pve: Pve
    host: Host
    """To look, and to write as the administrator or another program would."""
    python: str = sys.executable
    environment: dict[str, str]
    """What a command needs besides PATH."""

    @property
    def root(self) -> str:
        """Where the node's files lie; empty for the real ones."""
        return self.host.root

    # ---- the machine

    def configure(self, **parameters: int) -> None:
        """Set parameters of the test driver: capacity, full_errno, exclusive, delay_ms, core_count."""
        raise NotImplementedError  # SimWorld and GuestWorld each do it in their own way

    def held(self, device: str) -> AbstractContextManager[int]:
        """Have a process, whose pid is given, hold an mdev (its uuid) or function open."""
        raise NotImplementedError  # SimWorld and GuestWorld each do it in their own way

    def make_vfs(self, count: int) -> tuple[str, ...]:
        """Make VFs with the vendor vGPU interface, and return their addresses."""
        raise NotImplementedError  # SimWorld and GuestWorld each do it in their own way

    def drive_gpu(self) -> None:
        """Give the display and the audio function their drivers of the host."""
        raise NotImplementedError  # SimWorld and GuestWorld each do it in their own way

    def opened(self, node: str) -> AbstractContextManager[int]:
        """Have a process of the host, whose pid is given, hold a device node (`/dev/dri/card0`) open."""
        raise NotImplementedError  # SimWorld and GuestWorld each do it in their own way

    def policy(self, text: str) -> None:
        """Write the node's policy file."""
        path = f"{self.root}{POLICY}"
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o644)

    def driver(self, address: str) -> str | None:
        """The driver that has a function."""
        return self.host.link(f"{PCI}/{address}/driver")

    def override(self, address: str) -> str | None:
        """A function's driver_override as it reads."""
        return self.host.text(f"{PCI}/{address}/driver_override")

    def create(self, units: int, uuid: str, parent: str = PARENT) -> None:
        """Create an instance as somebody else. Raises OSError."""
        self.host.write(f"{PCI}/{parent}/mdev_supported_types/tbmdev-{units}/create", uuid)

    def fill(self, parent: str = PARENT) -> str:
        """Use all four units of a parent by a foreign instance, and return its uuid."""
        foreign = f"f0f0f0f0-1111-2222-3333-{parent.replace(':', '').replace('.', ''):0>12}"
        self.create(4, foreign, parent)
        return foreign

    def unbind(self, address: str) -> None:
        """Take a function's driver away."""
        self.host.write(f"{PCI}/{address}/driver/unbind", address)

    def set_vgpu(self, address: str, value: str) -> None:
        """Set a VF's vGPU type as somebody else. Raises OSError."""
        self.host.write(f"{PCI}/{address}/nvidia/current_vgpu_type", value)

    # ---- what is there

    def mdevs(self) -> dict[str, str]:
        """Each listed instance with its parent and type: `PARENT tbmdev-1`."""
        found = {}
        for name in self.host.names(MDEVS):
            parent = (self.host.resolve(f"{MDEVS}/{name}") or "?/?").rsplit("/", 2)[-2]
            found[name] = f"{parent} {self.host.link(f'{MDEVS}/{name}/mdev_type')}"
        return found

    def vgpus(self) -> dict[str, str]:
        """The VFs with a vGPU type set."""
        types = {vf: self.host.text(f"{PCI}/{vf}/nvidia/current_vgpu_type") for vf in VFS}
        return {vf: value for vf, value in types.items() if value not in {None, "0"}}

    def reservations(self) -> dict[str, str]:
        """PVE's reservations: address to `VMID time` or `VMID pid`."""
        found = {}
        for line in (self.host.text(RESERVATIONS) or "").splitlines():
            address, vmid, value = line.split()
            found[address] = f"{vmid} {value.partition(':')[0]}"
        return found

    def journals(self) -> list[str]:
        """The names of the journals that are there."""
        return [name for name in self.host.names(JOURNALS) if name.endswith(".journal")]

    def journal(self, vmid: int) -> list[dict[str, Any]]:
        """The records of a VM's journal, none if there is no journal."""
        text = self.host.text(f"{JOURNALS}/{vmid}.journal") or ""
        return [json.loads(line) for line in text.splitlines()]

    def kept(self, vmid: int) -> list[str]:
        """What a VM's journal still has to undo, `KIND TARGET AFTER` each."""
        steps = {}
        for record in self.journal(vmid):
            if "do" in record:
                steps[record["n"]] = f"{record['do']} {record['target']} {record['after']}"
            elif "undone" in record:
                del steps[record["n"]]
        return list(steps.values())

    def state(self) -> dict[str, Any]:
        """All that a start can change: to compare with what was there before."""
        host = self.host
        available, inside = {}, {}
        for parent in PARENTS:
            folder = f"{PCI}/{parent}"
            for kind in host.names(f"{folder}/mdev_supported_types"):
                available[f"{parent} {kind}"] = host.text(f"{folder}/mdev_supported_types/{kind}/available_instances")
            inside[parent] = [name for name in host.names(folder) if name.count("-") == 4]
        return {
            "mdevs": self.mdevs(),
            "inside the parents": inside,
            "available": available,
            "vGPUs": self.vgpus(),
            "reservations": host.text(RESERVATIONS) or "",
            "journals": self.journals(),
            "drivers": {name: host.link(f"{PCI}/{name}/driver") for name in DRIVEN},
            "overrides": {name: host.text(f"{PCI}/{name}/driver_override") for name in DRIVEN},
            "reset methods": {name: host.text(f"{PCI}/{name}/reset_method") for name in (NIC, GPU)},
            "d3cold": {name: host.text(f"{PCI}/{name}/d3cold_allowed") for name in (NIC, GPU)},
            "consoles": self.consoles(),
        }

    def consoles(self) -> dict[str, str | None]:
        """The drivers of consoles, each with whether it is bound."""
        folder = "/sys/class/vtconsole"
        return {
            self.host.text(f"{folder}/{name}/name") or name: self.host.text(f"{folder}/{name}/bind")
            for name in self.host.names(folder)
        }

    # ---- programs

    def hook(self, vmid: int | str, phase: str, source: str = "", *, limit: float = 60.0) -> HookRun:
        """Run the hookscript as PVE does, without PVE."""
        more = {"PVEPASSTHRU_ROOT": self.root} if self.root else {}
        environment = pve_hook.environment_of(source, more)
        run = pve_hook.run([*self.pve.hook, str(vmid)], phase, environment, limit, self.pve.begin)
        holds(f"no traceback: {run}", "Traceback" not in run.output)
        return run

    def run(self, *words: str, code: int | None = 0, limit: float = 90.0) -> str:
        """Run a command of the command line, check its exit code, and return all that it printed."""
        command = [self.python, "-m", "pvepassthru", *(["--root", self.root] if self.root else []), *words]
        program = self.pve.begin(command, {"PATH": pve_hook.PATH, **self.environment})
        output = pve_hook.finish(program, limit)
        holds(f"no traceback: {output}", "Traceback" not in output)
        if code is not None and program.returncode != code:
            raise AssertionError(f"pvepassthru {' '.join(words)}: exit code {program.returncode}\n{output}")
        return output

    def map(self, name: str, addresses: Iterable[str], *, mdev: bool = True) -> None:
        """Define one mapping of this node with these devices as alternatives."""
        lines = [name] + (["\tmdev 1"] if mdev else [])
        for address in addresses:
            folder = f"{PCI}/{address}"
            values = {file: (self.host.text(f"{folder}/{file}") or "")[2:] for file in ("vendor", "device")}
            group = self.host.link(f"{folder}/iommu_group")
            parts = [f"id={values['vendor']}:{values['device']}", f"iommugroup={group}"]
            subsystem = [self.host.text(f"{folder}/subsystem_{file}") for file in ("vendor", "device")]
            if all(subsystem):
                parts.append(f"subsystem-id={':'.join((value or '')[2:] for value in subsystem)}")
            lines.append(f"\tmap {','.join([*parts, f'node={self.node}', f'path={address}'])}")
        self.pve.map("\n".join(lines) + "\n")

    @contextmanager
    def bent(self, how: str) -> Iterator[None]:
        """For as long as the `with` lasts, PVE runs the hook under the conditions that bent_hook.py describes."""
        usual = self.pve.hook
        self.pve.hook = [self.python, "-I", BENT, how]
        try:
            yield
        finally:
            self.pve.hook = usual

    def impatient(self) -> AbstractContextManager[None]:
        """For as long as the `with` lasts, the hook waits 0.3 s where it would wait 10 s."""
        return self.bent("patience=0.3")

    def close(self) -> None:
        """End what was started."""
        self.pve.close()


class SimWorld(World):
    """A SimHost tree of the guest's machine."""

    simulated = True
    node = "pve"

    def __init__(self, root: Path) -> None:
        machine.build(root, machine.read())
        for address in (root / "sys/bus/pci/devices").iterdir():
            (address / "irq").write_text("16\n", encoding="ascii")
        for name, text in (("etc/hostname", self.node), ("proc/sys/kernel/random/boot_id", "b00t")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text + "\n", encoding="ascii")
        (root / "usr/share/kvm").mkdir(parents=True)
        self.host = SimHost(str(root))
        self._parameters: dict[str, int] = {}
        self._gpu = False
        self.devices: dict[str, dict[str, object]] = {}
        """More settings of the simulation for devices, which `configure` sets."""
        self.configure()
        self.pve = Pve(str(root), node=self.node, hook=[self.python, "-I", SCRIPT], write=self.host.write)
        self.environment = {"PYTHONPATH": guest.PROJECT}

    def configure(self, **parameters: int) -> None:
        """As World.configure."""
        self._parameters.update(parameters)
        settings: dict[str, Any] = tbmdev_settings(**self._parameters)
        settings["drivers"]["nvme"] = {}
        if self._gpu:
            settings["devices"] = {address: {"driver": HOST_DRIVERS[address]} for address in (GPU, AUDIO)}
            settings["drivers"].update({HOST_DRIVERS[GPU]: {"framebuffer": True}, HOST_DRIVERS[AUDIO]: {}})
        for address, more in self.devices.items():
            settings.setdefault("devices", {}).setdefault(address, {}).update(more)
        host = self.host
        if not isinstance(host, SimHost):
            raise TypeError("a simulated world has a simulated host")
        host.configure(settings)

    def drive_gpu(self) -> None:
        """As World.drive_gpu; while they have them the functions have folders for their device nodes."""
        self._gpu = True
        self.configure()
        for address, name in ((GPU, "drm"), (AUDIO, "sound")):
            self.host.write("/sys/bus/pci/drivers_probe", address)
            os.makedirs(f"{self.root}{PCI}/{address}/{name}/card0", exist_ok=True)

    def held(self, device: str) -> AbstractContextManager[int]:
        """As World.held: a process that is only its traces in /proc."""
        folder = f"{MDEVS}/{device}" if "-" in device else f"{PCI}/{device}"
        return self.opened(f"/dev/vfio/{self.host.link(f'{folder}/iommu_group')}")

    @contextmanager
    def opened(self, node: str) -> Iterator[int]:
        """As World.opened: a process that is only its traces in /proc."""
        pid = 4242
        process = f"{self.root}/proc/{pid}"
        os.makedirs(f"{process}/fd")
        with open(f"{process}/comm", "w", encoding="ascii") as file:
            file.write("holder\n")
        os.symlink(node, f"{process}/fd/7")
        try:
            yield pid
        finally:
            shutil.rmtree(process)

    def make_vfs(self, count: int) -> tuple[str, ...]:
        """As World.make_vfs."""
        for address in (PF, *VFS[:count]):
            if self.host.link(f"{PCI}/{address}/driver"):
                self.unbind(address)
            self.host.write(f"{PCI}/{address}/driver_override", "tbvgpu")
            self.host.write("/sys/bus/pci/drivers_probe", address)
            if address == PF:
                self.host.write(f"{PCI}/{PF}/sriov_numvfs", str(count))
        return VFS[:count]


class GuestWorld(World):
    """The guest itself."""

    simulated = False
    node = guest.NODE

    def __init__(self) -> None:
        self.host = Host("/")
        self.pve = Pve("/", node=self.node, hook=[guest.HOOK], patience=1.0)
        libraries = [f"{guest.PROJECT}/.venv/lib/{name}/site-packages" for name in self._venv()]
        self.environment = {"PYTHONPATH": ":".join(libraries)}

    @staticmethod
    def _venv() -> list[str]:
        """The guest runs the host's /usr/bin/python3, which may have no filelock; the venv's serves."""
        folder = f"{guest.PROJECT}/.venv/lib"
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def configure(self, **parameters: int) -> None:
        """As World.configure."""
        guest.Machine().configure(**parameters)

    @contextmanager
    def held(self, device: str) -> Iterator[int]:
        """As World.held: a real process that has it open."""
        with guest.held(device) as holder:
            yield holder.pid

    def drive_gpu(self) -> None:
        """As World.drive_gpu."""
        guest.drive_gpu()

    @contextmanager
    def opened(self, node: str) -> Iterator[int]:
        """As World.opened: a real process."""
        with open(node, "rb", buffering=0) as file:
            sleeper = subprocess.Popen(["sleep", "600"], pass_fds=[file.fileno()])
        try:
            yield sleeper.pid
        finally:
            sleeper.kill()
            sleeper.wait()

    def make_vfs(self, count: int) -> tuple[str, ...]:
        """As World.make_vfs."""
        return tuple(guest.make_vfs(count, vgpu=True))


def prepare_guest() -> None:
    """In the guest, once: drivers, the folders of PVE, the installed package."""
    guest.load_drivers()
    guest.load_tbmdev()
    guest.make_tree()
    guest.install()


def reset_guest() -> None:
    """In the guest, before each test: the machine as it was, and nothing left of VMs."""
    guest.reset_machine()
    for folder in (JOURNALS, "/run/qemu-server", "/etc/pve/mapping", f"/etc/pve/nodes/{guest.NODE}/qemu-server"):
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.exists(POLICY):
        os.unlink(POLICY)
    guest.make_tree()


# ---- what scenarios check


def went(log: Log) -> Log:
    """The log of a flow that went through, with no traceback in what the hooks said; else AssertionError."""
    holds(f"went through: {log}", log.ok)
    holds(f"no traceback: {log}", "Traceback" not in log.output)
    return log


def failed(log: Log, code: str) -> Log:
    """The log of a flow that failed with this code of PVE's; else AssertionError."""
    holds(f"failed with {code}: {log}", log.error is not None and log.error.code == code)
    holds(f"no traceback: {log}", "Traceback" not in log.output)
    return log


def said(log: Log | HookRun | str, *words: str) -> None:
    """Check that each of these words is in what was said."""
    text = log if isinstance(log, str) else log.output
    for word in words:
        holds(f"{word!r} is in: {log}", word in text)


def refused(world: World, vmid: int, *words: str) -> str:
    """Start a VM that the hook refuses, with these words, and see that nothing changed. Returns what was said."""
    before = world.state()
    log = failed(world.pve.start(vmid), "hook-failed")
    check("phases", log.phases, ["pre-start"])
    said(log, *words)
    check(f"as before ({log})", world.state(), before)
    return log.output
