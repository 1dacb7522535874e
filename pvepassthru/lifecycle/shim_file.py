# SPDX-License-Identifier: Apache-2.0
"""The file of the shim on a storage: on which one, what lies there, and putting it there (lifecycle/shim.py)."""

from __future__ import annotations

import errno
import os

from pvepassthru.host import cluster, cluster_lock, snippets
from pvepassthru.host.chained import LOCK
from pvepassthru.host.host import way_out
from pvepassthru.lifecycle import shim
from pvepassthru.model.errors import DeviceError, InputError, NotFoundError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pvepassthru.host.host import Host
    from pvepassthru.host.snippets import Snippet
    from pvepassthru.model.section_config import Section

MODE = 0o755
FIRST_LINE = b"#!/usr/bin/python3 -I\n"
"""Not in the module's source: packagers' tools take what has one for a program."""
_MARK = b"# pvepassthru shim "
_CALL = b"from pvepassthru.lifecycle.quick import main"
_BY_HAND = frozenset(
    b"""import os
import sys
_above = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
if os.path.isfile(_above + "/pyproject.toml") and os.path.isfile(_above + "/pvepassthru/lifecycle/quick.py"):
sys.path.insert(0, _above)
try:
from pvepassthru.lifecycle.quick import main
except ImportError as error:
sys.stderr.write(
f"pvepassthru: error: the package is not installed for {sys.executable} ({error}); install it again\\n"
)
sys.exit(3)
sys.exit(main(sys.argv))
os._exit(main(sys.argv))""".splitlines()
)
"""The lines of hookscripts/pvepassthru, which people copied to a storage before there was a shim; without its comments.
A script with any other line does something of its own."""
MOST = 64 * 1024
"""Bytes that are looked at: ours has fewer."""
_NOEXEC = "is the storage mounted so that nothing is executable?"


def text() -> bytes:
    """The shim as it is to lie on a storage. Raises InputError when this installation has no source of it."""
    try:
        with open(shim.__file__, "rb") as file:
            return FIRST_LINE + file.read()
    except OSError as error:
        raise InputError(f"cannot read {shim.__file__}: {error.strerror}", "install pvepassthru again") from error


def choose(host: Host, name: str | None) -> Snippet:
    """Where the shim is to lie: on the storage of this name, else the first of storage.cfg that this node can use.

    In a cluster the first one that all nodes share goes before: what lies there once is on every node. Raises
    InputError, NotFoundError, and DeviceError when there is none, or it is not mounted or with noexec, or not for
    snippets.
    """
    storages = cluster.storages(host)
    if storages is None:
        raise InputError(f"cannot read {cluster.STORAGES}", "run this as root")
    usable = snippets.holding(storages, host.node)
    if name is not None:
        usable = [_named(storages, name, usable, host.node)]
    elif not usable:
        raise DeviceError(f"no storage of node {host.node} is for snippets", _enable(storages, host.node))
    elif len(cluster.nodes(host)) > 1:
        usable.sort(key=lambda storage: not cluster.is_shared(storage))
    storage = usable[0]
    found = snippets.locate(storages, f"{storage.id}:{snippets.CONTENT}/{snippets.OURS}")
    base = cluster.storage_path(storage)
    if isinstance(found, str):
        raise DeviceError(f"storage {storage.id} cannot hold the hookscript: {found}", "name another with --storage")
    if base is None or not host.exists(base):
        raise DeviceError(f"storage {storage.id} is not there on node {host.node}: no {base}", _mount(storage))
    point = snippets.unmounted(host, storage)
    if point is not None:
        what = f"storage {storage.id} is not mounted on node {host.node}"
        raise DeviceError(
            f"{what}: nothing of it is on {shown(point)}, and what is put there would be hidden later", _mount(storage)
        )
    if snippets.noexec(host, base):
        raise DeviceError(
            f"storage {storage.id} is mounted with noexec, so PVE could run nothing there",
            "mount it without, or name another with --storage",
        )
    return found


def _mount(storage: Section) -> str:
    return f"see whether it is mounted (pvesm status --storage {storage.id}), or name another with --storage"


def _named(storages: Mapping[str, Section], name: str, usable: list[Section], node: str) -> Section:
    """The storage of this name. Raises NotFoundError and DeviceError."""
    storage = storages.get(name)
    if storage is None:
        raise NotFoundError(f"there is no storage {shown(name)}", f"{cluster.STORAGES} has {listed(storages)}")
    if storage not in usable:
        if cluster.snippets(storage) is None:
            raise DeviceError(f"storage {name} ({storage.type}) holds no files", _enable(storages, node))
        if not snippets.is_on(storage, node):
            raise DeviceError(f"storage {name} is disabled, or not for node {node}", "name another with --storage")
        raise DeviceError(f"storage {name} is not for snippets", f"make it so: {_command(storage)}")
    return storage


def _enable(storages: Mapping[str, Section], node: str) -> str:
    """How to make a storage one for snippets: `local`, or else the first that could be."""
    able = [one for one in storages.values() if cluster.snippets(one) is not None and snippets.is_on(one, node)]
    able.sort(key=lambda storage: storage.id != "local")
    return f"make one so: {_command(able[0])}" if able else "add a storage of the type dir with the content snippets"


def _command(storage: Section) -> str:
    content = [word for word in snippets.content(storage) if word != "none"]
    return f"pvesm set {storage.id} --content {','.join([*content, snippets.CONTENT])}"


def look(host: Host, path: str) -> str:
    """What lies there: absent, same, older or newer (the shim), by hand (our hookscript, copied), or foreign.

    `unknown` is what cannot be read.
    """
    try:
        found = host.read(path, MOST)
    except FileNotFoundError:
        return "absent"
    except OSError as error:
        return "foreign" if error.errno in {errno.EFBIG, errno.EISDIR} else "unknown"
    ours = text()
    if found == ours and not snippets.fault(host, path):
        return "same"
    version = _version(found)
    if version is not None:
        return "newer" if version > (_version(ours) or 0) else "older"
    code = _code(found)
    return "by hand" if _CALL in code and code <= _BY_HAND else "foreign"


def _code(script: bytes) -> set[bytes]:
    """The lines of a script in Python without comments, texts of several lines, and blanks around them."""
    outside = b"".join(script.split(b'"""')[::2])
    return {line.partition(b"#")[0].strip() for line in outside.splitlines()} - {b""}


def _version(data: bytes) -> int | None:
    for line in data.splitlines()[:5]:
        number = line.removeprefix(_MARK)
        if number != line and number.isdigit():
            return int(number)
    return None


def put(host: Host, snippet: Snippet, *, dry_run: bool) -> str:
    """See that the shim lies there, and return what was done: put, renewed, or nothing; a newer one stays.

    Raises DeviceError when another file lies there, or it cannot be written, BusyError for the cluster's lock.
    """
    state = _need_ours(host, snippet)
    if state in {"same", "newer"}:
        return "nothing"
    if not dry_run:
        with cluster_lock.hold(host, LOCK, f"the hookscript on {snippet.storage.id}"):
            _need_ours(host, snippet)
            _write(host, snippet)
    return "put" if state == "absent" else "renewed"


def _need_ours(host: Host, snippet: Snippet) -> str:
    state = look(host, snippet.path)
    if state in {"foreign", "unknown"}:
        what = "not this tool's" if state == "foreign" else "cannot be read"
        raise DeviceError(
            f"{snippet.path} is there and {what}, so it stays",
            "see what it is and give it another name, or name another storage with --storage",
        )
    return state


def _write(host: Host, snippet: Snippet) -> None:
    try:
        os.makedirs(os.path.dirname(host.path(snippet.path)), exist_ok=True)
        host.replace(snippet.path, text(), MODE, sync=True)
    except OSError as error:
        hint = way_out(error, "see whether the storage can be written, or name another with --storage")
        raise DeviceError(f"cannot write {snippet.path}: {error.strerror}", hint) from error
    why = snippets.fault(host, snippet.path)
    if why:
        raise DeviceError(f"{why}, so PVE would not run it", _NOEXEC)
