# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.host import boot, changes, prepare
from pvepassthru.host.host import Host
from pvepassthru.host.inventory import Inventory
from pvepassthru.host.prepare import Wishes
from pvepassthru.model.errors import DeviceError, InputError, NotFoundError, UsageError
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.host.prepare import Plan

GRUB = '# by hand\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX=""\n'
NIC = {"vendor": "0x8086", "device": "0x10d3", "class": "0x020000", "driver": "e1000e"}
DEVICES: dict[str, dict[str, Any]] = {
    "0000:00:01.0": {"vendor": "0x8086", "device": "0x460d", "class": "0x060400", "iommu_group": 1, "pci_bus": True},
    "0000:01:00.0": {
        "vendor": "0x10de",
        "device": "0x2204",
        "class": "0x030000",
        "driver": "nouveau",
        "iommu_group": 1,
    },
    "0000:01:00.1": {"vendor": "0x10de", "device": "0x1aef", "class": "0x040300", "iommu_group": 1},
    "0000:02:00.0": {**NIC, "iommu_group": 2},
    "0000:03:00.0": {**NIC, "iommu_group": 3},
    "0000:04:00.0": {"vendor": "0x144d", "device": "0xa80a", "class": "0x010802", "driver": "nvme", "iommu_group": 4},
    "0000:04:00.1": {"vendor": "0x144d", "device": "0xa80b", "class": "0x010802", "physfn": "0000:04:00.0"},
    "0000:05:00.0": {**NIC, "device": "0x1521", "driver": "igb", "files": {"sriov_totalvfs": "7\n"}},
    "0000:06:00.0": {"vendor": "0x144d", "device": "0xa80a", "class": "0x010802", "driver": "nvme", "iommu_group": 6},
}
ALIAS = "pci:v000010DEd00002204sv00001043sd000087B5bc03sc00i00"


def build(
    root: Path, files: dict[str, str] | None = None, *, kernel: str = "6.5.13-5-pve", cpu: str = "GenuineIntel"
) -> Host:
    tree.build(root, {"devices": DEVICES})
    base = {
        boot.GRUB: GRUB,
        "/proc/cmdline": "BOOT_IMAGE=/boot/vmlinuz root=/dev/mapper/pve-root ro quiet\n",
        "/proc/cpuinfo": f"processor\t: 0\nvendor_id\t: {cpu}\nflags\t\t: vmx\n\n",
        "/proc/sys/kernel/osrelease": f"{kernel}\n",
    }
    for path, text in {**base, **(files or {})}.items():
        tree.put(root, path, text)
    return Host(str(root))


def plan(host: Host, **wishes: Any) -> Plan:  # noqa: ANN401 - the fields of Wishes
    return prepare.plan(host, Inventory(host), Wishes(**wishes))


def after(found: Plan) -> dict[str, str]:
    return {change.path: (change.after or b"").decode() for change in found.changes}


def use_disk(root: Path, address: str, name: str) -> None:
    """Let a disk of this function be mounted on /."""
    device = f"/sys/bus/pci/devices/{address}/nvme/{name}/{name}n1"
    tree.put(root, f"{device}/dev", "259:0\n")
    tree.link(root, f"/sys/class/block/{name}n1", device)
    tree.link(root, "/sys/dev/block/259:0", device)
    tree.put(root, "/proc/self/mountinfo", f"22 1 259:0 / / rw - ext4 /dev/{name}n1 rw\n")
    tree.put(root, "/proc/mounts", f"/dev/{name}n1 / ext4 rw 0 0\n")


# ---- the kernel's command line


def test_an_old_kernel_of_intel_is_told_to_use_the_iommu(tmp_path: Path) -> None:
    found = plan(build(tmp_path))
    assert after(found)[boot.GRUB] == GRUB.replace('"quiet"', '"quiet intel_iommu=on"')
    assert found.commands == (("update-initramfs", "-u", "-k", "all"), ("update-grub",))
    assert found.notes == ()


@pytest.mark.parametrize(
    "kernel, cpu, text",
    [
        ("6.8.12-4-pve", "GenuineIntel", "quiet"),
        ("6.5.13-5-pve", "AuthenticAMD", "quiet"),
        ("6.5.13-5-pve", "GenuineIntel", "intel_iommu=on"),
        ("6.5.13-5-pve", "GenuineIntel", "intel_iommu=igfx_off,on"),
    ],
)
def test_where_nothing_is_missing_the_line_stays(tmp_path: Path, kernel: str, cpu: str, text: str) -> None:
    host = build(tmp_path, {boot.GRUB: GRUB.replace("quiet", text)}, kernel=kernel, cpu=cpu)
    found = plan(host)
    assert boot.GRUB not in after(found)
    assert found.notes == ()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("quiet Intel_iommu=on", "quiet intel_iommu=on"),
        ("quiet intel_iommu=off", "quiet intel_iommu=on"),
        ("Intel_iommu=ON I915.enable_gvt=1", "intel_iommu=on i915.enable_gvt=1"),
    ],
)
def test_what_is_wrong_is_corrected(tmp_path: Path, text: str, expected: str) -> None:
    found = plan(build(tmp_path, {boot.GRUB: GRUB.replace("quiet", text)}, kernel="6.8.12-4-pve"))
    assert after(found)[boot.GRUB] == GRUB.replace("quiet", expected)


def test_systemd_boot_has_its_own_file(tmp_path: Path) -> None:
    info = b"\x06\0\0\0" + "systemd-boot 252\0".encode("utf-16-le")
    files = {boot.CMDLINE: "root=ZFS=rpool/ROOT/pve-1 boot=zfs  quiet\n# more\n", boot.BOOT_TOOL: "A\n"}
    host = build(tmp_path, files)
    tree.put(tmp_path, boot.LOADER_INFO, info)
    found = plan(host)
    assert after(found)[boot.CMDLINE] == "root=ZFS=rpool/ROOT/pve-1 boot=zfs  quiet intel_iommu=on\n# more\n"
    assert boot.GRUB not in after(found)
    assert found.commands == (("update-initramfs", "-u", "-k", "all"), ("proxmox-boot-tool", "refresh"))


def test_what_needs_a_shell_is_left_to_the_owner(tmp_path: Path) -> None:
    found = plan(build(tmp_path, {boot.GRUB: 'GRUB_CMDLINE_LINUX="$(cat /x)"\n'}))
    assert boot.GRUB not in after(found)
    assert "add intel_iommu=on" in found.notes[0]
    assert "/etc/default/grub:1" in found.notes[0]


# ---- modules


def test_the_modules_are_loaded_unless_they_are_already(tmp_path: Path) -> None:
    found = plan(build(tmp_path, {"/etc/modules": "vfio\nvfio-pci\n"}))
    assert after(found)[prepare.MODULES_LOAD] == prepare.HEAD + "vfio_iommu_type1\n"


@pytest.mark.parametrize("kernel, stays", [("6.1.0-30-amd64", True), ("6.2.16-3-pve", False)])
def test_the_obsolete_module_is_commented_out(tmp_path: Path, kernel: str, stays: bool) -> None:  # noqa: FBT001 - a case
    text = "# mine\nvfio\nvfio_iommu_type1\nvfio_pci\nvfio_virqfd\n"
    found = plan(build(tmp_path, {"/etc/modules": text}, kernel=kernel))
    expected = {} if stays else {"/etc/modules": text.replace("vfio_virqfd", "# vfio_virqfd")}
    assert {path: new for path, new in after(found).items() if path == "/etc/modules"} == expected


def test_options_are_asked_for_by_name(tmp_path: Path) -> None:
    host = build(tmp_path)
    assert prepare.MODPROBE not in after(plan(host))
    found = plan(host, unsafe_interrupts=True, max_vfs=(("igb", 4),))
    assert after(found)[prepare.MODPROBE] == (
        prepare.HEAD + "options vfio_iommu_type1 allow_unsafe_interrupts=1\noptions igb max_vfs=4\n"
    )


def test_an_option_is_changed_where_it_counts(tmp_path: Path) -> None:
    path = "/etc/modprobe.d/zz.conf"
    found = plan(build(tmp_path, {path: "# x\noptions igb debug=1 max_vfs=2 # no comment\n"}), max_vfs=(("igb", 4),))
    assert after(found)[path] == "# x\noptions igb debug=1 max_vfs=4 # no comment\n"
    assert prepare.MODPROBE not in after(found)


def test_more_vfs_than_a_device_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="more than"):
        plan(build(tmp_path), max_vfs=(("igb", 8),))


def test_gvt_needs_an_intel_gpu(tmp_path: Path) -> None:
    host = build(tmp_path)
    with pytest.raises(UsageError, match="needs an Intel GPU"):
        plan(host, gvt=True)
    tree.add_device(tmp_path, "0000:00:02.0", {"vendor": "0x8086", "device": "0x5916", "class": "0x030000"})
    found = after(plan(host, gvt=True))
    assert found[prepare.MODPROBE] == prepare.HEAD + "options i915 enable_gvt=1\n"
    assert found[prepare.MODULES_LOAD].endswith("\nkvmgt\n")


# ---- devices


def test_a_device_alone_of_its_kind_is_kept_by_its_id(tmp_path: Path) -> None:
    host = build(tmp_path)
    tree.put(tmp_path, "/sys/bus/pci/devices/0000:01:00.0/modalias", f"{ALIAS}\n")
    aliases = "alias pci:v000010DEd*sv*sd*bc03sc00i* nvidiafb\nalias pci:v000010DEd*sv*sd*bc02* forcedeth\n"
    tree.put(tmp_path, "/lib/modules/6.5.13-5-pve/modules.alias", aliases)
    found = plan(host, devices=("01:00",))
    assert after(found)[prepare.MODPROBE] == (
        prepare.HEAD
        + "options vfio-pci ids=10de:1aef,10de:2204\nsoftdep nouveau pre: vfio-pci\nsoftdep nvidiafb pre: vfio-pci\n"
    )
    assert prepare.UDEV not in after(found)


def test_ids_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    path = "/etc/modprobe.d/vfio.conf"
    found = plan(build(tmp_path, {path: "options vfio-pci ids=10DE:1aef,1:2 disable_vga=1\n"}), devices=("01:00",))
    assert after(found)[path] == "options vfio-pci ids=10DE:1aef,1:2,10de:2204 disable_vga=1\n"
    assert "options" not in after(found)[prepare.MODPROBE]


def test_ids_on_the_command_line_are_added_there(tmp_path: Path) -> None:
    text = GRUB.replace("quiet", "quiet vfio-pci.ids=10de:1aef")
    found = plan(build(tmp_path, {boot.GRUB: text}, kernel="6.8.1"), devices=("01:00",))
    assert after(found)[boot.GRUB] == text.replace("10de:1aef", "10de:1aef,10de:2204")


def test_one_of_two_identical_devices_is_kept_by_its_address(tmp_path: Path) -> None:
    found = plan(build(tmp_path), devices=("0000:02:00.0",))
    text = after(found)
    assert prepare.MODPROBE not in text
    assert text[prepare.UDEV].splitlines()[1:] == [
        'ACTION=="add", SUBSYSTEM=="pci", KERNEL=="0000:02:00.0", ATTR{driver_override}="vfio-pci"'
    ]
    assert "for address in 0000:02:00.0; do" in text[prepare.INIT_TOP]
    modes = {change.path: change.mode for change in found.changes}
    assert (modes[prepare.INIT_TOP], modes[prepare.UDEV]) == (0o755, 0o644)


def test_both_of_two_identical_devices_are_kept_by_their_id(tmp_path: Path) -> None:
    text = after(plan(build(tmp_path), devices=("02:00.0", "03:00.0")))
    assert text[prepare.MODPROBE] == prepare.HEAD + "options vfio-pci ids=8086:10d3\nsoftdep e1000e pre: vfio-pci\n"


def test_a_method_that_takes_more_says_so(tmp_path: Path) -> None:
    found = plan(build(tmp_path), devices=("02:00.0",), method="vfio-ids")
    assert "vfio-ids takes 0000:03:00.0 too" in found.notes[0]
    found = plan(build(tmp_path / "2"), devices=("02:00.0",), method="blacklist")
    assert "blacklist takes 0000:03:00.0 too" in found.notes[0]
    assert after(found)[prepare.MODPROBE] == prepare.HEAD + "blacklist e1000e\n"


def test_all_at_once_is_idempotent_and_comes_in_steps(tmp_path: Path) -> None:
    host = build(tmp_path)
    for wishes in (
        {"devices": ("02:00.0",), "unsafe_interrupts": True},
        {"devices": ("01:00",), "max_vfs": (("igb", 2),)},
        {"devices": ("03:00.0",), "method": "override"},
    ):
        found = plan(host, **wishes)
        assert found.changes
        changes.apply(host, found.changes, found.commands)
        assert plan(host, **wishes).changes == ()
        assert plan(host, **wishes).commands == ()
    script = host.text(prepare.INIT_TOP) or ""
    assert "for address in 0000:02:00.0 0000:03:00.0; do" in script
    assert len((host.text(prepare.UDEV) or "").splitlines()) == 3


# ---- refusals


@pytest.mark.parametrize(
    "devices, method",
    [
        (("04:00.0",), "override"),
        (("04:00.0",), "vfio-ids"),
        (("06:00.0",), "vfio-ids"),
        (("06:00.0",), "blacklist"),
    ],
)
def test_what_the_host_lives_on_is_not_taken(tmp_path: Path, devices: tuple[str, ...], method: str) -> None:
    host = build(tmp_path)
    use_disk(tmp_path, "0000:04:00.0", "nvme0")
    with pytest.raises(DeviceError) as caught:
        plan(host, devices=devices, method=method)
    assert "0000:04:00.0" in caught.value.message
    assert "is mounted on /" in caught.value.message


def test_a_twin_of_what_the_host_lives_on_is_taken_by_its_address(tmp_path: Path) -> None:
    host = build(tmp_path)
    use_disk(tmp_path, "0000:04:00.0", "nvme0")
    assert prepare.UDEV in after(plan(host, devices=("06:00.0",)))


def test_a_group_that_holds_what_the_host_lives_on_is_not_taken(tmp_path: Path) -> None:
    host = build(tmp_path)
    use_disk(tmp_path, "0000:04:00.0", "nvme0")
    tree.link(tmp_path, "/sys/kernel/iommu_groups/2/devices/0000:04:00.0", "/sys/bus/pci/devices/0000:04:00.0")
    with pytest.raises(DeviceError, match=r"in the IOMMU group of 0000:02:00\.0"):
        plan(host, devices=("02:00.0",))


@pytest.mark.parametrize(
    "word, error",
    [
        ("zz", UsageError),
        ("0000:00:01.0", UsageError),
        ("0000:04:00.1", UsageError),
        ("0000:0a:00.0", NotFoundError),
        ("0a:00", NotFoundError),
        ("", UsageError),
    ],
)
def test_what_cannot_be_prepared_is_said(tmp_path: Path, word: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        plan(build(tmp_path), devices=(word,))


def test_a_device_without_a_known_driver_cannot_be_blacklisted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no driver"):
        plan(build(tmp_path), devices=("01:00.1",), method="blacklist")


def test_a_file_that_cannot_be_changed_is_said(tmp_path: Path) -> None:
    host = build(tmp_path)
    os.makedirs(host.path(prepare.MODULES_LOAD))
    with pytest.raises(InputError, match=r"cannot change /etc/modules-load\.d/pvepassthru\.conf"):
        plan(host)


def test_what_is_left_of_a_slot_or_taken_beside_it_is_told(tmp_path: Path) -> None:
    found = plan(build(tmp_path), devices=("01:00.0",))
    assert found.notes == (
        "0000:01:00.1 of the same slot as 0000:01:00.0 stays as it is; --for 0000:01:00 prepares the whole slot",
    )
    assert plan(build(tmp_path / "2"), devices=("01:00",)).notes == ()
