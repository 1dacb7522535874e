# SPDX-License-Identifier: Apache-2.0
"""Random configs and wishes: what is generated PVE accepts, nothing is touched without need, twice changes nothing.

What PVE accepts is decided by the emulator of tests/pve, which shares no code with the package, on a real tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pvepassthru.api import hardware, judgement, present, render, snippets
from pvepassthru.api.change import PRIVILEGES
from pvepassthru.api.generate import PASSING, generate
from pvepassthru.api.wish import Device, Wish, checked
from pvepassthru.host import vms
from pvepassthru.host.overlay import Overlay
from pvepassthru.model import hostpci, resolve
from pvepassthru.model.errors import PassthruError, UsageError
from pvepassthru.model.vmconfig import is_hostpci
from pvepassthru.rules.subject import Surroundings
from tests.api import node
from tests.api.told import mappings_of
from tests.pve import config as pve_config
from tests.pve import mapping as pve_mapping
from tests.pve import qemu_server, reservations, sysfs
from tests.pve.config import PveError

if TYPE_CHECKING:
    from pvepassthru.api.change import Change
    from pvepassthru.api.hardware import NodeHardware
    from pvepassthru.api.present import Present
    from pvepassthru.host.host import Host

VMID = 100
MAPPINGS = mappings_of(node.MAPPINGS)
OURS = {*PRIVILEGES, "affinity", "hookscript"}
"""Keys besides hostpciN that a change may touch."""
MAY_DIFFER = {"x-vga", "romfile", "pcie", "legacy-igd", "rombar"}
"""Options of an entry that a wish may be about."""

GOOD = (
    *("0000:04:00.0", "04:00.0,pcie=1", "01:00,pcie=1,x-vga=1", "01:00.0", "06:00.0,rombar=0", "mapping=gpu"),
    *("mapping=vfs", "mapping=nvme,pcie=1", "41:00.0,mdev=nvidia-63", "a1:00.4,mdev=nvidia-35", "03:10.0"),
    *("00:02.0,legacy-igd=1", "00:02.0,mdev=i915-GVTg_V5_4", "10000:e1:00.0,driver=keep", "01:00.0;01:00.1"),
    *("06:00.0,romfile=x.rom,vendor-id=0x8086", "mapping=p4,mdev=nvidia-64,pcie=on", "02:00.0,x-vga=1"),
)
BAD = (
    *("garbage", "77:00.0", "pcie=1", "mapping=nosuch", "04:00.0,mapping=nvme", " ", "mapping=drifted"),
    *("04:00.0,foo=1", "01:00,mdev=nvidia-63", "06:00.0;06:00.0", "mapping=elsewhere"),
)
OPTIONS = {
    "machine": (
        *("pc", "q35", "pc-i440fx-8.1", "pc-i440fx-9.0+pve1", "pc-q35-8.1", "q35,viommu=intel", "Q35", "viommu=virtio"),
        *("pc-q35-3.1", "type=q35", "pc,viommu=virtio,aw-bits=48"),
    ),
    "bios": ("ovmf", "seabios"),
    "efidisk0": ("local-lvm:vm-100-disk-9,efitype=4m,size=4M",),
    "vga": ("none", "std", "virtio,memory=64", "serial0", "type=none", "qxl"),
    "memory": ("4096", "current=2048", "many"),
    "balloon": ("0", "512", "4096"),
    "cpu": ("host", "x86-64-v2-AES,flags=+aes", "kvm64,hidden=1", "host,foo=bar"),
    "ostype": ("l26", "win11"),
    "arch": ("aarch64", "x86_64"),
    "scsi0": ("local-lvm:vm-100-disk-0,size=32G", "zfs1:vm-100-disk-0", "none"),
    "sata1": ("local:100/vm-100-disk-1.qcow2", "iso:iso/x.iso,media=cdrom"),
    "ide1": ("local-lvm:vm-100-cloudinit,media=cdrom",),
    "boot": ("order=scsi0;net0", " "),
    "net0": ("virtio=02:00:00:00:00:01,bridge=vmbr0",),
    "affinity": ("0-3",),
    "args": ("-cpu host", "-device foo"),
    "hookscript": ("local:snippets/pvepassthru", "local:snippets/mine.sh"),
    "template": ("0", "1"),
    "onboot": ("1",),
    "name": ("gpu-vm",),
    "lock": ("backup",),
}
DEVICES = (
    *(Device(addresses=(address,)) for address in ("0000:01:00", "0000:01:00.0", "0000:04:00.0", "0000:06:00.0")),
    *(Device(addresses=(address,)) for address in ("10000:e1:00.0", "0000:00:02.0", "0000:77:00.0", "0000:03:00.0")),
    *(Device(kind=kind) for kind in hardware.KINDS),
    *(Device(ids=ids) for ids in ("10de:1b80", "144d:a808", "8086:10ed", "1234:5678")),
    *(Device(vf_of=address) for address in ("0000:03:00.0", "0000:a1:00.0", "0000:06:00.0")),
    *(Device(mapping=name) for name in ("gpu", "vfs", "nvme", "igd", "drifted", "elsewhere", "nosuch")),
    *(Device(mdev=kind) for kind in ("nvidia-63", "nvidia-65", "i915-GVTg_V5_8", "best", "nvidia-1")),
    Device(mdev="best", framebuffer=2048),
    Device(mdev="best", vf_of="0000:a1:00.0"),
    Device(mdev="nvidia-64", mapping="p4"),
    Device(mdev="nvidia-63", addresses=("0000:41:00.0",)),
    Device(addresses=("0000:01:00",), primary=True, rom="gpu.rom"),
    Device(addresses=("0000:01:00.1",), pcie=False),
    Device(kind="nvme", pcie=True),
    Device(addresses=("0000:00:02.0",), igd=True),
    Device(igd=True),
)


SETTINGS: tuple[tuple[str, bool | str], ...] = (
    *((name, True) for name in ("primary_gpu", "igd", "numa", "hidden", "by_mapping")),
    *(("rom", "gpu.rom"), ("bios", "ovmf"), ("bios", "seabios"), ("storage", "local-zfs")),
    ("hookscript", "local:snippets/pvepassthru"),
)
ROADS = st.sampled_from(["host", "api"])


class Both:
    """The node by both roads, and the emulator on its tree."""

    def __init__(self, host: NodeHardware, api: NodeHardware, pve: qemu_server.Machine) -> None:
        self.host = host
        self.api = api
        self.pve = pve

    def road(self, name: str) -> NodeHardware:
        return self.host if name == "host" else self.api


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    root = str(tmp_path_factory.mktemp("node"))
    host = node.build(root)

    def ignore(_: str) -> None:
        pass

    pve = qemu_server.Machine(
        sysfs.Sysfs(root),
        node.NODE,
        pve_mapping.parse(node.pci_cfg().encode()),
        reservations.File(root, lambda _: None, lambda: 0, ignore),
        ignore,
    )
    return Both(node.on_host(host), node.by_api(), pve)


@pytest.fixture(scope="module")
def endangered(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """The node with its root file system on an NVMe, in one IOMMU group with a network card."""
    root = tmp_path_factory.mktemp("endangered")
    disk, card = "0000:04:00.0", "0000:06:00.0"
    group = {"iommu_group": node.DEVICES[disk]["iommu_group"]}
    host = node.build(root, {VMID: ""}, {**node.DEVICES, card: {**node.DEVICES[card], **group}})
    node.mount_root(root, disk)
    return host


def lines(values: tuple[str, ...]) -> st.SearchStrategy[dict[str, str]]:
    """Some options, and some entries of these values."""
    options = [(key, text) for key, texts in OPTIONS.items() for text in texts]
    passed = [(f"hostpci{index}", text) for text in values for index in (0, 1, 2, 9, 15)]
    of_both = st.tuples(st.lists(st.sampled_from(options), max_size=7), st.lists(st.sampled_from(passed), max_size=3))
    return of_both.map(lambda both: dict(both[0]) | dict(both[1]))


@st.composite
def configs(draw: st.DrawFn, values: tuple[str, ...]) -> str:
    """A config with pending changes, such as PVE writes or people edit it."""
    text = _text(draw(lines(values)))
    if draw(st.booleans()):
        deletes = draw(st.lists(st.sampled_from(["machine", "vga", "bios", "hostpci0", "hostpci1"]), max_size=2))
        text += "[PENDING]\n" + (f"delete: {','.join(deletes)}\n" if deletes else "") + _text(draw(lines(values)))
    return text


def _text(values: dict[str, str]) -> str:
    return "".join(f"{key}: {text}\n" for key, text in values.items())


@st.composite
def wishes(draw: st.DrawFn) -> Wish:
    devices = tuple(draw(st.lists(st.sampled_from(DEVICES), max_size=2)))
    said: dict[str, Any] = dict(draw(st.lists(st.sampled_from(SETTINGS), max_size=3)))
    gone = draw(st.lists(st.sampled_from(["hostpci0", "hostpci1", "hostpci9"]), max_size=2, unique=True))
    return Wish(devices, remove=tuple(gone))._replace(**said)


def generated(text: str, asked: Wish, on: NodeHardware) -> Change | None:
    """The change, or None where the wish or the node does not allow one."""
    config = present.of_file(VMID, node.NODE, text.encode())
    try:
        return generate(config, checked(asked), on, MAPPINGS)
    except PassthruError as error:
        told = error
    assert asked.remove == () or asked != Wish(remove=asked.remove), f"a removal alone is never refused: {told}"
    assert told.message
    assert told.hint, told
    assert "\n" not in str(told)
    return None


def verdict(pve: qemu_server.Machine, section: pve_config.Section) -> str | None:
    """Why PVE refuses a section, or None."""
    if section.machine_invalid:
        return "machine-invalid"
    try:
        qemu_server.choose(pve, qemu_server.parse_devices(pve, section), VMID)
    except PveError as error:
        return error.code
    return None


def problems(config: Present, on: NodeHardware) -> set[tuple[str, str]]:
    found = resolve.resolve(config.section, MAPPINGS, on, node.NODE, VMID).problems
    return {(problem.code, problem.key) for problem in found}


@settings(max_examples=500)
@given(configs(GOOD), wishes(), ROADS)
@example("hostpci0: 04:00.0,pcie=1\nmachine: q35\n", Wish((Device(kind="gpu"),), igd=True), "host")
@example(
    "hostpci0: 00:02.0,legacy-igd=1\nvga: none\n", Wish((Device(addresses=("0000:01:00",)),), primary_gpu=True), "host"
)
@example("arch: aarch64\nhostpci0: 04:00.0,pcie=1\n", Wish((Device(kind="nic"),)), "host")
@example("template: 1\nhostpci0: 04:00.0,pcie=1\n", Wish((Device(kind="nic"),)), "api")
def test_pve_accepts_it(both: Both, text: str, asked: Wish, road: str) -> None:
    found = generated(text, asked, both.road(road))
    if found is None:
        return
    before, after = pve_config.parse(text.encode()).effective(), pve_config.parse(found.after.text)
    assert not after.main.dropped
    assert not after.has_pending()
    refused = verdict(both.pve, before)
    if refused is None:
        assert verdict(both.pve, after.main) is None
    elif found.keys and not before.template:
        new = problems(found.after, both.host) - problems(found.before, both.host)
        assert {code for code, _ in new} <= PASSING


@settings(max_examples=500)
@given(configs(GOOD + BAD), wishes(), ROADS)
def test_nothing_is_touched_without_need(both: Both, text: str, asked: Wish, road: str) -> None:
    on = both.road(road)
    found = generated(text, asked, on)
    if found is None:
        return
    before, after = found.before.values, found.after.values
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed == {one.key for one in found.keys}
    assert all(is_hostpci(key) or key in OURS for key in changed)
    for one in found.keys:
        assert (one.old, one.new) == (before.get(one.key), after.get(one.key))
        assert one.reason
        assert not one.reason.endswith(".")
        if is_hostpci(one.key):
            assert (one.new is None) == (one.key in asked.remove), (
                "an entry goes where that is wanted, and nowhere else"
            )
        if is_hostpci(one.key) and one.old is not None and one.new is not None:
            old, new = hostpci.parse(0, one.old), hostpci.parse(0, one.new or "")
            assert old.mdev == new.mdev
            differ = {name for name in old.options | new.options if old.options.get(name) != new.options.get(name)}
            assert differ <= MAY_DIFFER
    assert not found.after.values.keys() & set(asked.remove)
    if asked == Wish(remove=asked.remove):
        assert changed <= set(asked.remove), "a removal alone touches nothing else"
    worse = problems(found.after, on) - problems(found.before, on)
    assert {code for code, _ in worse} <= PASSING


@settings(max_examples=200)
@given(configs(GOOD + BAD), st.lists(st.sampled_from(["hostpci0", "hostpci1", "hostpci2"]), min_size=1, unique=True))
@example("hostpci0: 04:00.0\nhostpci1: 06:00.0\nballoon: 0\n", ["hostpci0"])
@example("hostpci0: 04:00.0\nhostpci1: 04:00.0\nhostpci2: 04:00.0\n", ["hostpci0"])
@example("hostpci0: 41:00.0\nhostpci1: 41:00.0,mdev=nvidia-63\nhostpci2: 41:00.0\n", ["hostpci0"])
def test_a_removal_alone_is_never_refused(endangered: Host, text: str, gone: list[str]) -> None:
    """What is wrong may be told of another entry then, and is as it was: it takes away what was dangerous."""
    found = generated(text, Wish(remove=tuple(gone)), hardware.of_host(Surroundings(endangered)))
    assert found is not None
    if found.keys:
        judged = judgement.judge(Overlay(endangered, {vms.config_path(VMID): text.encode()}), found)
        assert not judged.refused
        was = {finding.code for finding in (*judged.gone, *judged.moot, *judged.remaining)}
        assert not [finding for finding in judged.new if finding.code in was and finding.severity == "error"]


@settings(max_examples=300)
@given(configs(GOOD + BAD), wishes(), ROADS)
def test_twice_changes_nothing(both: Both, text: str, asked: Wish, road: str) -> None:
    on = both.road(road)
    found = generated(text, asked, on)
    if found is None:
        return
    written = {
        one.key: "local-lvm:vm-100-disk-7,efitype=4m,size=4M" if one.allocates else one.new for one in found.keys
    }
    again = generate(found.before.changed(written), asked, on, MAPPINGS)
    assert again.keys == ()
    assert sorted(again.functions) == sorted(found.functions)
    by_answer = present.of_api(
        VMID, node.NODE, {**found.after.values, "digest": "0" * 40, "description": "hostpci0: x"}
    )
    assert generate(by_answer, asked, on, MAPPINGS).keys == ()


@settings(max_examples=300)
@given(configs(GOOD), wishes())
def test_each_part_is_needed(both: Both, text: str, asked: Wish) -> None:
    """Without one of its keys the same wish asks for that key again.

    A removal is left out: what it frees may be as good as what was chosen then (tests/api/test_removal.py has them).
    """
    asked = asked._replace(remove=())
    found = generated(text, asked, both.host)
    for one in found.keys if found else ():
        assert found is not None
        less = found.after.changed({one.key: one.old})
        try:
            again = generate(less, asked, both.host, MAPPINGS)
        except UsageError as error:  # an EFI disk whose storage only the VM's disks tell, and the like
            pytest.fail(f"{one.key}: {error}")
        assert one.key in {other.key for other in again.keys}, (one, again.keys)


@settings(max_examples=200)
@given(configs(GOOD + BAD), wishes())
def test_writes_are_the_change(both: Both, text: str, asked: Wish) -> None:
    found = generated(text, asked, both.host)
    if found is None:
        return
    made: dict[str, str | None] = {}
    alone = {one.key for one in found.keys if one.root_only or is_hostpci(one.key) or one.allocates}
    for write in found.writes():
        keys = [*write.set, *write.delete]
        assert keys
        assert not made.keys() & set(keys)
        assert len(keys) == 1 or not alone & set(keys)
        assert len({PRIVILEGES.get(key) for key in keys}) == 1
        made |= write.set | dict.fromkeys(write.delete)
    assert made == {one.key: one.new for one in found.keys}
    for form in (render.diff, render.qm, snippets.terraform, snippets.ansible):
        assert form(found).endswith("\n")
