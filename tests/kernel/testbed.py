# SPDX-License-Identifier: Apache-2.0
"""A machine with a real Linux kernel to test against: a QEMU guest with an IOMMU, SR-IOV, and mdev parents.

`build` prepares a kernel of Debian's archive and the mdev test driver once; `run` boots the guest, runs one shell
command in it, and returns its exit code and output. The guest sees this host's files read-only under an overlay, so
the same paths and the same Python serve inside. README.md says what the machine holds. Only the standard library.

    python3 tests/kernel/testbed.py --kernel 6.12 'uname -r; ls /sys/bus/pci/devices'
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import hashlib
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
BUILD = PROJECT / "build" / "testbed"
KERNELS = {"12": ("6.1", "6.12"), "13": ("6.12",)}
"""Debian's release to the kernels that its archive has and that are tested."""
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "depmod": "kmod",
    "gcc": "gcc",
    "make": "make",
    "xz": "xz-utils",
    "zstd": "zstd",
    "apt-get": "apt",
    "dpkg": "dpkg",
    "ip": "iproute2",
    "dmsetup": "dmsetup",
    "mkfs.ext4": "e2fsprogs",
}
"""Program to the Debian package that has it."""
INPUTS = ("init", "testbed.py", "tbmdev/tbmdev.c", "tbmdev/tbnic.c")
GUEST_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
LIMIT = 300.0
"""Seconds until a guest is killed, unless told otherwise: a blocked sysfs write hangs a guest for ever."""
STARTED = "testbed: the command begins"
"""What init writes to the console when the command begins."""
PASSED_ON = frozenset({"PVEPASSTHRU_SOAK", "CI"})
"""The variables of this environment that the guest gets."""
LIMIT_REACHED = 124
DIED = 255


class TestbedError(Exception):
    """The testbed cannot be built or booted here; the text says why and what to do."""

    __test__ = False  # no test class, whatever its name


class Result(NamedTuple):
    """What came of one boot."""

    code: int
    """The command's exit code, LIMIT_REACHED, or DIED when the guest ended without one."""
    output: str
    console: str
    """What the guest's kernel and init said."""


def release() -> str:
    """Debian's release number ("12"), or nothing elsewhere."""
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return values.get("VERSION_ID", "").strip('"') if values.get("ID") == "debian" else ""


def kernels() -> tuple[str, ...]:
    """The kernels to test on this release of Debian, none elsewhere."""
    return KERNELS.get(release(), ())


def missing() -> list[str]:
    """The Debian packages that must be installed before anything can be built or booted here."""
    search = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return sorted(package for tool, package in TOOLS.items() if shutil.which(tool, path=search) is None)


# ---- build


def build(kv: str) -> Path:
    """Prepare kernel `kv` ("6.1") and return its folder below build/testbed, at once when nothing changed.

    Raises TestbedError: tools missing, no such kernel in the archive, or a step failed.
    """
    if packages := missing():
        raise TestbedError(f"the testbed needs packages: apt-get install {' '.join(packages)}")
    if re.search(r"[\s:,]", str(BUILD)):
        raise TestbedError(f"neither make nor QEMU takes a folder with a blank, colon or comma in its name: {PROJECT}")
    folder = BUILD / kv
    folder.mkdir(parents=True, exist_ok=True)
    with (BUILD / f"{kv}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run may be building the same
        stamp = folder / "stamp"
        present = folder / "version"
        version = _version(kv) or (present.read_text().strip() if present.exists() else "")
        if not version:
            raise TestbedError(f"no kernel {kv} in the package lists of this Debian; try apt-get update")
        wanted = _hash(version, str(folder))
        if stamp.exists() and stamp.read_text() == wanted:
            return folder
        stamp.unlink(missing_ok=True)
        _unpack(folder, version)
        _elf_kernel(folder, version)
        _compile(folder, version)
        _initrd(folder, version)
        present.write_text(version + "\n")
        stamp.write_text(wanted)
    return folder


@functools.cache
def _version(kv: str) -> str:
    """The full version that the archive has for `kv`, such as 6.1.0-56-amd64, or nothing."""
    for attempt in range(2):
        for package in (f"linux-image-{kv}-amd64", "linux-image-amd64"):
            for name in _depends(package):
                if re.fullmatch(rf"linux-image-{re.escape(kv)}[.+-].*-amd64", name):
                    return name.removeprefix("linux-image-")
        if attempt == 0 and os.geteuid() == 0:
            subprocess.run(["apt-get", "update", "-qq"], check=False, stdin=subprocess.DEVNULL)
    return ""


def _depends(package: str) -> list[str]:
    command = ["apt-cache", "depends", package]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    return re.findall(r"^ +Depends: (\S+)", done.stdout, re.MULTILINE)


def _hash(*words: str) -> str:
    digest = hashlib.sha256("\0".join(words).encode())
    for name in INPUTS:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()


def _unpack(folder: Path, version: str) -> None:
    """Kernel and headers are unpacked, not installed: no maintainer script runs and nothing lands in /boot."""
    root = folder / "root"
    done = root / f".{version}"
    if not done.exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        headers = f"linux-headers-{version}"
        more = [name for name in _depends(headers) if re.match(r"linux-headers-.*-common$|linux-kbuild-", name)]
        with tempfile.TemporaryDirectory(dir=folder) as downloads:
            _call(["apt-get", "download", "-qq", f"linux-image-{version}", headers, *more], cwd=downloads)
            for package in sorted(Path(downloads).glob("*.deb")):
                _call(["dpkg", "-x", str(package), str(root)])
        if not (root / "lib").exists():  # Debian 13 has its modules in /usr/lib/modules
            (root / "lib").symlink_to("usr/lib")
        _call(["depmod", "-b", str(root), version])
        done.touch()
    makefile = root / "usr/src" / f"linux-headers-{version}" / "Makefile"
    text = re.sub(r"^include .*/usr/src/", f"include {root}/usr/src/", makefile.read_text(), flags=re.MULTILINE)
    makefile.write_text(text)  # its one absolute path


def _elf_kernel(folder: Path, version: str) -> None:
    """Unpack the kernel: an ELF one is entered through PVH, which spares the guest 2.8 s of decompression.

    Offsets from the kernel's Documentation/arch/x86/boot.rst: setup_sects 0x1f1, payload_offset 0x248 and
    payload_length 0x24c; the payload's last four bytes are the unpacked size.
    """
    image = (folder / "root/boot" / f"vmlinuz-{version}").read_bytes()
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    payload = image[start : start + length - 4]
    unpackers = {b"\xfd7zX": ["xz", "-dc"], b"\x28\xb5\x2f\xfd": ["zstd", "-dc"]}
    command = unpackers.get(payload[:4])
    if command is None:
        raise TestbedError(f"kernel {version} is packed with something other than xz or zstd")
    (folder / "vmlinux").write_bytes(subprocess.run(command, input=payload, stdout=subprocess.PIPE, check=True).stdout)


def _compile(folder: Path, version: str) -> None:
    module = folder / "tbmdev"
    shutil.rmtree(module, ignore_errors=True)
    module.mkdir()
    for name in ("tbmdev", "tbnic"):
        shutil.copy(HERE / f"tbmdev/{name}.c", module)
    (module / "Makefile").write_text("obj-m := tbmdev.o tbnic.o\n")
    headers = folder / "root/usr/src" / f"linux-headers-{version}"
    _call(["make", "-s", "-C", str(headers), f"M={module}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])
    _call(["strip", "-g", str(module / "tbmdev.ko"), str(module / "tbnic.ko")])


def _initrd(folder: Path, version: str) -> None:
    """A static busybox, init, and the modules that mount 9p over virtio and an overlay."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        top = Path(name)
        for sub in ("bin", "proc", "sys", "dev", "modules", "lower", "upper", "new", "share", "project"):
            (top / sub).mkdir()
        busybox = shutil.which("busybox", path="/bin:/usr/bin")
        if busybox is None or not _is_static(Path(busybox).read_bytes()):
            raise TestbedError("the testbed needs the static busybox: apt-get install busybox-static")
        shutil.copy(busybox, top / "bin/busybox")
        shutil.copy(HERE / "init", top / "init")
        (top / "init").chmod(0o755)
        order: list[str] = []
        for module in _module_files(folder, version):
            target = module.name.removesuffix(".xz")
            if target in order:
                continue
            order.append(target)
            data = module.read_bytes() if module.suffix == ".ko" else _call(["xz", "-dc", str(module)]).stdout
            (top / "modules" / target).write_bytes(data)
        (top / "modules/order").write_text("".join(f"{name}\n" for name in order))
        names = "\n".join(sorted(str(path.relative_to(top)) for path in top.rglob("*"))).encode()
        archive = _call(["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"], cwd=name, data=names).stdout
        (folder / "initrd.cpio").write_bytes(archive)


def _is_static(program: bytes) -> bool:
    """Whether an ELF64 program names no interpreter: no program header of type PT_INTERP (3)."""
    offset, size, count = *struct.unpack_from("<Q", program, 0x20), *struct.unpack_from("<HH", program, 0x36)
    return all(struct.unpack_from("<I", program, offset + size * index)[0] != 3 for index in range(count))


def _module_files(folder: Path, version: str) -> Iterator[Path]:
    for module in GUEST_MODULES:
        command = ["modprobe", "-d", str(folder / "root"), "-S", version, "-D", module]
        for line in _call(command).stdout.decode().splitlines():
            words = line.split()
            if words and words[0] == "insmod":
                yield Path(words[1])


def _call(command: list[str], cwd: str | None = None, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a program of the build and return what it printed. Raises TestbedError with its last words."""
    environment = {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin", "LC_ALL": "C"}
    done = subprocess.run(command, cwd=cwd, input=data, capture_output=True, check=False, env=environment)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()[-2000:]
        raise TestbedError(f"{shlex.join(command)[:200]} failed with {done.returncode}: {words}")
    return done


# ---- boot

HARDWARE = """
-device intel-iommu,intremap=on,caching-mode=on
-device pcie-root-port,id=rp1,chassis=1,addr=4.0,multifunction=on
-device pcie-root-port,id=rp2,chassis=2,addr=4.1
-device pcie-root-port,id=rp3,chassis=3,addr=4.2
-device pcie-root-port,id=rp4,chassis=4,addr=4.3
-device pcie-root-port,id=rp5,chassis=5,addr=4.4
-device pcie-root-port,id=rp6,chassis=6,addr=4.5
-device secondary-vga,bus=rp1,addr=0.0,multifunction=on
-device intel-hda,bus=rp1,addr=0.1
-device nvme-subsys,id=sub0
-device nvme,id=nvme0,serial=pf0,subsys=sub0,bus=rp2,max_ioqpairs=18,msix_qsize=10,sriov_max_vfs=4,sriov_vq_flexible=8,\
sriov_vi_flexible=4
-device edu,bus=rp3
-device edu,bus=rp4
-netdev hubport,hubid=0,id=n0
-device e1000e,bus=rp5,netdev=n0
-device pcie-pci-bridge,id=br1,bus=rp6
-device edu,bus=br1,addr=1.0
-netdev hubport,hubid=0,id=n1
-device e1000,bus=br1,addr=2.0,netdev=n1
"""
"""One PCIe root port, hence one IOMMU group, for each of: a "GPU" with an audio function; an NVMe PF with up to 4 VFs;
two mdev parents; a network card; a bridge with two devices that share its group."""
SPARED = (
    "mitigations=off init_on_alloc=0 hardened_usercopy=off randomize_kstack_offset=off audit=0 apparmor=0"
    " cgroup_disable=memory"
)
"""Words for the kernel's command line: no protection and no accounting that costs an emulated processor a sixth of its
time and that no test is about."""
DISKS = {"d0": "nvme-ns,bus=nvme0,drive=d0", "d1": "virtio-blk-pci,bus=br1,addr=3.0,drive=d1"}
"""What a boot with disks has more: a namespace of the NVMe PF, and 07:03.0 beside the two behind the bridge."""
DISK_BYTES = 64 * 1024 * 1024


class Boot(NamedTuple):
    """How to boot."""

    limit: float = LIMIT
    """Seconds until the guest is killed."""
    kernel_arguments: str = "intel_iommu=on"
    """More words for the kernel's command line."""
    share: Path | None = None
    """A folder of the host that the guest has as /share, to hand back files."""
    disks: bool = False
    """With DISKS, which are empty."""
    stream: bool = False
    """Print the output as it comes, and return none."""


def run(kv: str, command: str, how: Boot | None = None) -> Result:
    """Boot kernel `kv`, run the shell `command` in the project's folder, and return its exit code and output.

    Builds first when needed. In the guest KV is the kernel and TBMDEV the path of the test driver's module. A guest
    that dies before the command began is booted once more: that is the emulator's fault. Raises TestbedError.
    """
    how = how or Boot()
    folder = build(kv)
    result = _boot(folder, kv, command, how)
    if result.code == DIED and STARTED not in result.console:
        print(f"testbed: kernel {kv} died while booting, once more:\n{result.console[-2000:]}", file=sys.stderr)
        result = _boot(folder, kv, command, how)
    return result


def _boot(folder: Path, kv: str, command: str, how: Boot) -> Result:
    with tempfile.TemporaryDirectory(prefix="testbed.") as scratch:
        share = Path(scratch) if how.share is None else how.share
        _fill(share, kv, folder, command)
        console, errors = Path(scratch) / "console", Path(scratch) / "stderr"
        late = False
        with errors.open("wb") as stderr:
            words = _qemu(folder, share, console, how)
            stdout = None if how.stream else subprocess.PIPE
            qemu = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
            try:
                output = qemu.communicate(timeout=how.limit)[0] or b""
            except subprocess.TimeoutExpired:
                late = True
                qemu.kill()
                output = qemu.communicate()[0] or b""
            except BaseException:
                qemu.kill()
                qemu.wait()
                raise
        said = "".join(path.read_text(errors="replace") for path in (errors, console) if path.exists())
        try:
            code = int((share / "code").read_text())
        except (OSError, ValueError):
            code = LIMIT_REACHED if late else DIED
        return Result(code, output.decode(errors="replace"), said)


def _fill(share: Path, kv: str, folder: Path, command: str) -> None:
    """Put into the shared folder what the guest's init reads."""
    (share / "code").unlink(missing_ok=True)
    passed = [f"export {name}={shlex.quote(value)}\n" for name, value in os.environ.items() if name in PASSED_ON]
    (share / "command").write_text("".join(passed) + command + "\n", encoding="utf-8")
    machine = {
        "PROJECT": PROJECT,
        "MODULES": folder / "root/lib/modules",
        "TBMDEV": folder / "tbmdev/tbmdev.ko",
        "KV": kv,
    }
    lines = [f"{name}={shlex.quote(str(value))}\n" for name, value in machine.items()]
    (share / "machine").write_text("".join(lines), encoding="utf-8")


def _qemu(folder: Path, share: Path, console: Path, how: Boot) -> list[str]:
    disks = []
    for name, device in DISKS.items() if how.disks else ():
        with (share / name).open("wb") as image:
            image.truncate(DISK_BYTES)
        disks += ["-drive", f"if=none,id={name},format=raw,file={share / name}", "-device", device]
    return [
        *["qemu-system-x86_64", "-accel", "tcg,tb-size=1024", "-machine", "q35,kernel-irqchip=split", "-cpu", "max"],
        *["-smp", "1", "-m", "2G", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-vga", "none"],
        *["-kernel", str(folder / "vmlinux"), "-initrd", str(folder / "initrd.cpio")],
        *["-append", f"console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check {SPARED} {how.kernel_arguments}"],
        *["-serial", f"file:{console}", "-serial", "stdio", *HARDWARE.split(), *disks],
        *["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"],
        *["-device", "virtio-9p-pci,fsdev=root,mount_tag=hostroot"],
        *["-fsdev", f"local,id=share,path={share},security_model=none,multidevs=remap"],
        *["-device", "virtio-9p-pci,fsdev=share,mount_tag=share"],
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the guest's exit code, or 2 when the testbed cannot be had here."""
    parser = argparse.ArgumentParser(description="Run a shell command in a guest with a real kernel and test devices.")
    parser.add_argument("command", help="runs in the project's folder, as root of the guest")
    parser.add_argument("--kernel", default="6.1", help="6.1 or 6.12 (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds until the guest is killed (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        result = run(options.kernel, options.command, Boot(options.limit, stream=True))
    except TestbedError as error:
        print(error, file=sys.stderr)
        return 2
    if result.code in {DIED, LIMIT_REACHED}:
        what = f"was killed after {options.limit:g} s" if result.code == LIMIT_REACHED else "died"
        print(f"the guest {what}; its console:\n{result.console[-4000:]}", file=sys.stderr)
    return result.code


if __name__ == "__main__":
    sys.exit(main())
