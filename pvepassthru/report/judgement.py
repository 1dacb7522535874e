# SPDX-License-Identifier: Apache-2.0
"""What the rules find of a VM and what its start would pass, as `validate` says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.host import vms
from pvepassthru.model.errors import InputError
from pvepassthru.rules import catalogue, silence
from pvepassthru.rules import subject as subjects

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.model.finding import Finding
    from pvepassthru.model.passed import Passed
    from pvepassthru.rules.subject import Subject, Surroundings


def judge(
    around: Surroundings, vmid: int, *, pending: bool = True, lenient: bool = False
) -> tuple[Subject, list[Finding]]:
    """A VM with what the rules find of it, the owner's reason on what the policy silences.

    `lenient`: a config that cannot be read is a finding. Raises NotFoundError for no such VM, else InputError.
    """
    subject = subjects.load(around.host, vmid, pending=pending, around=around, lenient=lenient)
    return subject, silence.of_vm(silence.silences(around), subject, catalogue.findings(subject))


def shape(subject: Subject, found: list[Finding]) -> dict[str, Any]:
    """The JSON shape of one VM's judgement (docs/json.md)."""
    return {
        "vmid": subject.vmid,
        "node": subject.node,
        "pending": subject.pending,
        "ok": not any(one.severity == "error" and one.silenced is None for one in found),
        "findings": [finding._asdict() for finding in found],
        "devices": [_device(device) for device in subject.resolution.passed],
    }


def _device(device: Passed) -> dict[str, Any]:
    values = {
        "index": device.index,
        "addresses": device.addresses,
        "mdev": device.mdev,
        "nvidia": device.nvidia,
        "mapping": device.entry.mapping,
        "alternatives": device.alternatives if len(device.alternatives) > 1 else None,
        "options": device.entry.options,
    }
    return {name: value for name, value in values.items() if value is not None}


def every(host: Host) -> list[int]:
    """Every VM of this node. Raises NotFoundError without PVE, InputError when the folder cannot be read."""
    vms.need_pve(host)
    found = vms.vmids(host)
    if vms.CONFIGS in host.unreadable:
        raise InputError(f"cannot read the folder {host.path(vms.CONFIGS)}", "run this as root")
    return found
