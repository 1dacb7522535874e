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
from pvepassthru.model import pci
from pvepassthru.model.errors import InputError, UnsafeError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import nearest, number, shown

if TYPE_CHECKING:
    from typing import Any

    from pvepassthru.host.host import Host

FILES = ("/etc/pve/pvepassthru.yaml", "/etc/pvepassthru.yaml")
"""The cluster's, then this node's."""
GATES = ("enforce", "warn", "off")
SECTIONS = ("defaults", "vms", "silence")
SETTINGS = ("gate", "pre_start_seconds")
"""What `defaults` and each VM of `vms` may say."""
MOST_SECONDS = 3600
SILENCE = ("code", "vm", "device", "reason")
"""What an entry of `silence` may say."""
HOST_SAVING = ("PVP24", "PVP25")
"""How the codes of the rules begin that keep a start from taking the host's disks or network (rules/critical.py)."""


class Policy(NamedTuple):
    """What the owner allows one VM."""

    gate: str = "enforce"
    """What pre-start does with errors: `enforce`, `warn` or `off`."""
    pre_start_seconds: int = 0
    """How long pre-start may take, if that is longer than it may anyway."""


class Silence(NamedTuple):
    """A finding that the owner puts up with."""

    code: str
    vmid: int | None
    """Of this VM only."""
    device: str | None
    """About this PCI function only."""
    reason: str
    path: str
    """The policy file that says so."""


class Policies(NamedTuple):
    """Both files; each section has the cluster's settings first, then the node's."""

    defaults: tuple[dict[str, Any], ...] = ()
    vms: tuple[dict[int, dict[str, Any]], ...] = ()
    silence: tuple[Silence, ...] = ()

    def of(self, vmid: int) -> Policy:
        """The policy for a VM: `vms: {VMID: ...}` before `defaults: ...`, the node's file before the cluster's."""
        policy = Policy()
        for settings in (*self.defaults, *(vms.get(vmid, {}) for vms in self.vms)):
            policy = policy._replace(**settings)
        return policy


def read(host: Host) -> Policies:
    """The policy files as they are. Raises InputError and UnsafeError as `load`."""
    loaded = [load(host, path) for path in FILES]
    return Policies(
        tuple(defaults for defaults, _, _ in loaded),
        tuple(vms for _, vms, _ in loaded),
        tuple(silence for _, _, silences in loaded for silence in silences),
    )


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


def load(host: Host, path: str) -> tuple[dict[str, Any], dict[int, dict[str, Any]], tuple[Silence, ...]]:
    """A policy file's `defaults`, `vms` (settings by VMID) and `silence`, all empty if there is no such file.

    Raises UnsafeError when it is not root's or others can write it, InputError when it cannot be read, is no YAML, or
    has a key or value that means nothing, or a key twice: a policy with a slip of the pen must not pass for none.
    """
    try:
        info = os.stat(host.path(path))
    except OSError as error:
        absent = error.errno in {errno.ENOENT, errno.ENOTDIR}
        dangling = absent and host.link(path) is not None
        if absent and not dangling:
            return {}, {}, ()
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
    entries = document.get("silence")
    if entries is not None and not isinstance(entries, list):
        raise InputError(f"{path}: silence must be a list, not {type(entries).__name__}", "begin each entry with `-`")
    silences = tuple(_silence(path, f"silence entry {at}", entry) for at, entry in enumerate(entries or (), 1))
    return _settings(path, "defaults", document.get("defaults")), of_vms, silences


def _silence(path: str, what: str, value: object) -> Silence:
    """One entry of `silence`, checked; that its code is one that exists is for others to tell. Raises InputError."""
    entry = _mapping(path, what, value)
    _known(path, what, entry, SILENCE)
    code, vm, device, reason = (entry.get(name) for name in SILENCE)
    if not (isinstance(code, str) and len(code) == 6 and code.startswith("PVP") and number(code[3:]) is not None):
        raise InputError(f"{path}: {what} has the code {shown(str(code))}", "use one code such as PVP231")
    if not isinstance(reason, str) or not reason.strip():
        raise InputError(f"{path}: {what} has no reason", "say in `reason` why the finding may stay")
    vmid = None if vm is None else vmid_of(str(vm))
    if vm is not None and vmid is None:
        raise InputError(f"{path}: {what} has the vm {shown(str(vm))}, which is no VMID", "use a number from 100")
    address = None if device is None else pci.with_domain(str(device).lower())
    if address is not None and not pci.is_address(address):
        hint = "write it in full, such as 0000:01:00.0"
        raise InputError(f"{path}: {what} has the device {shown(str(device))}, which is no PCI address", hint)
    if code.startswith(HOST_SAVING) and (vmid is None or address is None):
        hint = "add vm and device: such a finding can be silenced for one VM and one device only"
        raise InputError(f"{path}: {what} silences {code}, which keeps the host's disks and network, too widely", hint)
    return Silence(code, vmid, address, " ".join(reason.split()), path)


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
