# SPDX-License-Identifier: Apache-2.0
"""Whatever is written to it, the simulated sysfs stays consistent."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from pvepassthru.host.inventory import Inventory
from tests.host import machine
from tests.host.machine import (
    BEHIND,
    BRIDGE,
    DRIVERS,
    GPU,
    MDEVS,
    NIC,
    OTHER,
    PARENT,
    PCI,
    PF,
    PROBE,
    RESCAN,
    UUIDS,
    VFS,
    attempt,
)

if TYPE_CHECKING:
    from pvepassthru.host.sim import SimHost

ANSWERS = {"ok", "EAGAIN", "EBUSY", "EEXIST", "EINVAL", "ENODEV", "ENOENT", "ENOSPC", "ENOTTY", "ERANGE"}
UNITS = {"tbmdev-1": 1, "tbmdev-2": 2, "tbmdev-4": 4}
ADDRESSES = (GPU, PF, PARENT, OTHER, NIC, BRIDGE, BEHIND, VFS[0], VFS[1])
NAMES = ("vfio-pci", "tbmdev", "tbvgpu", "nvme", "e1000e")
functions = st.sampled_from(ADDRESSES)
drivers = st.sampled_from(NAMES)
uuids = st.sampled_from(UUIDS[:6])
ids = st.sampled_from(["8086 10d3", "1b36 0010", "1234 11e8", "1234 11e9"])


def writes() -> st.SearchStrategy[tuple[str, str]]:
    return st.one_of(
        st.builds(
            lambda parent, kind, uuid: (f"{PCI}/{parent}/mdev_supported_types/{kind}/create", uuid),
            st.sampled_from([PARENT, OTHER]),
            st.sampled_from(sorted(UNITS)),
            uuids,
        ),
        st.builds(lambda uuid: (f"{MDEVS}/{uuid}/remove", "1"), uuids),
        st.builds(
            lambda address, text: (f"{PCI}/{address}/driver_override", f"{text}\n"), functions, drivers | st.just("")
        ),
        st.builds(lambda address: (PROBE, address), functions),
        st.builds(lambda name, address: (f"{DRIVERS}/{name}/bind", address), drivers, functions),
        st.builds(lambda address: (f"{PCI}/{address}/driver/unbind", address), functions),
        st.builds(lambda name, text: (f"{DRIVERS}/{name}/new_id", text), drivers, ids),
        st.builds(lambda name, text: (f"{DRIVERS}/{name}/remove_id", text), drivers, ids),
        st.builds(lambda count: (f"{PCI}/{PF}/sriov_numvfs", str(count)), st.integers(0, 5)),
        st.builds(lambda text: (f"{PCI}/{PF}/sriov_drivers_autoprobe", text), st.sampled_from("01")),
        st.builds(
            lambda vf, text: (f"{PCI}/{vf}/nvidia/current_vgpu_type", text),
            st.sampled_from(VFS[:2]),
            st.sampled_from(["0", "100", "101", "102", "7"]),
        ),
        st.builds(lambda address: (f"{PCI}/{address}/remove", "1"), functions),
        st.just((RESCAN, "1")),
    )


def check(host: SimHost) -> None:
    inventory = Inventory(host)
    assert not os.path.exists(f"{host.root}/.sim/redo.json")
    for address in inventory.addresses():
        check_function(host, inventory, address)
    for name in host.names(DRIVERS):
        bound = [other for other in host.names(f"{DRIVERS}/{name}") if other[:1].isdecimal()]
        assert [other for other in bound if inventory.driver(other) != name] == []
    for group in host.names("/sys/kernel/iommu_groups"):
        members = host.names(f"/sys/kernel/iommu_groups/{group}/devices")
        assert members
        for member in members:
            assert host.link(f"/sys/kernel/iommu_groups/{group}/devices/{member}/iommu_group") == group
    check_instances(host, inventory)


def check_function(host: SimHost, inventory: Inventory, address: str) -> None:
    folder = f"{PCI}/{address}"
    name = inventory.driver(address)
    assert name is None or address in host.names(f"{DRIVERS}/{name}")
    assert address in inventory.group_members(address)
    assert host.exists(f"{folder}/vfio-dev") == (name == "vfio-pci")
    assert host.exists(f"/dev/vfio/{inventory.group(address)}") == any(
        inventory.driver(member) == "vfio-pci" for member in inventory.group_members(address)
    )
    assert host.exists(f"{folder}/mdev_supported_types") == (name == "tbmdev")
    assert (address in host.names("/sys/class/mdev_bus")) == (name == "tbmdev")
    assert host.exists(f"{folder}/nvidia") == (name == "tbvgpu" and address != PF)
    links = [other for other in host.names(folder) if other.startswith("virtfn")]
    assert len(links) == int(host.text(f"{folder}/sriov_numvfs") or 0)
    for link in links:
        assert host.link(f"{folder}/{link}/physfn") == address
    if name == "tbmdev":
        check_capacity(host, folder)


def check_capacity(host: SimHost, folder: str) -> None:
    instances = {kind: host.names(f"{folder}/mdev_supported_types/{kind}/devices") for kind in UNITS}
    used = sum(UNITS[kind] * len(found) for kind, found in instances.items())
    assert used <= 4
    for kind, units in UNITS.items():
        assert host.text(f"{folder}/mdev_supported_types/{kind}/available_instances") == str((4 - used) // units)
    below = [name for name in host.names(folder) if len(name) == 36]
    assert below == sorted(uuid for found in instances.values() for uuid in found)


def check_instances(host: SimHost, inventory: Inventory) -> None:
    groups = []
    for found in inventory.mdevs():
        assert found.parent in inventory.addresses()
        assert found.type in UNITS
        assert host.exists(f"{PCI}/{found.parent}/{found.uuid}/remove")
        group = host.link(f"{MDEVS}/{found.uuid}/iommu_group")
        assert host.exists(f"/dev/vfio/{group}")
        groups.append(group)
    assert len(set(groups)) == len(groups)
    spent = {"100": 1, "101": 2, "102": 4}
    assert sum(spent.get(inventory.vgpu_current(vf) or "0", 0) for vf in VFS) <= 4


@settings(max_examples=40)
@given(nested=st.booleans(), sequence=st.lists(writes(), min_size=1, max_size=40))
def test_random_writes(*, nested: bool, sequence: list[tuple[str, str]]) -> None:
    with machine.memory_folder() as root:
        host = machine.build(root, nested=nested)
        check(host)
        for path, value in sequence:
            assert attempt(host, path, value) in ANSWERS
        check(host)
