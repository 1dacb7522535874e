# SPDX-License-Identifier: Apache-2.0
"""Rules on initramfs, the modules of the kernels, and the next boot, PVP142 to PVP146."""

from __future__ import annotations

from pvepassthru.host import boot as boots
from pvepassthru.host import firmware
from pvepassthru.host import modules as kernel_modules
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, shown
from pvepassthru.rules import sources
from pvepassthru.rules.drivers import APPLY
from pvepassthru.rules.rule import NotApplicable, Unknown
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.model import modprobe
    from pvepassthru.rules.subject import Surroundings

BOOT = "/boot"
DKMS = "/var/lib/dkms"
PINS = ("/etc/kernel/proxmox-boot-pin", "/etc/kernel/next-boot-pin", "/etc/default/grub.d/proxmox-kernel-pin.cfg")
"""Where PVE writes down the kernel that `proxmox-boot-tool kernel pin` was told."""


def _release(around: Surroundings) -> str:
    release = around.once(sources.firmware).release
    if not release:
        raise Unknown("there is no /proc/sys/kernel/osrelease")
    return release


def no_initramfs(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether there is an initramfs for the running kernel, if that is in /boot.

    Why it matters: the next boot with this kernel finds no root file system.

    How to fix: `update-initramfs -c -k RELEASE`, then `proxmox-boot-tool refresh` where it serves the boot loader.
    """
    release = _release(around)
    if not around.host.exists(f"{BOOT}/vmlinuz-{release}"):
        raise Unknown(f"there is no {BOOT}/vmlinuz-{release}")
    if not around.host.exists(f"{BOOT}/initrd.img-{release}"):
        message = f"the running kernel {release} has no initramfs"
        yield Hit(f"{BOOT}/initrd.img-{release}", message, f"update-initramfs -c -k {release}")


def stale_initramfs(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the running kernel's initramfs is newer than the module configuration that it carries.

    It carries /etc/modprobe.d and what /etc/initramfs-tools/modules lists. Only files that say something of VFIO, or
    keep or order drivers, count.

    Why it matters: drivers that are loaded in the initramfs do not know of a change until it is made anew, so the
    driver takes the device before vfio-pci does.

    How to fix: `update-initramfs -u -k all`, then reboot.
    """
    release = _release(around)
    image = f"{BOOT}/initrd.img-{release}"
    made = kernel_modules.changed(around.host, image)
    if made is None:
        raise Unknown(f"there is no {image}")
    modules = around.once(sources.modules)
    paths = {line.path for line in modules.lines if _concerns(line)} | {one.path for one in modules.initramfs}
    newer = [path for path in sorted(paths) if path.startswith("/etc/") and _newer(around, path, made)]
    if newer:
        message = f"{shown(listed(newer))} changed after the initramfs of kernel {release} was made"
        yield Hit(newer[0], message, APPLY)


def _concerns(line: modprobe.Line) -> bool:
    return line.command in {"blacklist", "softdep", "install"} or line.module.startswith("vfio")


def _newer(around: Surroundings, path: str, made: float) -> bool:
    changed = kernel_modules.changed(around.host, path)
    return changed is not None and changed > made


def modules_gone(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the modules of the running kernel are still installed.

    Why it matters: after an upgrade has removed them no module can be loaded any more, neither vfio-pci nor a driver
    that a device gets back.

    How to fix: reboot into an installed kernel.
    """
    release = _release(around)
    installed = around.host.names("/lib/modules")
    if not installed:
        raise Unknown("there is no /lib/modules")
    if release not in installed:
        message = f"the modules of the running kernel {release} are gone; installed are {shown(listed(installed))}"
        yield Hit(f"/lib/modules/{release}", message, "reboot into an installed kernel")


def dkms_missing(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether every module that DKMS builds is built for the running and for the newest kernel.

    The newest one does not count where a kernel is pinned.

    Why it matters: vendor-reset, the i915 SR-IOV driver or a vGPU driver is missing with that kernel, and VMs that need
    it do not start after the reboot.

    How to fix: install that kernel's headers (`proxmox-headers-RELEASE`), then `dkms autoinstall -k RELEASE`. When it
    does not build, keep the old kernel: `proxmox-boot-tool kernel pin RELEASE`.
    """
    release = _release(around)
    host = around.host
    names = [name for name in host.names(DKMS) if not name.startswith(("mok.", ".", "dkms_dbversion"))]
    names = [name for name in names if _versions(around, name)]
    if not names:
        raise NotApplicable("DKMS builds no module here")
    newest = None if _pins(around) else _newest(around)
    kernels = sorted({release, newest or release}, key=firmware.order)
    for name in names:
        built = {kernel for version in _versions(around, name) for kernel in host.names(f"{DKMS}/{name}/{version}")}
        for kernel in kernels:
            if kernel not in built and host.exists(f"/lib/modules/{kernel}"):
                which = "the running kernel" if kernel == release else "the newest kernel"
                message = f"DKMS has not built {shown(name)} for {which} {kernel}"
                kind = "proxmox" if kernel.endswith("pve") else "linux"
                hint = f"apt install {kind}-headers-{kernel}; dkms autoinstall -k {kernel}"
                yield Hit(f"{DKMS}/{name}", message, hint)


def _versions(around: Surroundings, name: str) -> list[str]:
    """The versions of a module that DKMS knows: folders with its source."""
    folder = f"{DKMS}/{name}"
    return [version for version in around.host.names(folder) if around.host.link(f"{folder}/{version}/source")]


def reboot_pending(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the running kernel is the newest one that is installed, or one that is pinned.

    Why it matters: the next reboot brings another kernel, in which IOMMU groups, drivers and parameters may differ.

    How to fix: plan the reboot, with a look at `pvepassthru doctor` after it; `proxmox-boot-tool kernel pin RELEASE`
    keeps the running kernel.
    """
    release = _release(around)
    newest = _newest(around)
    if newest is None:
        raise Unknown(f"there is no kernel in {BOOT}")
    if firmware.order(newest) > firmware.order(release) and not _pins(around):
        message = f"kernel {newest} is installed, {release} runs: the next reboot brings the newer one"
        yield Hit(f"{BOOT}/vmlinuz-{newest}", message, "reboot at the next occasion, then run doctor again")


def _pins(around: Surroundings) -> list[str]:
    """What the files say in which a kernel is pinned; nothing where none is."""
    return [pin for path in PINS if (pin := (boots.whole(around.host, path) or "").strip())]


def _newest(around: Surroundings) -> str | None:
    """The newest kernel in /boot, of the running one's kind (`pve`, `amd64`); None if there is none."""
    kind = _release(around).rpartition("-")[2]
    found = [name.removeprefix("vmlinuz-") for name in around.host.names(BOOT) if name.startswith("vmlinuz-")]
    return max((name for name in found if name.rpartition("-")[2] == kind), key=firmware.order, default=None)
