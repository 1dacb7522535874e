# SPDX-License-Identifier: Apache-2.0
"""What would stand in the way of a change is told with its preview, by reading alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.api import hindrance
from pvepassthru.api.pve import Pve
from pvepassthru.model.errors import ApiConflictError, ApiDeniedError, ApiMissingError, ApiUnreachableError
from tests.api.applying import WANTED, change_of, client_by_ca, fake_cluster
from tests.api.fake_pve.data import Storage
from tests.api.fake_pve.server import FakePve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.api.client import Client
    from pvepassthru.model.errors import PassthruError

HOOK = {"hookscript": "local:snippets/pvepassthru"}
DISK = {"efidisk0": "local-lvm:1,efitype=4m"}


@pytest.fixture
def pve() -> Iterator[FakePve]:
    with FakePve(fake_cluster()) as fake:
        yield fake


def foreseen(pve: FakePve, client: Client, values: dict[str, str | None]) -> tuple[PassthruError, ...]:
    found = hindrance.foreseen(client, change_of(client, values))
    assert pve.state.writes == []
    assert not any("nothing was sent" in one.message for one in found), "nothing was to be sent"
    return found


def test_a_lock_and_pending_changes(pve: FakePve) -> None:
    vm = pve.state.vm(100)
    vm.text = f"{vm.text}lock: backup\n\n[PENDING]\ncores: 4\n"
    with client_by_ca(pve) as client:
        lock, pending = foreseen(pve, client, {"machine": "q35"})
        assert isinstance(lock, ApiConflictError)
        assert lock.message == "VM 100 on node pve1 is locked (backup), so PVE changes nothing of it"
        assert "pending changes of others (cores: 4)" in pending.message
        assert hindrance.foreseen(None, change_of(client, {"machine": "q35"}))[0].message == lock.message
        assert foreseen(pve, client, {}) == ()


def test_what_a_user_may_not(pve: FakePve) -> None:
    with client_by_ca(pve, "op@pve") as client:
        (found,) = foreseen(pve, client, {"hostpci0": "0000:01:00", "machine": "q35"})
        assert isinstance(found, ApiDeniedError)
        assert "hostpci0 can be set by root@pam" in found.message
        assert foreseen(pve, client, {"hostpci1": "mapping=nic", "machine": "q35"}) == ()


@pytest.mark.parametrize(
    "values, message, hint",
    [
        ({"efidisk0": "nosuch:1"}, "there is no storage nosuch on node pve1", "these take images: local"),
        ({"hookscript": "nosuch:snippets/x"}, "there is no storage nosuch on node pve1", "these take snippets: local"),
        ({"hookscript": "local-lvm:snippets/x"}, "storage local-lvm on node pve1 takes no snippets", "snippets: local"),
        ({"hookscript": "local:snippets/nosuch"}, "there is no local:snippets/nosuch on node pve1", "copy it into"),
    ],
)
def test_volumes_that_are_not_there(pve: FakePve, values: dict[str, str | None], message: str, hint: str) -> None:
    with client_by_ca(pve) as client:
        (found,) = foreseen(pve, client, values)
        assert isinstance(found, ApiMissingError)
        assert found.message == message
        assert hint in found.hint
        with pytest.raises(ApiMissingError, match=f"{message}; nothing was sent") as raised:
            hindrance.check(client, change_of(client, values), take_pending=False)
        assert hint in raised.value.hint


def test_volumes_that_are_there() -> None:
    cluster = fake_cluster()
    storages = {"local": Storage("snippets", "dir", {"pvepassthru": True}), "local-lvm": Storage()}
    cluster.nodes["pve1"].storages = storages
    with FakePve(cluster) as pve, client_by_ca(pve) as client:
        assert foreseen(pve, client, {**HOOK, **DISK}) == ()


def test_a_storage_that_a_user_does_not_see_is_not_called_absent(pve: FakePve) -> None:
    with client_by_ca(pve, "op@pve") as client:
        (found,) = foreseen(pve, client, {"efidisk0": "local:1"})
        assert "Datastore.AllocateSpace on /storage/local" in found.message
        (found,) = foreseen(pve, client, {"hookscript": "local:snippets/nosuch"})
        assert "hookscript can be set by root@pam" in found.message


def test_a_node_that_goes_down(pve: FakePve) -> None:
    with client_by_ca(pve) as client:
        change = change_of(client, {"cores": "3"}, 200)
        pve.take_down("pve2")
        (found,) = hindrance.foreseen(client, change)
        assert isinstance(found, ApiUnreachableError)


def test_nothing_in_the_way_in_few_requests(pve: FakePve) -> None:
    with client_by_ca(pve) as client:
        change = change_of(client, {key: WANTED[key] for key in ("hostpci0", "machine", "vga")})
        pve.state.log.clear()
        assert Pve(client).hindrances(change) == ()
        assert len(pve.state.log) == 1
