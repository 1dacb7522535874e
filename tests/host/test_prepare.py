# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvepassthru.host import boot, changes, keeping, options, overrides, prepare
from pvepassthru.host.draft import HEAD
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
PLACE = "/bus/pci/devices/0000:02:00.0"
"""Below /sys; on a real host the link leads on to the place below the root port."""
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
        ("quiet intel_iommu=ON,igfx_off", "quiet intel_iommu=on,igfx_off"),
        ("quiet iommu=off nomodeset", "quiet nomodeset"),
        ("quiet amd_iommu=fullflush,off", "quiet amd_iommu=fullflush"),
    ],
)
def test_what_is_wrong_is_corrected(tmp_path: Path, text: str, expected: str) -> None:
    found = plan(build(tmp_path, {boot.GRUB: GRUB.replace("quiet", text)}, kernel="6.8.12-4-pve"))
    assert after(found)[boot.GRUB] == GRUB.replace("quiet", expected)


def test_systemd_boot_without_proxmox_boot_tool_is_left_to_the_owner(tmp_path: Path) -> None:
    files = {
        boot.CMDLINE: "root=ZFS=rpool/ROOT/pve-1 amd_iommu=off quiet\n",
        "/proc/cmdline": "initrd=\\EFI\\proxmox\\1\\initrd.img amd_iommu=off quiet\n",
    }
    found = plan(build(tmp_path, files, cpu="AuthenticAMD"))
    assert after(found)[boot.CMDLINE] == "root=ZFS=rpool/ROOT/pve-1 quiet\n"
    assert found.commands == (prepare.INITRAMFS,)
    assert "written anew, by hand" in found.notes[0]


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
    assert after(found)[prepare.MODULES_LOAD] == HEAD + "vfio_iommu_type1\n"


@pytest.mark.parametrize("kernel, stays", [("6.1.0-30-amd64", True), ("6.2.16-3-pve", False)])
def test_the_obsolete_module_is_commented_out(tmp_path: Path, kernel: str, stays: bool) -> None:  # noqa: FBT001 - a case
    text = "# mine\nvfio\nvfio_iommu_type1\nvfio_pci\nvfio_virqfd\n"
    found = plan(build(tmp_path, {"/etc/modules": text}, kernel=kernel))
    expected = {} if stays else {"/etc/modules": text.replace("vfio_virqfd", "# vfio_virqfd")}
    assert {path: new for path, new in after(found).items() if path == "/etc/modules"} == expected


def test_options_are_asked_for_by_name(tmp_path: Path) -> None:
    host = build(tmp_path)
    assert options.MODPROBE not in after(plan(host))
    found = plan(host, unsafe_interrupts=True, max_vfs=(("igb", 4),))
    assert after(found)[options.MODPROBE] == (
        HEAD + "options vfio_iommu_type1 allow_unsafe_interrupts=1\noptions igb max_vfs=4\n"
    )


def test_an_option_is_changed_where_it_counts(tmp_path: Path) -> None:
    path = "/etc/modprobe.d/zz.conf"
    found = plan(build(tmp_path, {path: "# x\noptions igb debug=1 max_vfs=2 # no comment\n"}), max_vfs=(("igb", 4),))
    assert after(found)[path] == "# x\noptions igb debug=1 max_vfs=4 # no comment\n"
    assert options.MODPROBE not in after(found)


def test_more_vfs_than_a_device_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="more than"):
        plan(build(tmp_path), max_vfs=(("igb", 8),))


def test_gvt_needs_an_intel_gpu(tmp_path: Path) -> None:
    host = build(tmp_path)
    with pytest.raises(UsageError, match="needs an Intel GPU"):
        plan(host, gvt=True)
    tree.add_device(tmp_path, "0000:00:02.0", {"vendor": "0x8086", "device": "0x5916", "class": "0x030000"})
    found = after(plan(host, gvt=True))
    assert found[options.MODPROBE] == HEAD + "options i915 enable_gvt=1\n"
    assert found[prepare.MODULES_LOAD].endswith("\nkvmgt\n")


# ---- devices


def test_a_device_alone_of_its_kind_is_kept_by_its_id(tmp_path: Path) -> None:
    host = build(tmp_path)
    tree.put(tmp_path, "/sys/bus/pci/devices/0000:01:00.0/modalias", f"{ALIAS}\n")
    aliases = "alias pci:v000010DEd*sv*sd*bc03sc00i* nvidiafb\nalias pci:v000010DEd*sv*sd*bc02* forcedeth\n"
    tree.put(tmp_path, "/lib/modules/6.5.13-5-pve/modules.alias", aliases)
    found = plan(host, devices=("01:00",))
    assert after(found)[options.MODPROBE] == (
        HEAD
        + "options vfio-pci ids=10de:1aef,10de:2204\nsoftdep nouveau pre: vfio-pci\nsoftdep nvidiafb pre: vfio-pci\n"
    )
    assert overrides.UDEV not in after(found)


def test_ids_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    path = "/etc/modprobe.d/vfio.conf"
    found = plan(build(tmp_path, {path: "options vfio-pci ids=10DE:1aef,1:2 disable_vga=1\n"}), devices=("01:00",))
    assert after(found)[path] == "options vfio-pci ids=10DE:1aef,1:2,10de:2204 disable_vga=1\n"
    assert "options" not in after(found)[options.MODPROBE]


def test_ids_on_the_command_line_are_added_there(tmp_path: Path) -> None:
    text = GRUB.replace("quiet", "quiet vfio-pci.ids=10de:1aef")
    found = plan(build(tmp_path, {boot.GRUB: text}, kernel="6.8.1"), devices=("01:00",))
    assert after(found)[boot.GRUB] == text.replace("10de:1aef", "10de:1aef,10de:2204")


def test_one_of_two_identical_devices_is_kept_by_its_address(tmp_path: Path) -> None:
    found = plan(build(tmp_path), devices=("0000:02:00.0",))
    text = after(found)
    assert options.MODPROBE not in text
    ids = 'ATTR{vendor}=="0x8086", ATTR{device}=="0x10d3"'
    assert text[overrides.UDEV].splitlines()[1:] == [
        f'ACTION=="add", SUBSYSTEM=="pci", DEVPATH=="{PLACE}", {ids}, ATTR{{driver_override}}="vfio-pci"'
    ]
    assert f"for one in /sys{PLACE}=0x8086:0x10d3; do" in text[overrides.INIT_TOP]
    modes = {change.path: change.mode for change in found.changes}
    assert (modes[overrides.INIT_TOP], modes[overrides.UDEV]) == (0o755, 0o644)


@pytest.mark.parametrize(
    "now, taken",
    [
        (("0000:00:1b.0", "0x8086"), True),
        (("0000:00:1c.0", "0x8086"), False),  # its identical fellow, which was 0000:03:00.0 before
        (("0000:00:1b.0", "0x144d"), False),  # another card in that slot
        (None, False),
    ],
)
def test_what_has_the_address_after_a_card_was_added_stays_with_the_host(
    tmp_path: Path,
    now: tuple[str, str] | None,
    taken: bool,  # noqa: FBT001 - a case
) -> None:
    host = build(tmp_path)
    first = tmp_path / "sys/devices/pci0000:00/0000:00:1b.0/0000:02:00.0"
    first.parent.mkdir(parents=True)
    (tmp_path / "sys" / PLACE[1:]).rename(first)
    tree.link(tmp_path, f"/sys{PLACE}", f"/{first.relative_to(tmp_path)}")
    script = after(plan(host, devices=("02:00.0",)))[overrides.INIT_TOP]
    shutil.rmtree(first)
    if now:
        place = f"/sys/devices/pci0000:00/{now[0]}/0000:02:00.0"
        for name, text in (("vendor", now[1]), ("device", "0x10d3"), ("driver_override", "(null)")):
            tree.put(tmp_path, f"{place}/{name}", f"{text}\n")
    tree.put(tmp_path, "script", script.replace("/sys/", f"{tmp_path}/sys/"))
    done = subprocess.run(["/bin/sh", str(tmp_path / "script")], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    told = [path for path in tmp_path.rglob("driver_override") if path.read_text() == "vfio-pci\n"]
    assert bool(told) is taken


def test_who_takes_the_console_is_told_so(tmp_path: Path) -> None:
    host = build(tmp_path)
    tree.put(tmp_path, "/sys/bus/pci/devices/0000:01:00.0/boot_vga", "1\n")
    assert "0000:01:00.0 shows the host's console" in plan(host, devices=("01:00",)).notes[0]


def test_both_of_two_identical_devices_are_kept_by_their_id(tmp_path: Path) -> None:
    text = after(plan(build(tmp_path), devices=("02:00.0", "03:00.0")))
    assert text[options.MODPROBE] == HEAD + "options vfio-pci ids=8086:10d3\nsoftdep e1000e pre: vfio-pci\n"


def test_a_method_that_takes_more_says_so(tmp_path: Path) -> None:
    found = plan(build(tmp_path), devices=("02:00.0",), method="vfio-ids")
    assert "vfio-ids takes 0000:03:00.0 too" in found.notes[0]
    found = plan(build(tmp_path / "2"), devices=("02:00.0",), method="blacklist")
    assert "blacklist takes 0000:03:00.0 too" in found.notes[0]
    assert after(found)[options.MODPROBE] == HEAD + "blacklist e1000e\n"


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
    script = host.text(overrides.INIT_TOP) or ""
    places = [f"/sys/bus/pci/devices/{address}=0x8086:0x10d3" for address in ("0000:02:00.0", "0000:03:00.0")]
    assert f"for one in {' '.join(places)}; do" in script
    assert len((host.text(overrides.UDEV) or "").splitlines()) == 3


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


@pytest.mark.parametrize("method", [None, "vfio-ids", "override", "blacklist"])
def test_an_id_of_the_hosts_own_disk_in_ids_keeps_vfio_pci_from_coming_first(
    tmp_path: Path, method: keeping.Method | None
) -> None:
    """It has had no effect so far, as nvme comes first; a softdep, or an early vfio-pci, would give it one."""
    host = build(tmp_path, {"/etc/modprobe.d/v.conf": "options vfio-pci ids=144d:a80a\n"})
    use_disk(tmp_path, "0000:04:00.0", "nvme0")
    with pytest.raises(DeviceError, match=r"takes 0000:04:00.0 \(.*v.conf:1 has its id.* is mounted on /"):
        plan(host, devices=("0000:02:00.0",), method=method)


def test_a_parent_of_vgpus_in_use_is_not_taken(tmp_path: Path) -> None:
    host = build(tmp_path)
    gpu, vf, uuid = "0000:01:00.0", "0000:01:00.4", "00000000-0000-0000-0000-000000000101"
    tree.link(tmp_path, f"/sys/bus/pci/devices/{gpu}/virtfn0", f"/sys/bus/pci/devices/{vf}")
    tree.folder(tmp_path, f"/sys/bus/pci/devices/{vf}")
    (note,) = [note for note in plan(host, devices=(gpu,)).notes if "VFs" in note]
    assert note == f"the VFs of {gpu} (1) go with its driver: there are none after the next boot"
    tree.folder(tmp_path, f"/sys/bus/pci/devices/{vf}/{uuid}")
    with pytest.raises(DeviceError, match=f"takes {gpu} .*{vf} has mediated devices of VM 101"):
        plan(host, devices=(gpu,))
    os.rename(
        tmp_path / f"sys/bus/pci/devices/{vf}/{uuid}",
        tmp_path / f"sys/bus/pci/devices/{vf}/f715f63c-0d00-4007-9c5a-b07b0c6c05de",
    )
    with pytest.raises(DeviceError, match=f"takes {gpu} .*its VF {vf} has mediated devices"):
        plan(host, devices=(gpu,))


def test_what_is_built_in_cannot_be_kept_away_by_name(tmp_path: Path) -> None:
    host = build(tmp_path, {"/lib/modules/6.5.13-5-pve/modules.builtin": "kernel/drivers/gpu/drm/nouveau/nouveau.ko\n"})
    found = plan(host, devices=("0000:01:00.0",))
    assert overrides.UDEV in after(found)
    for method in ("blacklist", "vfio-ids"):
        notes = plan(host, devices=("0000:01:00.0",), method=method).notes
        assert f"nouveau is built into the kernel: {method} does not keep it from a device" in notes


def test_needless_unsafe_interrupts_are_told(tmp_path: Path) -> None:
    host = build(tmp_path, {"/proc/interrupts": " 24: 1 IR-PCI-MSI-0000:01:00.0 0-edge x\n"})
    assert any("needless" in note for note in plan(host, unsafe_interrupts=True).notes)


def test_vfs_of_no_driver_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no driver foo"):
        plan(build(tmp_path), max_vfs=(("foo", 2),))


def test_each_reason_is_said_once(tmp_path: Path) -> None:
    found = plan(build(tmp_path), devices=("0000:01:00.0",))
    (why,) = [change.why for change in found.changes if change.path == options.MODPROBE]
    assert why == "vfio-pci takes 0000:01:00.0; before nouveau does"


def test_what_else_is_lost_is_told(tmp_path: Path) -> None:
    host = build(tmp_path)
    tree.put(tmp_path, "/sys/bus/pci/devices/0000:05:00.0/class", "0x0c0330\n")
    notes = plan(host, devices=("0000:05:00.0",), method="blacklist").notes
    assert "nothing loads igb any more: 0000:05:00.0 loses it" in notes
    assert any("0000:05:00.0 is a USB controller" in note for note in notes)


def test_a_network_that_the_host_has_an_address_on_is_not_taken(tmp_path: Path) -> None:
    host = build(tmp_path)
    tree.folder(tmp_path, "/sys/bus/pci/devices/0000:02:00.0/net/eno2")
    tree.link(tmp_path, "/sys/class/net/eno2", "/sys/bus/pci/devices/0000:02:00.0/net/eno2")
    tree.put(tmp_path, "/proc/net/route", "eno2 000A0A0A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n")
    with pytest.raises(DeviceError, match="eno2 carries an address of the host"):
        plan(host, devices=("02:00.0",))


def test_a_method_needs_a_device(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none is named"):
        plan(build(tmp_path), method="override")


def test_a_twin_of_what_the_host_lives_on_is_taken_by_its_address(tmp_path: Path) -> None:
    host = build(tmp_path)
    use_disk(tmp_path, "0000:04:00.0", "nvme0")
    assert overrides.UDEV in after(plan(host, devices=("06:00.0",)))


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


def test_a_line_is_not_added_to_one_that_goes_on(tmp_path: Path) -> None:
    text = "options snd_hda_intel \\"
    found = after(plan(build(tmp_path, {options.MODPROBE: text}), unsafe_interrupts=True))
    assert found[options.MODPROBE] == f"{text}\n\noptions vfio_iommu_type1 allow_unsafe_interrupts=1\n"


ATOMS = (
    *("GRUB_CMDLINE_LINUX_DEFAULT=", "GRUB_CMDLINE_LINUX=", '"', "'", "\n", " ", "quiet", "Intel_iommu=on", "\udcff"),
    *("\0", "$", "$(", ")", "\\", "\\\n", "options vfio-pci ids=", "softdep", "e1000e", "#", "vfio_virqfd", "vfio"),
    *("if", "fi", ";", "10de:2204", ",", "intel_iommu=off", "install", "for address in ", "{", "}", "\r\n"),
)
FILES = (
    boot.GRUB,
    "/etc/default/grub.d/x.cfg",
    "/etc/modprobe.d/a.conf",
    "/etc/modules",
    options.MODPROBE,
    overrides.UDEV,
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("machine")
    build(root)
    return root


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.fixed_dictionaries(dict.fromkeys(FILES, st.lists(st.sampled_from(ATOMS), max_size=12).map("".join))),
    devices=st.sampled_from([(), ("01:00",), ("02:00.0",)]),
    method=st.sampled_from([None, *keeping.METHODS]),
    unsafe=st.booleans(),
)
def test_whatever_the_files_hold_a_second_fix_has_nothing_to_do(
    machine: Path, texts: dict[str, str], devices: tuple[str, ...], method: str | None, *, unsafe: bool
) -> None:
    for path in (*FILES, overrides.INIT_TOP, prepare.MODULES_LOAD):
        tree.put(machine, path, texts.get(path, ""))
    wishes = {"devices": devices, "method": method if devices else None, "unsafe_interrupts": unsafe}
    for change in plan(Host(str(machine)), **wishes).changes:
        assert all(line.isprintable() for line in changes.diff(change))
        tree.put(machine, change.path, change.after or b"")
    assert plan(Host(str(machine)), **wishes).changes == ()
