# SPDX-License-Identifier: Apache-2.0
"""The owner's policy files: the cluster's and this node's, which wins.

Nothing of a VM's own config is policy: people who may not touch host hardware can edit that.
"""

from __future__ import annotations

import errno
import os
import stat

from pvepassthru.host.host import way_out
from pvepassthru.host.state import is_own
from pvepassthru.host.vms import vmid_of
from pvepassthru.model.errors import InputError, UnsafeError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import nearest, shown

if TYPE_CHECKING:
    from typing import Any

    from pvepassthru.host.host import Host

FILES = ("/etc/pve/pvepassthru.yaml", "/etc/pvepassthru.yaml")
"""The cluster's, then this node's."""
GATES = ("enforce", "warn", "off")
SECTIONS = ("defaults", "vms")
SETTINGS = ("gate", "pre_start_seconds")
"""What `defaults` and each VM of `vms` may say."""
MOST_SECONDS = 3600


class Policy(NamedTuple):
    """What the owner allows one VM."""

    gate: str = "enforce"
    """What pre-start does with errors: `enforce`, `warn` or `off`."""
    pre_start_seconds: int = 0
    """How long pre-start may take, if that is longer than it may anyway."""


class Policies(NamedTuple):
    """Both files; each section has the cluster's settings first, then the node's."""

    defaults: tuple[dict[str, Any], ...]
    vms: tuple[dict[int, dict[str, Any]], ...]

    def of(self, vmid: int) -> Policy:
        """The policy for a VM: `vms: {VMID: ...}` before `defaults: ...`, the node's file before the cluster's."""
        policy = Policy()
        for settings in (*self.defaults, *(vms.get(vmid, {}) for vms in self.vms)):
            policy = policy._replace(**settings)
        return policy


def read(host: Host) -> Policies:
    """The policy files as they are. Raises InputError and UnsafeError as `load`."""
    loaded = [load(host, path) for path in FILES]
    return Policies(tuple(defaults for defaults, _ in loaded), tuple(vms for _, vms in loaded))


def of(host: Host, vmid: int) -> Policy:
    """The policy for one VM. Raises as `read`."""
    return read(host).of(vmid)


def _settings(path: str, what: str, value: object) -> dict[str, Any]:
    """One mapping of settings, checked. Raises InputError."""
    settings = _mapping(path, what, value)
    _known(path, what, settings, SETTINGS)
    return {name: (_gate if name == "gate" else _seconds)(path, what, value) for name, value in settings.items()}


def _gate(path: str, what: str, value: object) -> str:
    if value is False:  # YAML 1.1 reads a bare `off` as false
        return "off"
    if not isinstance(value, str) or value not in GATES:
        raise InputError(f"{path}: {what} has the gate {value!r}", f"use one of {', '.join(GATES)}")
    return value


def _seconds(path: str, what: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST_SECONDS:
        raise InputError(f"{path}: {what} has pre_start_seconds {value!r}", f"use a number from 1 to {MOST_SECONDS}")
    return value


def load(host: Host, path: str) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """A policy file's `defaults` and `vms` (settings by VMID), both empty if there is no such file.

    Raises UnsafeError when it is not root's or others can write it, InputError when it cannot be read, is no YAML, or
    has a key or value that means nothing, or a key twice: a policy with a slip of the pen must not pass for none.
    """
    try:
        info = os.stat(host.path(path))
    except OSError as error:
        absent = error.errno in {errno.ENOENT, errno.ENOTDIR}
        dangling = absent and host.link(path) is not None
        if absent and not dangling:
            return {}, {}
        why = "it is a link that leads nowhere" if dangling else error.strerror
        raise InputError(f"cannot read the policy {path}: {why}", way_out(error)) from error
    if not is_own(info) or info.st_mode & 0o022:
        raise UnsafeError(
            f"the policy {path} (user {info.st_uid}, mode {stat.S_IMODE(info.st_mode):04o}) can be written by others "
            "than root, so it is refused",
            f"see what it says, then: chown root: {path}; chmod go-w {path}",
        )
    document = _mapping(path, "the file", _parse(host, path))
    _known(path, "the file", document, SECTIONS)
    of_vms: dict[int, dict[str, Any]] = {}
    for key, value in _mapping(path, "vms", document.get("vms")).items():
        vmid = vmid_of(str(key))
        if vmid is None:
            raise InputError(f"{path}: vms has {shown(str(key))}, which is no VMID", "use numbers from 100")
        if vmid in of_vms:
            raise InputError(f"{path}: vms has {vmid} twice", "leave one of them")
        of_vms[vmid] = _settings(path, f"vms.{vmid}", value)
    return _settings(path, "defaults", document.get("defaults")), of_vms


def _parse(host: Host, path: str) -> object:
    try:
        from pvepassthru.host import strict_yaml  # noqa: PLC0415 - only hosts with a policy pay for yaml
    except ImportError as error:
        raise InputError(f"cannot read the policy {path}: {error}", "install python3-yaml") from error
    try:
        return strict_yaml.loads(host.read(path))
    except OSError as error:
        raise InputError(f"cannot read the policy {path}: {error.strerror}", way_out(error)) from error
    except ValueError as error:
        raise InputError(f"the policy {path} is not valid YAML: {error}") from error


def _known(path: str, what: str, settings: dict[Any, Any], known: tuple[str, ...]) -> None:
    """Raise InputError for a key that is not one of `known`."""
    for key in settings:
        if key not in known:
            near = nearest(str(key), known)
            hint = f"is {near} meant?" if near else f"known are {', '.join(known)}"
            raise InputError(f"{path}: {what} has an unknown key {shown(str(key))}", hint)


def _mapping(path: str, what: str, value: object) -> dict[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: {what} must be a mapping of keys to values, not {type(value).__name__}")
    return value
