# SPDX-License-Identifier: Apache-2.0
"""The cluster's PCI mappings, by the PVE API: plan one for all nodes, write it, check them against the hardware.

`plan` and `check` change nothing; `apply` shows the same plan, asks, and writes it. `remove` shows what would go, and
with --apply asks and does it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pvepassthru.api import (
    mapping_apply,
    mapping_check,
    mapping_loss,
    mapping_plan,
    mapping_removal,
    mapping_render,
    mapping_wish,
    mappings,
    nodes,
)
from pvepassthru.api.mapping_check import SEVERITIES
from pvepassthru.api.mapping_order import ORDERS
from pvepassthru.api.mapping_plan import Options
from pvepassthru.cli import connection, consent
from pvepassthru.cli.config import undoing
from pvepassthru.cli.words import print_error, print_json
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE, ApiUnsureError, EndedError, PassthruError, UsageError
from pvepassthru.model.text import counted, listed, one_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    from pvepassthru.api.client import Client
    from pvepassthru.api.mapping_apply import Written
    from pvepassthru.api.mapping_check import Drift, Report
    from pvepassthru.api.mapping_plan import Plan
    from pvepassthru.api.mapping_removal import Removal
    from pvepassthru.host.host import Host
    from pvepassthru.model.errors import ApiError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    plan = actions.add_parser("plan", help="show what a mapping is to hold on every node")
    _add_plan(plan)
    apply = actions.add_parser("apply", help="show the same, ask, and write it")
    _add_plan(apply)
    apply.add_argument("--yes", action="store_true", help="do not ask")
    check = actions.add_parser("check", help="whether the mappings still describe the hardware, and VMs can use them")
    check.add_argument("name", nargs="*", metavar="NAME", help="a mapping (default: all)")
    _add_nodes(check, "look at this node only; may be given several times (default: all nodes)")
    check.add_argument("--no-vms", action="store_true", help="do not read the configs of the VMs: one request each")
    _add_common(check)
    _add_remove(actions.add_parser("remove", help="take a mapping away, or its devices of some nodes"))


def _add_remove(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the mapping; as a whole, if no node and no device is named")
    _add_nodes(parser, "take what it has of this node only; may be given several times")
    parser.add_argument(
        "--device",
        dest="devices",
        metavar="[NODE:]ADDRESS",
        action="append",
        default=[],
        help="take this device only; may be given several times",
    )
    consent.add_arguments(parser, "take it away; else it is only shown")
    _add_common(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the mapping, a new one or one that is there")
    which = parser.add_argument_group("which devices (default: of the model that the mapping has already)")
    one = which.add_mutually_exclusive_group()
    one.add_argument(
        "--device",
        metavar="DEVICE",
        help="an address (0000:01:00.0, or 01:00 for all its functions), whose kind is taken on all nodes; "
        "vendor:device; or gpu, nic, nvme",
    )
    which.add_argument(
        "--only", action="store_true", help="just the device at that address, none of its kind elsewhere"
    )
    one.add_argument("--vf-of", metavar="PF", help="the VFs of a PF's model, by its address or vendor:device")
    which.add_argument("--subsystem", metavar="IDS", default="", help="only those of this subsystem, vendor:device")
    which.add_argument("--mdev", action="store_true", help="only those that have mediated devices")
    which.add_argument(
        "--exclude",
        metavar="[NODE:]ADDRESS",
        action="append",
        default=[],
        help="not this device or slot; may be given several times",
    )
    _add_nodes(parser, "plan for this node only, others stay as they are; may be given several times")
    parser.add_argument(
        "--order",
        choices=ORDERS,
        default="",
        help="in which order the devices of a node are given to VMs: one card after the other, or by turns "
        "(default: as they are)",
    )
    parser.add_argument("--live-migration", action="store_true", help="say that the devices can be migrated live")
    parser.add_argument(
        "--prune", action="store_true", help="remove entries that fit their node no more, or are excluded"
    )
    _add_common(parser)


def _add_nodes(parser: argparse.ArgumentParser, words: str) -> None:
    parser.add_argument("--node", dest="nodes", metavar="NODE", action="append", default=[], help=words)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")
    connection.add_arguments(parser)


def run(args: argparse.Namespace, host: Host) -> int:  # noqa: ARG001 - it is the cluster that is looked at
    """Do what is asked for; returns 0, or 1 for an error that `check` finds, a no, or what would be refused.

    Raises what api.mapping_plan.plan, api.mapping_apply.apply, api.mapping_check.check, api.mapping_removal.apply and
    the connection raise, and UsageError for `apply` and `remove --apply` where they cannot ask.
    """
    if args.action == "apply" and args.json and not args.yes:
        raise UsageError("mapping apply --json asks nothing", "add --yes, or see mapping plan --json first")
    if args.action == "remove":
        _check_remove(args)
    with connection.connect(args) as client:
        if args.action == "check":
            return _check(args, client)
        if args.action == "remove":
            return _remove(args, client)
        plan = _plan(args, client)
        refusal = mapping_loss.read(client, plan)
        if args.action == "plan":
            _show(args, plan, refusal)
            return EXIT_FINDINGS if refusal else EXIT_FINE
        return _apply(args, client, plan, refusal)


def _plan(args: argparse.Namespace, client: Client) -> Plan:
    sought = None
    if args.device or args.vf_of or args.subsystem or args.mdev or args.only:
        sought = mapping_wish.of_arguments(
            args.device or "", args.vf_of or "", args.subsystem, mdev=args.mdev, only=args.only
        )
    options = Options(args.order, args.live_migration, args.prune, tuple(args.exclude))
    return mapping_plan.plan(args.name, mappings.read(client), nodes.read(client, args.nodes), sought, options)


def _show(args: argparse.Namespace, plan: Plan, refusal: ApiError | None) -> None:
    if args.json:
        print_json(mapping_render.shape(plan, refusal))
    else:
        print(mapping_render.diff(plan, refusal), end="", flush=True)


def _apply(args: argparse.Namespace, client: Client, plan: Plan, refusal: ApiError | None) -> int:
    if not args.json:
        _show(args, plan, None)
    shape = mapping_render.shape(plan, refusal)
    written = None
    with _told(args, shape):
        if refusal:
            raise refusal
        if plan.changed:
            mapping_apply.check(client, (plan.name,))
            if not consent.given(f"write mapping {plan.name}?", yes=args.yes):
                print_error("pvepassthru: nothing is changed, since the answer was no")
                return EXIT_FINDINGS
            with undoing():
                written = _write(client, plan)
    note = written.note if written else ""
    if args.json:
        print_json(_outcome(shape, written=written is not None, note=note))
    else:
        print(f"mapping {plan.name} is written" if written else "nothing was changed")
        if note:
            print_error(f"pvepassthru: note: {note}")
    return EXIT_FINE


@contextmanager
def _told(args: argparse.Namespace, shape: dict[str, Any]) -> Iterator[None]:
    """With --json print what was planned with the error that kept it from being done; the error goes on."""
    try:
        yield
    except PassthruError as error:
        if args.json:
            unsure = isinstance(error, (ApiUnsureError, EndedError))
            print_json(_outcome(shape, written=None if unsure else False, error=error))
        raise


def _outcome(
    shape: dict[str, Any], *, written: bool | None, note: str = "", error: PassthruError | None = None
) -> dict[str, Any]:
    """What was planned with what became of it, as JSON has it (docs/json.md)."""
    return {**shape, "written": written, "note": note or None, "error": error.message if error else None}


def _write(client: Client, plan: Plan) -> Written | None:
    try:
        return mapping_apply.apply(client, plan)
    except (KeyboardInterrupt, EndedError):
        print_error(f"pvepassthru: mapping {plan.name} is as it was or as planned: the same plan again tells")
        raise


def _check_remove(args: argparse.Namespace) -> None:
    """Raise UsageError when arguments do not go together."""
    if args.yes and not args.apply:
        raise UsageError("--yes says how --apply is done, and there is none", "add --apply")
    if args.apply and args.json and not args.yes:
        raise UsageError("mapping remove --apply --json asks nothing", "add --yes, or leave out --apply first")


def _remove(args: argparse.Namespace, client: Client) -> int:
    """Show what goes, and with --apply do it."""
    removal = mapping_removal.read(client, args.name, args.nodes, args.devices)
    shape = mapping_render.removal_shape(removal)
    if not args.apply:
        if args.json:
            print_json(shape)
        else:
            print(mapping_render.removal_diff(removal), end="", flush=True)
        return EXIT_FINDINGS if removal.refusal else EXIT_FINE
    with _told(args, shape):
        if removal.refusal:
            raise removal.refusal
        if not args.json:
            print(mapping_render.removal_diff(removal), end="", flush=True)
        what = "this of" if removal.after else "the whole"
        if removal.after is not None:
            mapping_apply.check(client, (removal.name,))
        if not consent.given(f"remove {what} mapping {removal.name}?", yes=args.yes):
            print_error("pvepassthru: nothing is changed, since the answer was no")
            return EXIT_FINDINGS
        with undoing():
            note = _removed(client, removal)
    if args.json:
        print_json(_outcome(shape, written=True, note=note))
    else:
        print(f"mapping {removal.name} is {'removed' if removal.after is None else 'written'}")
        if note:
            print_error(f"pvepassthru: note: {note}")
    return EXIT_FINE


def _removed(client: Client, removal: Removal) -> str:
    try:
        return mapping_removal.apply(client, removal)
    except (KeyboardInterrupt, EndedError):
        print_error(f"pvepassthru: mapping {removal.name} is as it was or as shown: the same again tells")
        raise


def _check(args: argparse.Namespace, client: Client) -> int:
    report = mapping_check.check(client, args.name, args.nodes, vms=not args.no_vms)
    if args.json:
        print_json(_shape(report))
    else:
        for drift in report.drifts:
            place = f"{drift.mapping} on {drift.node}" if drift.node else drift.mapping
            code = f" {drift.code}" if drift.code else ""
            print(one_line(f"{drift.severity}{code} {place}: {drift.message}"))
            if drift.hint:
                print(one_line(f"    hint: {drift.hint}"))
        print(_summary(report))
    for what, error in sorted(report.unread.items()):
        print_error(f"pvepassthru: {_named(what)} was not looked at: {error}")
    if report.wrong:
        return EXIT_FINDINGS
    return next((error.exit_code for _, error in sorted(report.unread.items())), EXIT_FINE)


def _summary(report: Report) -> str:
    """How much was looked at, what not, and how many findings there are."""
    missing = [what for what in report.unread if not what.startswith("VM ")]
    asked = {*report.nodes, *missing}
    where = counted(len(asked), "node")
    where = f"{len(asked) - len(missing)} of {where}" if missing else where
    unread = f"; not looked at: {listed(map(_named, sorted(report.unread)))}" if report.unread else ""
    return f"{counted(len(report.mappings), 'mapping')} on {where} checked: {_counts(report.drifts)}{unread}"


def _named(what: str) -> str:
    """A node or a VM that was not looked at, in words."""
    return what if what.startswith("VM ") else f"node {what}"


def _counts(drifts: tuple[Drift, ...]) -> str:
    severities = [drift.severity for drift in drifts]
    words = [
        counted(severities.count(kind), kind) if kind != "info" else f"{severities.count(kind)} info"
        for kind in SEVERITIES
        if kind in severities
    ]
    return ", ".join(words) or "fine"


def _shape(report: Report) -> dict[str, Any]:
    return {
        "ok": not report.wrong,
        "mappings": list(report.mappings),
        "nodes": list(report.nodes),
        "unread": {what: error.message for what, error in sorted(report.unread.items())},
        "findings": [drift._asdict() for drift in report.drifts],
    }
