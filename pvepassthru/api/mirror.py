# SPDX-License-Identifier: Apache-2.0
"""A node as the API tells of it, made a host in memory, so that the rules of `validate` judge its VMs.

It has the files for which the API has an answer: hardware in /sys; VM configs, mappings, HA and backup jobs in
/etc/pve; the processes of running VMs. What the API does not tell is absent, and no rule takes it for missing
(Host.partial): drivers, reset methods, BARs, what the host itself uses, ROM files, storages, the policy, PVE's
reservations. Sources: nodes/N/hardware/pci, its mdev lists, nodes/N/qemu/V/config, cluster/mapping/pci, cluster/ha,
cluster/backup.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import selection
from pvepassthru.host import cluster as files
from pvepassthru.host import vms
from pvepassthru.host.inventory import DEVICES, MDEVS
from pvepassthru.host.memory import Link, MemoryHost
from pvepassthru.model import pci, profile
from pvepassthru.rules import catalogue
from pvepassthru.rules.groups import GROUPS
from pvepassthru.rules.rule import judge
from pvepassthru.rules.subject import MAPPINGS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from pvepassthru.api.hardware import Answer, Function, NodeHardware
    from pvepassthru.api.present import Present
    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import MdevType
    from pvepassthru.model.finding import Finding
    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.mapping import Mappings
    from pvepassthru.rules.subject import Subject

    Files = dict[str, bytes | Link | None]

NVIDIA = "10de"
_ATTRIBUTES = ("vendor", "device", "class", "subsystem_vendor", "subsystem_device", "irq")
_SOMEWHERE = "/sys/devices/somewhere/ffff:ff:1f.7"
"""Where a mediated device lies whose parent the API does not tell; no function has that address."""
_NO_PROPERTIES = frozenset({"comment", "digest", "errors", "id", "sid", "type"})
NEVER = frozenset(
    {
        *("PVP101", "PVP102", "PVP103", "PVP104", "PVP105", "PVP147", "PVP151"),  # what the host is, and its files
        *("PVP223", "PVP224", "PVP226", "PVP253", "PVP256", "PVP257", "PVP258", "PVP259"),  # drivers, the policy
        *("PVP231", "PVP232", "PVP233", *(f"PVP{code}" for code in range(260, 272))),  # ROM files
        *(f"PVP{code}" for code in range(240, 253)),  # what the host itself uses
        *("PVP273", "PVP274", "PVP276", *(f"PVP{code}" for code in range(281, 300))),  # the state of functions
        *("PVP335", "PVP353", "PVP354", "PVP361", "PVP362", "PVP364", "PVP365"),  # the policy, USB, disks, memory
        *("PVP390", "PVP391", "PVP392", "PVP394", "PVP395"),  # packages, storages
        *("PVP410", "PVP411", "PVP420", "PVP421", "PVP424", "PVP436"),  # files, reservations, processes, disks
    }
)
"""Codes of rules on a VM whose sources the API does not tell at all, so that they never find anything on a mirror."""
RULES = tuple(rule for rule in catalogue.RULES if rule.check and rule.code not in NEVER)
"""The rules on a VM that are worth asking there."""
_LINES = (
    (re.compile(r" \(line \d+(?: of pci\.cfg)?\)"), ""),
    (re.compile(r", on line \d+ too"), ""),
    (re.compile(r"remove line \d+"), "remove one of the two"),
)
"""What rules say of lines of files, whose numbers are none of the node's here; and what to say instead."""


class Cluster(NamedTuple):
    """What the API answers of the cluster's own files."""

    nodes: tuple[str, ...] = ()
    """The names of its nodes."""
    resources: Sequence[Answer] = ()
    """GET cluster/ha/resources."""
    groups: Sequence[Answer] = ()
    """GET cluster/ha/groups, before PVE 9."""
    rules: Sequence[Answer] = ()
    """GET cluster/ha/rules, from PVE 9 on."""
    jobs: Sequence[Answer] = ()
    """GET cluster/backup."""


ALONE = Cluster()


class Mirror(MemoryHost):
    """A node as the API tells of it."""

    partial = True


def host(  # noqa: PLR0913 - what the API tells, each by its name
    hardware: NodeHardware,
    mappings: Mappings,
    presents: Iterable[Present],
    *,
    cluster: Cluster = ALONE,
    running: Collection[int] = (),
    untold: Collection[str] = (),
    common: Files | None = None,
) -> Host:
    """The node that has this hardware and these VMs, of which those in `running` run, for rules to look at.

    `presents` are the VMs of that node, best all of them that have a hostpci entry, for the rules across VMs. They are
    judged with what is pending; what is in force of those that run, if it is told apart, they have now. Of the
    functions in `untold` nobody has asked for the mdev types: every type that an entry wants
    is taken to be on offer there. The same holds for NVIDIA's virtual functions with vGPUs, which offer nothing while
    they have one: the API tells neither what they have nor whose it is. `common` is what `cluster_files` returned for
    these mappings and this cluster, if they are those of another node, too.
    """
    known = list(presents)
    configs = f"{vms.PVE}/nodes/{hardware.node}/qemu-server"
    made: Files = {DEVICES: None, vms.CONFIGS: Link(configs), configs: None}
    made |= cluster_files(mappings, cluster) if common is None else common
    made |= {f"{vms.PVE}/nodes/{hardware.node}/qemu-server/{one.vmid}.conf": one.text for one in known}
    for vmid in running:
        made |= _process(vmid)
    wishes = [entry for one in known for entry in one.section.entries.values()]
    wanted = {entry.mdev: None for entry in wishes if entry.wants_mdev and entry.mdev}
    for function in hardware.functions.values():
        made |= _function(function)
    own = vendor(hardware)
    held = [_Wish(one.vmid, entry) for one in known for entry in one.config.main.entries.values()]
    held = [wish for wish in held if wish.vmid in running and wish.entry.wants_mdev]
    instances = _Instances(hardware, mappings, held)
    for function in hardware.functions.values():
        if function.mdev_parent:
            if function.address in own:
                made |= _vendor_types(function, list(wanted))
            else:
                made |= _types(function, list(wanted), instances, guessed=function.address in untold)
    made |= instances.files
    return Mirror(hardware.node, made)


def findings(subject: Subject) -> tuple[Finding, ...]:
    """What the rules find of a VM on a mirror, in the order of the catalogue."""
    return tuple(plain(finding) for finding in judge(RULES, subject))


def plain(finding: Finding) -> Finding:
    """A finding on a mirror without the lines of files, which are not those of the node's own."""
    place, space, key = finding.where.partition(" ")
    file, colon, line = place.rpartition(":")
    where = f"{file}{space}{key}" if colon and line.isdecimal() else finding.where
    message, hint = finding.message, finding.hint
    for pattern, instead in _LINES:
        message, hint = pattern.sub(instead, message), pattern.sub(instead, hint)
    return finding._replace(where=where, message=message, hint=hint)


def asked(hardware: NodeHardware, wanted: Collection[str]) -> tuple[str, ...]:
    """Of these functions those whose mdev types a judgement needs from the API.

    Of NVIDIA's virtual functions one a GPU: it tells whether they have NVIDIA's own interface, of which the API tells
    no more than that.
    """
    found = []
    gpus: set[str] = set()
    for function in hardware.functions.values():
        if function.address in wanted and function.is_askable:
            gpu = function.physfn or function.address
            if not _shared(function) or gpu not in gpus:
                found.append(function.address)
            gpus.add(gpu)
    return tuple(found)


def vendor(hardware: NodeHardware) -> frozenset[str]:
    """The functions that have mediated devices by NVIDIA's own interface: virtual functions, and their physical ones.

    NVIDIA's driver has it from kernel 6.8 on; before, virtual functions had the kernel's own, which lists all types
    always, with what is left of each and in words how many a GPU takes.
    """
    kernels = {
        function.physfn or function.address
        for function in hardware.functions.values()
        for kind in function.types
        if kind.available == 0 or profile.read(kind.id, None, kind.description).most
    }
    found = (function for function in hardware.functions.values() if _shared(function))
    return frozenset(one.address for one in found if (one.physfn or one.address) not in kernels)


def _shared(function: Function) -> bool:
    """Whether it is one of NVIDIA's with virtual functions, or one of these, and has mediated devices."""
    return function.vendor == NVIDIA and function.mdev_parent and (function.physfn is not None or bool(function.vfs))


# ---- hardware


def _function(function: Function) -> Files:
    here = f"{DEVICES}/{function.address}"
    made: Files = {here: None}
    for name in _ATTRIBUTES:
        if name in function.attributes:
            made[f"{here}/{name}"] = f"{function.attributes[name]}\n".encode()
    if function.pci_class.startswith("0604"):
        made[f"{here}/pci_bus"] = None
    if function.group is not None:
        made[f"{here}/iommu_group"] = Link(f"{GROUPS}/{function.group}")
        made[f"{GROUPS}/{function.group}/devices/{function.address}"] = Link(here)
    if function.physfn:
        made[f"{here}/physfn"] = Link(f"{DEVICES}/{function.physfn}")
    for number, address in enumerate(function.vfs):
        made[f"{here}/virtfn{number}"] = Link(f"{DEVICES}/{address}")
    return made


def _vendor_types(function: Function, wanted: list[str]) -> Files:
    """NVIDIA's own interface: a virtual function that offers all that is wanted, a physical one that has no types."""
    here = f"{DEVICES}/{function.address}/nvidia"
    if function.physfn is None:
        return {here: None}
    numbers = {word for kind in wanted if (word := kind.removeprefix("nvidia-")) != kind and word.isdecimal()}
    offers = "".join(f"{word} :\n" for word in sorted(numbers, key=int))
    return {f"{here}/creatable_vgpu_types": offers.encode(), f"{here}/current_vgpu_type": b"0\n"}


def _types(function: Function, wanted: list[str], instances: _Instances, *, guessed: bool) -> Files:
    """The kernel's own mediated device types of a function."""
    here = f"{DEVICES}/{function.address}"
    folder = f"{here}/mdev_supported_types"
    made: Files = {folder: None}
    if guessed:
        return made | {f"{folder}/{kind}": None for kind in wanted if "/" not in kind}
    certain = instances.certain(function)
    for kind in function.types:
        made[f"{folder}/{kind.id}"] = None
        if kind.available is not None and (certain or kind.available == 0):
            made[f"{folder}/{kind.id}/available_instances"] = f"{kind.available}\n".encode()
        if kind.name and certain:
            made[f"{folder}/{kind.id}/name"] = f"{kind.name}\n".encode()
        if kind.description:
            made[f"{folder}/{kind.id}/description"] = f"{kind.description}\n".encode()
    return made


class _Wish(NamedTuple):
    """An entry that wants a mediated device."""

    vmid: int
    entry: HostpciEntry


class _Instances:
    """The mediated devices of running VMs, of which the API says nothing: what their configs have in force tells."""

    def __init__(self, hardware: NodeHardware, mappings: Mappings, wishes: Iterable[_Wish]) -> None:
        self.hardware = hardware
        self._on: dict[str, list[_Wish]] = {}
        """Those that name one parent alone, by its address."""
        self._certain: dict[str, bool] = {}
        self._all = list(wishes)
        for wish in self._all:
            parents = [functions[0] for functions in selection.alternatives(wish.entry, hardware, mappings)]
            if len(parents) == 1:
                self._on.setdefault(parents[0], []).append(wish)

    def certain(self, function: Function) -> bool:
        """Whether it is known all that is on a parent: with that, what is left of a type is all that it can have.

        Else what is left now says nothing of what is left after a boot, when whoever has the rest may be gone.
        """
        if function.address not in self._certain:
            self._certain[function.address] = any(self._adds_up(function, kind) for kind in function.types)
        return self._certain[function.address]

    def _adds_up(self, function: Function, kind: MdevType) -> bool:
        most = profile.read(kind.id, kind.name, kind.description).most
        if most is None or kind.available is None:
            return False
        here = self._on.get(function.address, ())
        return kind.available + sum(wish.entry.mdev == kind.id for wish in here) == most and len(here) == sum(
            wish.entry.mdev == kind.id for wish in here
        )

    @property
    def files(self) -> Files:
        """The instances: on their parents where these are certain, else somewhere."""
        made: Files = {}
        for address, wishes in self._on.items():
            function = self.hardware.functions[address]
            if function.types and self.certain(function):
                for wish in wishes:
                    folder = f"{DEVICES}/{address}/{_uuid(wish)}"
                    made[f"{folder}/mdev_type"] = Link(f"{DEVICES}/{address}/mdev_supported_types/{wish.entry.mdev}")
                    made[f"{MDEVS}/{_uuid(wish)}"] = Link(folder)
        for wish in self._all:
            if f"{MDEVS}/{_uuid(wish)}" not in made:
                made[f"{_SOMEWHERE}/{_uuid(wish)}"] = None
                made[f"{MDEVS}/{_uuid(wish)}"] = Link(f"{_SOMEWHERE}/{_uuid(wish)}")
        return made


def _uuid(wish: _Wish) -> str:
    return pci.mdev_uuid(wish.entry.index, wish.vmid)


# ---- PVE's files


def cluster_files(mappings: Mappings, cluster: Cluster) -> Files:
    """What all nodes of a cluster have in /etc/pve: the mappings, HA, backup jobs, a folder for each node."""
    made: Files = {f"{vms.PVE}/nodes/{name}/qemu-server": None for name in cluster.nodes}
    return made | {MAPPINGS: _mapping_text(mappings)} | _section_files(cluster)


def _mapping_text(mappings: Mappings) -> bytes:
    lines: list[str] = []
    for name, mapping in sorted(mappings.by_name.items()):
        lines.append(name)
        lines += ["\tmdev 1"] if mapping.mdev else []
        lines += ["\tlive-migration-capable 1"] if mapping.live_migration else []
        for entry in mapping.entries:
            parts = {"node": entry.node, "path": ";".join(entry.paths), "id": entry.id}
            parts |= {"subsystem-id": entry.subsystem_id} if entry.subsystem_id is not None else {}
            parts |= {"iommugroup": entry.iommugroup} if entry.iommugroup is not None else {}
            lines.append("\tmap " + ",".join(f"{key}={text}" for key, text in parts.items()))
        lines.append("")
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _section_files(cluster: Cluster) -> Files:
    """The files of HA and of backups; a resource is called `vm:100`, all else has a type and a name."""
    sections = {
        files.RESOURCES: [(str(row.get("sid", "")).replace(":", ": ", 1), row) for row in cluster.resources],
        files.GROUPS: [(f"group: {row.get('group', '')}", _without(row, "group")) for row in cluster.groups],
        files.RULES: [
            (f"{row.get('type', '')}: {row.get('rule', '')}", _without(row, "rule")) for row in cluster.rules
        ],
        files.JOBS: [(f"{row.get('type', 'vzdump')}: {row.get('id', '')}", row) for row in cluster.jobs],
    }
    return {path: _section_text(rows) for path, rows in sections.items() if rows}


def _without(row: Answer, key: str) -> Answer:
    return {name: value for name, value in row.items() if name != key}


def _section_text(rows: Iterable[tuple[str, Mapping[str, object]]]) -> bytes:
    lines: list[str] = []
    for head, row in rows:
        lines.append(head)
        for key, value in row.items():
            text = str(int(value) if isinstance(value, bool) else value)
            if key not in _NO_PROPERTIES and isinstance(value, str | int) and "\n" not in text:
                lines.append(f"\t{key} {text}")
        lines.append("")
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _process(vmid: int) -> Files:
    """A running VM's process; its number here is the VM's."""
    arguments = ("/usr/bin/kvm", "-id", str(vmid), "-pidfile", f"/var/run/qemu-server/{vmid}.pid")
    return {
        f"/run/qemu-server/{vmid}.pid": f"{vmid}\n".encode(),
        f"/proc/{vmid}/cmdline": "".join(f"{word}\0" for word in arguments).encode(),
    }
