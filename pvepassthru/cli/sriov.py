# SPDX-License-Identifier: Apache-2.0
"""Physical functions and their virtual functions: look at them, set their number, make them what the policy says.

VFs are the state of their PF: they stay until `sriov set ADDRESS 0` or a reboot, and no stop of a VM takes them away.
The number of VFs is never changed while one of them is in use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.cli import policy_doubts, sriov_files, tables
from pvepassthru.cli.tables import Column
from pvepassthru.cli.words import function_address, print_error, print_json
from pvepassthru.host import policy, sriov, vf_settings
from pvepassthru.host.deadline import Deadline
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE
from pvepassthru.model.policy import SriovPolicy
from pvepassthru.model.text import counted, listed, one_line
from pvepassthru.report.virtual_functions import PhysicalFunctions, policies
from pvepassthru.rules import sharing
from pvepassthru.rules.subject import Surroundings

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from pvepassthru.host.host import Host
    from pvepassthru.host.vf_settings import Result

LIMIT = 300.0
"""Seconds for all that is done with one PF."""
PFS = (
    Column("ADDRESS"),
    Column("DRIVER"),
    Column("VFS"),
    Column("TOTAL"),
    Column("POLICY"),
    Column("INTERFACE", drop=1),
    Column("IN USE", drop=2, least=8),
)
VFS = (
    Column("VF"),
    Column("ADDRESS"),
    Column("DRIVER"),
    Column("GROUP", drop=3),
    Column("VM", least=8),
    Column("NETWORK", drop=1, least=16),
    Column("IN USE", drop=2, least=12),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    commands = parser.add_subparsers(dest="action", metavar="show|set|apply|files", required=True)
    as_json = "as JSON (docs/json.md)"
    dry_run = "say what would be done, and do nothing"
    show = commands.add_parser("show", help="the physical functions, or one with its virtual functions")
    show.add_argument("address", metavar="ADDRESS", nargs="?", help="a PF, such as 0000:01:00.0 or 01:00.0")
    show.add_argument("--json", action="store_true", help=as_json)
    number = commands.add_parser("set", help="give a PF this many VFs, 0 for none")
    number.add_argument("address", metavar="ADDRESS", help="the PF, such as 0000:01:00.0 or 01:00.0")
    number.add_argument("number", metavar="N", type=int, help="how many; any other number than it has goes through 0")
    autoprobe = "let the host's drivers take the VFs; else they get no driver (default: as the policy says, else no)"
    number.add_argument("--autoprobe", action="store_true", help=autoprobe)
    number.add_argument("--dry-run", action="store_true", help=dry_run)
    number.set_defaults(writes=True)
    apply = commands.add_parser("apply", help="make all PFs what the policy says; a second time changes nothing")
    apply.add_argument("--dry-run", action="store_true", help=dry_run)
    apply.add_argument("--json", action="store_true", help=as_json)
    apply.set_defaults(writes=True)
    files = commands.add_parser("files", help="what the policy says as /etc/sysfs.d, for a host without our unit")
    files.add_argument("--write", action="store_true", help="write it (pvepassthru doctor --undo takes that back)")
    files.add_argument("--json", action="store_true", help=as_json)


def run(args: argparse.Namespace, host: Host) -> int:
    """Run one of the actions.

    Returns 0, or 1 when `apply` could not make every PF what the policy says, or `files` cannot say it. Raises
    PassthruError.
    """
    if args.action == "show":
        return _show(args, host)
    if args.action == "set":
        return _set(args, host)
    if args.action == "apply":
        return _apply(args, host)
    around = Surroundings(host)
    return sriov_files.run(args, host, _policies(around), *beside(around))


def _policies(around: Surroundings) -> dict[str, SriovPolicy]:
    """What the policy says of each PF; sentences on rules that are not obeyed are printed as warnings."""
    found, doubts = policies(around)
    _warn(doubts)
    return found


def _warn(sentences: list[str]) -> None:
    for sentence in sentences:
        print_error(f"warning: {sentence}")


def beside(around: Surroundings) -> tuple[list[str], list[str]]:
    """Sentences on what the policy says of functions that are no PF: those that are there, and those that are not."""
    told = [doubt for doubt in policy_doubts.pfs(around.inventory, around.policies) if len(doubt.place) == 2]
    slips, notes = ([one for one in told if (one.severity == "error") == wrong] for wrong in (True, False))
    return [f"{slip.message}; {slip.hint}" for slip in slips], [note.message for note in notes]


# ---- set, apply


def _set(args: argparse.Namespace, host: Host) -> int:
    address = function_address(args.address)
    sriov.read(host, address)  # before the policy: is it a PF at all?
    around = Surroundings(host)
    wanted = _policies(around).get(address, SriovPolicy(address, 0))._replace(vfs=args.number)
    if args.autoprobe:
        wanted = wanted._replace(autoprobe=True)
    result = vf_settings.apply(host, wanted, Deadline(LIMIT), dry_run=args.dry_run)
    _print(result)
    if result.error:
        raise result.error
    if not result.said:
        print(f"{address} has {counted(args.number, 'VF')} already: nothing was changed")
    told = around.once(sharing.wanted).get(address)
    if args.number and not args.dry_run and not (told and told.vfs == args.number):
        print(
            f"this lasts until a reboot; to keep it: sriov: {{'{address}': {{vfs: {args.number}}}}} in the policy "
            f"({policy.FILES[1]}), and systemctl enable {sharing.UNIT}"
        )
    elif args.number and not args.dry_run and not sharing.by_unit(around):
        print(f"the policy says so, too, but this lasts until a reboot unless: systemctl enable {sharing.UNIT}")
    return EXIT_FINE


def _apply(args: argparse.Namespace, host: Host) -> int:
    around = Surroundings(host)
    wanted = _policies(around)
    slips, notes = beside(around)
    results = [vf_settings.apply(host, one, Deadline(LIMIT), dry_run=args.dry_run) for one in wanted.values()]
    failed = bool(slips) or any(result.error for result in results)
    for slip in slips:
        print_error(f"error: {slip}")
    for note in notes:
        print_error(f"note: {note}")
    if args.json:
        shapes = [_shape(result) for result in results]
        print_json({"dry_run": args.dry_run, "pfs": shapes, "errors": slips, "notes": notes})
        return EXIT_FINDINGS if failed else EXIT_FINE
    for result in results:
        _print(result)
        if result.error:
            print_error(f"error: {result.error}")
        elif not result.said:
            print(f"{result.address}: {counted(result.vfs, 'VF')}, all as the policy says")
    if not results:
        print("the policy says nothing of VFs of a PF that this host has")
    elif not failed and not any(result.said for result in results):
        print("nothing was changed")
    return EXIT_FINDINGS if failed else EXIT_FINE


def _print(result: Result) -> None:
    for sentence in result.said:
        print(one_line(sentence), flush=True)
    for warning in result.warnings:
        print_error(f"warning: {warning}")


def _shape(result: Result) -> dict[str, Any]:
    return {
        "address": result.address,
        "vfs": result.vfs,
        "changed": list(result.said),
        "warnings": list(result.warnings),
        "error": str(result.error) if result.error else None,
    }


# ---- show


def _show(args: argparse.Namespace, host: Host) -> int:
    view = PhysicalFunctions(Surroundings(host))
    if args.address is None:
        shapes = [view.shape(sriov.read(host, address)) for address in sriov.physical_functions(host)]
        _warn(view.warnings)
        if args.json:
            print_json(shapes)
        elif shapes:
            tables.print_table(PFS, [_pf_cells(shape) for shape in shapes])
        else:
            print("no device of this host does SR-IOV: see that it is enabled in the firmware and that the card has it")
        return EXIT_FINE
    pf = sriov.read(host, function_address(args.address))
    shape = view.shape(pf)
    _warn(view.warnings)
    if args.json:
        print_json(shape)
        return EXIT_FINE
    tables.print_fields(_fields(shape))
    if pf.functions:
        print()
        tables.print_table(VFS, [_vf_cells(vf) for vf in shape["functions"]])
    return EXIT_FINE


def _pf_cells(shape: dict[str, Any]) -> list[str]:
    used = sum(vf["in_use"] is not None for vf in shape["functions"])
    return [
        shape["address"],
        shape["driver"] or "-",
        "?" if shape["vfs"] is None else str(shape["vfs"]),
        str(shape["total"]),
        "-" if shape["policy"] is None else str(shape["policy"]),
        listed(shape["interfaces"]) or "-",
        f"{used} of {len(shape['functions'])}" if shape["functions"] else "-",
    ]


def _fields(shape: dict[str, Any]) -> list[tuple[str, str]]:
    count = "?" if shape["vfs"] is None else str(shape["vfs"])
    switched = {None: "not told", True: "yes: the host's drivers take new VFs", False: "no: new VFs get no driver"}
    fields = [
        ("address", shape["address"]),
        ("driver", shape["driver"] or "none"),
        ("VFs", f"{count} of {shape['total']}"),
        ("policy", "nothing" if shape["policy"] is None else counted(shape["policy"], "VF")),
        ("autoprobe", switched[shape["autoprobe"]]),
        ("interface", listed(shape["interfaces"]) or "none"),
    ]
    if shape["vfs"] is None:
        fields.append(("", "sriov_numvfs cannot be read now: a removal of VFs waits for a process"))
    if shape["switch"]:
        fields.append(
            ("mode", f"switchdev (switch {shape['switch']}): VFs are ports of a switch; see devlink dev eswitch")
        )
    if shape["driver_most"] is not None:
        fields.append(("driver's most", str(shape["driver_most"])))
    if shape["parameter"]:
        fields.append(("parameter", shape["parameter"]))
    fields += [("note", note) for note in shape["notes"]]
    return fields


def _vf_cells(vf: dict[str, Any]) -> list[str]:
    owners = [f"{owner['vmid']}{' (has it)' if owner['has'] else ''}" for owner in vf["vms"]]
    network = vf["network"] or {}
    words = [str(network["mac"])] if network.get("mac") else []
    words += [f"vlan {network['vlan']}"] if network.get("vlan") else []
    words += [name for name in ("trust", "spoofchk") if network.get(name)]
    words += [f"link {network['state']}"] if network.get("state") not in {None, "auto"} else []
    return [
        str(vf["number"]),
        vf["address"],
        vf["driver"] or "-",
        "-" if vf["group"] is None else str(vf["group"]),
        listed(owners) or "-",
        " ".join(words) or "-",
        vf["in_use"] or "-",
    ]
