# SPDX-License-Identifier: Apache-2.0
"""What tests that run in the guest need: drivers, a PVE-like tree, the installed hookscript, devices held open.

Only for the guest: everything here changes the machine. Only the standard library, and little of it: Python is 12 to
25 times slower there than on the host.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pvepassthru.host.host import Host
from tests.kernel import vfio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHARE = "/share"
"""A folder of the host, to hand back files."""
PACKAGES = "/usr/lib/python3/dist-packages"
SNIPPETS = "/var/lib/vz/snippets"
HOOK = f"{SNIPPETS}/pvepassthru"
LIBRARIES = (
    *("_pyrsistent_version.py", "attr", "attrs", "jsonschema", "jsonschema_specifications"),
    *("pyrsistent", "referencing", "rpds", "yaml"),
)
NODE = "guest"
PCI = "/sys/bus/pci/devices"
DRIVERS = "/sys/bus/pci/drivers"
PROBE = "/sys/bus/pci/drivers_probe"
MDEVS = "/sys/bus/mdev/devices"
PARAMETERS = "/sys/module/tbmdev/parameters"
PARENTS = ("0000:03:00.0", "0000:04:00.0")
PHYSICAL_FUNCTION = "0000:02:00.0"
DRIVEN = (*PARENTS, "0000:05:00.0", "0000:07:01.0")
"""The functions that have a driver of the host in the tests; the PF and the other functions have none."""
GPU_DRIVERS = {"0000:01:00.0": "bochs-drm", "0000:01:00.1": "snd_hda_intel"}
DEFAULTS = {"capacity": "4", "full_errno": "28", "exclusive": "N", "delay_ms": "0", "core_count": "0"}
"""The test driver's parameters as it is loaded without any; core_count needs it loaded anew."""
FOLDERS = (
    "/etc/pve/mapping",
    f"/etc/pve/nodes/{NODE}/qemu-server",
    "/run/qemu-server",
    "/run/lock/qemu-server",
    "/usr/share/kvm",
    SNIPPETS,
)


def inside() -> bool:
    """Whether this is the guest, and not the developer's own machine."""
    return os.uname().nodename == NODE and os.path.exists(f"{SHARE}/machine") and os.getuid() == 0


def read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().strip()


def write(path: str, value: str) -> None:
    """One write(2) to a kernel attribute; raises OSError as the kernel gives it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def link(path: str) -> str | None:
    """The last component of a link (a driver's name, a group's number), None without it."""
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return None


# ---- drivers


def load_drivers() -> None:
    """mdev, vfio-pci, and the host's drivers of a network card and of the PF, which stays without. No udev does it."""
    subprocess.run(["modprobe", "-a", "mdev", "vfio_iommu_type1", "vfio-pci", "e1000e", "nvme"], check=True)
    if os.path.exists(f"{PCI}/{PHYSICAL_FUNCTION}/driver"):
        write(f"{PCI}/{PHYSICAL_FUNCTION}/driver/unbind", PHYSICAL_FUNCTION)


def drive_gpu() -> None:
    """Give the display and the audio function their drivers of the host, bochs-drm and snd_hda_intel."""
    subprocess.run(["modprobe", "-a", "bochs", "snd-hda-intel"], check=True)
    for address, driver in GPU_DRIVERS.items():
        if link(f"{PCI}/{address}/driver") != driver:
            write(PROBE, address)
        if link(f"{PCI}/{address}/driver") != driver:
            raise AssertionError(f"{address} has driver {link(f'{PCI}/{address}/driver')} and not {driver}")


def load_tbmdev(**parameters: object) -> None:
    """Load the test driver, or load it anew: capacity, full_errno, exclusive, core_count, delay_ms, driver_name.

    Its instances and vGPU types are gone after that. An open device blocks it.
    """
    if os.path.exists(PARAMETERS):
        subprocess.run(["rmmod", "tbmdev"], check=True)
    words = [f"{name}={value}" for name, value in parameters.items()]
    subprocess.run(["insmod", os.environ["TBMDEV"], *words], check=True)


def bind(address: str, driver: str | None) -> None:
    """Give a function this driver by override, whatever it has; None: no driver at all."""
    device = f"{PCI}/{address}"
    if os.path.exists(f"{device}/driver"):
        write(f"{device}/driver/unbind", address)
    write(f"{device}/driver_override", (driver or "none") + "\n")
    write(PROBE, address)
    if link(f"{device}/driver") != driver:
        raise AssertionError(f"{address} has driver {link(f'{device}/driver')} and not {driver}")


def make_vfs(count: int, *, vgpu: bool = False, driver: str | None = "tbvgpu") -> list[str]:
    """Give the PF `count` VFs, with vendor vGPU files if `vgpu`, and return their addresses."""
    pf = f"{PCI}/{PHYSICAL_FUNCTION}"
    if driver != link(f"{pf}/driver"):
        bind(PHYSICAL_FUNCTION, driver)
    write(f"{pf}/sriov_numvfs", "0")
    if vgpu:  # else nvme probes each VF on its own time, and gives it up while it is being bound to another driver
        write(f"{pf}/sriov_drivers_autoprobe", "0")
    write(f"{pf}/sriov_numvfs", str(count))
    addresses = [link(f"{pf}/virtfn{index}") or "" for index in range(count)]
    for address in addresses:
        if vgpu:
            bind(address, "tbvgpu")
    return addresses


def reset_machine() -> None:
    """Bring devices and the test driver back to how `load_drivers` and `load_tbmdev` left them.

    Blocks while a device is open.
    """
    _remove_vfs()
    _drop_drivers()
    write(f"{PCI}/{PHYSICAL_FUNCTION}/sriov_drivers_autoprobe", "1")
    _remove_mdevs()
    if any(read(f"{PARAMETERS}/{name}") != value for name, value in DEFAULTS.items()):
        load_tbmdev()
    for name in DRIVEN:
        if not os.path.exists(f"{PCI}/{name}/driver"):
            write(PROBE, name)


def _drop_drivers() -> None:
    for driver in ("vfio-pci", "tbvgpu", "nvme", *GPU_DRIVERS.values()):
        for name in os.listdir(f"{DRIVERS}/{driver}") if os.path.exists(f"{DRIVERS}/{driver}") else ():
            if ":" in name:
                write(f"{DRIVERS}/{driver}/unbind", name)
    for name in os.listdir(PCI):
        if read(f"{PCI}/{name}/driver_override") != "(null)":
            write(f"{PCI}/{name}/driver_override", "\n")


def _remove_mdevs() -> None:
    for name in os.listdir(MDEVS):
        parent = os.path.basename(os.path.dirname(os.path.realpath(f"{MDEVS}/{name}")))
        if os.path.exists(f"{MDEVS}/{name}/remove"):
            write(f"{MDEVS}/{name}/remove", "1")
        else:
            write(f"{DRIVERS}/tbmdev/unbind", parent)


def _remove_vfs() -> None:
    pf = f"{PCI}/{PHYSICAL_FUNCTION}"
    if read(f"{pf}/sriov_numvfs") == "0":
        return
    if not os.path.exists(f"{pf}/driver"):
        bind(PHYSICAL_FUNCTION, "tbvgpu")
    write(f"{pf}/sriov_numvfs", "0")


# ---- PVE


def make_tree() -> None:
    """The folders of a PVE node, and its links."""
    for folder in FOLDERS:
        os.makedirs(folder, exist_ok=True)
    links = {
        "/etc/pve/local": f"nodes/{NODE}",
        "/etc/pve/qemu-server": "local/qemu-server",
        "/var/lock": "/run/lock",
        "/var/run": "/run",
    }
    for path, target in links.items():
        if not os.path.lexists(path):
            os.symlink(target, path)
    with open("/etc/hostname", "w", encoding="utf-8") as file:
        file.write(NODE + "\n")


def install() -> None:
    """Install package and hookscript as on a PVE node: in Debian's Python path, and as a snippet."""
    package = f"{PACKAGES}/pvepassthru"
    if not os.path.ismount(package):  # a mount, as a copy of all its files takes ten seconds in here
        os.makedirs(package, exist_ok=True)
        subprocess.run(["mount", "--bind", f"{PROJECT}/pvepassthru", package], check=True)
    _install_libraries()
    shutil.copy(f"{PROJECT}/hookscripts/pvepassthru", HOOK)
    os.chmod(HOOK, 0o755)


def _install_libraries() -> None:
    """The libraries that Debian's package would depend on, for the hook's policy: the developer's venv has them."""
    for folder in sorted(os.listdir(f"{PROJECT}/.venv/lib")):
        for name in LIBRARIES:
            source, target = f"{PROJECT}/.venv/lib/{folder}/site-packages/{name}", f"{PACKAGES}/{name}"
            if os.path.exists(source) and not os.path.exists(target):
                os.symlink(source, target)


def vm(vmid: int, text: str) -> str:
    """Write a VM's config and return its path."""
    path = f"/etc/pve/qemu-server/{vmid}.conf"
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def hook(vmid: int, phase: str, *, limit: float = 120.0, script: str = HOOK) -> subprocess.CompletedProcess[str]:
    """Run the hookscript as PVE does and return its exit code and output. Raises TimeoutExpired after `limit` s."""
    return subprocess.run(
        [script, str(vmid), phase],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": "/sbin:/bin:/usr/sbin:/usr/bin", "LC_ALL": "C", "PVE_MIGRATED_FROM": ""},
        text=True,
        timeout=limit,
        check=False,
    )


# ---- devices in use


def group_of(device: str) -> str:
    """The IOMMU group of a PCI address or an mdev's uuid."""
    return link(f"{PCI}/{device}/iommu_group") or link(f"{MDEVS}/{device}/iommu_group") or ""


class Holder:
    """A child process that has a device open, as a running QEMU does."""

    def __init__(self, device: str) -> None:
        """Raises OSError as the opening of the device did in the child."""
        group = group_of(device)
        receiver, sender = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 0
            try:
                vfio.open_device(device, group)
            except OSError as error:
                code = error.errno or 1
            os.write(sender, bytes([code]))
            while code == 0:
                signal.pause()
            os._exit(1)
        os.close(sender)
        answer = os.read(receiver, 1)
        os.close(receiver)
        if answer != b"\0":
            os.waitpid(self.pid, 0)
            code = answer[0] if answer else 1
            raise OSError(code, os.strerror(code), device)

    def close(self) -> None:
        """End the process, and with it the use of the device."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


@contextmanager
def held(device: str) -> Iterator[Holder]:
    """Hold a device open for the length of a `with`. Raises OSError if it cannot be opened."""
    holder = Holder(device)
    try:
        yield holder
    finally:
        holder.close()


class Machine:
    """The guest as the sysfs cases see it (tests/kernel/sysfs.py)."""

    kernel = os.environ.get("KV", "")

    def __init__(self) -> None:
        self.host = Host("/")

    def configure(self, **parameters: int) -> None:
        """Set parameters of the test driver; core_count loads it anew, with nothing created any more."""
        if "core_count" in parameters:
            load_tbmdev(**parameters)
            return
        for name, value in parameters.items():
            write(f"{PARAMETERS}/{name}", str(value))

    @contextmanager
    def held(self, device: str) -> Iterator[None]:
        with held(device):
            yield


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether `condition()` came true within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
