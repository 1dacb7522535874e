# SPDX-License-Identifier: Apache-2.0
"""What the kernel answers to writes about mediated devices, by a driver that hands out 4 units a parent."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from tests.kernel.checks import check, holds
from tests.kernel.sysfs import (
    ABSENT,
    FOUR,
    GPU,
    MDEVS,
    ONE,
    OTHER_PARENT,
    PARENT,
    PCI,
    PROBE,
    TWO,
    UUIDS,
    Started,
    attempt,
    available,
    create,
    driver,
    outcomes,
    prepare,
    setup,
    type_path,
    unbind,
    wait_until,
)

if TYPE_CHECKING:
    from tests.kernel.sysfs import Machine

__all__ = ["prepare", "setup"]
SUITE_LIMIT = 300.0
TEST_LIMIT = 40.0


def test_mdev_create_and_remove(machine: Machine) -> None:
    check("before", available(machine, PARENT), ["4", "2", "1"])
    check("create", create(machine, PARENT, TWO, UUIDS[0]), "ok")
    check("listed", machine.host.names(MDEVS), [UUIDS[0]])
    check("type", machine.host.link(f"{MDEVS}/{UUIDS[0]}/mdev_type"), TWO)
    check("in its type", machine.host.names(f"{type_path(PARENT, TWO)}/devices"), [UUIDS[0]])
    holds("in its parent", machine.host.exists(f"{PCI}/{PARENT}/{UUIDS[0]}/remove"))
    holds("in a group", machine.host.link(f"{MDEVS}/{UUIDS[0]}/iommu_group"))
    check("types share the capacity", available(machine, PARENT), ["2", "1", "0"])
    check("each parent has its own", available(machine, OTHER_PARENT), ["4", "2", "1"])
    check("remove", attempt(machine, f"{MDEVS}/{UUIDS[0]}/remove", "1"), "ok")
    check("gone", machine.host.names(MDEVS), [])
    check("gone in its type", machine.host.names(f"{type_path(PARENT, TWO)}/devices"), [])
    holds("gone in its parent", not machine.host.exists(f"{PCI}/{PARENT}/{UUIDS[0]}"))
    check("after", available(machine, PARENT), ["4", "2", "1"])


def test_mdev_files(machine: Machine) -> None:
    for kind, name, units in ((ONE, "Testbed 1Q", 1), (TWO, "Testbed 2Q", 2), (FOUR, "Testbed 4Q", 4)):
        path = type_path(PARENT, kind)
        check(f"name of {kind}", machine.host.text(f"{path}/name"), name)
        check(f"api of {kind}", machine.host.text(f"{path}/device_api"), "vfio-pci")
        described = f"units={units}, max_instance={4 // units}"
        check(f"description of {kind}", machine.host.text(f"{path}/description"), described)


def test_mdev_remove_in_the_parents_folder(machine: Machine) -> None:
    check("create", create(machine, PARENT, ONE, UUIDS[0]), "ok")
    check("remove", attempt(machine, f"{PCI}/{PARENT}/{UUIDS[0]}/remove", "1\n"), "ok")
    check("gone", machine.host.names(MDEVS), [])


def test_mdev_uuid_in_use(machine: Machine) -> None:
    uuid = "aaaaaaaa-0000-0000-0000-00000000000b"
    check("create", create(machine, PARENT, ONE, uuid), "ok")
    check("again", create(machine, PARENT, ONE, uuid), "EEXIST")
    check("of another type", create(machine, PARENT, TWO, uuid), "EEXIST")
    check("of another parent", create(machine, OTHER_PARENT, ONE, uuid), "EEXIST")
    check("in upper case", create(machine, OTHER_PARENT, ONE, uuid.upper()), "EEXIST")
    check("without capacity", create(machine, PARENT, FOUR, uuid), "EEXIST")
    check("one listed", machine.host.names(MDEVS), [uuid])


def test_mdev_upper_case(machine: Machine) -> None:
    check("create", create(machine, PARENT, ONE, "AAAAAAAA-0000-0000-0000-00000000000B"), "ok")
    check("listed in lower case", machine.host.names(MDEVS), ["aaaaaaaa-0000-0000-0000-00000000000b"])


def test_mdev_malformed(machine: Machine) -> None:
    uuid = UUIDS[0]
    for text in (
        "junk",
        uuid[:-1],
        uuid + "00",
        uuid + "\n\n",
        "{" + uuid + "}",
        uuid.replace("-", ""),
        " " + uuid,
        uuid[:-1] + "g",
    ):
        check(f"create {text!r}", create(machine, PARENT, ONE, text), "EINVAL")
    check("an empty write", create(machine, PARENT, ONE, ""), "ok")
    check("none created", machine.host.names(MDEVS), [])
    check("with a newline", create(machine, PARENT, ONE, uuid + "\n"), "ok")
    check("with any 37th character", create(machine, PARENT, ONE, UUIDS[1] + "x"), "ok")
    check("two created", machine.host.names(MDEVS), list(UUIDS[:2]))


def test_mdev_without_capacity(machine: Machine) -> None:
    check("the four", create(machine, PARENT, FOUR, UUIDS[0]), "ok")
    for kind in (ONE, TWO, FOUR):
        check(f"one {kind} more", create(machine, PARENT, kind, UUIDS[1]), "ENOSPC")
    check("none of it stays", machine.host.names(MDEVS), [UUIDS[0]])
    check("the other parent has room", create(machine, OTHER_PARENT, ONE, UUIDS[1]), "ok")


def test_mdev_the_drivers_own_errno(machine: Machine) -> None:
    machine.configure(full_errno=errno.EBUSY, capacity=1)
    check("above the capacity", create(machine, PARENT, TWO, UUIDS[0]), "EBUSY")
    check("at the capacity", create(machine, PARENT, ONE, UUIDS[0]), "ok")


def test_mdev_one_type_at_a_time(machine: Machine) -> None:
    machine.configure(exclusive=1)
    check("create", create(machine, PARENT, ONE, UUIDS[0]), "ok")
    check("only this type", available(machine, PARENT), ["3", "0", "0"])
    check("another type", create(machine, PARENT, TWO, UUIDS[1]), "ENOSPC")
    check("the same type", create(machine, PARENT, ONE, UUIDS[1]), "ok")
    check("another type elsewhere", create(machine, OTHER_PARENT, TWO, UUIDS[2]), "ok")


def test_mdev_counted_by_the_core(machine: Machine) -> None:
    machine.configure(core_count=2)
    check("before", available(machine, PARENT), ["2", "2", "2"])
    check("first", create(machine, PARENT, FOUR, UUIDS[0]), "ok")
    check("after the first", available(machine, PARENT), ["1", "1", "1"])
    check("second", create(machine, PARENT, ONE, UUIDS[1]), "ok")
    check("third", create(machine, PARENT, ONE, UUIDS[2]), "EUSERS")
    check("a uuid in use", create(machine, PARENT, ONE, UUIDS[0]), "EEXIST")
    check("remove", attempt(machine, f"{MDEVS}/{UUIDS[0]}/remove", "1"), "ok")
    check("room again", create(machine, PARENT, ONE, UUIDS[2]), "ok")


def test_mdev_unknown_type_or_parent(machine: Machine) -> None:
    check("unknown type", create(machine, PARENT, "tbmdev-3", UUIDS[0]), "ENOENT")
    check("no parent", create(machine, GPU, ONE, UUIDS[0]), "ENOENT")
    check("no device", create(machine, ABSENT, ONE, UUIDS[0]), "ENOENT")


def test_mdev_remove_values(machine: Machine) -> None:
    check("create", create(machine, PARENT, ONE, UUIDS[0]), "ok")
    path = f"{MDEVS}/{UUIDS[0]}/remove"
    check("0", attempt(machine, path, "0"), "ok")
    check("still there", machine.host.names(MDEVS), [UUIDS[0]])
    for text in ("junk", "-1", "1x"):
        check(text, attempt(machine, path, text), "EINVAL")
    check("still there after junk", machine.host.names(MDEVS), [UUIDS[0]])
    check("2", attempt(machine, path, "2"), "ok")
    check("removed", machine.host.names(MDEVS), [])
    check("twice", attempt(machine, path, "1"), "ENOENT")


def test_mdev_remove_while_open(machine: Machine) -> None:
    uuid = UUIDS[0]
    check("create", create(machine, PARENT, ONE, uuid), "ok")
    with machine.held(uuid):
        remover = Started(machine, f"{MDEVS}/{uuid}/remove", "1")
        wait_until("unlisted", lambda: not machine.host.exists(f"{MDEVS}/{uuid}"))
        holds("blocks", remover.running(0.5))
        check("unlisted at once", machine.host.names(MDEVS), [])
        holds("its group stays in the parent's folder", machine.host.link(f"{PCI}/{PARENT}/{uuid}/iommu_group"))
        check("its capacity stays used", available(machine, PARENT), ["3", "1", "0"])
        check("its uuid stays used", create(machine, PARENT, ONE, uuid), "EEXIST")
        check("and elsewhere", create(machine, OTHER_PARENT, ONE, uuid), "EEXIST")
    check("ends with the close", remover.outcome(), "ok")
    check("capacity is back", available(machine, PARENT), ["4", "2", "1"])
    holds("gone from the parent", not machine.host.exists(f"{PCI}/{PARENT}/{uuid}"))


def test_mdev_remove_while_its_create_runs(machine: Machine) -> None:
    uuid = UUIDS[0]
    machine.configure(delay_ms=1500)
    creator = Started(machine, f"{type_path(PARENT, ONE)}/create", uuid)
    wait_until("listed early", lambda: machine.host.exists(f"{MDEVS}/{uuid}/remove"))
    check("without a type", machine.host.link(f"{MDEVS}/{uuid}/mdev_type"), None)
    check("remove", attempt(machine, f"{MDEVS}/{uuid}/remove", "1"), "EAGAIN")
    holds("still creating", creator.running(0.0))
    check("create goes on", creator.outcome(), "ok")
    machine.configure(delay_ms=0)
    check("listed", machine.host.names(MDEVS), [uuid])
    check("with its type", machine.host.link(f"{MDEVS}/{uuid}/mdev_type"), ONE)
    check("without its remove file", machine.host.exists(f"{MDEVS}/{uuid}/remove"), expected=False)
    check("remove again", attempt(machine, f"{MDEVS}/{uuid}/remove", "1"), "ENOENT")
    unbind(machine, PARENT)
    check("gone with the parent's driver", machine.host.names(MDEVS), [])


def test_mdev_listed_while_about_to_fail(machine: Machine) -> None:
    uuid = UUIDS[0]
    machine.configure(delay_ms=700, capacity=0)
    creator = Started(machine, f"{type_path(PARENT, ONE)}/create", uuid)
    wait_until("listed early", lambda: machine.host.exists(f"{MDEVS}/{uuid}"))
    check("without a type", machine.host.link(f"{MDEVS}/{uuid}/mdev_type"), None)
    check("its uuid is used", create(machine, OTHER_PARENT, ONE, uuid), "EEXIST")
    check("create fails", creator.outcome(), "ENOSPC")
    check("gone", machine.host.names(MDEVS), [])


def test_mdev_goes_with_its_parents_driver(machine: Machine) -> None:
    check("create", create(machine, PARENT, ONE, UUIDS[0]), "ok")
    check("create elsewhere", create(machine, OTHER_PARENT, ONE, UUIDS[1]), "ok")
    unbind(machine, PARENT)
    check("only its own went", machine.host.names(MDEVS), [UUIDS[1]])
    check("no types", machine.host.exists(f"{PCI}/{PARENT}/mdev_supported_types"), expected=False)
    check("probe", attempt(machine, PROBE, PARENT), "ok")
    check("parent again", driver(machine, PARENT), "tbmdev")
    check("all room", available(machine, PARENT), ["4", "2", "1"])


def test_mdev_eight_creators_on_four(machine: Machine) -> None:
    path = f"{type_path(PARENT, ONE)}/create"
    seen = outcomes([Started(machine, path, uuid) for uuid in UUIDS])
    check("eight creators", seen, ["ENOSPC"] * 4 + ["ok"] * 4)
    check("four listed", len(machine.host.names(MDEVS)), 4)
    check("none left", available(machine, PARENT), ["0", "0", "0"])


def test_mdev_eight_creators_of_one_uuid(machine: Machine) -> None:
    paths = [f"{type_path(parent, ONE)}/create" for parent in (PARENT, OTHER_PARENT)] * 4
    seen = outcomes([Started(machine, path, UUIDS[0]) for path in paths])
    check("eight creators", seen, ["EEXIST"] * 7 + ["ok"])
    check("one listed", machine.host.names(MDEVS), [UUIDS[0]])


def test_mdev_eight_removers(machine: Machine) -> None:
    check("create", create(machine, PARENT, ONE, UUIDS[0]), "ok")
    seen = outcomes([Started(machine, f"{MDEVS}/{UUIDS[0]}/remove", "1") for _ in range(8)])
    check("one succeeds", seen.count("ok"), 1)
    holds(f"the others are late: {seen}", set(seen) <= {"ok", "ENOENT", "ENODEV"})
    check("all room", available(machine, PARENT), ["4", "2", "1"])
