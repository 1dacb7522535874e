# SPDX-License-Identifier: Apache-2.0
"""Check what a start of a VM would pass through, pending changes applied. Exit code 1 when there is an error.

CODE is a code such as PVP310, or how several begin, such as PVP3; or a list of these with commas.
"""

from __future__ import annotations

from pvepassthru.cli import codes
from pvepassthru.cli.words import print_error, print_json, vmid
from pvepassthru.host import policy, vms
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE, InputError, NotFoundError, PassthruError, UsageError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import one_line
from pvepassthru.report.judgement import every, judge, shape
from pvepassthru.rules import catalogue, silence
from pvepassthru.rules import subject as subjects

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from pvepassthru.host.host import Host
    from pvepassthru.model.finding import Finding
    from pvepassthru.model.policy import Silence
    from pvepassthru.rules.subject import Subject, Surroundings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("vmid", nargs="*", type=vmid, metavar="VMID", help="a VM of this node")
    parser.add_argument("--all", action="store_true", help="every VM of this node")
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")
    shapes.add_argument("--sarif", action="store_true", help="as SARIF 2.1.0, for code scanning services and editors")
    codes.add_arguments(parser)
    section = parser.add_argument_group("which config").add_mutually_exclusive_group()
    section.add_argument(
        "--pending", action="store_true", help="with its pending changes, as the next start takes it (default)"
    )
    section.add_argument("--current", action="store_true", help="without its pending changes")


def run(args: argparse.Namespace, host: Host) -> int:
    """Print what the rules find; returns 0, or 1 when there is an error among it (or what --fail-on says).

    A VM that cannot be judged does not stop the others: its error is said, and the first one's exit code returned.
    Raises NotFoundError without PVE, InputError when the VMs cannot be listed, UsageError without a VM.
    """
    if args.all and args.vmid:
        raise UsageError("validate takes VMIDs or --all, not both", "leave one of them out")
    if not args.all and not args.vmid:
        raise UsageError("validate needs one or more VMIDs, or --all", "pvepassthru validate 100")
    asked = Asked(codes.choice(args.select, args.ignore), pending=not args.current, every=args.all)
    ids = every(host) if args.all else list(dict.fromkeys(args.vmid))
    around = subjects.Surroundings(host)
    left: dict[int, int] = {}
    judged, failures = _judge(around, ids, asked, left)
    for failure in failures:
        print_error(f"pvepassthru: {failure}")
    for note in _notes(silence.silences(around), judged, asked):
        print_error(f"pvepassthru: note: {note}")
    _print(args, judged, failures, asked, left)
    if failures:
        return failures[0].exit_code
    wrong = codes.fails((finding for _, found in judged for finding in found), args.fail_on)
    return EXIT_FINDINGS if wrong else EXIT_FINE


def _print(
    args: argparse.Namespace,
    judged: list[tuple[Subject, list[Finding]]],
    failures: list[PassthruError],
    asked: Asked,
    left: dict[int, int],
) -> None:
    """Print what was found in the shape that was asked for."""
    if args.sarif:
        from pvepassthru.cli import sarif  # noqa: PLC0415 - only who asks for it pays for hashlib and urllib

        print_json(sarif.log(judged, failures, asked.codes))
    elif args.json and (args.all or len(set(args.vmid)) > 1):
        print_json([shape(subject, found) for subject, found in judged])
    elif args.json:
        for subject, found in judged:
            print_json(shape(subject, found))
    elif judged or not failures:
        for subject, found in judged:
            _print_vm(subject, found, asked.codes.left_out(left.get(subject.vmid, 0)), devices=not args.all)
        everything = [finding for _, found in judged for finding in found]
        missing = f"; {len(failures)} not checked" if failures else ""
        left_out = asked.codes.left_out(sum(left.values()))
        print(f"{_count(len(judged), 'VM')} checked: {_counts(everything)}{left_out}{missing}")


class Asked(NamedTuple):
    """What is to be judged."""

    codes: codes.Choice
    pending: bool
    """Whether pending changes are applied."""
    every: bool
    """Whether every VM of the node is asked for."""


def _judge(
    around: Surroundings, ids: list[int], asked: Asked, left: dict[int, int]
) -> tuple[list[tuple[Subject, list[Finding]]], list[PassthruError]]:
    """The VMs with what the rules find, and the errors of those that cannot be judged.

    `left` gets the number of findings that --select and --ignore leave out, by VMID. With every VM of the node a config
    that cannot be read is a finding, and one that is gone is none. Raises NotFoundError without PVE.
    """
    judged: list[tuple[Subject, list[Finding]]] = []
    failures: list[PassthruError] = []
    for number in ids:
        try:
            subject, all_found = judge(around, number, pending=asked.pending, lenient=asked.every)
        except NotFoundError as error:
            vms.need_pve(around.host)
            if not asked.every:  # else it was removed or migrated since it was listed
                failures.append(error)
        except InputError as error:
            failures.append(error)
        else:
            found = [finding for finding in all_found if asked.codes.wants(finding.code)]
            left[number] = len(all_found) - len(found)
            judged.append((subject, found))
    return judged, failures


def _print_vm(subject: Subject, found: list[Finding], left_out: str, *, devices: bool) -> None:
    if not found and not devices:
        return
    print(f"VM {subject.vmid}: {_counts(found)}{left_out}")
    for device in subject.resolution.passed if devices else ():
        kind = f" mdev {device.mdev}" if device.mdev else f" vGPU type {device.nvidia}" if device.nvidia else ""
        choice = (
            f" (the first of {len(device.alternatives)})" if len(device.alternatives) > 1 and not device.mdev else ""
        )
        print(one_line(f"  hostpci{device.index}: {' '.join(device.addresses)}{kind}{choice}"))
    for finding in sorted(found, key=lambda finding: finding.silenced is not None):
        where = finding.where.removeprefix(f"{subject.config_path}")
        line, _, key = where.partition(" ")
        place = f"{key} (line {line[1:]})" if line[:1] == ":" and key else key or where or finding.where
        severity = finding.severity if finding.silenced is None else f"silenced {finding.severity}"
        print(one_line(f"  {severity} {finding.code} {place}: {finding.message}"))
        if finding.silenced is not None:
            print(one_line(f"    reason: {finding.silenced}"))
        elif finding.hint:
            print(one_line(f"    hint: {finding.hint}"))
    gate = _gate(subject)
    if gate != "enforce" and codes.fails(found, "error"):
        print(f"  note: the policy's gate for this VM is {gate}: the hook does not refuse its start, though PVE may")


def _gate(subject: Subject) -> str:
    """What the hook does with errors of a VM; `enforce` with a policy that cannot be used, of which a finding tells."""
    try:
        return subject.around.policies.of(subject.vmid).gate
    except PassthruError:
        return "enforce"


def _counts(found: Iterable[Finding]) -> str:
    told = list(found)
    severities = [finding.severity for finding in told if finding.silenced is None]
    words = [_count(severities.count(kind), kind) for kind in codes.SEVERITIES if kind in severities]
    silenced = len(told) - len(severities)
    return ", ".join(words or ["fine"]) + (f", {silenced} silenced" if silenced else "")


def _notes(entries: Iterable[Silence], judged: list[tuple[Subject, list[Finding]]], asked: Asked) -> Iterator[str]:
    """What is odd in the policy's `silence`: codes that are none and, when all is judged, what silences nothing more.

    The cluster's file may mean VMs and devices of other nodes.
    """
    here = {subject.vmid for subject, _ in judged}
    for entry in entries:
        rule = catalogue.BY_CODE.get(entry.code)
        if rule is None:
            yield f"the policy {entry.path} silences {entry.code}, and there is no such code"
        elif (
            rule.check
            and asked == Asked(codes.Choice(), pending=True, every=True)
            and (entry.vmid in here or (entry.vmid is None and entry.path == policy.FILES[1]))
            and not any(silence.entry_for((entry,), subject, finding) for subject, found in judged for finding in found)
        ):
            of = f" of VM {entry.vmid}" if entry.vmid else ""
            on = f" on {entry.device}" if entry.device else ""
            yield f"the policy {entry.path} silences {entry.code}{of}{on}, which is found no more ({entry.reason})"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
