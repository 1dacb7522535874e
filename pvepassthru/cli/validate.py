# SPDX-License-Identifier: Apache-2.0
"""Check what a start of a VM would pass through, pending changes applied. Exit code 1 when there is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.cli.words import print_error, print_json, vmid
from pvepassthru.host import vms
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE, InputError, NotFoundError, PassthruError, UsageError
from pvepassthru.model.text import one_line
from pvepassthru.rules import catalogue
from pvepassthru.rules import subject as subjects

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from pvepassthru.host.host import Host
    from pvepassthru.model.finding import Finding
    from pvepassthru.model.passed import Passed
    from pvepassthru.rules.subject import Subject


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("vmid", nargs="*", type=vmid, metavar="VMID", help="a VM of this node")
    parser.add_argument("--all", action="store_true", help="every VM of this node")
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:
    """Print what the rules find; returns 0, or 1 when there is an error among it.

    A VM that cannot be judged does not stop the others: its error is said, and the first one's exit code returned.
    Raises NotFoundError without PVE, InputError when the VMs cannot be listed, UsageError without a VM.
    """
    if args.all and args.vmid:
        raise UsageError("validate takes VMIDs or --all, not both", "leave one of them out")
    if not args.all and not args.vmid:
        raise UsageError("validate needs one or more VMIDs, or --all", "pvepassthru validate 100")
    ids = _all(host) if args.all else list(dict.fromkeys(args.vmid))
    judged, failures = _judge(host, ids, every=args.all)
    for failure in failures:
        print_error(f"pvepassthru: {failure}")
    if args.json and (args.all or len(ids) > 1):
        print_json([shape(subject, found) for subject, found in judged])
    elif args.json:
        for subject, found in judged:
            print_json(shape(subject, found))
    elif judged or not failures:
        for subject, found in judged:
            _print_vm(subject, found, devices=not args.all)
        everything = [finding for _, found in judged for finding in found]
        missing = f"; {len(failures)} not checked" if failures else ""
        print(f"{_count(len(judged), 'VM')} checked: {_counts(everything)}{missing}")
    if failures:
        return failures[0].exit_code
    wrong = any(finding.severity == "error" for _, found in judged for finding in found)
    return EXIT_FINDINGS if wrong else EXIT_FINE


def _judge(
    host: Host, ids: list[int], *, every: bool
) -> tuple[list[tuple[Subject, list[Finding]]], list[PassthruError]]:
    """The VMs with what the rules find, and the errors of those that cannot be judged.

    With `every` VM of the node a config that cannot be read is a finding, and one that is gone is none. Raises
    NotFoundError without PVE.
    """
    around = subjects.Surroundings(host)
    judged: list[tuple[Subject, list[Finding]]] = []
    failures: list[PassthruError] = []
    for number in ids:
        try:
            subject = subjects.load(host, number, pending=True, around=around, lenient=every)
        except NotFoundError as error:
            vms.need_pve(host)
            if not every:  # else it was removed or migrated since it was listed
                failures.append(error)
        except InputError as error:
            failures.append(error)
        else:
            judged.append((subject, catalogue.findings(subject)))
    return judged, failures


def shape(subject: Subject, found: list[Finding]) -> dict[str, Any]:
    """The JSON shape of one VM's judgement (docs/json.md)."""
    return {
        "vmid": subject.vmid,
        "node": subject.node,
        "ok": not any(finding.severity == "error" for finding in found),
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


def _all(host: Host) -> list[int]:
    """Every VM of this node. Raises NotFoundError without PVE, InputError when the folder cannot be read."""
    vms.need_pve(host)
    found = vms.vmids(host)
    if vms.CONFIGS in host.unreadable:
        raise InputError(f"cannot read the folder {host.path(vms.CONFIGS)}", "run this as root")
    return found


def _print_vm(subject: Subject, found: list[Finding], *, devices: bool) -> None:
    if not found and not devices:
        return
    print(f"VM {subject.vmid}: {_counts(found)}")
    for device in subject.resolution.passed if devices else ():
        kind = f" mdev {device.mdev}" if device.mdev else f" vGPU type {device.nvidia}" if device.nvidia else ""
        choice = (
            f" (the first of {len(device.alternatives)})" if len(device.alternatives) > 1 and not device.mdev else ""
        )
        print(one_line(f"  hostpci{device.index}: {' '.join(device.addresses)}{kind}{choice}"))
    for finding in found:
        where = finding.where.removeprefix(f"{subject.config_path}")
        line, _, key = where.partition(" ")
        place = f"{key} (line {line[1:]})" if line[:1] == ":" and key else key or where or finding.where
        print(one_line(f"  {finding.severity} {finding.code} {place}: {finding.message}"))
        if finding.hint:
            print(one_line(f"    hint: {finding.hint}"))
    gate = _gate(subject)
    if gate != "enforce" and any(finding.severity == "error" for finding in found):
        print(f"  note: the policy's gate for this VM is {gate}: the hook does not refuse its start, though PVE may")


def _gate(subject: Subject) -> str:
    """What the hook does with errors of a VM; `enforce` with a policy that cannot be used, of which a finding tells."""
    try:
        return subject.around.policies.of(subject.vmid).gate
    except PassthruError:
        return "enforce"


def _counts(found: Iterable[Finding]) -> str:
    severities = [finding.severity for finding in found]
    words = [_count(severities.count(kind), kind) for kind in ("error", "warning", "info") if kind in severities]
    return ", ".join(words) or "fine"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
