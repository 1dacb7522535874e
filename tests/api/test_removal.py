# SPDX-License-Identifier: Apache-2.0
"""Entries that a VM is to lose: nothing else is touched, what made sense only with them is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest

from pvepassthru.api import cluster, generate, hardware, mappings, present, reading, restore, wish, wish_file
from pvepassthru.api.apply import apply
from pvepassthru.api.wish import Device, Wish
from pvepassthru.model.errors import ApiDeniedError, ApiError, InputError, UsageError
from tests.api import node
from tests.api.applying import client_by_ca, fake_cluster, held
from tests.api.fake_pve.faults import Moment
from tests.api.fake_pve.server import FakePve
from tests.api.told import mappings_of

if TYPE_CHECKING:
    from pvepassthru.api.change import Change
    from pvepassthru.api.client import Client
    from pvepassthru.api.hardware import NodeHardware

API = node.by_api()
MAPPINGS = mappings_of(node.MAPPINGS)
TWO = "hostpci0: 0000:01:00\nhostpci3: 0000:04:00.0\nmachine: q35\nmemory: 2048\n"
BOTH = Wish(remove=("hostpci0", "hostpci3"))


def made(text: str, asked: Wish, on: NodeHardware = API) -> Change:
    """The change, after which the same wish changes nothing more."""
    found = generate.generate(present.of_file(100, node.NODE, text.encode()), asked, on, MAPPINGS)
    assert generate.generate(found.after, asked, on, MAPPINGS).keys == ()
    return found


def values(found: Change) -> dict[str, str | None]:
    return {one.key: one.new for one in found.keys}


def test_nothing_else_is_touched() -> None:
    """Not even what is wrong of the entries that stay."""
    found = made("hostpci0: 0000:01:00\nhostpci3: 0000:04:00.0,pcie=1\nballoon: 512\n", Wish(remove=("hostpci0",)))
    assert values(found) == {"hostpci0": None}
    assert found.keys[0].reason.startswith("hostpci0 is to be removed: 0000:01:00.0 (NVIDIA")
    (note,) = found.notes
    assert note.startswith("PVE does not start the VM as it was before, nor as it will be: hostpci3: ")
    assert "q35" in note
    assert found.after.get("hostpci3") == "0000:04:00.0,pcie=1"


def test_one_that_is_not_there() -> None:
    found = made("memory: 512\n", Wish(remove=("hostpci3",)))
    assert (found.keys, found.notes) == ((), ("VM 100 has no hostpci3, so there is nothing to remove",))
    text = "hostpci3: 0000:04:00.0\n[PENDING]\ndelete: hostpci3\n"
    found = made(text, Wish(remove=("hostpci3",)))
    assert (found.keys, found.notes) == ((), ("hostpci3 of VM 100 is gone with the next start already",))
    found = made("hostpci1: garbage=1\n", Wish(remove=("hostpci1",)))
    dropped = (
        'PVE drops "hostpci1: garbage=1", so VM 100 has no hostpci1 for it; the line goes with any change of the VM'
    )
    assert (found.keys, found.notes) == ((), (dropped,))


@pytest.mark.parametrize(
    "text, asked, note",
    [
        ("hostpci0: 0000:01:00,x-vga=1\nvga: none\n", ("hostpci0",), "vga: none made sense with hostpci0"),
        ("hostpci0: 00:02.0,legacy-igd=1\nvga: type=none\n", ("hostpci0",), "vga: type=none made sense with"),
        ("hostpci0: mapping=gpu\nvga: none\n", ("hostpci0",), "qm set 100 --delete vga gives it one"),
        ("hostpci0: 0000:01:00\ncpu: host,hidden=1\n", ("hostpci0",), "cpu: hidden=1 was for the NVIDIA driver"),
        ("hostpci0: 0000:01:00\nargs: -set device.hostpci0.x=1\n", ("hostpci0",), "args names hostpci0"),
        ("hostpci0: 0000:03:10.0\nvga: none\n", ("hostpci0",), "without it the VM has no display"),
        ("hostpci0: 0000:03:10.0\nargs: -cpu host,kvm=off\n", ("hostpci0",), "its -cpu host,kvm=off replaces"),
        ("hostpci0: 0000:01:00\nballoon: 0\n", ("hostpci0",), "balloon: 0 is needed by no device any more"),
        (
            "hostpci0: 0000:01:00\nhookscript: local:snippets/pvepassthru\n",
            ("hostpci0",),
            "has nothing to do once the VM has been stopped",
        ),
    ],
)
def test_what_made_sense_only_with_it(text: str, asked: tuple[str, ...], note: str) -> None:
    found = made(text, Wish(remove=asked))
    assert values(found) == dict.fromkeys(asked)
    assert sum(note in one for one in found.notes) == 1


@pytest.mark.parametrize(
    "text",
    [
        "hostpci0: 0000:01:00\nhostpci1: 00:02.0,legacy-igd=1\nvga: none\n",
        "hostpci0: 0000:04:00.0\nvga: none\nserial0: socket\n",
        "hostpci0: 0000:04:00.0\nvga: none\nagent: enabled=1\n",
        "hostpci0: 0000:04:00.0\nhostpci1: 0000:06:00.0\nvga: none\nargs: -cpu host\n",
        "hostpci0: 0000:01:00\nhostpci1: mapping=gpu\ncpu: host,hidden=1\n",
        "hostpci0: 0000:01:00\nhostpci10: 0000:04:00.0\nargs: -set device.hostpci10.x=1\n",
        "hostpci0: 0000:01:00\nhostpci1: 0000:04:00.0\nballoon: 0\nhookscript: local:snippets/pvepassthru\n",
        "hostpci0: 0000:01:00\nhookscript: local:snippets/mine.sh\n",
    ],
)
def test_what_others_need_is_not_named(text: str) -> None:
    assert made(text, Wish(remove=("hostpci0",))).notes == ()


def test_what_is_in_force_goes_too() -> None:
    """The VM as it runs has another entry than its next start would take; both go."""
    text = "hostpci0: 0000:01:00,x-vga=1\nvga: none\nserial0: socket\n[PENDING]\nhostpci0: 0000:04:00.0\n"
    found = made(text, Wish(remove=("hostpci0",)))
    assert values(found) == {"hostpci0": None}
    assert found.keys[0].reason.endswith(", which is pending; and what is in force, 0000:01:00,x-vga=1")
    assert [note.partition(" made")[0] for note in found.notes] == ["vga: none"]
    same = made(text.replace(",x-vga=1", "").replace("01:00", "04:00.0"), Wish(remove=("hostpci0",)))
    assert "in force" not in same.keys[0].reason
    assert same.notes == ()


def test_the_cpus_beside_a_device() -> None:
    card = API.functions["0000:01:00.0"]._replace(numa_node=0)
    on = hardware.build(node.NODE, {**API.functions, card.address: card}.values())._replace(numa={0: "0-7", 1: "8-15"})
    text = "hostpci0: 0000:01:00\naffinity: {}\n"
    assert any("affinity: 0-7" in one for one in made(text.format("0-7"), Wish(remove=("hostpci0",)), on).notes)
    assert not any("affinity" in one for one in made(text.format("8-15"), Wish(remove=("hostpci0",)), on).notes)


def test_one_in_place_of_another() -> None:
    """The new entry has an index of its own, and the device that goes is not chosen again."""
    known = API._replace(unknown="")
    found = made("hostpci0: 0000:04:00.0\n", Wish((Device(kind="nvme"),), remove=("hostpci0",)), known)
    assert values(found) == {"hostpci0": None, "hostpci1": "10000:e1:00.0"}
    found = made("memory: 512\n", Wish((Device(kind="nic"),), remove=("hostpci0",)), known)
    assert values(found) == {"hostpci1": "0000:06:00.0"}, "else the same wish would remove it the next time"
    found = made("hostpci0: 0000:01:00\n", Wish((Device(mapping="gpu"),), remove=("hostpci0",)))
    assert values(found)["hostpci1"] == "mapping=gpu,pcie=1", "the same device may be named in another way"


def test_the_first_graphics_card_can_go() -> None:
    asked = Wish((Device(addresses=("0000:01:00",)),), primary_gpu=True, remove=("hostpci0",))
    found = made("hostpci0: 0000:02:00.0,x-vga=1\nvga: none\nscsi0: a1:disk,size=1G\n", asked)
    assert values(found)["hostpci1"] == "0000:01:00,pcie=1,x-vga=1"
    assert not any("no display" in note for note in found.notes)


# ---- how it is said


def test_words() -> None:
    assert wish.of_arguments(remove=["hostpci1", "hostpci1"]).remove == ("hostpci1",)
    for word in ("hostpci16", "0", "vga", "hostpci01"):
        with pytest.raises(UsageError, match="is no hostpci entry") as raised:
            wish.of_arguments(remove=[word])
        assert "hostpci0 to hostpci15" in raised.value.hint


def test_in_a_file() -> None:
    asked = wish_file.load(
        b"vms:\n  100: {remove: [hostpci0, hostpci3]}\n  101: {remove: null, igd: true}\n", "vms.yaml"
    )
    assert asked == {100: BOTH, 101: Wish(igd=True)}
    with pytest.raises(InputError, match=r"vms.yaml:4: .*remove.*vga is no hostpci entry"):
        wish_file.load(b"vms:\n  100:\n    remove:\n      - vga\n", "vms.yaml")


# ---- by the API


def removed(client: Client) -> Change:
    now = cluster.config(client, 100, "pve1")
    return generate.generate(now, BOTH, cluster.node_hardware(client, "pve1"), mappings.plain(mappings.read(client)))


@pytest.fixture
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAUSES", (0.01,))
    monkeypatch.setattr(reading, "PATIENCE", 0.3)
    monkeypatch.setattr(restore, "SETTLING", 0.03)
    monkeypatch.setattr("pvepassthru.api.client.BACKOFF", (0.01,))


def test_it_is_done_and_not_again() -> None:
    with FakePve(fake_cluster(TWO)) as pve, client_by_ca(pve) as client:
        done = apply(client, removed(client))
        assert done.written == ("hostpci0", "hostpci3")
        assert held(pve).main == {"machine": "q35", "memory": "2048"}
        writes = len(pve.state.writes)
        assert removed(client).keys == ()
        apply(client, removed(client))
        assert len(pve.state.writes) == writes


@pytest.mark.usefixtures("_short_waits")
@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
@pytest.mark.parametrize("write", [1, 2])
@pytest.mark.parametrize("moment", get_args(Moment))
def test_a_fault_in_the_midst(moment: Moment, write: int, *, running: bool) -> None:
    """It ends with both entries or with none of them."""
    with FakePve(fake_cluster(TWO, running=running)) as pve, client_by_ca(pve) as client:
        change = removed(client)
        before = held(pve)
        fault = pve.faults.cut(moment, write=write)
        message = ""
        try:
            apply(client, change)
        except ApiError as error:
            message = error.message
        assert fault.happened
        assert held(pve).effective == (before.effective if message else {"machine": "q35", "memory": "2048"})
        assert not message or "is as it was" in message


@pytest.mark.usefixtures("_short_waits")
@pytest.mark.parametrize("write", [1, 2])
@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_in_the_midst(status: int, write: int) -> None:
    with FakePve(fake_cluster(TWO)) as pve, client_by_ca(pve) as client:
        change = removed(client)
        before = held(pve).effective
        pve.faults.answer(status, write=write, times=2)
        with pytest.raises(ApiError, match="is as it was"):
            apply(client, change)
        assert held(pve).effective == before


def test_an_address_is_roots_to_remove() -> None:
    with FakePve(fake_cluster(TWO)) as pve, client_by_ca(pve) as root, client_by_ca(pve, "op@pve") as client:
        change = removed(root)
        with pytest.raises(ApiDeniedError) as raised:
            apply(client, change)
        assert "qm set 100 --delete hostpci0,hostpci3" in raised.value.hint
        assert pve.state.writes == []
