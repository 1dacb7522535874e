# SPDX-License-Identifier: Apache-2.0
"""The owner's policy files: the cluster's and this node's, which wins key by key.

Nothing of a VM's own config is policy: people who may not touch host hardware can edit that. What a checked file says
is kept in /run/pvepassthru, with the file's text beside it, so that the hook need not load YAML and JSON schema for it.
"""

from __future__ import annotations

import errno
import os
import stat

import pvepassthru
from pvepassthru.host.host import way_out
from pvepassthru.host.state import FOLDER, is_own
from pvepassthru.model.errors import InputError, UnsafeError
from pvepassthru.model.policy import Policies, Silence, merged
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from pvepassthru.host.host import Host
    from pvepassthru.host.policy_file import Checked
    from pvepassthru.model.policy import Policy

FILES = ("/etc/pve/pvepassthru.yaml", "/etc/pvepassthru.yaml")
"""The cluster's, then this node's."""
CACHE = f"{FOLDER}/policy.cache"
"""What the files said when they were last checked, in Python's marshal format; root's alone, as its folder."""


def read(host: Host, *, cached: bool = False) -> Policies:
    """The policy of this node; `cached` is for the hook, which has made the state folder.

    Raises UnsafeError when a file is not root's or others can write it, InputError when it cannot be read or has a
    slip: a policy with a slip of the pen must not pass for none.
    """
    texts = [text(host, path) for path in FILES]
    if texts == [None, None]:
        return Policies()
    documents = _from_cache(host, texts) if cached else None
    if documents is None:
        documents = [_document(path, data) for path, data in zip(FILES, texts, strict=True)]
        if cached:
            _to_cache(host, texts, documents)
    silences = [
        Silence(entry["code"], entry.get("vm"), entry.get("device"), " ".join(entry["reason"].split()), path)
        for path, document in zip(FILES, documents, strict=True)
        for entry in document.get("silence") or ()
    ]
    return Policies(merged(*documents), tuple(silences))


def of(host: Host, vmid: int) -> Policy:
    """The policy for one VM. Raises as `read`."""
    return read(host).of(vmid)


def text(host: Host, path: str) -> bytes | None:
    """The bytes of a policy file, or None if there is none. Raises UnsafeError and InputError as `read`."""
    try:
        info = os.stat(host.path(path))
    except OSError as error:
        absent = error.errno in {errno.ENOENT, errno.ENOTDIR}
        dangling = absent and host.link(path) is not None
        if absent and not dangling:
            return None
        why = "it is a link that leads nowhere" if dangling else error.strerror
        raise InputError(f"cannot read the policy {path}: {why}", way_out(error)) from error
    if not stat.S_ISREG(info.st_mode):  # an empty FIFO would pass for no policy
        raise InputError(f"cannot read the policy {path}: it is no plain file", "make it a file, or remove it")
    if not is_own(info) or info.st_mode & 0o022:
        raise UnsafeError(
            f"the policy {path} (user {info.st_uid}, mode {stat.S_IMODE(info.st_mode):04o}) can be written by others "
            "than root, so it is refused",
            f"see what it says, then: chown root: {path}; chmod go-w {path}",
        )
    try:
        return host.read(path)
    except OSError as error:
        raise InputError(f"cannot read the policy {path}: {error.strerror}", way_out(error)) from error


def check(path: str, data: bytes) -> Checked:
    """A policy file as its bytes say, with its slips. Raises InputError when it is no YAML."""
    try:
        from pvepassthru.host import policy_file  # noqa: PLC0415 - only hosts with a policy pay for it
    except ImportError as error:
        package = "python3-jsonschema" if "jsonschema" in str(error) else "python3-yaml"
        raise InputError(f"cannot read the policy {path}: {error}", f"install {package}") from error
    try:
        return policy_file.check(data)
    except ValueError as error:
        line = getattr(error, "line", None)
        raise InputError(f"the policy {path}{f':{line}' if line else ''} is not valid YAML: {error}") from error


def _document(path: str, data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {}
    checked = check(path, data)
    if checked.slips:
        first, more = checked.slips[0], len(checked.slips) - 1
        others = f" (and {more} more: pvepassthru policy check)" if more else ""
        raise InputError(f"{path}:{first.line}: {first.message}{others}", first.hint)
    return checked.document


def _from_cache(host: Host, texts: list[bytes | None]) -> list[dict[str, Any]] | None:
    """What the files said when they were checked, if they still have the same text."""
    try:
        data = host.read(CACHE)
    except OSError:
        return None
    import marshal  # noqa: PLC0415 - built in, and only for hosts with a policy

    try:
        version, old, documents = marshal.loads(data)  # noqa: S302 - root's own file in root's own folder
    except (EOFError, ValueError, TypeError):  # another Python's
        return None
    return documents if (version, old) == (pvepassthru.__version__, texts) else None


def _to_cache(host: Host, texts: list[bytes | None], documents: list[dict[str, Any]]) -> None:
    import marshal  # noqa: PLC0415 - as above

    from pvepassthru.host import locks  # noqa: PLC0415 - as above
    from pvepassthru.host.deadline import Deadline  # noqa: PLC0415 - as above
    from pvepassthru.model.errors import PassthruError  # noqa: PLC0415 - as above

    try:
        with locks.take(host, f"{FOLDER}/policy.lock", Deadline(0.0), "the policy's cache"):
            host.replace(CACHE, marshal.dumps((pvepassthru.__version__, texts, documents)))
    except (OSError, PassthruError, ValueError):  # the next start reads the files again
        pass
