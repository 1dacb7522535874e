# SPDX-License-Identifier: Apache-2.0
"""Snapshots: no secret is in one, none leads out of its folder, and what could not be read stays unreadable."""

from __future__ import annotations

import errno
import io
import lzma
import os
import shutil
import stat
import tarfile
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.host import archive, collector, policy, snapshot
from pvepassthru.host.host import Host
from pvepassthru.host.inventory import DEVICES, Inventory
from pvepassthru.host.masks import Masks
from pvepassthru.host.sim import SimHost
from pvepassthru.model import mapping, vmconfig
from pvepassthru.model.errors import InputError
from tests import tree
from tests.effort import calls
from tests.host import machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAC = "bc:24:11:5e:c2:e7"
NIC = "0000:02:00.0"


@pytest.fixture
def folder() -> Iterator[str]:
    with machine.memory_folder() as path:
        yield path


def taken(root: str, file: str, *, full: bool = False) -> collector.Taken:
    with open(file, "wb") as stream:
        return collector.take(Host(root), stream, "test", full=full)


def round_trip(root: str, folder: str, *, full: bool = False) -> snapshot.SnapshotHost:
    file, copy = f"{folder}/host.tar.xz", f"{folder}/copy"
    taken(root, file, full=full)
    os.mkdir(copy)
    return snapshot.load(file, copy)


def unpacked(file: str) -> bytes:
    """The whole archive as it is inside: names and contents."""
    with lzma.open(file) as stream:
        return stream.read()


# ---- secrets

CONFIG = f"""#description SECRETdescription
# SECRETcomment
args: -device vfio-pci,host=01:00.0 -drive file=x,password=SECRETargs -netdev user,hostfwd=tcp:203.0.113.77:22-:22
args: -object secret,id=one,data=SECRETobject -fw_cfg name=opt/ignition,string=SECRETignition
args: -smbios type=11,value=SECREToem
cipassword: SECRETcipassword
ciuser: SECRETciuser
cipasswrd: SECRETmistyped
sshkeys: ssh-rsa%20SECRETsshkey
searchdomain: SECRETsearch.example
nameserver: 203.0.113.9
ipconfig0: ip=203.0.113.10/24,gw=203.0.113.1,ip6=2001:db8:77::5/64
smbios1: uuid=5ec2e7aa-1111-4222-8333-444455556666,serial=SECRETsmbios,manufacturer=SECRETmaker
vmgenid: 5ec2e7aa-1111-4222-8333-444455556667
net0: virtio={MAC.upper()},bridge=vmbr0,firewall=1
net1: e1000=BC-24-11-5E-C2-E8,bridge=vmbr0
scsi0: local:vm-100-disk-0,serial=SECRETdisk,wwn=0x5ec2e75ec2e75ec2,size=32G
scsi1: /dev/disk/by-id/ata-Disk_SECRETserial-part1,size=1T
tags: SECRETtag
hostpci0: 0000:01:00,pcie=1
SECRETjunk without a colon
machine: q35
[PENDING]
cipassword: SECRETpending
[SECRETsnapshot]
description: SECRETolder
hostpci0: 0000:02:00
cipassword: SECRETinsnapshot
"""
FILES = {
    "/etc/pve/storage.cfg": "dir: local\n\tpath /var/lib/vz\n\tcontent iso\n\ncifs: share\n\tserver 203.0.113.20\n"
    "\tpath /mnt/share\n\tusername SECRETuser\n\tpassword SECRETstorage\n\tencryption-key SECRETkey\n",
    "/etc/pve/jobs.cfg": "vzdump: backup-1\n\tschedule daily\n\tcomment SECRETjob\n"
    "\tmailto SECRET@example.org\n\tall 1\n",
    "/etc/pve/ha/resources.cfg": "vm: 100\n\tstate started\n\tcomment SECRETha\n",
    "/etc/pve/mapping/pci.cfg": "gpu\n\tdescription SECRETmapping\n"
    "\tmap description=SECRETentry text,id=10de:2204,iommugroup=1,node=pve,path=0000:01:00;0000:01:01\n",
    "/etc/pve/user.cfg": "user:root@pam:1:0:SECRET:name:SECRET@example.org::\ntoken:root@pam!SECRET:0:1::\n"
    "pool:lab:SECRETpool:100,101:local:\n",
    "/etc/pve/corosync.conf": "nodelist {\n  node {\n    name: pve\n    nodeid: 1\n"
    "    ring0_addr: 203.0.113.30\n  }\n}\n",
    "/etc/pve/datacenter.cfg": "#SECRETdatacenter\nhttp_proxy: http://SECRET:SECRET@203.0.113.40\n"
    "migration: secure,network=203.0.113.0/24\n",
    "/etc/pvepassthru.yaml": "# SECRETpolicy\ndefaults:\n  gate: warn\nsilence:\n"
    "  - code: PVP273\n    reason: SECRETreason\n      SECRETmore\n"
    "  - {code: PVP274, reason: 'SECRETflow, x', vm: 100}\n",
    "/etc/default/grub": '# SECRETgrub\nGRUB_CMDLINE_LINUX="intel_iommu=on ip=203.0.113.50::203.0.113.1 '
    f'rd.iscsi.password=SECRETiscsi ifname=lan:{MAC}"\n',
    "/boot/grub/grub.cfg": "password_pbkdf2 root grub.pbkdf2.SECRETgrub\nmenuentry 'Proxmox' {\n"
    " linux /vmlinuz quiet\n}\n",
    "/etc/kernel/cmdline": "root=ZFS=rpool/ROOT/pve-1 rd.luks.key=SECRETluks\n",
    "/etc/modprobe.d/vfio.conf": "# SECRETmodprobe\noptions vfio-pci ids=10de:2204\n"
    "install nouveau /bin/false\ninstall lan curl -u me:SECRETinstall https://x; "
    "/sbin/modprobe --ignore-install lan \\\n SECRETlast\n",
    "/etc/crontab": "@reboot root curl -u joe:SECRETcron https://x ; "
    "echo 4 > /sys/class/net/lan/device/sriov_numvfs # SECRET\n",
    "/etc/rc.local": "mysql -pSECRETrc && echo '4'>/sys/class/net/lan/device/sriov_numvfs\n# SECRET sriov_numvfs\n"
    "curl -H Authorization:SECRETsriov_numvfs https://me:SECRET@x/sriov_numvfs\n",
    "/etc/mdevctl.d/0000:41:00.0/one": '{\n  "mdev_type": "nvidia-63",\n  "attrs": [{"x": "SECRETattribute"}]\n}\n',
    "/etc/network/interfaces": "iface vmbr0 inet static\n  address 203.0.113.60/24\n  wpa-psk SECRETpsk\n",
    "/etc/systemd/system/vfs.service": "[Service]\nEnvironment=KEY=SECRETunit\n"
    "ExecStart=/usr/local/sbin/vfs --pw SECRETcli\nExecStartPost=/usr/bin/curl https://hooks.example/services/SECRETurl\n",
    "/etc/initramfs-tools/scripts/local-top/unlock": "#!/bin/sh\necho SECRETphrase | cryptsetup open /dev/sda3 root\n",
    "/usr/local/sbin/vfs": "#!/bin/sh\ncurl -u me:SECRETscript https://203.0.113.61\n"
    "echo 4 > /sys/class/net/lan/device/sriov_numvfs\n",
    "/proc/cmdline": "BOOT_IMAGE=/vmlinuz intel_iommu=on ip=203.0.113.50 rd.iscsi.password=SECRETiscsi\n",
    "/proc/mounts": "/dev/sda1 / ext4 rw 0 0\n"
    "//203.0.113.70/SECRETshare /mnt/s cifs rw,username=SECRETme,password=SECRETp 0 0\n",
    "/proc/net/route": "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    "vmbr0\t00000000\t014D71CB\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    "vmbr0\t004D71CB\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
    "/proc/net/ipv6_route": "20010db8007700000000000000000000 40 00000000000000000000000000000000 00 "
    "00000000000000000000000000000000 00000100 00000001 00000000 00000001    vmbr0\n",
    "/run/udev/data/b8:0": "E:ID_SERIAL=SECRETserial\nE:ID_SERIAL_SHORT=SECRETs\n"
    "E:ID_FS_TYPE=ext4\nE:ID_FS_UUID=5ec2e7aa\n",
    "/proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t NVIDIA A2\nGPU UUID: \t GPU-5ec2e7aa-SECRETgpu\n",
    "/sys/class/nvme/nvme0/serial": "SECRETnvme\n",
    "/sys/class/dmi/id/product_serial": "SECRETproduct\n",
    "/sys/class/dmi/id/product_name": "Server\n",
    f"/sys/bus/pci/devices/{NIC}/net/enx{MAC.replace(':', '')}/address": f"{MAC}\n",
    "/proc/4711/environ": "SECRETenvironment\0",
    "/run/qemu-server/100.pid": "4711\n",
    "/proc/4711/cmdline": "/usr/bin/kvm\0-id\0100\0-name\0SECRETname\0-pidfile\0/var/run/qemu-server/100.pid\0"
    "-smbios\0type=1,serial=SECRETrun\0-netdev\0type=tap,mac=bc:24:11:5e:c2:e7\0",
}
PLANTED = (
    *(b"SECRET", b"203.0.113.", b"2001:db8:77", b"014D71CB", b"004D71CB", b"20010db80077", b"5ec2e7", b"5EC2E7"),
    *(b"bc:24:11", b"BC:24:11", b"BC-24-11", b"bc24115ec2e7", b"5e:c2:e7"),
)


def secretive(root: str) -> None:
    devices: dict[str, dict[str, Any]] = {NIC: {"vendor": "0x8086", "device": "0x1521", "class": "0x020000"}}
    tree.build(root, {"devices": devices}, node="pve", configs={100: CONFIG})
    for path, text in FILES.items():
        tree.put(root, path, text)
    name = f"enx{MAC.replace(':', '')}"
    tree.link(root, f"sys/class/net/{name}", f"sys/bus/pci/devices/{NIC}/net/{name}")
    config = bytes(0x100) + b"\3\0\1\0" + b"SECRETdsn"  # the extended capability with the serial number
    tree.put(root, f"sys/bus/pci/devices/{NIC}/config", b"\x86\x80" + config[2:])


def test_no_secret_is_in_a_snapshot(folder: str) -> None:
    secretive(f"{folder}/host")
    taken(f"{folder}/host", f"{folder}/host.tar.xz")
    content = unpacked(f"{folder}/host.tar.xz")
    assert {planted: content.count(planted) for planted in PLANTED} == dict.fromkeys(PLANTED, 0)


def test_a_full_snapshot_has_them(folder: str) -> None:
    """So that the test above cannot pass for want of files."""
    secretive(f"{folder}/host")
    taken(f"{folder}/host", f"{folder}/host.tar.xz", full=True)
    content = unpacked(f"{folder}/host.tar.xz")
    words = ("args cipassword ciuser mistyped sshkey smbios disk serial tag pending storage key job ha mapping entry "
             "grub iscsi luks modprobe reason flow install cron rc attribute oem "
             "unit script share nvme run insnapshot policy")  # fmt: skip
    assert [word for word in words.split() if f"SECRET{word}".encode() not in content] == []
    assert b"SECRETproduct" not in content  # no rule reads it
    assert b"SECRETenvironment" not in content


def test_what_is_left_says_the_same(folder: str) -> None:
    secretive(f"{folder}/host")
    copy = round_trip(f"{folder}/host", folder)
    for path in ("/etc/pve/qemu-server/100.conf",):
        before, after = (vmconfig.parse(Host(root).read(path)) for root in (f"{folder}/host", copy.root))
        assert after.main.entries == before.main.entries
        assert after.main.values.keys() == before.main.values.keys()
        lines = [[value.line for value in config.main.values.values()] for config in (before, after)]
        assert lines[0] == lines[1]
    before_map, after_map = (
        mapping.parse(Host(root).read("/etc/pve/mapping/pci.cfg")) for root in (f"{folder}/host", copy.root)
    )
    assert after_map == before_map
    text = copy.text("/etc/default/grub") or ""
    assert "intel_iommu=on" in text
    assert text.count('"') == 2
    assert copy.text("/proc/cmdline") == "BOOT_IMAGE=/vmlinuz intel_iommu=on ip=masked rd.iscsi.password=masked"
    for path in ("/usr/local/sbin/vfs", "/etc/crontab", "/etc/rc.local"):
        assert "/sys/class/net/lan/device/sriov_numvfs" in (copy.text(path) or "")
        assert "4" in (copy.text(path) or "")
    assert "install nouveau /bin/false\ninstall lan masked" in (copy.text("/etc/modprobe.d/vfio.conf") or "")
    assert [entry.code for entry in policy.read(copy).silence] == ["PVP273", "PVP274"]
    assert "/var/lib/vz" in (copy.text("/etc/pve/storage.cfg") or "")
    (name,) = copy.names("/sys/class/net")
    digits = (copy.text(f"/sys/class/net/{name}/address") or "").replace(":", "")
    assert name == f"enx{digits}"
    assert f"virtio={':'.join(digits[place : place + 2] for place in range(0, 12, 2))}" in (
        copy.text("/etc/pve/qemu-server/100.conf") or ""
    )


@given(st.binary(max_size=300))
def test_masks_take_anything(data: bytes) -> None:
    masks = Masks()
    for name in ("plain", "words", "settings", "vm_config", "storage", "sections", "pools", "corosync", "grub_menu",
                 "udev", "gpu", "dm_uuid", "mounts", "route", "route6", "serial", "makers", "qemu", "yaml",
                 "modprobe", "mdevctl"):  # fmt: skip
        assert isinstance(getattr(masks, name)(data), bytes)
    for name in ("settings", "vm_config", "storage", "sections", "makers", "mounts", "yaml", "modprobe", "mdevctl"):
        assert getattr(masks, name)(data).count(b"\n") == data.count(b"\n")


@given(st.from_regex(rb"[a-z]{1,12}[0-9]?: [ -~]{0,60}", fullmatch=True))
def test_unknown_keys_lose_their_values(line: bytes) -> None:
    key = line.partition(b":")[0].rstrip(b"0123456789")
    masked = Masks().vm_config(line)
    if key not in {b"smbios", b"vmgenid"} and not key.startswith(b"host") and masked != line:
        assert masked.count(b"masked") >= 1 or not line.partition(b": ")[2]


@pytest.mark.parametrize("text", ["0000:01:00", "0000:01:00.0", "10de:2204", "12:30:00", "525.85.05"])
def test_what_looks_like_an_address_stays(text: str) -> None:
    assert Masks().words(b"x " + text.encode()) == b"x " + text.encode()


@pytest.mark.parametrize("unit", ["a", "pass", "x.key-", "a:", "1.", "pass ", "=", "://a"])
def test_long_words_cost_what_their_length_does(unit: str) -> None:
    """An expression that looks at each part of a word anew would take hours for this."""
    text = b"x " + unit.encode() * (1_000_000 // len(unit))
    assert Masks().words(text + b" a.password=y").endswith(b" a.password=masked")


# ---- the archive

ABOUT = b'{"format": 1, "node": "pve", "time": 5}'


def made(folder: str, *members: tuple[tarfile.TarInfo, bytes], about: bytes = ABOUT) -> str:
    file = f"{folder}/made.tar.xz"
    with tarfile.open(file, "w:xz") as tar:
        for info, data in ((tarfile.TarInfo(snapshot.ABOUT.strip("/")), about), *members):
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "evil",
    [
        [member("../evil")],
        [member("/evil")],
        [member("a/../../evil")],
        [member("a//b")],
        [member("a", tarfile.SYMTYPE, ".."), member("a/evil")],
        [member("a", tarfile.SYMTYPE, "../evil")],
        [member("a/b", tarfile.SYMTYPE, "../../evil")],
        [member("d", tarfile.SYMTYPE, "."), member("e", tarfile.SYMTYPE, "d/d/../..")],
        [member("a", tarfile.SYMTYPE, "/etc/passwd")],
        [member("a", tarfile.SYMTYPE, "")],
        [member("proc/1/fd/1", tarfile.SYMTYPE, "/dev/vfio/../../etc/passwd")],
        [member("a", tarfile.LNKTYPE, "../evil")],
        [member("a", tarfile.CHRTYPE)],
        [member("a", tarfile.BLKTYPE)],
        [member("a", tarfile.FIFOTYPE)],
        [member("a"), member("a")],
        [member("a"), member("a/b")],
        [member("a"), member("a", tarfile.DIRTYPE)],
    ],
)
def test_evil_archives(evil: list[tarfile.TarInfo], folder: str) -> None:
    file = made(folder, *((info, b"") for info in evil))
    os.makedirs(f"{folder}/deep/er/copy")
    with pytest.raises(InputError, match="is no snapshot"):
        snapshot.load(file, f"{folder}/deep/er/copy")
    assert os.listdir(f"{folder}/deep") == ["er"]
    assert os.listdir(f"{folder}/deep/er") == ["copy"]
    assert sorted(os.listdir(folder)) == ["deep", "made.tar.xz"]


@pytest.mark.parametrize(
    "about, why",
    [
        (b"", "another archive"),
        (b"[]", "another archive"),
        (b'{"format": "x"}', "another archive"),
        (b'{"format": 99}', "is a snapshot of format 99"),
    ],
)
def test_foreign_archives(about: bytes, why: str, folder: str) -> None:
    os.mkdir(f"{folder}/copy")
    with pytest.raises(InputError, match=why):
        snapshot.load(made(folder, about=about), f"{folder}/copy")
    assert os.listdir(f"{folder}/copy") == []


def test_damaged_archives(folder: str) -> None:
    secretive(f"{folder}/host")
    taken(f"{folder}/host", f"{folder}/host.tar.xz")
    with open(f"{folder}/host.tar.xz", "rb") as file:
        whole = file.read()
    for number, data in enumerate((b"", b"x" * 1000, whole[: len(whole) // 2], whole[:-9], lzma.compress(b""))):
        with open(f"{folder}/bad.tar.xz", "wb") as file:
            file.write(data)
        os.mkdir(f"{folder}/{number}")
        with pytest.raises(InputError, match=r"bad\.tar\.xz is (no snapshot|damaged)"):
            snapshot.load(f"{folder}/bad.tar.xz", f"{folder}/{number}")


def test_bomb(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 1 << 20)
    os.mkdir(f"{folder}/copy")
    with pytest.raises(InputError, match="more than 1 MiB"):
        snapshot.load(made(folder, (member("a"), bytes(1 << 21))), f"{folder}/copy")
    monkeypatch.setattr(archive, "MAX_FILE", 1000)
    os.mkdir(f"{folder}/copy2")
    with pytest.raises(InputError, match="has 2000 bytes"):
        snapshot.load(made(folder, (member("a"), bytes(2000))), f"{folder}/copy2")
    monkeypatch.setattr(archive, "MOST_MEMBERS", 2)
    os.mkdir(f"{folder}/copy3")
    with pytest.raises(InputError, match="more than 2 files"):
        snapshot.load(made(folder, *((member(name), b"") for name in "abc")), f"{folder}/copy3")


def test_one_host_gives_one_archive(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "now", lambda _: 5.0)
    secretive(f"{folder}/host")
    for name in ("one", "two"):
        taken(f"{folder}/host", f"{folder}/{name}.tar.xz")
    assert unpacked(f"{folder}/one.tar.xz") == unpacked(f"{folder}/two.tar.xz")


# ---- as a host


def test_time_stands_still(folder: str) -> None:
    tree.build(f"{folder}/host")
    before = int(time.time())
    copy = round_trip(f"{folder}/host", folder)
    assert before <= copy.now() <= time.time()
    assert copy.now() == copy.now()


def test_what_cannot_be_read_stays_so(folder: str) -> None:
    tree.build(f"{folder}/host", {"devices": {NIC: {"vendor": "0x8086"}}}, configs={100: "hostpci0: 02:00\n"})
    os.chmod(tree.put(f"{folder}/host", "/etc/pve/mapping/pci.cfg", "x"), 0)
    os.symlink("class", f"{folder}/host/{DEVICES}/{NIC}/class")
    os.chmod(folder, 0o777)
    os.chmod(tree.folder(f"{folder}/host", "/run/pvepassthru"), 0)
    with machine.unprivileged():
        found = taken(f"{folder}/host", f"{folder}/host.tar.xz")
        os.mkdir(f"{folder}/copy")
        copy = snapshot.load(f"{folder}/host.tar.xz", f"{folder}/copy")
        assert found.unreadable == ("/etc/pve/mapping/pci.cfg", "/run/pvepassthru")
        assert copy.text("/etc/pve/mapping/pci.cfg") is None
        assert copy.names("/run/pvepassthru") == []
        assert Inventory(copy).attribute(NIC, "class") is None
        assert copy.unreadable == {
            "/etc/pve/mapping/pci.cfg": errno.EACCES,
            "/run/pvepassthru": errno.EACCES,
            f"{DEVICES}/{NIC}/class": errno.ELOOP,
        }


def test_modes_and_dates(folder: str) -> None:
    root = f"{folder}/host"
    tree.build(root)
    for path, mode in (("/run/pvepassthru/100.journal", 0o600), ("/etc/pvepassthru.yaml", 0o666)):
        os.chmod(tree.put(root, path, "x\n"), mode)
    os.chmod(f"{root}/run/pvepassthru", 0o700)
    image = tree.put(root, "/boot/initrd.img-6.8.12-4-pve", "an image")
    os.utime(image, (1000, 1_700_000_000))
    copy = round_trip(root, folder)
    for path, mode in (
        ("/run/pvepassthru", 0o700),
        ("/run/pvepassthru/100.journal", 0o600),
        ("/etc/pvepassthru.yaml", 0o666),
    ):
        assert stat.S_IMODE(os.stat(copy.path(path)).st_mode) == mode
    assert os.stat(copy.path("/boot/initrd.img-6.8.12-4-pve")).st_mtime == 1_700_000_000
    assert copy.read("/boot/initrd.img-6.8.12-4-pve") == b""


def test_nothing_of_a_snapshot_can_be_executed(folder: str) -> None:
    """But what rules are told of a file's mode is that of the host."""
    root = f"{folder}/host"
    tree.build(root)
    for name, mode in (("run", 0o755), ("other", 0o644)):
        os.chmod(tree.put(root, f"/etc/pve/qemu-server/{name}.conf", "#!/bin/sh\n"), mode)
    copy = round_trip(root, folder)
    for name, mode in (("run", 0o755), ("other", 0o644)):
        path = f"/etc/pve/qemu-server/{name}.conf"
        assert stat.S_IMODE(os.stat(copy.path(path)).st_mode) == 0o644
        assert stat.S_IMODE(copy.mode(path) or 0) == mode


def test_merged_usr(folder: str) -> None:
    """/lib is a link to usr/lib on Debian; both ways lead to the same files."""
    root = f"{folder}/host"
    tree.put(root, "/usr/lib/modprobe.d/a.conf", "options a b=1\n")
    os.symlink("usr/lib", f"{root}/lib")
    os.symlink("/usr/lib/modprobe.d/a.conf", f"{root}/usr/lib/modprobe.d/b.conf")
    copy = round_trip(root, folder)
    assert copy.text("/lib/modprobe.d/a.conf") == copy.text("/usr/lib/modprobe.d/b.conf") == "options a b=1"
    assert copy.link("/lib") == "lib"


def test_sleeping_functions_are_not_woken(folder: str) -> None:
    root = f"{folder}/host"
    devices = {address: {"vendor": "0x10de", "files": {"config": "c", "power_state": state}} for address, state in
               (("0000:01:00.0", "D3cold\n"), ("0000:02:00.0", "D0\n"), ("0000:03:00.0", "D0\n"))}  # fmt: skip
    tree.build(root, {"devices": devices})
    tree.put(root, f"{DEVICES}/0000:03:00.0/power/runtime_status", "suspended\n")
    copy = round_trip(root, folder)
    assert [copy.exists(f"/{DEVICES}/{address}/config") for address in devices] == [False, True, False]


def test_effort_grows_with_functions_only(folder: str) -> None:
    """Four times the functions take about four times the calls, both ways."""

    def efforts(functions: int) -> tuple[int, int]:
        devices = {
            f"0000:{number // 64:02x}:{number // 8 % 8:02x}.{number % 8}": {
                "vendor": "0x10de",
                "device": "0x2204",
                "class": "0x030000",
                "driver": "vfio-pci",
                "reset": True,
                "iommu_group": number // 64,
                "subsystem_vendor": "0x10de",
                "subsystem_device": "0x1467",
                "files": dict.fromkeys(("reset_method", "numa_node", "power_state", "resource"), "0\n"),
            }
            for number in range(functions)
        }
        root = f"{folder}/{functions}"
        archive = f"{root}.tar.xz"
        tree.build(root, {"devices": devices})
        os.mkdir(f"{root}.copy")
        taking = calls(lambda: taken(root, archive))
        loading = calls(lambda: snapshot.load(archive, f"{root}.copy"))
        assert len(Inventory(SimHost(f"{root}.copy")).addresses()) == functions
        return taking, loading

    few, many = efforts(64), efforts(256)
    assert many[0] < 5 * few[0]
    assert many[1] < 5 * few[1]


def test_what_is_odd(tmp_path: Path) -> None:
    root = str(tmp_path / "host")
    tree.build(root)
    os.mkfifo(f"{root}/etc/modules")
    os.symlink("loop", f"{root}/etc/loop")
    os.symlink("modprobe.d", f"{root}/etc/modprobe.d")
    os.symlink("../../../../../etc/passwd", tree.folder(root, "/etc/default") + "/grub")
    tree.put(root, "/etc/pve/qemu-server/100.conf", b"\xff\0\n" * 1000)
    copy = round_trip(root, str(tmp_path))
    assert not copy.exists("/etc/default/grub")
    assert not copy.exists("/etc/modules")
    assert copy.read("/etc/pve/qemu-server/100.conf").count(b"\n") == 1000


def test_what_is_absent_stays_absent(folder: str) -> None:
    """The rules say of a snapshot what they say of the host: that nothing can be told of reservations, here."""
    tree.build(f"{folder}/host", {"devices": {}}, node="pve", configs={100: "memory: 1\n"})
    shutil.rmtree(f"{folder}/host/run", ignore_errors=True)
    assert not round_trip(f"{folder}/host", folder).exists("/run/qemu-server")
