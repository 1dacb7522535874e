# SPDX-License-Identifier: Apache-2.0
"""Cases of the rules on the host beside the one bad and the one good tree of each."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.host.host import Host
from pvepassthru.model import cmdline
from pvepassthru.rules import parameters
from pvepassthru.rules.catalogue import host_states
from pvepassthru.rules.subject import Surroundings
from tests import tree
from tests.rules import healthy
from tests.rules.examples import drivers, sharing
from tests.rules.healthy import INTEL, MODPROBE, booted, host, without

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.rules.example import Tree

REAL = """
quiet splash ro root nomodeset console crashkernel panic mitigations nmi_watchdog audit apparmor
selinux loglevel intel_idle.max_cstate intel_pstate amd_pstate amd_iommu_dump amd_iommu_intr
amd_prefcore iomem ivrs_ioapic processor.max_cstate pcie_aspm pcie_ports pcie_port_pm pcie_bus_safe
pci_hp_mode iommu.passthrough iommu.strict iommu.forcedac vfio_pci.disable_vga vfio_pci.enable_sriov
vfio.enable_unsafe_noiommu_mode i915.enable_guc i915.enable_psr i915.enable_fbc i915.enable_dc
i915.modeset i915.force_probe xe.force_probe nouveau.modeset amdgpu.dc amdgpu.sg_display
nvme_core.default_ps_max_latency_us net.ifnames systemd.unified_cgroup_hierarchy boot zfs initrd
BOOT_IMAGE rootdelay elevator transparent_hugepage tsc clocksource idle reboot acpi acpi_osi memmap
mem rcu_nocbs nohz_full kvm-intel.nested kvm.ignore_msrs libata.force usbcore.autosuspend usb-
storage.quirks fsck.mode initcall_blacklist split_lock_detect efi init iommu.dma intremap nointremap
swiotlb
"""


def state_of(tree_: Tree, code: str, root: Path) -> tuple[str, list[str]]:
    """What a rule says of a host: its state, and its messages with where they are."""
    (found,) = [one for one in host_states(Surroundings(tree_.build(root))) if one.rule.code == code]
    return found.state, [f"{finding.where}: {finding.message}; {finding.hint}" for finding in found.findings]


def codes(tree_: Tree, root: Path) -> Iterable[str]:
    return {finding.code for finding in tree_.host_findings(root)}


# ---- the kernel's command line


@pytest.mark.parametrize("name", REAL.split())
def test_real_parameters_are_no_slips(name: str, tmp_path: Path) -> None:
    assert not {"PVP117", "PVP118"} & set(codes(host(booted(f"{name}=1")), tmp_path))


@pytest.mark.parametrize(
    "word,right",
    [
        ("intel_iomu=on", "intel_iommu"),
        ("intel_iommmu=on", "intel_iommu"),
        ("inte_iommu=on", "intel_iommu"),
        ("amd_ioomu=off", "amd_iommu"),
        ("iomu=pt", "iommu"),
        ("pcie_acs_overide=downstream", "pcie_acs_override"),
        ("vfio-pci.id=10de:2204", "vfio_pci.ids"),
        ("intel_iommu=pt", "intel_iommu=on"),
        ("intel_iommu=onn", "intel_iommu=on"),
    ],
)
def test_slips(word: str, right: str, tmp_path: Path) -> None:
    state, (text,) = state_of(host(booted(word)), "PVP118", tmp_path)
    assert state == "findings"
    assert right in text


@pytest.mark.parametrize(
    "word,right",
    [
        ("Intel_iommu=on", "intel_iommu=on"),
        ("INTEL-IOMMU=ON,igfx_off", "intel_iommu=on,igfx_off"),
        ("intel_iommu=On", "intel_iommu=on"),
        ("I915.enable_gvt=1", "i915.enable_gvt=1"),
        ("AMD_iommu=off", "amd_iommu=off"),
        ("Iommu=pt", "iommu=pt"),
        ("VFIO-PCI.ids=10DE:2204", "vfio_pci.ids=10DE:2204"),
    ],
)
def test_wrong_case(word: str, right: str, tmp_path: Path) -> None:
    state, (text,) = state_of(host(booted(word)), "PVP117", tmp_path)
    assert state == "findings"
    assert f"write {right}" in text


def test_a_parameter_for_init_is_none_of_the_kernels(tmp_path: Path) -> None:
    assert codes(host(booted("-- Intel_iommu=on intel_iomu=on")), tmp_path) == set()


@pytest.mark.parametrize(
    "line,code",
    [
        ("intel_iommu=off", "PVP115"),
        ("iommu=off", "PVP115"),
        ("intel_iommu=on,off", "PVP115"),
        ("intel_iommu=off intel_iommu=on", "PVP101"),
        ("iommu=pt", "PVP101"),
    ],
)
def test_why_the_iommu_is_off(line: str, code: str, tmp_path: Path) -> None:
    off = host(booted(line), iommu=False, base=without(INTEL, "sys/class/iommu"))
    assert codes(off, tmp_path) == {code}


def test_each_known_value_of_amd_is_fine(tmp_path: Path) -> None:
    line = "amd_iommu=" + ",".join(sorted(parameters.VALUES["amd_iommu"] - {"off"}))
    assert codes(host(booted(line), base=healthy.AMD), tmp_path) == set()
    assert cmdline.CommandLine(line).parameters[0].name == "amd_iommu"


def test_systemd_boot_with_its_own_file(tmp_path: Path) -> None:
    """What GRUB's file asks for is told when systemd-boot booted, and the way out names its file and command."""
    files = {
        "proc/cmdline": f"initrd=\\EFI\\proxmox\\{healthy.RELEASE}\\initrd.img {healthy.ROOT} quiet\n",
        "etc/kernel/cmdline": f"{healthy.ROOT} quiet\n",
        "etc/kernel/proxmox-boot-uuids": "ABCD-1234\n",
        "etc/default/grub": healthy.grub("quiet intel_iommu=on"),
        "sys/firmware/efi/fw_platform_size": "64\n",
    }
    state, (text,) = state_of(host(files), "PVP120", tmp_path)
    assert state == "findings"
    assert "/etc/kernel/cmdline, then: proxmox-boot-tool refresh" in text


# ---- firmware and interrupts


def test_secure_boot_with_compressed_modules_is_unknown(tmp_path: Path) -> None:
    files = {"sys/kernel/security/lockdown": "none [integrity]\n"}
    files[f"lib/modules/{healthy.RELEASE}/updates/dkms/x.ko.zst"] = "zstd"
    assert state_of(host(files), "PVP113", tmp_path) == ("unknown", [])


def test_unsafe_interrupts_are_told_apart_from_useless_ones(tmp_path: Path) -> None:
    _, (useless,) = state_of(
        host({MODPROBE: "options vfio_iommu_type1 allow_unsafe_interrupts=1\n"}), "PVP148", tmp_path / "a"
    )
    assert useless.startswith("/etc/modprobe.d/pvepassthru.conf:1: ")
    assert "though this host's IOMMU remaps" in useless
    files = {
        MODPROBE: "options vfio_iommu_type1 allow_unsafe_interrupts=1\n",
        "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts": "N\n",
    }
    _, (later,) = state_of(host(files), "PVP148", tmp_path / "c")
    assert "from the next boot on VFIO is to give devices away" in later
    assert " is N" not in later
    needed = {
        "proc/interrupts": healthy.INTERRUPTS.replace("IR-", ""),
        "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts": "Y\n",
    }
    assert codes(host(needed), tmp_path / "b") == {"PVP148"}


def test_intremap_off_is_named(tmp_path: Path) -> None:
    files = {"proc/interrupts": healthy.INTERRUPTS.replace("IR-", ""), **booted("intremap=off")}
    _, (text,) = state_of(host(files), "PVP147", tmp_path)
    assert "intremap=off is on the kernel's command line" in text


# ---- modules


@pytest.mark.parametrize(
    "base", ["a.b", "VFIO.conf.bak", "x.conf.dpkg-old", "x.conf~", "README", ".x.swp", "x.disabled"]
)
def test_files_put_aside_are_left_alone(base: str, tmp_path: Path) -> None:
    assert codes(host({f"etc/modprobe.d/{base}": "blacklist nouveau\n"}), tmp_path) == set()


@pytest.mark.parametrize("base", ["vfio", "vfio.txt", "vfio.CONF", "vfio.cfg"])
def test_files_that_look_meant(base: str, tmp_path: Path) -> None:
    _, (text,) = state_of(host({f"etc/modprobe.d/{base}": "blacklist nouveau\n"}), "PVP137", tmp_path)
    assert "/etc/modprobe.d/vfio.conf; then" in text


def test_an_id_behind_a_blank(tmp_path: Path) -> None:
    state, (text,) = state_of(
        host(drivers.ids(f"{drivers.NVME}, 10de:2204"), devices=drivers.ON_VFIO), "PVP129", tmp_path
    )
    assert state == "findings"
    assert "stands behind a blank" in text


def test_ids_on_the_command_line(tmp_path: Path) -> None:
    files = booted(f"vfio-pci.ids={drivers.NVME},10de:ffff")
    _, (text,) = state_of(host(files, devices=drivers.ON_VFIO), "PVP130", tmp_path)
    assert text.startswith("/proc/cmdline: no device of this host has the id 10de:ffff")


def test_a_variant_driver_of_vfio_is_fine(tmp_path: Path) -> None:
    devices = {"0000:02:00.0": {"driver": "nvme_vfio_pci"}}
    assert codes(host(drivers.ids(drivers.NVME), devices=devices), tmp_path) == set()


def test_the_softdep_is_not_asked_for_twice(tmp_path: Path) -> None:
    _, (text,) = state_of(host(drivers.ids(drivers.NVME, "softdep nvme pre: vfio-pci\n")), "PVP132", tmp_path)
    assert "the softdep is there" in text


SPARE: dict[str, dict[str, Any]] = {"0000:05:00.0": {**drivers.SECOND, "driver": "nvme"}}


def test_vfio_pci_is_not_told_to_come_first_where_it_would_take_the_hosts_own_disk(tmp_path: Path) -> None:
    """Of two identical NVMe one carries the root file system: a softdep would leave the host without it."""
    tree_ = host(drivers.ids(drivers.NVME), change=drivers.mounted("0000:02:00.0"), devices=SPARE)
    assert codes(tree_, tmp_path / "1") == {"PVP131"}
    _, (text,) = state_of(tree_, "PVP131", tmp_path / "2")
    assert text.endswith("then pvepassthru doctor --fix --for 0000:05:00.0 --method override")


@pytest.mark.parametrize("softdep", ["", "softdep nvme pre: vfio-pci\n"])
def test_nor_where_another_id_is_the_hosts_own(tmp_path: Path, softdep: str) -> None:
    devices = {"0000:05:00.0": {**SPARE["0000:05:00.0"], "device": "0xa80c"}}
    files = drivers.ids(f"{drivers.NVME},144d:a80c", softdep)
    tree_ = host(files, change=drivers.mounted("0000:02:00.0"), devices=devices)
    _, (text,) = state_of(tree_, "PVP132", tmp_path)
    assert "0000:05:00.0 is in vfio-pci's ids=, but nvme has it" in text
    assert "first take 144d:a80a out of ids= (PVP131)" in text
    assert "softdep" not in text
    assert "update-initramfs" not in text


def test_the_tool_orders_the_drivers_itself(tmp_path: Path) -> None:
    """A line that the owner adds to the tool's own file would keep --undo from taking that back."""
    _, (text,) = state_of(host(drivers.ids(drivers.NVME)), "PVP132", tmp_path)
    assert text.endswith("; pvepassthru doctor --fix --for 0000:02:00.0")


def test_functions_of_one_group_are_not_apart(tmp_path: Path) -> None:
    """PVE binds the whole group, so an id that takes a second function of it takes nothing more."""
    devices: dict[str, dict[str, Any]] = {**drivers.ON_VFIO, "0000:02:00.1": {**drivers.SECOND, "iommu_group": 4}}
    assert codes(host(drivers.ids(drivers.NVME), config=drivers.VM, devices=devices), tmp_path) == set()


# ---- groups


def test_slot_advice_names_ports_with_groups_of_their_own(tmp_path: Path) -> None:
    """The port is a link into the tree of its host bridge there, as in the kernel's sysfs."""
    example = host(devices={"0000:02:00.0": {"iommu_group": 2}})
    root = example.build(tmp_path).root
    port, real = "sys/bus/pci/devices/0000:00:03.0", "sys/devices/pci0000:00/0000:00:03.0"
    tree.put(root, f"{real}/class", "0x060400\n")
    tree.folder(root, f"{real}/pci_bus")
    tree.link(root, "sys/kernel/iommu_groups/20/devices/0000:00:03.0", real)
    tree.link(root, f"{real}/iommu_group", "sys/kernel/iommu_groups/20")
    tree.link(root, port, real)
    (found,) = [one for one in host_states(Surroundings(Host(root))) if one.rule.code == "PVP149"]
    assert "these root ports have groups of their own: 0000:00:03.0 (nothing below)" in found.findings[0].hint


# ---- SR-IOV


def test_a_unit_that_nobody_can_read_counts_for_all(tmp_path: Path) -> None:
    files = {sharing.UNIT: "[Service]\nExecStart=/bin/sh -c 'for f in /sys/x*; do echo 2 > $f/sriov_numvfs; done'\n"}
    assert codes(host(files, devices=sharing.pf(2)), tmp_path) == set()


def test_sysfsutils_is_not_there(tmp_path: Path) -> None:
    files = {**sharing.sysfs(2), "var/lib/dpkg/info/kmod.list": ""}
    _, (text,) = state_of(host(files, devices=sharing.pf(2)), "PVP161", tmp_path)
    assert "sysfsutils is not installed" in text


# ---- always


def test_the_same_findings_in_the_same_order(tmp_path: Path) -> None:
    files = {MODPROBE: "Options a\noptions vfio-pci ids=1:2,x\noptions vfio-pci ids=3:4\nblacklist nouveau\n"}
    root = host({**files, **booted("Intel_iommu=on pcie_acs_override=downstream")}).build(tmp_path).root
    runs = [[state.findings for state in host_states(Surroundings(Host(root)))] for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]
    assert sum(map(len, runs[0])) > 4


def test_a_host_that_is_a_vm_is_told_so(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": healthy.cpu("GenuineIntel", "hypervisor")}
    _, (text,) = state_of(host(files), "PVP110", tmp_path)
    assert "nested virtualization" in text


def test_without_lists_of_modules_vfio_pci_is_unknown(tmp_path: Path) -> None:
    bare = host(
        base=without(INTEL, f"lib/modules/{healthy.RELEASE}", "sys/module/vfio_pci"),
        change=lambda root: shutil.rmtree(f"{root}/sys/bus/pci/drivers/vfio-pci"),
    )
    assert state_of(bare, "PVP102", tmp_path) == ("unknown", [])


def test_an_amd_processor_with_intels_iommu(tmp_path: Path) -> None:
    """As QEMU can have it: the IOMMU decides which parameter counts."""
    files = {**booted("intel_iommu=on"), "proc/cpuinfo": healthy.cpu("AuthenticAMD", "svm")}
    assert codes(host(files), tmp_path) == set()


# ---- hints that can be followed as they stand


def test_a_hint_adds_to_a_file_that_may_be_there(tmp_path: Path) -> None:
    """Beside what --fix, or another hint, has written to it already."""
    unremapped = host({"proc/interrupts": healthy.INTERRUPTS.replace("IR-", "")})
    _, (text,) = state_of(unremapped, "PVP147", tmp_path / "1")
    assert text.endswith("pvepassthru doctor --fix --unsafe-interrupts")
    _, (text,) = state_of(host(devices=sharing.pf(2)), "PVP156", tmp_path / "2")
    assert ">> /etc/sysfs.d/pvepassthru.conf" in text


def test_two_gone_modules_are_removed_one_after_the_other(tmp_path: Path) -> None:
    lists = {"etc/modules": "vfio_virqfd\nvfio\n  vfio_mdev\nvfio_mdev_x\n"}
    _, found = state_of(host(lists), "PVP127", tmp_path)
    (real,) = tmp_path.rglob("etc/modules")
    for text in found:
        words = shlex.split(text.partition("remove it: ")[2].replace("/etc/modules", str(real)))
        subprocess.run(words, check=True)  # the command that a hint gives
    assert real.read_text() == "vfio\nvfio_mdev_x\n"


def test_a_file_is_not_renamed_over_another(tmp_path: Path) -> None:
    line = "options vfio-pci disable_vga=1\n"
    _, (text,) = state_of(host({"etc/modprobe.d/vfio": line, "etc/modprobe.d/vfio.conf": line}), "PVP137", tmp_path)
    assert "mv -n /etc/modprobe.d/vfio /etc/modprobe.d/vfio.conf" in text


def test_a_driver_that_is_built_in_is_not_to_be_ordered(tmp_path: Path) -> None:
    builtin = {f"lib/modules/{healthy.RELEASE}/modules.builtin": "kernel/drivers/nvme/host/nvme.ko\n"}
    _, (text,) = state_of(host({**drivers.ids(drivers.NVME), **builtin}), "PVP132", tmp_path)
    assert "softdep" not in text
    assert "built into the kernel" in text


def test_a_driver_that_vgpus_need_is_not_to_come_after_vfio_pci(tmp_path: Path) -> None:
    """Of three identical GPUs one is passed through; nvidia keeps the others for their vGPUs."""
    tree_ = host(drivers.ids("10de:2204"), config="hostpci0: 01:00\n", devices={"0000:01:00.0": {"driver": "vfio-pci"}})
    assert state_of(tree_, "PVP132", tmp_path / "1") == ("fine", [])
    _, (text,) = state_of(tree_, "PVP133", tmp_path / "2")
    assert "also 0000:41:00.0, 0000:a1:00.0" in text


def test_systemd_boot_without_proxmox_boot_tool_is_not_told_to_run_it(tmp_path: Path) -> None:
    files = {
        "proc/cmdline": "initrd=\\EFI\\proxmox\\1\\initrd.img quiet\n",
        "etc/kernel/cmdline": "quiet iommu=pt\n",
        "etc/default/grub": healthy.grub("quiet"),
    }
    _, (text,) = state_of(host(files), "PVP119", tmp_path)
    assert text.endswith("write the entries of systemd-boot anew, then reboot")


def test_a_parameter_that_was_not_booted_is_told_where_it_is_written(tmp_path: Path) -> None:
    files = {
        "proc/cmdline": "quiet\n",
        "etc/default/grub": healthy.grub("quiet"),
        "etc/default/grub.d/pt.cfg": 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX iommu=pt"\n',
    }
    found = [finding.where for finding in host(files).host_findings(tmp_path) if finding.code == "PVP119"]
    assert found == ["/etc/default/grub.d/pt.cfg:1"]


# ---- what is fine


@pytest.mark.parametrize(
    "path, text",
    [
        ("etc/tmpfiles.d/vfs.conf", f"w /sys/{sharing.LINE} - - - - 2\n"),
        ("etc/systemd/network/10-sriov.link", "[Match]\nPath=pci-0000:03:00.0\n[Link]\nSR-IOVVirtualFunctions=2\n"),
        ("usr/local/lib/systemd/system/vfs.service", f"[Service]\nExecStart=sh -c 'echo 2 > /sys/{sharing.LINE}'\n"),
        (sharing.UNIT, f"[Service]\nExecStart=make-vfs\nExecStop=sh -c 'echo 0 > /sys/{sharing.LINE}'\n"),
    ],
)
def test_what_makes_vfs_at_boot_is_known(path: str, text: str, tmp_path: Path) -> None:
    assert codes(host({path: text}, devices=sharing.pf(2)), tmp_path) == set()


def test_a_pinned_kernel_needs_no_modules_for_a_newer_one(tmp_path: Path) -> None:
    files = {
        f"var/lib/dkms/vendor-reset/0.1/{healthy.RELEASE}/x86_64/log/make.log": "",
        "boot/vmlinuz-6.14.0-2-bpo12-pve": "",
        "lib/modules/6.14.0-2-bpo12-pve/modules.dep": "",
    }
    source = healthy.link("var/lib/dkms/vendor-reset/0.1/source", "usr/src/vendor-reset-0.1")
    assert codes(host(files, change=source), tmp_path / "1") == {"PVP145", "PVP146"}
    pinned = host({**files, "etc/kernel/proxmox-boot-pin": f"{healthy.RELEASE}\n"}, change=source)
    assert codes(pinned, tmp_path / "2") == set()


def test_a_blank_before_an_id_in_quotes_is_no_fault(tmp_path: Path) -> None:
    line = f'options vfio-pci ids="{drivers.NVME}, 10de:2204"\nsoftdep nouveau pre: vfio-pci\n'
    assert "PVP129" not in codes(host({MODPROBE: line}), tmp_path)
