# SPDX-License-Identifier: Apache-2.0
"""The cluster's files in /etc/pve: nodes, HA resources with their groups and rules, backup jobs, storages, pools.

Absent files hold nothing; one that cannot be read is noted in `Host.unreadable`. Sources: pve-ha-manager, pve-manager,
pve-storage and pve-access-control, their file formats.
"""

from __future__ import annotations

import errno

from pvepassthru.host.vms import PVE, vmid_of
from pvepassthru.model import section_config
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.model.section_config import Section

RESOURCES = f"{PVE}/ha/resources.cfg"
GROUPS = f"{PVE}/ha/groups.cfg"
RULES = f"{PVE}/ha/rules.cfg"
JOBS = f"{PVE}/jobs.cfg"
STORAGES = f"{PVE}/storage.cfg"
USERS = f"{PVE}/user.cfg"

_SNIPPETS = "snippets"
_MOUNTED = frozenset({"nfs", "cifs", "cephfs", "glusterfs"})
"""Storage types that PVE mounts below /mnt/pve when they name no path."""
SHARED = frozenset({*_MOUNTED})
_LOCAL = section_config.Section("dir", "local", 0, {"path": section_config.Property("/var/lib/vz", 0)})
"""The storage that is there without a line in storage.cfg."""


class Resource(NamedTuple):
    """A VM that HA manages."""

    vmid: int
    line: int
    """Line of resources.cfg, from 1."""
    started: bool
    """Whether HA keeps it running."""
    nodes: tuple[str, ...]
    """The nodes that its group or its node affinity rule names; none without one."""
    strict: bool
    """Whether it may run on those nodes only."""
    said_by: str
    """What names the nodes, in words; empty without one."""


class Job(NamedTuple):
    """A backup job that is enabled."""

    id: str
    line: int
    mode: str
    """snapshot, suspend or stop."""
    node: str | None
    """The only node on which it runs."""
    all: bool
    vmids: frozenset[int]
    exclude: frozenset[int]

    def includes(self, vmid: int, node: str) -> bool:
        """Whether it backs a VM of `node` up."""
        if self.node not in {None, node}:
            return False
        return vmid not in self.exclude if self.all else vmid in self.vmids


def nodes(host: Host) -> tuple[str, ...]:
    """The nodes that have a folder in /etc/pve/nodes, sorted; none without that folder."""
    return tuple(host.names(f"{PVE}/nodes"))


def homes(host: Host) -> dict[int, str]:
    """The node of each VM of the cluster, by VMID."""
    return _homes(host, "qemu-server")


def container_homes(host: Host) -> dict[int, str]:
    """The node of each container of the cluster, by VMID."""
    return _homes(host, "lxc")


def _homes(host: Host, folder: str) -> dict[int, str]:
    found = {}
    for node in nodes(host):
        for name in host.names(f"{PVE}/nodes/{node}/{folder}"):
            vmid = vmid_of(name.removesuffix(".conf")) if name.endswith(".conf") else None
            if vmid is not None:
                found[vmid] = node
    return found


def ha_resources(host: Host) -> dict[int, Resource]:
    """The VMs that HA manages, by VMID; not those in the state `ignored`, which HA leaves alone."""
    resources = [
        section
        for section in _sections(host, RESOURCES)
        if section.type == "vm" and vmid_of(section.id) and section.get("state") != "ignored"
    ]
    if not resources:
        return {}
    groups = {section.id: section for section in _sections(host, GROUPS) if section.type == "group"}
    rules = _affinities(_sections(host, RULES))
    found = {}
    for section in resources:
        name = section.get("group") or ""
        if rule := rules.get(section.id):
            names = _node_names(rule)
            if rule.get("affinity") == "negative":
                names = tuple(name for name in nodes(host) if name not in names)
            said = (names, rule.flag("strict"), f"node affinity rule {rule.id}")
        elif group := groups.get(name):
            said = (_node_names(group), group.flag("restricted"), f"HA group {name}")
        else:
            said = ((), False, "")
        started = (section.get("state") or "started") in {"started", "enabled"}
        vmid = int(section.id)
        found[vmid] = Resource(vmid, section.line, started, *said)
    return found


def _affinities(sections: tuple[Section, ...]) -> dict[str, Section]:
    """The node affinity rule of each VM, by VMID as text; a disabled rule is none."""
    found: dict[str, Section] = {}
    for section in sections:
        if section.type == "node-affinity" and not section.flag("disable"):
            for word in section.words("resources"):
                kind, colon, name = word.partition(":")
                if kind == "vm" and colon:
                    found.setdefault(name, section)
                elif not colon:
                    found.setdefault(word, section)
    return found


def _node_names(section: Section) -> tuple[str, ...]:
    """The nodes of a list such as `pve1:2,pve2`, without their priorities."""
    return tuple(dict.fromkeys(word.partition(":")[0] for word in section.words("nodes")))


def backup_jobs(host: Host) -> tuple[Job, ...]:
    """The backup jobs that are enabled, by id."""
    sections = [
        section
        for section in _sections(host, JOBS)
        if section.type == "vzdump" and section.flag("enabled", default=True)
    ]
    wanted = {section.get("pool") for section in sections} - {None, ""}
    pools = _pools(host) if wanted else {}
    jobs = [
        Job(
            section.id,
            section.line,
            section.get("mode") or "snapshot",
            section.get("node") or None,
            section.flag("all"),
            _vmids(section.words("vmid")) | pools.get(section.get("pool") or "", frozenset()),
            _vmids(section.words("exclude")),
        )
        for section in sections
    ]
    return tuple(sorted(jobs, key=lambda job: job.id))


def _vmids(words: tuple[str, ...]) -> frozenset[int]:
    return frozenset(vmid for word in words if (vmid := vmid_of(word)) is not None)


def _pools(host: Host) -> dict[str, frozenset[int]]:
    """The guests of each pool: lines `pool:NAME:COMMENT:VMIDS:STORAGES:` of user.cfg."""
    found = {}
    for line in _bytes(host, USERS).decode("utf-8", "surrogateescape").split("\n"):
        fields = line.strip().split(":")
        if fields[0] == "pool" and len(fields) > 3:
            found[fields[1]] = _vmids(section_config.words(fields[3]))
    return found


def storages(host: Host) -> dict[str, Section] | None:
    """The storages by id; `local` is there without a line of its own. None when the file cannot be read."""
    try:
        data = host.read(STORAGES)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
            host.unreadable[STORAGES] = error.errno or errno.EIO
            return None
        data = b""
    return {_LOCAL.id: _LOCAL} | {section.id: section for section in section_config.parse(data)}


def storage_path(storage: Section) -> str | None:
    """Where a storage's files lie, or None when it holds none (LVM, ZFS, RBD, ...)."""
    path = storage.get("path")
    if path:
        return path.rstrip("/")
    return f"/mnt/pve/{storage.id}" if storage.type in _MOUNTED else None


def is_shared(storage: Section) -> bool:
    """Whether all nodes see the same files there."""
    return storage.type in SHARED or storage.flag("shared")


def snippets(storage: Section) -> str | None:
    """The folder of a storage's snippets, or None when it can have none."""
    path = storage_path(storage)
    if path is None:
        return None
    for word in storage.words("content-dirs"):
        kind, equals, folder = word.partition("=")
        if kind == _SNIPPETS and equals and folder:
            return f"{path}/{folder.strip('/')}"
    return f"{path}/{_SNIPPETS}"


def _sections(host: Host, path: str) -> tuple[Section, ...]:
    return section_config.parse(_bytes(host, path))


def _bytes(host: Host, path: str) -> bytes:
    """A file's bytes, none when it is absent or, then noted, cannot be read."""
    try:
        return host.read(path)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
            host.unreadable[path] = error.errno or errno.EIO
        return b""
