# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.api import hardware, present, wish
from pvepassthru.api.generate import generate, generate_all
from pvepassthru.api.wish import Device, Wish
from pvepassthru.model import resolve
from pvepassthru.model.errors import DeviceError, NotFoundError, PassthruError, UsageError
from tests.api import node
from tests.api.told import mappings_of

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.api.change import Change
    from pvepassthru.api.hardware import NodeHardware

API = node.by_api()
KNOWN = API._replace(unknown="")
"""The same, where it is known that the host uses nothing of it."""
MAPPINGS = mappings_of(node.MAPPINGS)
DISK = "scsi0: local-lvm:vm-100-disk-0,size=32G\n"
GPU = Device(addresses=("0000:01:00",))


def change(text: str, asked: Wish, on: NodeHardware = API, **more: Any) -> Change:  # noqa: ANN401 - of generate
    """The change, after which the same wish changes nothing more."""
    found = generate(present.of_file(100, node.NODE, text.encode()), asked, on, MAPPINGS, **more)
    assert generate(found.after, asked, on, MAPPINGS, **more).keys == ()
    return found


def values(found: Change) -> dict[str, str | None]:
    return {one.key: one.new for one in found.keys}


def words(**arguments: Any) -> Wish:  # noqa: ANN401 - of of_arguments
    return wish.of_arguments(**arguments)


def refused(text: str, asked: Wish, error: type[PassthruError], message: str, on: NodeHardware = API) -> PassthruError:
    with pytest.raises(error, match=re.escape(message)) as raised:
        generate(present.of_file(100, node.NODE, text.encode()), asked, on, MAPPINGS)
    assert type(raised.value) is error
    return raised.value


# ---- which device


def test_the_only_one_of_a_class() -> None:
    """Of the network cards one has VFs; of the GPUs one is the server's own display, which does not count."""
    assert values(change("", words(devices=["nic"]), KNOWN)) == {"hostpci0": "0000:06:00.0"}
    assert values(change("", words(devices=["10de:1b80"]))) == {"hostpci0": "0000:01:00,pcie=1", "machine": "q35"}


def test_what_is_ambiguous_names_the_candidates() -> None:
    error = refused("", words(devices=["gpu"]), UsageError, "more than one GPU is free on node pve1")
    for address in ("0000:00:02.0", "0000:01:00.0", "0000:41:00.0"):
        assert address in error.message
    assert "0000:02:00.0" not in error.message
    error = refused("", words(devices=["nvme"]), UsageError, "more than one NVMe drive is free", KNOWN)
    assert "name the one that is wanted by its address, such as 0000:04:00.0" in error.hint


@pytest.mark.parametrize("word", ["nvme", "nic", "144d:a808", "8086:10fb", "8086:1533"])
def test_what_the_host_may_use_is_chosen_by_address_only(word: str) -> None:
    """The API does not tell what the host lives on: a class or a model never takes its disk or network."""
    functions = [one._replace(vfs=()) for one in API.functions.values()]
    on = hardware.build(node.NODE, functions)._replace(unknown=API.unknown)
    found = [one for one in functions if word in {one.kind, one.ids} and not one.physfn]
    error = refused("", words(devices=[word]), UsageError, "the API does not tell which", on)
    assert all(one.address in error.message for one in found)
    assert f"by its address, such as {found[0].address}" in error.hint
    named = change("", words(devices=[found[0].address]), on)
    assert values(named) == {"hostpci0": found[0].address}
    assert values(change("", words(devices=[word] * len(found)), on._replace(unknown="")))


def test_what_the_host_may_use_is_taken_by_the_mapping_that_names_it() -> None:
    assert values(change("", words(devices=["144d:a808"], by_mapping=True))) == {"hostpci0": "mapping=nvme"}
    refused("", words(devices=["nic"], by_mapping=True), UsageError, "the API does not tell which network card")


def test_vfs_and_gpus_are_chosen_as_before() -> None:
    assert values(change("", words(devices=["8086:10ed"]))) == {"hostpci0": "0000:03:10.0"}
    assert values(change("", words(vf_of=["03:00.0"]))) == {"hostpci0": "0000:03:10.0"}
    assert values(change("", words(devices=["10de:1b80"])))["hostpci0"] == "0000:01:00,pcie=1"


def test_a_group_with_what_the_host_may_use_is_chosen_by_address_only() -> None:
    card = API.functions["0000:06:00.0"]._replace(group=API.group("0000:01:00.0"))
    on = hardware.build(node.NODE, {**API.functions, card.address: card}.values())
    assert values(change("", words(devices=["10de:1b80"]), on))["hostpci0"] == "0000:01:00,pcie=1"
    on = on._replace(unknown=API.unknown)
    error = refused("", words(devices=["10de:1b80"]), NotFoundError, "that is free", on)
    assert "shares its IOMMU group with 0000:06:00.0" in error.hint
    assert values(change("", words(devices=["01:00"]), on))["hostpci0"] == "0000:01:00,pcie=1"


def test_as_many_as_there_are() -> None:
    assert values(change("", words(devices=["nvme", "nvme"]), KNOWN)) == {
        "hostpci0": "0000:04:00.0",
        "hostpci1": "10000:e1:00.0",
    }
    assert values(change("", words(devices=["nvme", "10000:e1:00.0"]), KNOWN)) == {
        "hostpci0": "0000:04:00.0",
        "hostpci1": "10000:e1:00.0",
    }
    refused("", words(devices=["nvme"] * 3), NotFoundError, "there is no NVMe drive on node pve1 that is free", KNOWN)


def test_what_others_have_is_not_chosen() -> None:
    taken = {"0000:04:00.0": "VM 101"}
    assert values(change("", words(devices=["nvme"]), KNOWN, taken=taken)) == {"hostpci0": "10000:e1:00.0"}
    named = change("", words(devices=["04:00.0"]), taken=taken)
    assert any("0000:04:00.0 is also of VM 101" in note for note in named.notes)


def test_what_the_vm_gets_already_is_not_to_be_named_again() -> None:
    """Naming its address once more would be refused, whoever else has it."""
    taken = {"0000:01:00.0": "VM 101"}
    with pytest.raises(NotFoundError, match="no device 10de:1b80 on node pve1 that is free") as raised:
        generate(present.of_file(100, node.NODE, b""), words(devices=["01:00", "10de:1b80"]), API, MAPPINGS, taken)
    assert "name its address" not in raised.value.hint
    assert "leave out 10de:1b80, or name a device that the VM does not get yet" in raised.value.hint


def test_a_gpu_as_the_display_has_outputs() -> None:
    """There are an Intel GPU, a GTX 1080, and P4s, which have none."""
    asked = words(devices=["gpu"], primary_gpu=True)
    found = change(DISK, asked, taken={"0000:00:02.0": "VM 101"})
    assert values(found)["hostpci0"] == "0000:01:00,pcie=1,x-vga=1"
    taken = {"0000:00:02.0": "VM 101", "0000:01:00.0": "VM 102"}
    with pytest.raises(NotFoundError, match="no GPU with outputs on node pve1 that is free") as raised:
        generate(present.of_file(100, node.NODE, DISK.encode()), asked, API, MAPPINGS, taken)
    assert "VM 102 has it" in raised.value.hint
    assert "name its address (0000:00:02.0) to have what another VM has too" in raised.value.hint
    assert "0000:41:00.0" not in raised.value.hint
    assert values(change(DISK, words(devices=["gpu"]), taken=taken))["hostpci0"] == "0000:41:00.0,pcie=1"


def test_what_the_host_needs_is_not_chosen(tmp_path: Path) -> None:
    host = node.build(tmp_path)
    needed = node.on_host(host)
    disk = needed.functions["0000:04:00.0"]._replace(use="/dev/nvme0n1p3 is mounted on /")
    needed = hardware.build(node.NODE, {**needed.functions, disk.address: disk}.values())
    assert values(change("", words(devices=["nvme"]), needed)) == {"hostpci0": "10000:e1:00.0"}
    named = change("", words(devices=["04:00.0"]), needed)
    assert any("the host needs 0000:04:00.0" in note for note in named.notes)
    error = refused("hostpci0: 10000:e1:00.0\n", words(devices=["nvme", "nvme"]), NotFoundError, "that is free", needed)
    assert "mounted on /" in error.hint


@pytest.mark.parametrize(
    "devices,error,message",
    [
        (["77:00.0"], NotFoundError, "there is no PCI device 0000:77:00.0 on node pve1"),
        (["01:00.7"], NotFoundError, "there is no PCI device 0000:01:00.7"),
        (["1234:5678"], NotFoundError, "there is no device 1234:5678 on node pve1"),
        (["00:01.0"], DeviceError, "0000:00:01.0 (Intel Corporation device 1901) is a bridge"),
        (["05:00.0"], DeviceError, "0000:05:00.0 is in no IOMMU group"),
        (["01:00", "01:00.1"], UsageError, "0000:01:00.1 is wanted, and another device that is wanted has it already"),
    ],
)
def test_devices_that_cannot_be_had(devices: list[str], error: type[PassthruError], message: str) -> None:
    refused("", words(devices=devices), error, message)


def test_near_ids_are_told() -> None:
    assert refused("", words(devices=["10de:1b81"]), NotFoundError, "10de:1b81").hint == "is 10de:1b80 meant?"


def test_vfs() -> None:
    assert values(change("", words(vf_of=["03:00.0"]))) == {"hostpci0": "0000:03:10.0"}
    assert values(change("", words(vf_of=["03:00.0", "03:00.0"]))) == {
        "hostpci0": "0000:03:10.0",
        "hostpci1": "0000:03:10.2",
    }
    other = change("", words(vf_of=["03:00.0"]), taken={"0000:03:10.0": "VM 101"})
    assert values(other) == {"hostpci0": "0000:03:10.2"}
    assert values(change("", words(devices=["8086:10ed"]))) == {"hostpci0": "0000:03:10.0"}
    error = refused("", words(vf_of=["03:00.0"] * 3), DeviceError, "no VF of 0000:03:00.0 is free on node pve1")
    assert "0000:03:10.0: the VM gets it already" in error.hint
    error = refused("", words(vf_of=["06:00.0"]), DeviceError, "has no VFs on node pve1")
    assert error.hint == "if it can have some, on the node: pvepassthru sriov set 0000:06:00.0 N"
    error = refused("", words(vf_of=["77:00.0"]), NotFoundError, "there is no PCI device 0000:77:00.0")
    assert error.hint == "PFs with VFs are: 0000:03:00.0, 0000:a1:00.0"


def test_a_pf_with_vfs_is_passed_only_by_name() -> None:
    found = change("", words(devices=["03:00.0"]))
    assert values(found) == {"hostpci0": "0000:03:00.0"}
    assert "0000:03:00.0 has 2 VFs, which vanish when it is passed" in found.notes


def test_the_rest_of_the_group_is_told() -> None:
    found = change("", words(devices=["01:00.0"]))
    assert values(found)["hostpci0"] == "0000:01:00.0,pcie=1"
    assert any("PVE takes 0000:01:00.1" in note for note in found.notes)
    assert not any("PVE takes" in note for note in change("", words(devices=["01:00"])).notes)


# ---- mediated devices


def test_a_named_type_on_the_only_parent() -> None:
    assert values(change("", words(mdev_type="nvidia-63"))) == {"hostpci0": "0000:41:00.0,mdev=nvidia-63"}
    assert values(change("machine: q35\n", words(mdev_type="nvidia-63"))) == {
        "hostpci0": "0000:41:00.0,mdev=nvidia-63,pcie=1"
    }
    gvt = change("machine: q35\n", words(mdev_type="i915-GVTg_V5_4"))
    assert values(gvt) == {"hostpci0": "0000:00:02.0,mdev=i915-GVTg_V5_4"}


def test_the_best_type() -> None:
    """The least that is enough and has an instance left; GVT-g's have no more than 640 MiB."""
    assert values(change("", words(mdev_type="best", min_framebuffer="600M"))) == {
        "hostpci0": "0000:00:02.0,mdev=i915-GVTg_V5_4"
    }
    two = words(devices=["41:00.0"], mdev_type="best", min_framebuffer="2G")
    assert values(change("", two)) == {"hostpci0": "0000:41:00.0,mdev=nvidia-64"}
    four = words(devices=["41:00.0"], mdev_type="best", min_framebuffer="4G")
    error = refused("", four, DeviceError, "no mdev type with 4096 MiB of graphics memory has an instance left")
    assert "nvidia-65 (4096 MiB, 0 left)" in error.hint


def test_a_vgpu_goes_to_the_first_free_vf() -> None:
    wanted = words(vf_of=["a1:00.0"], mdev_type="nvidia-35")
    assert values(change("", wanted)) == {"hostpci0": "0000:a1:00.4,mdev=nvidia-35"}


def test_a_vgpu_of_nvidias_vendor_interface(tmp_path: Path) -> None:
    host = node.on_host(node.build(tmp_path))
    wanted = words(vf_of=["a1:00.0"], mdev_type="best", min_framebuffer="1G")
    assert values(change("", wanted, host)) == {"hostpci0": "0000:a1:00.4,mdev=nvidia-35"}
    taken = {"0000:a1:00.4": "VM 101"}
    assert values(change("", wanted, host, taken=taken)) == {"hostpci0": "0000:a1:00.5,mdev=nvidia-35"}
    two = Wish((*wanted.devices, *wanted.devices))
    assert values(change("", two, host)) == {
        "hostpci0": "0000:a1:00.4,mdev=nvidia-35",
        "hostpci1": "0000:a1:00.5,mdev=nvidia-35",
    }
    refused("", Wish(wanted.devices * 3), DeviceError, "nothing on node pve1 is free for the best mdev type", host)


def test_types_that_are_not_there() -> None:
    error = refused("", words(mdev_type="nvidia-62"), NotFoundError, "node pve1 does not offer the mdev type nvidia-62")
    assert "is nvidia-63 meant?" in error.hint
    refused("", words(devices=["06:00.0"], mdev_type="best"), NotFoundError, "offers no mdev types on 0000:06:00.0")
    refused(
        "", words(mdev_type="nvidia-63", min_framebuffer="2G"), UsageError, "nvidia-63 has 1024 MiB of graphics memory"
    )


def test_a_full_type_is_a_note() -> None:
    """It may be free when the VM starts."""
    found = change("", words(mdev_type="nvidia-65"))
    assert values(found) == {"hostpci0": "0000:41:00.0,mdev=nvidia-65"}
    assert sum("no instance of nvidia-65 is left" in note for note in found.notes) == 1


def test_a_vm_that_asks_for_more_than_there_are() -> None:
    """No other VM could be stopped for it."""
    found = change("", Wish((Device(mdev="nvidia-64", addresses=("0000:41:00.0",)),) * 5))
    problem = resolve.resolve(found.after.section, MAPPINGS, API, node.NODE, 100).problems[0]
    assert problem.hint == (
        "this VM asks for more than are left: take hostpci4 away, or use a mapping with more devices"
    )
    assert sum("no instance of nvidia-64 is left" in note for note in found.notes) == 1


def test_each_owner_of_a_device_is_named_once() -> None:
    taken = {"0000:01:00.0": "VM 101", "0000:01:00.1": "VM 101"}
    notes = change("", words(devices=["01:00"]), taken=taken).notes
    shared = [note for note in notes if "VM 101" in note]
    assert shared == ["0000:01:00.0, 0000:01:00.1 are also of VM 101; only one of the two can run at a time"]


def test_nothing_is_said_of_what_stays() -> None:
    """Where nothing changes there is nothing that follows from it."""
    text = f"{DISK}bios: ovmf\nefidisk0: a:b\nmachine: q35\nhostpci0: 0000:01:00,pcie=1,x-vga=1\nvga: none\n"
    found = change(text, words(devices=["01:00"], primary_gpu=True))
    assert (found.keys, found.notes) == ((), ())
    found = change(text.replace("ovmf", "seabios"), words(devices=["01:00"], primary_gpu=True))
    assert (found.keys, found.notes) == ((), ())


def test_what_the_api_does_not_tell_is_said_of_new_devices_only() -> None:
    assert API.unknown in change("", words(devices=["04:00.0"])).notes
    assert API.unknown not in change("", words(vf_of=["03:00.0"])).notes
    wider = words(devices=["04:00.0"], hook="local:snippets/pvepassthru")
    assert API.unknown not in change("hostpci0: 0000:04:00.0\n", wider).notes


def test_several_gpus_with_a_type() -> None:
    second = {**node.DEVICES, "0000:42:00.0": {**node.DEVICES["0000:41:00.0"], "iommu_group": 51}}
    on = node.by_api(second)
    error = refused("", words(mdev_type="nvidia-63"), UsageError, "2 devices on node pve1 offer nvidia-63", on)
    assert "0000:41:00.0" in error.message
    assert "0000:42:00.0" in error.message
    assert values(change("", words(devices=["42:00.0"], mdev_type="nvidia-63"), on)) == {
        "hostpci0": "0000:42:00.0,mdev=nvidia-63"
    }


# ---- mappings


def test_mappings() -> None:
    assert values(change("", words(mappings=["vfs"]))) == {"hostpci0": "mapping=vfs"}
    assert values(change("", words(mappings=["vfs", "vfs"]))) == {"hostpci0": "mapping=vfs", "hostpci1": "mapping=vfs"}
    assert values(change("", words(mappings=["p4"], mdev_type="nvidia-63"))) == {
        "hostpci0": "mapping=p4,mdev=nvidia-63"
    }
    gpu = change("", words(mappings=["gpu"]))
    assert values(gpu) == {"hostpci0": "mapping=gpu,pcie=1", "machine": "q35"}


@pytest.mark.parametrize(
    "name,error,message",
    [
        ("gpus", NotFoundError, "there is no mapping gpus"),
        ("elsewhere", NotFoundError, "mapping elsewhere has no device on node pve1"),
        ("drifted", DeviceError, "mapping drifted: id is dead:beef, and 0000:04:00.0 has 144d:a808"),
    ],
)
def test_mappings_that_are_no_good(name: str, error: type[PassthruError], message: str) -> None:
    assert refused("", words(mappings=[name]), error, message).hint


def test_more_entries_than_a_mapping_has_devices() -> None:
    refused("", words(mappings=["vfs"] * 3), DeviceError, "use all 2 devices of mapping vfs")


def test_by_mapping_only() -> None:
    asked = words(devices=["04:00.0", "01:00"], by_mapping=True)
    found = change("", asked)
    assert values(found) == {"hostpci0": "mapping=nvme,pcie=1", "hostpci1": "mapping=gpu,pcie=1", "machine": "q35"}
    assert not any(one.root_only for one in found.keys)
    error = refused("", words(devices=["06:00.0"], by_mapping=True), NotFoundError, "no mapping has just 0000:06:00.0")
    assert "only root@pam" in error.hint


def test_by_a_mapping_of_devices_that_all_serve() -> None:
    """PVE takes any of them at the start."""
    assert values(change("", words(vf_of=["03:00.0"], by_mapping=True))) == {"hostpci0": "mapping=vfs"}
    assert values(change("", words(mdev_type="nvidia-63", by_mapping=True))) == {
        "hostpci0": "mapping=p4,mdev=nvidia-63"
    }
    refused("", words(devices=["03:10.0"], by_mapping=True), NotFoundError, "no mapping has just 0000:03:10.0")
    twice = mappings_of([*node.MAPPINGS, {**node.MAPPINGS[2], "id": "nvme2"}])
    with pytest.raises(UsageError, match="several mappings have 0000:04:00"):
        generate(present.of_file(100, node.NODE, b""), words(devices=["04:00.0"], by_mapping=True), API, twice)


def test_the_hardware_of_another_node() -> None:
    with pytest.raises(UsageError, match="VM 100 is on node pve2, and the hardware is that of pve1"):
        generate(present.of_file(100, "pve2", b""), words(devices=["06:00.0"]), API, MAPPINGS)


def test_an_entry_becomes_one_by_mapping() -> None:
    text = "hostpci3: 0000:04:00.0,pcie=1,rombar=0\nmachine: q35\n"
    for asked in (words(mappings=["nvme"]), words(devices=["nvme", "10000:e1:00.0"])):
        found = change(text, asked._replace(by_mapping=len(asked.devices) == 1))
        assert values(found).get("hostpci3", "mapping=nvme,pcie=1,rombar=0") == "mapping=nvme,pcie=1,rombar=0"
    assert values(change(text, words(devices=["04:00.0"], by_mapping=True))) == {
        "hostpci3": "mapping=nvme,pcie=1,rombar=0"
    }


# ---- entries that are there


@pytest.mark.parametrize(
    "entry,asked",
    [
        ("0000:01:00,pcie=1", words(devices=["01:00"])),
        ("01:00,pcie=1", words(devices=["01:00.0"])),
        ("01:00.0;01:00.1", words(devices=["01:00"])),
        ("01:00,rombar=0", words(devices=["10de:1b80"])),
        ("mapping=gpu", words(devices=["01:00"])),
        ("mapping=gpu,x-vga=1,pcie=1", words(mappings=["gpu"])),
        ("03:10.2", words(vf_of=["03:00.0"])),
        ("mapping=vfs", words(vf_of=["03:00.0"])),
        ("06:00.0", words(devices=["nic"])),
        ("41:00.0,mdev=nvidia-64", words(mdev_type="nvidia-64")),
        ("41:00.0,mdev=nvidia-65", words(mdev_type="best", min_framebuffer="2G")),
        ("mapping=p4,mdev=nvidia-64", words(mappings=["p4"], mdev_type="nvidia-64")),
        ("a1:00.5,mdev=nvidia-35", words(vf_of=["a1:00.0"], mdev_type="best")),
        ("a1:00.5,mdev=nvidia-35", words(devices=["gpu"], mdev_type="best")),
        ("00:02.0,legacy-igd=1", words(igd=True)),
    ],
)
def test_an_entry_that_does_it_is_kept(entry: str, asked: Wish) -> None:
    base = "vga: none\n" if "legacy" in entry else "machine: q35\n"
    assert values(change(f"hostpci7: {entry}\n{base}", asked)) == {}


def test_an_entry_is_changed_only_in_what_is_required() -> None:
    text = "hostpci7: 01:00,rombar=1,vendor-id=0x10de\nmachine: q35\nvga: none\nbios: ovmf\nefidisk0: a:b\n"
    found = change(text, words(devices=["01:00"], primary_gpu=True, rom_file="gpu.rom"))
    assert values(found) == {"hostpci7": "01:00,rombar=1,vendor-id=0x10de,x-vga=1,romfile=gpu.rom"}
    assert found.keys[0].reason == "x-vga=1 is required; romfile=gpu.rom is required"
    wider = change("hostpci7: 01:00.0,x-vga=1\n", words(devices=["01:00"]))
    assert values(wider) == {"hostpci7": "0000:01:00,x-vga=1"}
    pcie = Wish((Device(addresses=("0000:04:00.0",), pcie=True),))
    assert values(change("hostpci7: 04:00.0\n", pcie)) == {"hostpci7": "04:00.0,pcie=1", "machine": "q35"}
    plain = Wish((Device(addresses=("0000:04:00.0",), pcie=False),))
    assert values(change("hostpci7: 04:00.0,pcie=1\nmachine: q35\n", plain)) == {"hostpci7": "04:00.0"}


def test_a_part_that_an_entry_by_mapping_has() -> None:
    refused(
        "hostpci0: 01:00.0\nhostpci1: 01:00.1\n",
        words(devices=["01:00"]),
        UsageError,
        "hostpci0, hostpci1 have it already",
    )


def test_the_index() -> None:
    """The first that neither the config nor a line that PVE drops uses."""
    text = "hostpci0: 06:00.0\nhostpci1: garbage\nhostpci2:  \n[PENDING]\nhostpci3: 03:10.0\ndelete: hostpci0\n"
    found = change(text, words(devices=["04:00.0"]))
    assert [one.key for one in found.keys] == ["hostpci0"]
    assert any('PVE drops "hostpci1: garbage"' in note for note in found.notes)
    kept = change(text.replace("delete: hostpci0\n", ""), words(devices=["04:00.0"]))
    assert [one.key for one in kept.keys] == ["hostpci4"]
    assert any("PVE does not start the VM as it was before" in note for note in kept.notes)
    full = "".join(f"hostpci{index}: 41:00.0,mdev=nvidia-63\n" for index in range(16))
    refused(full, words(devices=["04:00.0"]), UsageError, "has no hostpci index left")


# ---- the machine


@pytest.mark.parametrize(
    "present_machine,future",
    [
        (None, "q35"),
        ("pc", "q35"),
        ("pc-i440fx-8.1", "pc-q35-8.1"),
        ("pc-i440fx-9.0+pve1", "pc-q35-9.0+pve1"),
        ("pc-i440fx-5.1.pxe", "pc-q35-5.1.pxe"),
        ("pc-7.2", "pc-q35-7.2"),
        ("type=pc-i440fx-8.1,viommu=virtio", "pc-q35-8.1,viommu=virtio"),
        ("viommu=virtio", "q35,viommu=virtio"),
        ("Q35", "q35"),
        ("q35", None),
        ("pc-q35-4.0", None),
        ("q35,viommu=intel", None),
    ],
)
def test_q35_where_an_entry_needs_pcie(present_machine: str | None, future: str | None) -> None:
    text = f"machine: {present_machine}\n" if present_machine else ""
    assert values(change(text + DISK, words(devices=["01:00"]))).get("machine") == future


def test_no_machine_is_changed_without_need() -> None:
    for asked in (words(devices=["04:00.0"]), words(mdev_type="nvidia-63"), words(vf_of=["03:00.0"])):
        assert "machine" not in values(change("machine: pc-i440fx-8.1\n", asked))


def test_what_a_machine_change_means_is_said() -> None:
    installed = change(f"{DISK}ide1: local:vm-100-disk-1,size=1G\nide2: none,media=cdrom\n", words(devices=["01:00"]))
    assert any("Windows may ask for its drivers or its activation again" in note for note in installed.notes)
    assert any("move ide1 to ide0, ide2, sata or scsi" in note for note in installed.notes)
    assert not any("Windows" in note for note in change("", words(devices=["01:00"])).notes)


def test_an_entry_with_pcie_is_put_right_by_any_change() -> None:
    assert values(change("hostpci0: 04:00.0,pcie=1\n", words(devices=["06:00.0"])))["machine"] == "q35"


def test_arm_has_no_q35() -> None:
    assert values(change("arch: aarch64\n", words(devices=["01:00"]))) == {"hostpci0": "0000:01:00"}
    refused(
        "arch: aarch64\n",
        Wish((Device(addresses=("0000:06:00.0",), pcie=True),)),
        UsageError,
        "which arch: aarch64 does not have",
    )


# ---- display and firmware


def test_the_gpu_of_a_new_vm() -> None:
    found = change("ostype: win11\n", words(devices=["01:00"], primary_gpu=True)._replace(storage="local-zfs"))
    assert values(found) == {
        "hostpci0": "0000:01:00,pcie=1,x-vga=1",
        "machine": "q35",
        "bios": "ovmf",
        "efidisk0": "local-zfs:1,efitype=4m,pre-enrolled-keys=1",
        "vga": "none",
    }
    assert any("noVNC and SPICE show nothing" in note for note in found.notes)


def test_the_firmware_of_an_installed_guest_stays() -> None:
    found = change(f"{DISK}vga: std\n", words(devices=["01:00"], primary_gpu=True))
    assert values(found) == {"hostpci0": "0000:01:00,pcie=1,x-vga=1", "machine": "q35", "vga": "none"}
    assert any("SeaBIOS stays" in note for note in found.notes)
    asked = words(devices=["01:00"], primary_gpu=True)._replace(bios="ovmf")
    wanted = change(DISK, asked)
    assert values(wanted)["efidisk0"] == "local-lvm:1,efitype=4m,pre-enrolled-keys=0"
    assert any("may not boot under ovmf" in note for note in wanted.notes)
    back = change("bios: ovmf\nefidisk0: a:b\n", words(devices=["06:00.0"])._replace(bios="seabios"))
    assert values(back)["bios"] is None


@pytest.mark.parametrize(
    "disks,storage",
    [
        ("boot: order=scsi1;scsi0\nscsi0: a1:x\nscsi1: b1:y\n", "b1"),
        ("bootdisk: virtio0\nvirtio0: file=c1:x,size=1G\nscsi1: b1:y\n", "c1"),
        ("scsi0: a1:x\nscsi1: a1:y\nide2: iso:cloudinit\nsata0: iso:iso/x.iso,media=cdrom\n", "a1"),
    ],
)
def test_the_storage_of_an_efi_disk(disks: str, storage: str) -> None:
    asked = words(devices=["01:00"], primary_gpu=True)._replace(bios="ovmf")
    assert str(values(change(disks, asked))["efidisk0"]).startswith(f"{storage}:1,")


@pytest.mark.parametrize("disks", ["", "scsi0: a1:x\nscsi1: b1:y\n", "scsi0: /dev/sda\n"])
def test_no_storage_for_an_efi_disk(disks: str) -> None:
    asked = words(devices=["01:00"], primary_gpu=True)._replace(bios="ovmf")
    refused(disks, asked, UsageError, "VM 100 needs an EFI disk")


def test_a_serial_console_may_stay() -> None:
    assert "vga" not in values(change(f"{DISK}vga: serial0\n", words(devices=["01:00"], primary_gpu=True)))


@pytest.mark.parametrize(
    "text,asked,message",
    [
        ("", words(devices=["04:00.0"], primary_gpu=True), "none of the VM's devices is a GPU with outputs"),
        ("", words(devices=["41:00.0"], primary_gpu=True), "none of the VM's devices is a GPU with outputs"),
        ("", words(mdev_type="nvidia-63", primary_gpu=True), "none of the VM's devices is a GPU with outputs"),
        ("", Wish((Device(addresses=("0000:06:00.0",), primary=True),)), "0000:06:00.0 is no GPU with outputs"),
        ("", words(devices=["01:00", "02:00.0"], primary_gpu=True), "several of the VM's devices are GPUs"),
        (
            "hostpci0: 02:00.0,x-vga=1\n",
            words(devices=["01:00"], primary_gpu=True),
            "hostpci0 is the primary GPU already",
        ),
        ("", words(devices=["06:00.0", "04:00.0"], rom_file="x.rom"), "the ROM file x.rom is for one device"),
        ("", words(mdev_type="nvidia-63", rom_file="x.rom"), "no device is passed whole"),
    ],
)
def test_no_display(text: str, asked: Wish, message: str) -> None:
    refused(text, asked, UsageError, message)


def test_a_rom_for_the_gpu_or_the_only_device() -> None:
    assert values(change("", words(devices=["06:00.0"], rom_file="x.rom"))) == {
        "hostpci0": "0000:06:00.0,romfile=x.rom"
    }
    both = values(change("", words(devices=["06:00.0", "01:00"], rom_file="x.rom")))
    assert both["hostpci1"] == "0000:01:00,pcie=1,romfile=x.rom"
    own = Wish((Device(addresses=("0000:06:00.0",), rom="n.rom"), GPU._replace(rom="g.rom")))
    assert [value for key, value in values(change("", own)).items() if key.startswith("hostpci")] == [
        "0000:06:00.0,pcie=1,romfile=n.rom",
        "0000:01:00,pcie=1,romfile=g.rom",
    ]


# ---- the Intel GPU


def test_the_intel_gpu_in_legacy_mode() -> None:
    found = change(f"{DISK}vga: std\n", words(igd=True))
    assert values(found) == {"hostpci0": "0000:00:02.0,legacy-igd=1", "vga": "none"}
    assert values(change("machine: pc-q35-8.1\n", words(igd=True)))["machine"] == "pc-i440fx-8.1"
    assert values(change("machine: q35\n", words(igd=True)))["machine"] is None
    assert values(change("machine: q35,viommu=virtio\n", words(igd=True)))["machine"] == "pc,viommu=virtio"
    both = change("", words(devices=["01:00"], igd=True))
    assert values(both) == {"hostpci0": "0000:01:00", "hostpci1": "0000:00:02.0,legacy-igd=1", "vga": "none"}
    assert values(change("", words(mappings=["igd"], igd=True)))["hostpci0"] == "mapping=igd,legacy-igd=1"
    assert values(change("", words(devices=["00:02.0"], igd=True, rom_file="i.rom")))["hostpci0"] == (
        "0000:00:02.0,legacy-igd=1,romfile=i.rom"
    )


def test_an_entry_becomes_one_in_legacy_mode() -> None:
    found = change("hostpci0: 00:02.0,pcie=1,rombar=0,x-vga=1\nmachine: q35\n", words(igd=True))
    assert values(found) == {"hostpci0": "00:02.0,legacy-igd=1", "machine": None, "vga": "none"}


@pytest.mark.parametrize(
    "text,asked,message",
    [
        ("hostpci0: 04:00.0,pcie=1\nmachine: q35\n", words(igd=True), "in legacy mode needs an i440fx machine"),
        ("", Wish((GPU._replace(igd=True),)), "igd is for the Intel GPU at 00:02.0"),
        ("", Wish((GPU._replace(igd=True, addresses=("0000:01:00.0",)),)), "igd is for the Intel GPU at 00:02.0"),
        ("", words(devices=["01:00"], igd=True, primary_gpu=True), "several of the VM's devices are GPUs"),
        ("", Wish((GPU._replace(primary=True),), igd=True), "igd makes the Intel GPU the VM's display already"),
        ("hostpci0: 01:00.0,legacy-igd=1\n", words(igd=True), "hostpci0 has legacy-igd=1 already"),
        ("hostpci0: 00:02.0,legacy-igd=1\nvga: none\n", Wish((GPU._replace(pcie=True),)), "needs an i440fx machine"),
    ],
)
def test_no_legacy_mode(text: str, asked: Wish, message: str) -> None:
    refused(text, asked, UsageError, message)


def test_no_intel_gpu() -> None:
    amd = {**node.DEVICES, "0000:00:02.0": {**node.DEVICES["0000:00:02.0"], "vendor": "0x1002"}}
    refused("", words(igd=True), UsageError, "igd is for an Intel GPU", node.by_api(amd))
    without = {address: device for address, device in node.DEVICES.items() if address != "0000:00:02.0"}
    refused("", words(igd=True), NotFoundError, "there is no PCI device 0000:00:02.0", node.by_api(without))


# ---- memory, CPU, NUMA, hookscript


@pytest.mark.parametrize(
    "text,balloon",
    [
        ("memory: 4096\nballoon: 1024\n", "0"),
        ("memory: current=4096\nballoon: 1024\n", "0"),
        ("memory: 4096\nballoon: 4096\n", None),
        ("memory: 4096\nballoon: 0\n", None),
        ("memory: 4096\n", None),
        ("balloon: 256\n", "0"),
        ("memory: many\nballoon: 256\n", None),
    ],
)
def test_the_balloon(text: str, balloon: str | None) -> None:
    assert values(change(text, words(devices=["06:00.0"]))).get("balloon") == balloon


def test_cpu_for_large_bars(tmp_path: Path) -> None:
    host = node.on_host(node.build(tmp_path))
    large = host.functions["0000:01:00.0"]._replace(bars=32 << 30)
    on = host._replace(functions={**host.functions, large.address: large})
    asked = words(devices=["01:00"])
    text = "bios: ovmf\nmachine: q35\ncpu: x86-64-v2-AES,flags=+aes\n"
    assert values(change(text, asked, on))["cpu"] == "host,flags=+aes"
    assert "cpu" not in values(change(text, asked, on._replace(intel=False)))
    assert "cpu" not in values(change(text, asked, host))
    for other in ("cpu: host\n", "cpu: max\n", "cpu: custom-x\n", "cpu: kvm64,phys-bits=host\n", "args: -cpu host\n"):
        assert "cpu" not in values(change(f"bios: ovmf\nmachine: q35\n{other}", asked, on))
    assert "cpu" not in values(change("machine: q35\n", asked, on))
    told = change(text, asked)
    assert any("BARs take 32 GiB or more" in note for note in told.notes)


def test_hidden() -> None:
    asked = words(devices=["06:00.0"])._replace(hidden=True)
    assert values(change("", asked))["cpu"] == "kvm64,hidden=1"
    assert values(change("cpu: host,flags=+aes;-x\n", asked))["cpu"] == "host,flags=+aes;-x,hidden=1"
    assert "cpu" not in values(change("cpu: host,hidden=on\n", asked))


def test_numa(tmp_path: Path) -> None:
    host = node.on_host(node.build(tmp_path))
    asked = words(devices=["04:00.0"])
    told = change("", asked, host)
    assert "affinity" not in values(told)
    assert any("the devices are at NUMA node 1" in note for note in told.notes)
    wanted = asked._replace(numa=True)
    assert values(change("", wanted, host))["affinity"] == "8-15,24-31"
    kept = change("affinity: 0-3\n", wanted, host)
    assert "affinity" not in values(kept)
    assert any("affinity keeps the VM" in note for note in kept.notes)
    refused("", wanted, DeviceError, "cannot be kept to its devices' NUMA node: the API does not tell which it is")
    refused("", words(devices=["04:00.0", "01:00"])._replace(numa=True), DeviceError, "nodes", host)


def test_hookscript() -> None:
    asked = words(devices=["06:00.0"])._replace(hookscript="local:snippets/pvepassthru")
    assert values(change("", asked))["hookscript"] == "local:snippets/pvepassthru"
    refused(
        "hookscript: local:snippets/mine.sh\n",
        asked,
        UsageError,
        "VM 100 has the hookscript local:snippets/mine.sh already",
    )
    alone = Wish(hookscript="local:snippets/pvepassthru")
    assert list(values(change("", alone))) == ["hookscript"]


def test_templates() -> None:
    assert any(
        "PVE passes no device to it" in note for note in change("template: 1\n", words(devices=["06:00.0"])).notes
    )


def test_what_pve_would_drop_is_an_error() -> None:
    refused("", Wish((Device(addresses=("0000:06:00.0",), rom="a,b"),)), UsageError, "PVE would drop hostpci0")


# ---- several VMs


def test_vms_do_not_get_the_same_device() -> None:
    presents = [present.of_file(vmid, node.NODE, b"") for vmid in (100, 101, 102)]
    wishes = {
        100: words(devices=["nvme"]),
        101: words(devices=["10000:e1:00.0"], vf_of=["03:00.0"]),
        102: words(vf_of=["03:00.0"]),
    }
    found = generate_all(presents, wishes, KNOWN, MAPPINGS)
    assert [values(one) for one in found] == [
        {"hostpci0": "0000:04:00.0"},
        {"hostpci0": "10000:e1:00.0", "hostpci1": "0000:03:10.0"},
        {"hostpci0": "0000:03:10.2"},
    ]
    again = generate_all([one.after for one in found], wishes, API, MAPPINGS)
    assert all(one.keys == () for one in again)


def test_vms_share_a_parent_of_mediated_devices() -> None:
    presents = [present.of_file(vmid, node.NODE, b"") for vmid in (100, 101)]
    wishes = {vmid: words(mdev_type="nvidia-63") for vmid in (100, 101)}
    assert [values(one) for one in generate_all(presents, wishes, API, MAPPINGS)] == [
        {"hostpci0": "0000:41:00.0,mdev=nvidia-63"}
    ] * 2


def test_of_a_mapping_of_several_no_device_is_named() -> None:
    """PVE takes any of them at the start, for each entry another one."""
    found = change("", words(mappings=["vfs", "vfs"]))
    reasons = [one.reason for one in found.keys if one.key.startswith("hostpci")]
    assert len(reasons) == 2
    assert all("one of its 2 devices on node pve1, which PVE chooses at the start" in one for one in reasons)
    assert not any("0000:03:10.0" in one for one in reasons)


def test_a_rom_file_that_the_api_does_not_see() -> None:
    asked = Wish((GPU._replace(rom="gpu.rom"),))
    told = "the API does not tell whether /usr/share/kvm/gpu.rom is on node pve1"
    assert any(told in note for note in change("", asked).notes)
    assert not any(told in note for note in change("", asked, KNOWN).notes), "the rules say it of a node's own files"
    text = "hostpci0: 0000:01:00,pcie=1,romfile=gpu.rom\nmachine: q35\n"
    assert not any(told in note for note in change(text, asked._replace(hidden=True)).notes), "it is there already"


def test_from_ovmf_to_seabios() -> None:
    text = f"bios: ovmf\nefidisk0: local-lvm:vm-100-disk-1,size=4M\n{DISK}"
    notes = change(text, Wish((GPU,), bios="seabios")).notes
    assert "a guest that was installed under ovmf may not boot under seabios" in notes
    assert any(note.startswith("efidisk0 stays, and SeaBIOS makes no use of it") for note in notes)


def test_a_whole_device_by_a_mapping_of_mediated_ones() -> None:
    """The note is the same, whether the mapping is named or found."""
    told = "mapping p4 has mediated devices, and without mdev= its device is passed whole"
    assert told in change("", words(devices=["41:00.0"], by_mapping=True)).notes
    assert told in change("", words(mappings=["p4"])).notes
    assert told not in change("", words(mdev_type="nvidia-63", devices=["41:00.0"], by_mapping=True)).notes
