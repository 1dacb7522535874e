# SPDX-License-Identifier: Apache-2.0
"""Mediated devices of the simulated kernel."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host.inventory import Inventory
from pvepassthru.host.sim import SimHost
from pvepassthru.host.sim_settings import tbmdev_settings
from tests import tree
from tests.host import machine
from tests.host.machine import (
    DRIVERS,
    GPU,
    MDEVS,
    OTHER,
    PARENT,
    PCI,
    PROBE,
    UUIDS,
    Child,
    attempt,
    available,
    create,
    driver,
    opened,
    remove,
    unbind,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO, FOUR = "tbmdev-1", "tbmdev-2", "tbmdev-4"
TYPES = f"{PCI}/{PARENT}/mdev_supported_types"
UUID = UUIDS[0]


def test_instance(host: SimHost) -> None:
    before = machine.snapshot(host)
    assert create(host, UUID.upper(), TWO) == "ok"
    assert Inventory(host).mdev(UUID) == (UUID, PARENT, TWO)
    assert host.link(f"{MDEVS}/{UUID}/iommu_group") == "0"
    assert host.names(f"{TYPES}/{TWO}/devices") == [UUID]
    assert host.exists(f"{TYPES}/{TWO}/devices/{UUID}/remove")
    assert host.names("/sys/kernel/iommu_groups/0/devices") == [UUID]
    assert host.exists("/dev/vfio/0")
    assert available(host) == ["2", "1", "0"]
    assert available(host, OTHER) == ["4", "2", "1"]
    assert remove(host, UUID) == "ok"
    after = machine.snapshot(host)
    for folder in ("/dev", "/dev/vfio", "/sys/bus/mdev", MDEVS, "/sys/class/vfio-dev"):
        after.pop(folder, None)
        before.pop(folder, None)
    assert after == before


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "ok"),
        ("\n", "EINVAL"),
        ("junk", "EINVAL"),
        (UUID, "ok"),
        (UUID + "\n", "ok"),
        (UUID + "x", "ok"),
        (UUID + "\n\n", "EINVAL"),
        (UUID[:-1], "EINVAL"),
        (UUID[:-1] + "g", "EINVAL"),
        ("{" + UUID + "}", "EINVAL"),
        (UUID.replace("-", ""), "EINVAL"),
        (UUID.replace("-", "_"), "EINVAL"),
    ],
)
def test_create_text(host: SimHost, text: str, expected: str) -> None:
    assert create(host, text) == expected
    assert host.names(MDEVS) == ([UUID] if expected == "ok" and text else [])


def test_create_of_what_exists(host: SimHost) -> None:
    uuid = "aaaaaaaa-0000-0000-0000-00000000000b"
    assert create(host, uuid, FOUR) == "ok"
    for kind, parent in ((FOUR, PARENT), (ONE, PARENT), (ONE, OTHER)):
        assert create(host, uuid, kind, parent) == "EEXIST"
        assert create(host, uuid.upper(), kind, parent) == "EEXIST"


def test_create_of_unknown(host: SimHost) -> None:
    assert create(host, UUID, "tbmdev-3") == "ENOENT"
    assert create(host, UUID, ONE, GPU) == "ENOENT"
    assert create(host, UUID, ONE, "0000:0f:00.0") == "ENOENT"


@pytest.mark.parametrize("full", ["ENOSPC", "EBUSY"])
def test_without_capacity(host: SimHost, full: str) -> None:
    host.configure(tbmdev_settings(full_errno=full))
    assert create(host, UUIDS[0], TWO) == "ok"
    before = machine.snapshot(host)
    assert create(host, UUIDS[1], FOUR) == full
    assert machine.snapshot(host) == before
    assert create(host, UUIDS[1], TWO) == "ok"
    assert create(host, UUIDS[2], ONE) == full
    assert create(host, UUIDS[2], ONE, OTHER) == "ok"


def test_exclusive(host: SimHost) -> None:
    host.configure(tbmdev_settings(exclusive=1))
    assert create(host, UUIDS[0], ONE) == "ok"
    assert available(host) == ["3", "0", "0"]
    assert create(host, UUIDS[1], TWO) == "ENOSPC"
    assert remove(host, UUIDS[0]) == "ok"
    assert available(host) == ["4", "2", "1"]
    assert create(host, UUIDS[1], TWO) == "ok"


def test_counted_by_the_core(host: SimHost) -> None:
    host.configure(tbmdev_settings(core_count=2))
    assert available(host) == ["2", "2", "2"]
    assert create(host, UUIDS[0], FOUR) == "ok"
    assert create(host, UUIDS[1], ONE) == "ok"
    assert available(host) == ["0", "0", "0"]
    assert create(host, UUIDS[2], ONE) == "EUSERS"
    assert create(host, UUIDS[0], ONE) == "EEXIST"
    assert remove(host, UUIDS[0]) == "ok"
    assert available(host) == ["1", "1", "1"]


def test_settings_of_one_parent(host: SimHost) -> None:
    settings = tbmdev_settings()
    settings["devices"] = {OTHER: {"mdev": {"capacity": 1}}}
    host.configure(settings)
    assert available(host) == ["4", "2", "1"]
    assert available(host, OTHER) == ["1", "0", "0"]
    assert create(host, UUID, TWO, OTHER) == "ENOSPC"


def test_without_settings_each_type_counts_its_own(tmp_path: Path) -> None:
    types = {"nvidia-63": {"available": 2}, "nvidia-64": {"available": 1}, "nvidia-65": {"available": None}}
    tree.build(tmp_path, {"devices": {PARENT: {"vendor": "0x10de", "driver": "nvidia", "mdev": {"types": types}}}})
    host = SimHost(str(tmp_path))

    def left() -> list[str | None]:
        return [host.text(f"{TYPES}/{kind}/available_instances") for kind in types]

    assert create(host, UUIDS[0], "nvidia-63") == "ok"
    assert left() == ["1", "1", None]
    assert create(host, UUIDS[1], "nvidia-64") == "ok"
    assert create(host, UUIDS[2], "nvidia-64") == "ENOSPC"
    assert create(host, UUIDS[3], "nvidia-65") == "ok"
    assert remove(host, UUIDS[1]) == "ok"
    assert left() == ["1", "1", None]
    assert unbind(host, PARENT) == "ok"
    assert not host.exists(TYPES)
    assert attempt(host, f"{DRIVERS}/nvidia/bind", PARENT) == "ok"
    assert left() == ["2", "1", None]


@pytest.mark.parametrize("value, expected", [("0", "ok"), ("", "ok"), ("junk", "EINVAL"), ("-1", "EINVAL")])
def test_remove_that_does_nothing(host: SimHost, value: str, expected: str) -> None:
    create(host, UUID)
    before = machine.snapshot(host)
    assert attempt(host, f"{MDEVS}/{UUID}/remove", value) == expected
    assert machine.snapshot(host) == before


def test_remove(host: SimHost) -> None:
    create(host, UUIDS[0])
    create(host, UUIDS[1])
    assert attempt(host, f"{MDEVS}/{UUIDS[0]}/remove", "2") == "ok"
    assert attempt(host, f"{PCI}/{PARENT}/{UUIDS[1]}/remove", "1\n") == "ok"
    assert host.names(MDEVS) == []
    for uuid in UUIDS[:2]:
        assert remove(host, uuid) == "ENOENT"
        assert attempt(host, f"{PCI}/{PARENT}/{uuid}/remove", "1") == "ENOENT"


def test_remove_while_open(host: SimHost) -> None:
    create(host, UUID)
    folder = f"{PCI}/{PARENT}/{UUID}"
    with opened(host, folder):
        child = Child(host, f"{MDEVS}/{UUID}/remove", "1")
        wait_until(lambda: not host.exists(f"{MDEVS}/{UUID}"))
        wait_until(lambda: host.names(folder) == ["iommu_group", "vfio-dev"])
        assert host.names(f"{TYPES}/{ONE}/devices") == []
        assert available(host) == ["3", "1", "0"]
        assert create(host, UUID) == "EEXIST"
        assert create(host, UUID, ONE, OTHER) == "EEXIST"
        assert attempt(host, f"{folder}/remove", "1") == "ENOENT"
        assert create(host, UUIDS[1], FOUR) == "ENOSPC"
        assert create(host, UUIDS[1], ONE) == "ok"
        time.sleep(0.1)
        assert child.running()
    assert child.outcome() == "ok"
    assert not host.exists(folder)
    assert available(host) == ["3", "1", "0"]


def test_open_through_the_cdev(host: SimHost) -> None:
    create(host, UUID)
    folder = f"{PCI}/{PARENT}/{UUID}"
    link = f"{host.root}/proc/4711/fd/9"
    os.makedirs(os.path.dirname(link))
    os.symlink(f"/dev/vfio/devices/{host.names(f'{folder}/vfio-dev')[0]}", link)
    child = Child(host, f"{MDEVS}/{UUID}/remove", "1")
    wait_until(lambda: not host.exists(f"{MDEVS}/{UUID}"))
    time.sleep(0.1)
    assert child.running()
    os.unlink(link)
    assert child.outcome() == "ok"


def test_remove_while_its_create_runs(host: SimHost) -> None:
    host.configure(tbmdev_settings(delay_ms=400))
    child = Child(host, f"{TYPES}/{ONE}/create", UUID)
    wait_until(lambda: host.exists(f"{MDEVS}/{UUID}/remove"))
    assert Inventory(host).mdev(UUID) == (UUID, PARENT, None)
    assert available(host) == ["4", "2", "1"]
    assert create(host, UUID, ONE, OTHER) == "EEXIST"
    assert attempt(host, f"{MDEVS}/{UUID}/remove", "0") == "ok"
    assert remove(host, UUID) == "EAGAIN"
    assert remove(host, UUID) == "ENOENT"
    assert child.running()
    assert child.outcome() == "ok"
    host.configure(tbmdev_settings())
    assert Inventory(host).mdev(UUID).type == ONE
    assert remove(host, UUID) == "ENOENT"
    assert unbind(host, PARENT) == "ok"
    assert host.names(MDEVS) == []


def test_create_that_is_about_to_fail(host: SimHost) -> None:
    host.configure(tbmdev_settings(delay_ms=300, capacity=0))
    child = Child(host, f"{TYPES}/{ONE}/create", UUID)
    wait_until(lambda: host.exists(f"{MDEVS}/{UUID}"))
    assert Inventory(host).mdev(UUID).type is None
    assert child.outcome() == "ENOSPC"
    assert not host.exists(f"{MDEVS}/{UUID}")
    assert not host.exists(f"{PCI}/{PARENT}/{UUID}")


def test_instances_go_with_the_parents_driver(host: SimHost) -> None:
    create(host, UUIDS[0])
    create(host, UUIDS[1], ONE, OTHER)
    assert unbind(host, PARENT) == "ok"
    assert host.names(MDEVS) == [UUIDS[1]]
    assert host.names("/sys/class/mdev_bus") == [OTHER]
    assert create(host, UUIDS[0]) == "ENOENT"
    host.write(PROBE, PARENT)
    assert available(host) == ["4", "2", "1"]
    assert host.text(f"{TYPES}/{TWO}/description") == "units=2, max_instance=2"


def test_parents_driver_unbound_while_an_instance_is_open(host: SimHost) -> None:
    create(host, UUID)
    with opened(host, f"{PCI}/{PARENT}/{UUID}"):
        child = Child(host, f"{DRIVERS}/tbmdev/unbind", PARENT)
        wait_until(lambda: driver(host, PARENT) is None)
        wait_until(lambda: host.names(f"{PCI}/{PARENT}/{UUID}") == ["iommu_group", "vfio-dev"])  # one after the other
        assert host.names(MDEVS) == []
        assert host.exists(TYPES)
        assert create(host, UUIDS[1]) == "ENODEV"
        assert child.running()
    assert child.outcome() == "ok"
    assert not host.exists(TYPES)


def test_parents_driver_unbound_while_a_create_runs(host: SimHost) -> None:
    host.configure(tbmdev_settings(delay_ms=200))
    creator = Child(host, f"{TYPES}/{ONE}/create", UUID)
    wait_until(lambda: host.exists(f"{MDEVS}/{UUID}"))
    assert unbind(host, PARENT) == "ok"
    assert creator.outcome() == "ok"
    assert host.names(MDEVS) == []
