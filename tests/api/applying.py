# SPDX-License-Identifier: Apache-2.0
"""A cluster and changes for the tests of apply, and what a VM's config is in the fake at a moment."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import cluster
from pvepassthru.api.change import Change, KeyChange
from pvepassthru.api.client import connect
from tests.api.fake_client import profile_of
from tests.api.fake_pve.configtext import Config
from tests.api.fake_pve.data import ROOT, Cluster, Device, Node, Token, User

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pvepassthru.api.client import Client
    from tests.api.fake_pve.server import FakePve

TEXT = """\
#kept as it is
balloon: 512
cores: 2
hostpci3: 0000:04:00.0
machine: pc-i440fx-9.0
memory: 2048
name: one
scsi0: local-lvm:vm-100-disk-0,size=8G
"""
WANTED: dict[str, str | None] = {
    "hookscript": "local:snippets/pvepassthru",
    "hostpci0": "0000:01:00,pcie=1,x-vga=1",
    "hostpci1": "mapping=nic,pcie=1",
    "machine": "pc-q35-9.0",
    "vga": "none",
    "bios": "ovmf",
    "balloon": None,
    "cpu": "host,hidden=1",
    "efidisk0": "local-lvm:1,efitype=4m,pre-enrolled-keys=0",
}
"""A change with all kinds of writes."""
WRITES = 8
"""How many requests it is."""
PART = {key: WANTED[key] for key in ("hostpci0", "machine", "vga", "balloon", "efidisk0")}
"""Four of these requests: one key, two keys, a deletion, a new volume."""
BY_MAPPING: dict[str, str | None] = {"hostpci1": "mapping=nic,pcie=1", "machine": "q35", "bios": "ovmf"}
"""A change that a user with privileges can make, in three requests."""
MAPPINGS = (
    "nic\n\tmap node=pve1,path=0000:02:00.0,id=8086:1533,iommugroup=2\n\n"
    "gpu\n\tmap node=pve1,path=0000:01:00,id=10de:1b80,iommugroup=1\n"
)
EFI = "local-lvm:vm-100-disk-1,efitype=4m,pre-enrolled-keys=0,size=4M"


def fake_cluster(text: str = TEXT, *, running: bool = False) -> Cluster:
    """Two nodes, with VM 100 and 101 on the first."""
    devices = [
        Device("0000:01:00.0", "10de", "1b80", group=1),
        Device("0000:01:00.1", "10de", "10f0", group=1, class_="040300"),
        Device("0000:02:00.0", "8086", "1533", group=2, class_="020000"),
        Device("0000:04:00.0", "144d", "a808", group=4, class_="010802"),
    ]
    nodes = {
        "pve1": Node(devices, {100: text, 101: "memory: 512\n", 102: "memory: 512\n"}, [100] if running else []),
        "pve2": Node(vms={200: "memory: 512\n"}),
    }
    users = {
        "op@pve": User(
            acl={
                "/vms": "PVEVMAdmin",
                "/mapping/pci/gpu": "PVEMappingAuditor",
                "/mapping/pci/nic": "PVEMappingUser",
                "/storage/local-lvm": "PVEDatastoreUser",
            },
            tokens={"all": Token("s3cret", separate=False), "some": Token("s3cret", acl={"/vms": "PVEVMUser"})},
        ),
        "root@pam": User(tokens={"full": Token("s3cret", separate=False)}),
    }
    return Cluster(nodes, users, mappings=MAPPINGS)


def client_by_ca(
    pve: FakePve, user: str = ROOT, token: tuple[str, str] | None = None, *, timeout: float = 10.0
) -> Client:
    """A client that has logged in; by the CA, which costs less for the many connections of a change."""
    profile = profile_of(pve, user, token=token)
    endpoints = tuple(endpoint._replace(fingerprint=None) for endpoint in profile.endpoints)
    return connect(replace(profile, endpoints=endpoints, ca_file=pve.ca_file, timeout=timeout))


def change_of(client: Client, values: Mapping[str, str | None], vmid: int = 100) -> Change:
    """The change that gives keys these values, as generate would make it of the config as it is."""
    now = cluster.config(client, vmid, cluster.vm(client, vmid).node)
    keys = [
        KeyChange(key, now.get(key), new, f"{key} is wanted", now.config.main.get(key)) for key, new in values.items()
    ]
    changed = tuple(one for one in keys if one.old != one.new)
    return Change(now, now.changed({one.key: one.new for one in changed}), changed, (), ())


class Held(NamedTuple):
    """What the fake holds of a VM."""

    text: str
    main: dict[str, str]
    pending: dict[str, str]
    deletes: list[str]
    volumes: dict[str, int | None]

    @property
    def effective(self) -> dict[str, str]:
        """The config as the next start takes it."""
        return Config(dict(self.main), dict(self.pending), list(self.deletes)).effective()


def held(pve: FakePve, vmid: int = 100) -> Held:
    """What the fake holds of a VM now."""
    vm = pve.state.vm(vmid)
    config = vm.config
    return Held(vm.text, config.main, config.pending, config.deletes, dict(pve.state.volumes))
