# SPDX-License-Identifier: Apache-2.0
"""All nodes of a cluster, by the PVE API.

`validate` checks what the next start of every VM would pass through, and the cluster's mappings; `capacity` tells what
is free on each node, or which node fits a VM. The user of the API needs VM.Audit on the VMs, Sys.Audit on / and
Mapping.Audit on /mapping/pci.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import fleet
from pvepassthru.cli import codes, connection, fleet_capacity, reach
from pvepassthru.cli.progress import Bar
from pvepassthru.cli.words import print_error, print_json
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE
from pvepassthru.model.text import counted, listed, one_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from typing import Any

    from pvepassthru.api.fleet import Report
    from pvepassthru.cli.codes import Choice
    from pvepassthru.host.host import Host
    from pvepassthru.model.finding import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    commands = parser.add_subparsers(dest="action", metavar="validate|capacity", required=True)
    validate = commands.add_parser("validate", help="check what the VMs of all nodes would pass through")
    reach.add_arguments(validate)
    validate.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")
    fleet_capacity.add_arguments(
        commands.add_parser("capacity", help="what is free on each node", description=fleet_capacity.__doc__)
    )
    codes.add_arguments(validate)


def run(args: argparse.Namespace, host: Host) -> int:  # noqa: ARG001 - the API tells of the nodes
    """Print what is found; returns 0, or 1 when there is an error among it (or what --fail-on says), or nothing free.

    What cannot be looked at does not stop the rest: it is named, and the exit code is that of the first. Raises
    PassthruError when the cluster itself cannot be read.
    """
    return fleet_capacity.run(args) if args.action == "capacity" else _validate(args)


def _validate(args: argparse.Namespace) -> int:
    wanted = codes.choice(args.select, args.ignore)
    with connection.connect(args) as client, Bar("VMs", quiet=args.json) as bar:
        report = fleet.validate(client, args.nodes, jobs=args.jobs, progress=bar)
    reach.say_failures(report.failures)
    for note in report.notes:
        print_error(f"pvepassthru: note: {note}")
    kept = _wanted(report, wanted)
    if args.json:
        print_json(shape(kept))
    else:
        _print(kept, wanted.left_out(len(_all(report)) - len(_all(kept))))
    if report.failures:
        return report.failures[0].error.exit_code
    return EXIT_FINDINGS if codes.fails(_all(kept), args.fail_on) else EXIT_FINE


def shape(report: Report) -> dict[str, Any]:
    """The JSON shape of a report (docs/json.md)."""
    return {
        "ok": not report.failures and not codes.fails(_all(report), "error"),
        "nodes": list(report.nodes),
        "checked": report.read,
        "vms": [
            {
                "vmid": vm.vmid,
                "node": vm.node,
                "running": vm.running,
                "ok": not codes.fails(vm.findings, "error"),
                "findings": [finding._asdict() for finding in vm.findings],
            }
            for vm in report.vms
        ],
        "mappings": [{"node": of.node, "finding": of.finding._asdict()} for of in report.mappings],
        "failures": reach.failure_shapes(report.failures),
        "notes": list(report.notes),
    }


def _wanted(report: Report, choice: Choice) -> Report:
    """The report with the findings that are wanted."""
    return report._replace(
        vms=tuple(
            vm._replace(findings=tuple(finding for finding in vm.findings if choice.wants(finding.code)))
            for vm in report.vms
        ),
        mappings=tuple(of for of in report.mappings if choice.wants(of.finding.code)),
    )


def _all(report: Report) -> list[Finding]:
    return [*(finding for vm in report.vms for finding in vm.findings), *(of.finding for of in report.mappings)]


def _print(report: Report, left_out: str) -> None:
    for vm in report.vms:
        if vm.findings:
            print(f"VM {vm.vmid} on node {vm.node}: {_counts(vm.findings)}")
            for finding in vm.findings:
                _print_finding(finding, finding_key(finding))
    if report.mappings:
        print(f"mappings: {_counts(of.finding for of in report.mappings)}")
    for of in report.mappings:
        name = finding_key(of.finding)
        _print_finding(of.finding, f"{name} on node {of.node}" if of.node else name)
    nodes = sorted({failure.node for failure in report.failures if failure.node and failure.vmid is None})
    vmids = sorted(failure.vmid for failure in report.failures if failure.vmid is not None)
    where = counted(len(report.nodes), "node")
    where = f"{len(report.nodes) - len(nodes)} of {where}" if nodes else where
    unread = [f"{word} {listed(those)}" for word, those in (("node", nodes), ("VM", vmids)) if those]
    missing = f"; not checked: {'; '.join(unread)}" if unread else ""
    print(f"{counted(report.read, 'VM')} on {where} checked: {_counts(_all(report))}{left_out}{missing}")


def finding_key(finding: Finding) -> str:
    """The key that a finding is about, or the mapping."""
    return finding.where.rpartition(" ")[2]


def _print_finding(finding: Finding, place: str) -> None:
    print(one_line(f"  {finding.severity} {finding.code} {place}: {finding.message}"))
    if finding.hint:
        print(one_line(f"    hint: {finding.hint}"))


def _counts(found: Iterable[Finding]) -> str:
    severities = [finding.severity for finding in found]
    words = [counted(severities.count(kind), kind) for kind in codes.SEVERITIES if kind in severities]
    return ", ".join(words) or "fine"
