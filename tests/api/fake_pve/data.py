# SPDX-License-Identifier: Apache-2.0
"""What a fake cluster is built from: plain data, written down in a test.

Cluster(
    nodes={"pve1": Node(pci=[Device("0000:01:00.0", "10de", "1b80", group=2)], vms={100: "cores: 1\n"})},
    users={"op@pve": User("word", {"/vms": "PVEVMAdmin"})},
)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

ROOT = "root@pam"
PASSWORD = "correct horse"  # noqa: S105 - the fake's root has it everywhere, and it opens nothing else


@dataclass(frozen=True)
class MdevType:
    """A type of mediated device that a function offers."""

    type: str
    available: int = 1
    description: str = ""
    name: str | None = None


@dataclass(frozen=True)
class Device:
    """A PCI function. Ids and classes are hex digits without 0x."""

    id: str
    vendor: str
    device: str
    subsystem: str | None = None
    """`vendor:device`."""
    group: int = -1
    """The IOMMU group, -1 for none."""
    class_: str = "030000"
    mdev: Sequence[MdevType] | None = None
    """None: the function has no mediated devices at all."""
    physfn: str | None = None
    """The PF of a VF; a PF's list of VFs follows from its VFs."""
    names: Mapping[str, str] = field(default_factory=dict)
    """`vendor_name`, `device_name` and their like."""


@dataclass
class Storage:
    """A storage as one node has it."""

    content: str = "images,rootdir"
    type: str = "lvmthin"
    snippets: Mapping[str, bool] = field(default_factory=dict)
    """File names, each with whether it is executable."""


def storages() -> dict[str, Storage]:
    """The two storages of a fresh installation, with one executable snippet."""
    return {
        "local": Storage("snippets,backup,import,rootdir,iso,vztmpl,images", "dir", {"pvepassthru": True}),
        "local-lvm": Storage(),
    }


@dataclass
class Node:
    """A node with its hardware and its VMs."""

    pci: Sequence[Device] = ()
    vms: Mapping[int, str] = field(default_factory=dict)
    """The texts of the config files."""
    running: Collection[int] = ()
    storages: Mapping[str, Storage] = field(default_factory=storages)


@dataclass
class Token:
    """An API token; with `separate` it has only those of its own rights that its user has too."""

    secret: str
    separate: bool = True
    acl: Mapping[str, str] = field(default_factory=dict)


@dataclass
class User:
    """A user. An ACL says per path which roles, separated by commas; all of them propagate."""

    password: str = PASSWORD
    acl: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, Token] = field(default_factory=dict)
    otp: str | None = None
    """The one-time password, always the same, that the second factor asks for."""


@dataclass
class Cluster:
    """Everything. root@pam is added to the users if it is not among them."""

    nodes: Mapping[str, Node] = field(default_factory=lambda: {"pve1": Node()})
    users: Mapping[str, User] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    """Roles of one's own: their privileges, separated by commas."""
    mappings: str = ""
    """The text of /etc/pve/mapping/pci.cfg."""
    version: str = "9.2.11"
    name: str = "fake"
    ha_resources: Sequence[Mapping[str, str | int]] = ()
    """As GET cluster/ha/resources answers; that answer is in no transcript."""
    ha_groups: Sequence[Mapping[str, str | int]] = ()
    """As GET cluster/ha/groups answers, of PVE 8 only; that answer is in no transcript."""
    ha_rules: Sequence[Mapping[str, str | int]] = ()
    """As GET cluster/ha/rules answers, from PVE 9 on; that answer is in no transcript."""
    backup_jobs: Sequence[Mapping[str, str | int]] = ()
    """As GET cluster/backup answers; that answer is in no transcript."""
