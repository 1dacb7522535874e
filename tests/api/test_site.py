# SPDX-License-Identifier: Apache-2.0
"""A node as changes are generated on it: what is taken there, by the API and by its own files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import site, survey
from pvepassthru.host.memory import MemoryHost
from tests.api.fake_client import client_of
from tests.api.fake_pve import data
from tests.api.fake_pve.data import Cluster, Device
from tests.api.fake_pve.server import FakePve

if TYPE_CHECKING:
    from collections.abc import Collection

NICS = [Device(f"0000:0{number}:00.0", "8086", "1533", group=number, class_="020000") for number in (1, 2, 3)]
GONE = "hostpci0: 01:00.0\n[PENDING]\ndelete: hostpci0\n"
OTHER = "hostpci0: 02:00.0\n[PENDING]\nhostpci0: 03:00.0\n"
FUNCTIONS = tuple(nic.id for nic in NICS)


def taken(running: Collection[int]) -> dict[str, str]:
    """By the API, when VM 102 is to be changed."""
    vms = {100: GONE, 101: OTHER, 102: "memory: 512\n"}
    with FakePve(Cluster({"pve1": data.Node(NICS, vms, running)})) as pve, client_of(pve) as client:
        return site.of_api(client, survey.overview(client), "pve1", [102]).taken


def test_a_running_vm_keeps_what_is_only_to_be_removed() -> None:
    assert taken([100, 101]) == dict(zip(FUNCTIONS, ("VM 100", "VM 101", "VM 101"), strict=True))
    assert taken([]) == {FUNCTIONS[2]: "VM 101"}, "the next start takes what is pending"


def test_of_files_too() -> None:
    """The same on the node itself, of VMs whose processes are there."""
    files: dict[str, bytes | None] = {"/sys/bus/pci/devices": None}
    for nic in NICS:
        folder = f"/sys/bus/pci/devices/{nic.id}"
        files |= {f"{folder}/{name}": text for name, text in (("vendor", b"0x8086"), ("device", b"0x1533"))}
        files[f"{folder}/class"] = b"0x020000"
    files |= {f"/etc/pve/qemu-server/{vmid}.conf": text.encode() for vmid, text in ((100, GONE), (101, OTHER))}
    files["/etc/pve/qemu-server/102.conf"] = b"memory: 512\n"
    stopped = MemoryHost("pve1", dict(files))
    assert site.of_files(stopped, [102]).taken == {FUNCTIONS[2]: "VM 101"}
    for vmid in (100, 101):
        path = f"/var/run/qemu-server/{vmid}.pid"
        files[f"/run/qemu-server/{vmid}.pid"] = str(vmid).encode()
        files[f"/proc/{vmid}/cmdline"] = b"\0".join(
            (b"/usr/bin/kvm", b"-id", str(vmid).encode(), b"-pidfile", path.encode(), b"")
        )
    running = MemoryHost("pve1", dict(files))
    assert site.of_files(running, [102]).taken == dict(zip(FUNCTIONS, ("VM 100", "VM 101", "VM 101"), strict=True))
