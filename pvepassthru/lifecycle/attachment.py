# SPDX-License-Identifier: Apache-2.0
"""Giving VMs of this node the hookscript, and taking it off again; a former one is chained, and restored.

Whoever is stopped between two steps leaves nothing that counts: the former hookscript is noted before the VM gets
ours, and forgotten after the VM has it back; a note has no effect on a VM that has another hookscript than ours.
Between two steps the VM may move to another node, where somebody else attaches or detaches it: a note changes only
under the cluster's lock, after a look at the config that the VM has then.
"""

from __future__ import annotations

from pvepassthru.host import chained, cluster, locks, programs, snippets, state, vms
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.host import way_out
from pvepassthru.lifecycle import shim_file
from pvepassthru.model import chain, vmconfig
from pvepassthru.model.chain import Link
from pvepassthru.model.errors import BusyError, DeviceError, InputError, NotFoundError, UsageError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.host import Host
    from pvepassthru.host.snippets import Snippet
    from pvepassthru.model.vmconfig import VmConfig

LOCK = f"{state.FOLDER}/attach.lock"
PATIENCE = 60.0
"""Seconds to wait for another attach or detach of this node."""
QM_SECONDS = 60.0
"""Seconds that `qm set` may take; it waits 10 s for the VM's lock."""
PYTHON = "/usr/bin/python3"
"""Which runs the shim."""
KEY = "hookscript"
SHIM = frozenset({"same", "older", "newer"})
"""What shim_file.look says of the shim."""


class How(NamedTuple):
    """How it is done."""

    dry_run: bool = False
    move: bool = False
    """Whether a VM that has the shim of another storage gets the one that is named."""
    with_pending: bool = False
    """Whether pending changes of others may take effect with it."""


class Done(NamedTuple):
    """What became of one VM."""

    vmid: int
    state: str
    """attached, already, detached, forgotten (a note that had no effect), or none (there was nothing to take off)."""
    hookscript: str | None
    """What the VM has now, or would have."""
    former: str | None
    """The hookscript that is chained to ours, or was until now; the VM may not have it back."""
    commands: tuple[str, ...] = ()
    """What was done, or would be."""
    warnings: tuple[str, ...] = ()


def need_package(host: Host) -> None:
    """Raise DeviceError when the Python that runs the shim does not find this package."""
    output = programs.run(host, (PYTHON, "-I", "-c", "import pvepassthru.lifecycle.quick"), 30)
    if output.code != 0:
        why = output.words.splitlines()[-1] if output.words else f"exit code {output.code}"
        raise DeviceError(
            f"{PYTHON}, which runs hookscripts, cannot load pvepassthru: {shown(why)}",
            "install the Debian package (docs/guide/install.md); a virtual environment is not enough",
        )


def attach(host: Host, vmid: int, place: Snippet, how: How) -> Done:
    """Give a VM of this node the shim at `place`, which is there, and chain a hookscript that it had.

    Raises UsageError for what is no VM of this node, or a template, InputError, BusyError when somebody works on it,
    DeviceError when its present hookscript cannot be chained, or qm refuses.
    """
    if how.dry_run:
        return _attach(host, vmid, place, how)
    with _alone(host):
        return _attach(host, vmid, place, how)


def already(host: Host, vmid: int, place: Snippet, how: How) -> Done | None:
    """What there is to say of a VM that has the hookscript, None if it is to get it. Raises as `attach`."""
    return _already(host, vmid, own_config(host, vmid), place, how)


def _already(host: Host, vmid: int, config: VmConfig, place: Snippet, how: How) -> Done | None:
    if config.template:
        raise UsageError(f"VM {vmid} is a template, which never starts", "attach the VMs that are made of it")
    now = config.main.get(KEY)
    if now is not None and (now == place.volume or (kind_of(host, now) in SHIM and not how.move)):
        return Done(vmid, "already", now, _former(chained.read(host), vmid))
    return None


def _attach(host: Host, vmid: int, place: Snippet, how: How) -> Done:
    config = own_config(host, vmid)
    done = _already(host, vmid, config, place, how)
    if done is not None:
        return done
    links = chained.read(host)
    now = config.main.get(KEY)
    link = _to_chain(host, vmid, now, links)
    commands = []
    if links.get(vmid) != link:
        commands.append(f"note {link.volume} in {chain.FILE}" if link else f"forget VM {vmid} in {chain.FILE}")
    commands.append(_words(vmid, place.volume))
    _need_free(host, vmid, config, how)
    if not how.dry_run:
        if not chained.note(host, vmid, link, lambda: _present(host, vmid) == now):
            raise BusyError(f"somebody else changes the hookscript of VM {vmid}", "see what it has now; run this again")
        _set(host, vmid, place.volume)
        chained.note(host, vmid, link, lambda: _present(host, vmid) == place.volume)  # a detach elsewhere forgot it
    warnings = (*_lost(vmid, now, links.get(vmid), link), *(_twice(host, link) if link else ()))
    return Done(vmid, "attached", place.volume, link.volume if link else None, tuple(commands), warnings)


def _to_chain(host: Host, vmid: int, now: str | None, links: dict[int, Link]) -> Link | None:
    """What is to be chained to ours in a VM that has this hookscript. Raises DeviceError when that cannot be run."""
    if now is None:
        return None
    kind = kind_of(host, now)
    if _is_ours(kind, now):
        return links.get(vmid) if kind != "by hand" else None
    return Link(now, _runnable(host, vmid, now))


def _lost(vmid: int, now: str | None, noted: Link | None, link: Link | None) -> tuple[str, ...]:
    """A warning of a noted hookscript that is forgotten: people have given the VM another one, or none, since."""
    if noted is None or (link is not None and link.volume == noted.volume):
        return ()
    had = f"{shown(noted.volume)}, which was chained to ours before, is forgotten: VM {vmid} had"
    again = f"pvepassthru detach {vmid}; qm set {vmid} --{KEY} {shown(noted.volume)}; pvepassthru attach {vmid}"
    return (f"hookscript {had} {shown(now) if now else 'none'} now; to have it again: {again}",)


def _twice(host: Host, link: Link) -> tuple[str, ...]:
    """A warning of a chained script that may run our hook, too."""
    try:
        script = host.read(link.path, shim_file.MOST)
    except OSError:  # too large to be looked at, or gone meanwhile
        return ()
    words = f"hookscript {shown(link.volume)}, chained to ours, speaks of pvepassthru: where it runs our hook itself"
    return (f"{words} take that out of it, since ours runs with it now",) if b"pvepassthru" in script else ()


def detach(host: Host, vmid: int, how: How) -> Done:
    """Give a VM its former hookscript back, or none, and forget the note. Raises as `attach`.

    One that cannot be run any more is not given back, since the VM would not start with it; a warning names it.
    """
    if how.dry_run:
        return _detach(host, vmid, how)
    with _alone(host):
        return _detach(host, vmid, how)


def _detach(host: Host, vmid: int, how: How) -> Done:
    links = chained.read(host)
    link = links.get(vmid)
    forget = (f"forget VM {vmid} in {chain.FILE}",) if link else ()
    if link and vmid not in cluster.homes(host):
        kept = () if how.dry_run else _forget(host, vmid)
        return Done(vmid, "forgotten", None, link.volume, forget, (f"VM {vmid} is not there any more", *kept))
    config = own_config(host, vmid)
    now = config.main.get(KEY)
    if now is None or not _is_ours(kind_of(host, now), now):
        kept = _forget(host, vmid) if link and not how.dry_run else ()
        has = f"has hookscript {shown(now)}, which is not this tool's: it stays" if now else "has no hookscript"
        if link:
            has += f"; the one that it had before ours was {shown(link.volume)}"
        became = "forgotten" if link else "none"
        return Done(vmid, became, now, _former(links, vmid), forget, (f"VM {vmid} {has}", *kept))
    warnings: list[str] = []
    former = link.volume if link else None
    _, why = _script(host, former) if former is not None else ("", "")
    if former is not None and why:
        had = f"VM {vmid} had hookscript {shown(former)} before, which cannot be run ({why}), so it has none now"
        warnings.append(f"{had}; to have it again, once it can: qm set {vmid} --{KEY} {shown(former)}")
    back = None if why else former
    _need_free(host, vmid, config, how)
    if not how.dry_run:
        _set(host, vmid, back)
        warnings += _forget(host, vmid)
    if host.exists(state.journal_path(vmid)):
        warnings.append(
            f"VM {vmid} has an open journal: no hook gives its devices back any more; when it has stopped: pvepassthru "
            f"recover {vmid}"
        )
    return Done(vmid, "detached", back, former, (_words(vmid, back), *forget), tuple(warnings))


def _forget(host: Host, vmid: int) -> tuple[str, ...]:
    """Forget the note of a VM; a warning when it is needed, since the VM has ours again."""

    def without_ours() -> bool:
        now = _present(host, vmid)
        return now is None or not _is_ours(kind_of(host, now), now)

    if chained.note(host, vmid, None, without_ours):
        return ()
    return (f"VM {vmid} has this tool's hookscript again, by somebody else, so the note of its former one stays",)


def _present(host: Host, vmid: int) -> str | None:
    """The hookscript of a VM on whatever node it is now; None without one, or without a VM. Raises InputError."""
    home = cluster.homes(host).get(vmid)
    path = f"{vms.PVE}/nodes/{home}/qemu-server/{vmid}.conf"
    try:
        return vmconfig.parse(host.read(path)).main.get(KEY) if home is not None else None
    except FileNotFoundError:  # it is on its way, or removed
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", way_out(error)) from error


def own_config(host: Host, vmid: int) -> VmConfig:
    """The config of a VM of this node. Raises UsageError for a VM of another node or a container, NotFoundError."""
    try:
        return vmconfig.parse(host.read(vms.config_path(vmid)))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"cannot read {vms.config_path(vmid)}: {error.strerror}", way_out(error)) from error
    home = cluster.homes(host).get(vmid)
    if home is not None:
        raise UsageError(f"VM {vmid} is on node {home}, and this is {host.node}", f"run this on node {home}")
    if vmid in cluster.container_homes(host):
        raise UsageError(f"{vmid} is a container, and this tool is for VMs", "leave it out")
    raise NotFoundError(f"there is no VM {vmid}", f"the VMs of node {host.node}: {listed(vms.vmids(host)) or 'none'}")


def _configs(host: Host) -> Iterator[tuple[int, VmConfig | None]]:
    """The VMs of this node with their configs; None is one that cannot be read: whoever works on the VM says why."""
    for vmid in vms.vmids(host):
        try:
            yield vmid, own_config(host, vmid)
        except InputError:
            yield vmid, None
        except (NotFoundError, UsageError):  # removed meanwhile, or moved
            pass


def with_passthrough(host: Host) -> list[int]:
    """The VMs of this node that have hostpci entries, or will have at their next start; no templates.

    One whose config cannot be read is among them, so that it is not passed over without a word.
    """
    found = []
    for vmid, config in _configs(host):
        if config is None or (not config.template and (config.main.entries or config.pending.entries)):
            found.append(vmid)
    return found


def attached(host: Host) -> list[int]:
    """The VMs of this node with our hookscript, and those with a note that are here, or nowhere any more.

    One whose config cannot be read is among them, as in `with_passthrough`. Raises InputError.
    """
    ours = set()
    for vmid, config in _configs(host):
        now = config.main.get(KEY) if config else None
        if config is None or (now is not None and _is_ours(kind_of(host, now), now)):
            ours.add(vmid)
    homes = cluster.homes(host)
    noted = {vmid for vmid in chained.read(host) if homes.get(vmid, host.node) == host.node}
    return sorted(ours | noted)


def kind_of(host: Host, volume: str) -> str:
    """What a VM's hookscript is, as shim_file.look says it; `unknown` when its storage is not there, too."""
    storages = cluster.storages(host)
    found = snippets.locate(storages, volume) if storages is not None else ""
    return shim_file.look(host, found.path) if isinstance(found, snippets.Snippet) else "unknown"


def _is_ours(kind: str, volume: str) -> bool:
    """Whether a VM's hookscript of this kind is this tool's; the name tells only where the file cannot."""
    return kind in {*SHIM, "by hand"} or (kind in {"absent", "unknown"} and snippets.is_ours(volume))


def _runnable(host: Host, vmid: int, volume: str) -> str:
    """The path of a hookscript. Raises DeviceError when PVE would not run it: then VMs do not start with it."""
    path, why = _script(host, volume)
    if why:
        raise DeviceError(
            f"hookscript {shown(volume)} of VM {vmid} cannot be run: {why}",
            f"put it back and make it executable, or do without it: qm set {vmid} --delete {KEY}",
        )
    return path


def _script(host: Host, volume: str) -> tuple[str, str]:
    """The path of a hookscript, and why PVE would not run it, empty if it would. Raises InputError."""
    storages = cluster.storages(host)
    if storages is None:
        raise InputError(f"cannot read {cluster.STORAGES}", "run this as root")
    found = snippets.locate(storages, volume)
    return ("", found) if isinstance(found, str) else (found.path, snippets.fault(host, found.path))


def _need_free(host: Host, vmid: int, config: VmConfig, how: How) -> None:
    """Raise BusyError when PVE works on the VM, DeviceError when qm would make other changes take effect."""
    lock = config.main.get("lock")
    if lock:
        raise BusyError(f"VM {vmid} is locked ({shown(lock)}): PVE works on it", "wait until that is done")
    if config.has_pending and not how.with_pending and vms.running_pid(host, vmid) is None:
        keys = listed(sorted({*config.pending.values, *config.deletes} - {KEY}))
        if keys:
            raise DeviceError(
                f"VM {vmid} does not run and has pending changes ({keys}), which qm makes effective with any other",
                "start it once or revert them, or let that happen: --with-pending",
            )


def _words(vmid: int, volume: str | None) -> str:
    return " ".join(["qm", *_arguments(vmid, volume)])


def _arguments(vmid: int, volume: str | None) -> tuple[str, ...]:
    return ("set", str(vmid), *((f"--{KEY}", volume) if volume is not None else ("--delete", KEY)))


def _set(host: Host, vmid: int, volume: str | None) -> None:
    """Have qm set or delete a VM's hookscript, and see that it has. Raises DeviceError."""
    qm = programs.find(host, "qm")
    if qm is None:
        raise DeviceError(f"cannot set the hookscript of VM {vmid}: there is no program qm", "is this a PVE node?")
    output = programs.run(host, (qm, *_arguments(vmid, volume)), QM_SECONDS)
    if own_config(host, vmid).main.get(KEY) == volume:
        return
    why = " ".join(output.words.split()) or f"exit code {output.code}"
    if output.code == 0:
        why = "qm said nothing of it, and the config has it not"
    raise DeviceError(
        f"{_words(vmid, volume)} failed: {shown(why)}", "the VM has what it had; mend that, then run this again"
    )


def _former(links: dict[int, Link], vmid: int) -> str | None:
    return links[vmid].volume if vmid in links else None


def _alone(host: Host) -> locks.Lock:
    state.prepare(host)
    return locks.take(host, LOCK, Deadline(PATIENCE), "the VMs' hookscripts")
