# SPDX-License-Identifier: Apache-2.0
"""The owner's policy files: the cluster's and this node's, which wins.

Nothing of a VM's own config is policy: people who may not touch host hardware can edit that.
"""

from __future__ import annotations

import errno
import os
import stat

from pvepassthru.host.state import is_own
from pvepassthru.model.errors import InputError, UnsafeError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from pvepassthru.host.host import Host

FILES = ("/etc/pve/pvepassthru.yaml", "/etc/pvepassthru.yaml")
"""The cluster's, then this node's."""
GATES = ("enforce", "warn", "off")


def gate(host: Host, vmid: int) -> str:
    """What pre-start does with errors of a VM: `enforce` (the default), `warn` or `off`.

    `vms: {VMID: {gate: ...}}` before `defaults: {gate: ...}`, the node's file before the cluster's. Raises InputError
    and UnsafeError as `load`.
    """
    value = "enforce"
    loaded = [load(host, path) for path in FILES]
    for section in ("defaults", "vms"):
        for path, document in zip(FILES, loaded, strict=True):
            settings = _mapping(path, section, document.get(section))
            if section == "vms":
                settings = _mapping(path, f"vms.{vmid}", settings.get(vmid, settings.get(str(vmid))))
            chosen = settings.get("gate", value)
            if chosen is False:  # YAML 1.1 reads a bare `off` as false
                chosen = "off"
            if chosen not in GATES:
                raise InputError(f"{path}: gate is {chosen!r}", f"use one of {', '.join(GATES)}")
            value = chosen
    return value


def load(host: Host, path: str) -> dict[str, Any]:
    """A policy file's document, empty if there is none.

    Raises UnsafeError when it is not root's or others can write it, InputError when it cannot be read or is no YAML
    mapping.
    """
    try:
        info = os.stat(host.path(path))
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return {}
        raise InputError(f"cannot read the policy {path}: {error.strerror}") from error
    if not is_own(info) or info.st_mode & 0o022:
        raise UnsafeError(
            f"the policy {path} (user {info.st_uid}, mode {stat.S_IMODE(info.st_mode):04o}) can be written by others "
            "than root, so it is refused",
            f"see what it says, then: chown root: {path}; chmod go-w {path}",
        )
    import yaml  # noqa: PLC0415 - 20 ms that only hosts with a policy pay

    try:
        document = yaml.safe_load(host.read(path))
    except OSError as error:
        raise InputError(f"cannot read the policy {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"the policy {path} is not YAML: {' '.join(str(error).split())}") from error
    return _mapping(path, "the file", document)


def _mapping(path: str, what: str, value: object) -> dict[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: {what} must be a mapping of keys to values, not {type(value).__name__}")
    return value
