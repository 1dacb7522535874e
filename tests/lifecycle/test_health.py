# SPDX-License-Identifier: Apache-2.0
"""Tests of pvepassthru.lifecycle.health and pvepassthru.host.quarantine on a simulated host."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import quarantine
from pvepassthru.lifecycle import health
from pvepassthru.model.errors import NotFoundError, PassthruError
from tests import tree
from tests.host.machine import memory_folder
from tests.lifecycle.state_tree import AUDIO, DEAD, GPU, HEADER, NIC, Bench
from tests.scenarios.world import PCI

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = f"{NIC}.quarantine"


@pytest.fixture
def bench() -> Iterator[Bench]:
    with memory_folder() as folder:
        yield Bench(Path(folder))


def look(bench: Bench, address: str = NIC, *, rescan: bool = False) -> str | None:
    return health.look(bench.work(), address, rescan=rescan)


def kill(bench: Bench, address: str = NIC) -> None:
    """Let a function fall off the bus."""
    bench.put(f"{PCI}/{address}/config", DEAD)


def asleep(bench: Bench, power_state: str = "D3cold", status: str = "suspended") -> None:
    """Let the NIC sleep, so that its config space reads 0xFF."""
    kill(bench)
    for name, value in (("power_state", power_state), ("power/control", "auto"), ("power/runtime_status", status)):
        bench.put(f"{PCI}/{NIC}/{name}", value + "\n")


def test_function_that_answers(bench: Bench) -> None:
    assert look(bench) is None
    assert bench.files() == bench.said == bench.warned == []


def test_function_that_is_not_there(bench: Bench) -> None:
    assert look(bench, "0000:0f:00.0") is None
    os.unlink(bench.host.path(f"{PCI}/{NIC}/config"))
    assert look(bench) is None
    assert bench.files() == []


def test_function_that_fell_off_the_bus(bench: Bench) -> None:
    kill(bench)
    why = look(bench)
    assert why == f"{NIC} fell off the bus: its configuration space reads 0xFF everywhere"
    assert bench.files() == [FILE]
    assert os.stat(bench.host.path(quarantine.path(NIC))).st_mode & 0o777 == 0o600
    noted = quarantine.read(bench.host, NIC)
    assert noted is not None
    assert (noted.address, noted.vmid, noted.why) == (NIC, 100, why)
    assert noted.since > 1_700_000_000
    assert len(bench.warned) == 1
    assert "it is in quarantine and gets no driver" in bench.warned[0]
    assert quarantine.listed(bench.host) == (noted,)
    assert look(bench, rescan=True) == why  # and it is not removed again
    assert len(bench.warned) == 1


def test_one_byte_is_an_answer(bench: Bench) -> None:
    """A virtual function's first four bytes read 0xFF."""
    bench.put(f"{PCI}/{NIC}/config", b"\xff" * 63 + b"\0")
    assert look(bench) is None


def test_known_fault_is_told(bench: Bench) -> None:
    bench.put(f"{PCI}/{NIC}/vendor", "0x10de\n")
    bench.put(f"{PCI}/{NIC}/device", "0x2c05\n")
    kill(bench)
    assert "RTX 5070 Ti was reported to do so until the host reboots" in (look(bench) or "")


def test_function_that_answers_again(bench: Bench) -> None:
    kill(bench)
    look(bench)
    bench.put(f"{PCI}/{NIC}/config", HEADER)
    assert quarantine.standing(bench.host, NIC) is None
    assert look(bench) is None
    assert bench.files() == []
    assert "answers again" in bench.said[0]


def test_function_that_a_start_takes_again(bench: Bench) -> None:
    health.forget_if_well(bench.work(), NIC)
    assert bench.said == []
    quarantine.put(bench.host, NIC, 100, "it fell")
    health.forget_if_well(bench.work(), NIC)
    assert bench.files() == []


# ---- sleep


def test_sleeping_function_is_woken(bench: Bench) -> None:
    bench.device(NIC, config=HEADER.hex())
    asleep(bench)
    assert look(bench) is None
    assert bench.host.text(f"{PCI}/{NIC}/power/control") == "auto"
    assert bench.files() == bench.warned == []


def test_function_that_is_dead_and_was_asleep(bench: Bench) -> None:
    asleep(bench)
    assert look(bench) is not None
    assert bench.files() == [FILE]
    assert bench.host.text(f"{PCI}/{NIC}/power/control") == "auto"


def test_function_whose_power_state_only_looks_like_sleep(bench: Bench) -> None:
    """The kernel takes a function that it cannot wake for one in D3cold; its runtime status is not suspended then."""
    asleep(bench, status="active")
    assert look(bench) is not None


def test_function_that_does_not_wake_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep(bench)
    monkeypatch.setattr(bench.host, "write", lambda _path, _value: None)
    monkeypatch.setattr(health, "WAKE_SECONDS", 0.1)
    assert look(bench) is None
    assert "nobody can tell" in bench.warned[0]
    assert bench.files() == []


# ---- remove and rescan


def test_rescan_helps(bench: Bench) -> None:
    bench.device(NIC, config=HEADER.hex())
    kill(bench)
    assert look(bench, rescan=True) is None
    assert bench.files() == []
    assert "answers again since it was removed and looked for again" in bench.warned[0]
    assert bench.host.link(f"{PCI}/{NIC}/driver") == "e1000e"


def test_rescan_does_not_help(bench: Bench) -> None:
    bench.device(NIC, config=DEAD.hex())
    kill(bench)
    assert "looking for it again did not help" in (look(bench, rescan=True) or "")
    assert bench.files() == [FILE]


def test_rescan_finds_nothing(bench: Bench) -> None:
    kill(bench)
    why = look(bench, rescan=True)
    assert "it was removed and did not come back" in (why or "")
    assert not bench.host.exists(f"{PCI}/{NIC}")
    assert bench.files() == [FILE]
    assert look(bench, rescan=True) == why
    with pytest.raises(PassthruError, match="it is not on the bus any more"):
        quarantine.lift(bench.host, NIC)


def test_no_rescan_by_default(bench: Bench) -> None:
    bench.device(NIC, config=HEADER.hex())
    kill(bench)
    assert look(bench) is not None
    assert bench.host.exists(f"{PCI}/{NIC}")


def test_no_removal_beside_another_vms_function(bench: Bench) -> None:
    bench.device(GPU, config=HEADER.hex())
    kill(bench, GPU)
    bench.reserve(200, AUDIO)
    assert "it is not removed, since VM 200 has 0000:01:00.1 of its slot" in (look(bench, GPU, rescan=True) or "")
    assert bench.host.exists(f"{PCI}/{GPU}")


def test_no_removal_beside_an_open_function(bench: Bench) -> None:
    kill(bench, GPU)
    tree.hold(bench.root, 4711, "/dev/vfio/10")
    assert "4711" in (look(bench, GPU, rescan=True) or "")
    assert bench.host.exists(f"{PCI}/{GPU}")


def test_no_removal_of_virtual_functions(bench: Bench) -> None:
    bench.settings["drivers"]["tbvgpu"] = {}
    bench.host.configure(bench.settings)
    pf, vf = "0000:02:00.0", "0000:02:00.1"
    bench.take(pf, "tbvgpu")
    bench.host.write(f"{PCI}/{pf}/sriov_numvfs", "1")
    kill(bench, pf)
    kill(bench, vf)
    assert "a virtual function cannot be removed" in (look(bench, vf, rescan=True) or "")
    assert "its virtual functions would go with it" in (look(bench, pf, rescan=True) or "")
    assert bench.host.exists(f"{PCI}/{vf}")


def test_removal_that_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_path: str, _value: str) -> None:
        raise OSError(errno.EIO, "gone mad")

    kill(bench)
    monkeypatch.setattr(bench.host, "write", write)
    assert "removing it and looking for it again failed: /sys/bus/pci/rescan: " in (look(bench, rescan=True) or "")
    assert bench.files() == [FILE]


# ---- the end of a quarantine


def test_lift(bench: Bench) -> None:
    with pytest.raises(NotFoundError, match="is not in quarantine"):
        quarantine.lift(bench.host, NIC)
    kill(bench)
    look(bench)
    with pytest.raises(PassthruError, match="still reads 0xFF everywhere"):
        quarantine.lift(bench.host, NIC)
    assert bench.files() == [FILE]
    bench.put(f"{PCI}/{NIC}/config", HEADER)
    assert quarantine.lift(bench.host, NIC).vmid == 100
    assert bench.files() == []


@pytest.mark.parametrize("content", ["", "junk", "[]", '{"vmid": "x"}', "{}"])
def test_quarantine_that_makes_no_sense_counts(bench: Bench, content: str) -> None:
    bench.put(quarantine.path(NIC), content)
    noted = quarantine.read(bench.host, NIC)
    assert noted is not None
    assert "does not say why" in noted.why
