# SPDX-License-Identifier: Apache-2.0
"""Root trees of Debian with real GRUB, initramfs-tools and kmod tools, in which `doctor` is at work; and their boot.

`make` installs a small Debian once into build/testbed/debian and gives each test a copy with a kernel of the guest's
(tests/kernel/testbed.py). `Tree.inside` runs a program while the tree is mounted as a host has it: its own /dev and
/proc, but for a processor and a kernel that are the test's; its /sys is a plain folder with the devices of MACHINE.
`boot` starts QEMU with the tree's own initramfs and the command line that its grub.cfg gives the kernel.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests import tree
from tests.kernel import testbed

CACHE = testbed.BUILD / "debian"
PACKAGES = ("initramfs-tools", "kmod", "grub2-common", "systemd", "udev", "zstd")
DEPENDENCIES = (
    "python3-filelock",
    "python3-jinja2",
    "python3-jsonschema",
    "python3-prometheus-client",
    "python3-proxmoxer",
    "python3-requests",
    "python3-yaml",
)
"""What our own package depends on: tests/packaging installs that in copies of these trees."""
TOOLS = {"mmdebstrap": "mmdebstrap", "unshare": "util-linux", "chroot": "coreutils", "cp": "coreutils"}
MODULES = ("e1000e", "nvme")
"""What the initramfs loads drivers of, beside what the configuration adds; all others would only cost time."""
NIC = {"vendor": "0x8086", "device": "0x10d3", "class": "0x020000", "driver": "e1000e"}
MACHINE = {
    "0000:01:00.0": {**NIC, "iommu_group": 1},
    "0000:02:00.0": {**NIC, "iommu_group": 2},
    "0000:03:00.0": {"vendor": "0x1b36", "device": "0x0010", "class": "0x010802", "driver": "nvme", "iommu_group": 3},
}
"""Two identical network cards and an NVMe controller; QEMU_DEVICES are the same in the guest."""
QEMU_DEVICES = """
-device intel-iommu,intremap=on
-device pcie-root-port,id=rp1,chassis=1,addr=4.0,multifunction=on
-device pcie-root-port,id=rp2,chassis=2,addr=4.1
-device pcie-root-port,id=rp3,chassis=3,addr=4.2
-device e1000e,bus=rp1
-device e1000e,bus=rp2
-device nvme,serial=x,bus=rp3
"""
REPORT = r"""#!/bin/sh
case "$1" in prereqs) echo ""; exit 0 ;; esac
udevadm settle
modprobe vfio-pci # as systemd does on the real root, by /etc/modules-load.d
{
    echo "report cmdline $(cat /proc/cmdline)"
    for device in /sys/bus/pci/devices/*; do
        driver=$(readlink "$device/driver")
        echo "report ${device##*/} ${driver##*/}"
    done
    echo "report end"
} > /dev/console
echo o > /proc/sysrq-trigger
sleep 60
"""
"""A script of the initramfs that says what the drivers did, before any root is mounted."""
RECORDER = '#!/bin/sh\necho "$0 $*" >> /var/log/recorded\n'
"""Stands in for proxmox-boot-tool, which Debian does not have."""
MOUNTS = """
set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
for file in cpuinfo sys/kernel/osrelease cmdline; do mount --bind "$1/fake/$file" "$1/proc/$file"; done
cd /
shift
exec "$@"
"""
LIMIT = 300.0
"""Seconds for one program, or one boot."""


def missing() -> str:
    """Why these trees cannot be had here; empty where they can."""
    if os.geteuid():
        return "Debian trees need root, for mmdebstrap and chroot"
    search = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    packages = sorted(package for tool, package in TOOLS.items() if shutil.which(tool, path=search) is None)
    return f"Debian trees need packages: apt-get install {' '.join(packages)}" if packages else ""


class Tree(NamedTuple):
    """One tree."""

    root: Path
    version: str
    """Of its kernel."""
    vmlinux: Path
    """The same kernel, unpacked."""

    def inside(self, *words: str, check: bool = True) -> str:
        """Run a program with the tree mounted, and return what it printed. Raises AssertionError when it fails."""
        return call(["unshare", "-m", "sh", "-c", MOUNTS, "sh", str(self.root), *words], check=check)

    def chroot(self, *words: str) -> str:
        """Run a program of the tree in it."""
        return self.inside("chroot", str(self.root), *words)

    def doctor(self, *words: str) -> str:
        """Run `pvepassthru doctor` on the tree, as a command of its own."""
        code = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); from pvepassthru.cli.main import main; sys.exit(main())"
        )
        return self.inside(
            sys.executable, "-c", code, str(testbed.PROJECT), "--root", str(self.root), "doctor", "--chroot", *words
        )

    def linux_arguments(self) -> str:
        """What the first entry of grub.cfg gives the kernel."""
        text = (self.root / "boot/grub/grub.cfg").read_text(encoding="utf-8")
        found = re.search(r"^\s*linux\s+\S+\s+(.*)$", text, re.MULTILINE)
        assert found, text
        return found[1].strip()

    def initramfs(self) -> list[str]:
        """The files in the initramfs."""
        return self.chroot("lsinitramfs", f"/boot/initrd.img-{self.version}").splitlines()

    def order(self) -> list[str]:
        """The scripts of the initramfs that run first, in their order."""
        self.chroot("unmkinitramfs", f"/boot/initrd.img-{self.version}", "/fake/unpacked")
        found = next((self.root / "fake/unpacked").rglob("scripts/init-top/ORDER"))
        words = re.findall(r"^/scripts/init-top/(\S+)", found.read_text(encoding="utf-8"), re.MULTILINE)
        shutil.rmtree(self.root / "fake/unpacked")
        return words

    def etc(self) -> dict[str, tuple[bytes, int]]:
        """All of /etc: bytes or the target of a link, and the mode; of folders too."""
        found = {}
        for folder, folders, names in os.walk(self.root / "etc"):
            for name in (*folders, *names):
                path = os.path.join(folder, name)
                if os.path.islink(path):
                    found[path] = (os.readlink(path).encode(), 0)
                else:
                    data = Path(path).read_bytes() if os.path.isfile(path) else b""
                    found[path] = (data, os.stat(path).st_mode)
        return found

    def boot(self) -> dict[str, str]:
        """Boot the tree's kernel and initramfs; what REPORT says: `cmdline`, and a driver for each address."""
        console = self.root / "fake/console"
        words = [
            *["qemu-system-x86_64", "-accel", "tcg,tb-size=512", "-machine", "q35,kernel-irqchip=split", "-cpu", "max"],
            *[
                "-smp",
                "1",
                "-m",
                "1G",
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
                "-vga",
                "none",
            ],
            *["-kernel", str(self.vmlinux), "-initrd", str(self.root / f"boot/initrd.img-{self.version}")],
            *["-append", f"{self.linux_arguments()} console=ttyS0 panic=-1 no_timer_check"],
            *["-serial", f"file:{console}", *QEMU_DEVICES.split()],
        ]
        call(words)
        text = console.read_text(encoding="utf-8", errors="replace")
        assert "report end" in text, text[-4000:]
        lines = re.findall(r"report (\S+) ?(.*?)\r?$", text, re.MULTILINE)
        return dict(lines)


def make(release: str, kv: str, where: Path) -> Tree:
    """A tree of Debian `release` (bookworm) with kernel `kv` (6.1) in a new folder.

    Raises testbed.TestbedError when it cannot be had.
    """
    kernel = testbed.build(kv)
    version = (kernel / "version").read_text(encoding="utf-8").strip()
    copy(base(release), where)
    for name in (f"vmlinuz-{version}", f"config-{version}"):
        shutil.copy(kernel / "root/boot" / name, where / "boot")
    (where / "usr/lib/modules").mkdir(exist_ok=True)
    call(["cp", "-al", str(kernel / "root/lib/modules" / version), str(where / "usr/lib/modules")])
    made = Tree(where, version, kernel / "vmlinux")
    _configure(made)
    made.chroot("update-initramfs", "-c", "-k", version)
    made.chroot("update-grub")
    return made


def copy(tree: Path, where: Path) -> None:
    """A copy of a cached tree in a new folder; links do not leave a file system, so that is to be in testbed.BUILD.

    What programs write to in place is the copy's own; all else is shared with the cache.
    """
    call(["cp", "-al", str(tree), str(where)])
    for name in ("etc", "boot", "var"):
        shutil.rmtree(where / name)
        call(["cp", "-a", str(tree / name), str(where / name)])


def remove(where: Path) -> None:
    """Remove a tree that `make` made; nothing is mounted in it."""
    shutil.rmtree(where, ignore_errors=True)


def _configure(made: Tree) -> None:
    root = made.root
    tree.hardware(root, {"devices": MACHINE})
    for number, address in enumerate(MACHINE):
        _below_port(root, address, f"0000:00:04.{number}")
    (root / "boot/grub").mkdir()
    shutil.copy(root / "usr/share/grub/default/grub", root / "etc/default/grub")  # as grub-pc does
    tree.put(root, "etc/initramfs-tools/conf.d/small", "MODULES=list\n")
    with (root / "etc/initramfs-tools/modules").open("a", encoding="utf-8") as file:
        file.write("".join(f"{name}\n" for name in MODULES))
    os.chmod(tree.put(root, "etc/initramfs-tools/scripts/init-premount/report", REPORT), 0o755)
    tree.put(root, "fake/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: vmx\n\n")
    tree.put(root, "fake/sys/kernel/osrelease", f"{made.version}\n")
    tree.put(root, "fake/cmdline", f"BOOT_IMAGE=/boot/vmlinuz-{made.version} root=/dev/sda1 ro quiet\n")


def _below_port(root: Path, address: str, port: str) -> None:
    """Let a device's folder lie below its root port, as in the guest, where /sys/bus has only a link to it."""
    old = root / tree.DEVICES / address
    new = root / "sys/devices/pci0000:00" / port / address
    links = {entry.name: entry.resolve() for entry in old.iterdir() if entry.is_symlink()}
    new.parent.mkdir(parents=True)
    old.rename(new)
    tree.link(root, f"{tree.DEVICES}/{address}", str(new.relative_to(root)))
    for name, target in links.items():
        tree.link(root, str((new / name).relative_to(root)), str(target.relative_to(root.resolve())))


def base(release: str) -> Path:
    """The cached tree of a release, installed when it is not there. Raises testbed.TestbedError when that fails.

    By mmdebstrap, which takes two thirds of debootstrap's time, and without waiting for the disk.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    cached = CACHE / release
    with (CACHE / f"{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = CACHE / f"{release}.stamp"
        words = ["mmdebstrap", "--mode=root", "--variant=apt", f"--include={','.join(PACKAGES + DEPENDENCIES)}"]
        words += ['--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"']
        words += ["--dpkgopt=force-unsafe-io", release, str(cached), *_mirror()]
        wanted = " ".join(words[:-1])
        if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
            return cached
        stamp.unlink(missing_ok=True)
        shutil.rmtree(cached, ignore_errors=True)
        done = subprocess.run(words, check=False, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
        if done.returncode:
            raise testbed.TestbedError(f"mmdebstrap of {release} failed: {(done.stdout + done.stderr)[-2000:]}")
        stamp.write_text(wanted, encoding="utf-8")
    return cached


def _mirror() -> list[str]:
    """Where this machine's apt has Debian's main archive from; none where that cannot be told."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        uri, release, component = line.rsplit(" ", 2)
        if release in {"bookworm", "trixie"} and component == "main" and "security" not in uri:
            return [uri]
    return []


def call(words: list[str], *, check: bool = True) -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    done = subprocess.run(
        words,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMIT,
        env={**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"},
    )
    said = done.stdout.decode("utf-8", "replace")
    assert not check or done.returncode == 0, f"{words[:12]} ended with {done.returncode}: {said[-4000:]}"
    return said
