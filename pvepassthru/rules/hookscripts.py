# SPDX-License-Identifier: Apache-2.0
"""Rules on the VM's hookscript, and on the one that it had before and that is chained to it, PVP394 to PVP396."""

from __future__ import annotations

from pvepassthru.host import chained, cluster, snippets
from pvepassthru.model import chain
from pvepassthru.model.errors import InputError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import shown
from pvepassthru.rules.demand import ha_resources
from pvepassthru.rules.rule import NotApplicable
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.model.chain import Link
    from pvepassthru.model.section_config import Section
    from pvepassthru.rules.subject import Subject, Surroundings


def hookscript_unusable(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the VM's hookscript is an executable file in the snippets of a storage.

    Why it matters: PVE looks before each phase, and refuses to start a VM whose hookscript it cannot run.

    How to fix: put the script there and make it executable (`chmod +x`), or `qm set VMID --delete hookscript`.
    """
    volume = None if subject.config.template else subject.section.get("hookscript")
    where = subject.at("hookscript", subject.section.line("hookscript"))
    for message, hint in _faults(subject, volume, f"or: qm set {subject.vmid} --delete hookscript"):
        yield Hit(where, f"hookscript {message}", hint)


def chained_unusable(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the hookscript that a VM had before `pvepassthru attach` is known and can still be run.

    Why it matters: it is run with this tool's, which refuses the start without it, as PVE would.

    How to fix: put the script back and make it executable (`chmod +x`), or mend pvepassthru-hooks.json. To do without
    it: `pvepassthru detach VMID`, `pvepassthru attach VMID`.
    """
    if subject.config.template or not snippets.is_ours(subject.section.get("hookscript")):
        return
    where = subject.at("hookscript", subject.section.line("hookscript"))
    links, data, error = subject.around.once(_noted)
    if error is not None and (data is None or f'"{subject.vmid}"'.encode() in data):  # as the hookscript looks for it
        yield Hit(where, f"it cannot be told which hookscript is chained to this tool's: {error.message}", error.hint)
    link = links.get(subject.vmid)
    way = f"or do without it: pvepassthru detach {subject.vmid}; pvepassthru attach {subject.vmid}"
    for message, hint in _faults(subject, link.volume if link else None, way):
        yield Hit(where, f"chained hookscript {message}", hint)


def chain_of_nobody(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether each VM whose former hookscript is noted (pvepassthru-hooks.json) is in the cluster.

    Why it matters: a VM that gets the same number later would run the script of the former one.

    How to fix: `pvepassthru detach VMID` forgets it.
    """
    try:
        links = chained.read(around.host)
    except InputError as error:
        yield Hit(chain.FILE, error.message, error.hint)
        return
    if not links:
        raise NotApplicable("no VM has a chained hookscript")
    there = cluster.homes(around.host)
    for vmid, link in sorted(links.items()):
        if vmid not in there:
            message = f"hookscript {shown(link.volume)} is noted for VM {vmid}, and there is no such VM"
            yield Hit(chain.FILE, message, f"pvepassthru detach {vmid}")


def _noted(around: Surroundings) -> tuple[dict[int, Link], bytes | None, InputError | None]:
    """The chained hookscripts by VMID, their file's bytes (None if it cannot be read), and why it cannot be used."""
    data = None
    try:
        data = chained.raw(around.host) or b""
        return (chain.parse(data) if data else {}), data, None
    except InputError as error:
        return {}, data, error


def _faults(subject: Subject, volume: str | None, way_out: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a hookscript, each with a hint; nothing where that cannot be told."""
    storages = subject.around.once(_storages) if volume is not None else None
    if volume is None or storages is None:
        return
    found = snippets.locate(storages, volume)
    if isinstance(found, str):
        hint = "put it on a storage with snippets" if "holds no files" in found else "write STORAGE:snippets/FILE"
        yield f"{shown(volume)}: {found}", f"{hint}, {way_out}"
        return
    why = snippets.fault(subject.host, found.path)
    if not why:
        return
    hints = {
        "irregular": f"put it there, {way_out}",
        "inert": f"chmod +x {shown(found.path)}",
        "noexec": f"mount it without noexec, or put the script on another storage, {way_out}",
    }
    kind = snippets.kind_of_fault(subject.host, found.path)
    if kind in hints:
        yield f"{shown(volume)}: {why}", hints[kind]
        return
    base = cluster.storage_path(found.storage) or found.path
    if found.path not in subject.host.unreadable and subject.host.names(base):  # else no such host, or not mounted
        yield f"{shown(volume)}: {why}", f"put the script there, {way_out}"


def hookscript_on_one_node(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a hookscript of a VM that HA manages lies on a storage that all nodes share.

    Why it matters: on a node that does not have the file PVE refuses to start the VM. Whether others have it cannot be
    told from here.

    How to fix: put the same file on every node, or use a shared storage.
    """
    volume = None if subject.config.template else subject.section.get("hookscript")
    resource = subject.around.once(ha_resources).get(subject.vmid) if volume else None
    others = tuple(name for name in cluster.nodes(subject.host) if name != subject.node) if resource else ()
    elsewhere = [name for name in others if resource and (not resource.strict or name in resource.nodes)]
    storages = subject.around.once(_storages) if elsewhere else None
    found = snippets.locate(storages, volume) if volume and storages is not None else None
    if isinstance(found, snippets.Snippet) and not cluster.is_shared(found.storage):
        message = (
            f"HA may start the VM on other nodes, and its hookscript lies on {found.storage.id}, which is not shared"
        )
        where = subject.at("hookscript", subject.section.line("hookscript"))
        yield Hit(where, message, "see that every node has the same file there")


def _storages(around: Surroundings) -> dict[str, Section] | None:
    if around.host.partial and not around.host.exists(cluster.STORAGES):
        return None
    return cluster.storages(around.host)
