# SPDX-License-Identifier: Apache-2.0
"""Privileges, roles, and who has which on a path. Source: PVE's user manual and the recorded answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.api.fake_pve.data import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.api.fake_pve.data import User

CONFIG = tuple(
    f"VM.Config.{part}" for part in ("Disk", "CDROM", "CPU", "Memory", "Network", "HWType", "Options", "Cloudinit")
)
"""Who has one of these may write a VM's config, as far as its keys go."""
_AGENT = tuple(f"VM.GuestAgent.{part}" for part in ("Audit", "FileRead", "FileSystemMgmt", "FileWrite", "Unrestricted"))
_VM = frozenset(
    {
        *CONFIG,
        *_AGENT,
        *("VM.Allocate", "VM.Audit", "VM.Backup", "VM.Clone", "VM.Console", "VM.Migrate", "VM.PowerMgmt"),
        *("VM.Replicate", "VM.Snapshot", "VM.Snapshot.Rollback"),
    }
)
_SYS = frozenset(
    {"Sys.AccessNetwork", "Sys.Audit", "Sys.Console", "Sys.Incoming", "Sys.Modify", "Sys.PowerMgmt", "Sys.Syslog"}
)
_STORE = frozenset({"Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate", "Datastore.Audit"})
_SDN = frozenset({"SDN.Allocate", "SDN.Audit", "SDN.Use"})
_MAPPING = frozenset({"Mapping.Audit", "Mapping.Modify", "Mapping.Use"})
_USERS = frozenset({"Group.Allocate", "Permissions.Modify", "Realm.Allocate", "Realm.AllocateUser", "User.Modify"})
EVERY = _VM | _SYS | _STORE | _SDN | _MAPPING | _USERS | {"Pool.Allocate", "Pool.Audit"}
_AUDIT = frozenset(privilege for privilege in EVERY if privilege.endswith(".Audit"))

ROLES: dict[str, frozenset[str]] = {
    "NoAccess": frozenset(),
    "Administrator": EVERY,
    "PVEAdmin": EVERY
    - {"Sys.AccessNetwork", "Sys.Incoming", "Sys.Modify", "Sys.PowerMgmt"}
    - {"Permissions.Modify", "Realm.Allocate", "Mapping.Modify"},
    "PVEAuditor": _AUDIT,
    "PVEDatastoreUser": frozenset({"Datastore.AllocateSpace", "Datastore.Audit"}),
    "PVEMappingAdmin": _MAPPING,
    "PVEMappingAuditor": frozenset({"Mapping.Audit"}),
    "PVEMappingUser": frozenset({"Mapping.Audit", "Mapping.Use"}),
    "PVEVMAdmin": _VM,
    "PVEVMUser": frozenset({"VM.Audit", "VM.Backup", "VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Console"})
    | {"VM.PowerMgmt"},
}

CAPABILITIES: dict[str, tuple[str, frozenset[str]]] = {
    "access": ("/access", frozenset({"Group.Allocate", "Permissions.Modify", "User.Modify"})),
    "dc": ("/", _SDN | {"Sys.Audit", "Sys.Modify"}),
    "mapping": ("/mapping", _MAPPING | {"Permissions.Modify"}),
    "nodes": ("/nodes", _SYS | {"Permissions.Modify"}),
    "sdn": ("/sdn", _SDN | {"Permissions.Modify"}),
    "storage": ("/storage", _STORE | {"Permissions.Modify"}),
    "vms": ("/vms", _VM | {"Permissions.Modify"}),
}
"""What a login's answer says the user may do, for the menus of the web interface: path and privileges by word."""


def of(who: str, path: str, users: Mapping[str, User], roles: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The privileges of a user, or of a token (`USER!TOKEN`), on a path."""
    name, _, token_name = who.partition("!")
    user = users[name]
    own = EVERY if name == ROOT else _granted(user.acl, path, roles)
    if not token_name or not user.tokens[token_name].separate:
        return own
    return own & _granted(user.tokens[token_name].acl, path, roles)


def _granted(acl: Mapping[str, str], path: str, roles: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """What the entry nearest to the path says; one further up counts only where there is none below."""
    while path:
        if path in acl:
            return frozenset().union(*(roles[role.strip()] for role in acl[path].split(",")))
        path = path.rpartition("/")[0] or ("/" if path != "/" else "")
    return frozenset()
