# SPDX-License-Identifier: Apache-2.0
"""The owner's policy: whether its files are right (`check`), and what applies to a VM and from which file (`show`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pvepassthru.cli import policy_doubts
from pvepassthru.cli.tables import Column, print_table
from pvepassthru.cli.words import print_json, vmid
from pvepassthru.host import policy
from pvepassthru.lifecycle.phases import BUDGET
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE, InputError, NotFoundError, UnsafeError
from pvepassthru.model.policy import DevicePolicy, Policies, Policy
from pvepassthru.model.text import one_line
from pvepassthru.rules import catalogue
from pvepassthru.rules import subject as subjects

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from pvepassthru.host.host import Host
    from pvepassthru.host.policy_file import Checked
    from pvepassthru.model.policy import Place, Said, Silence
    from pvepassthru.rules.subject import Subject

BUILT_IN = "default"
"""Where a setting comes from of which no file says anything."""
USUAL: dict[str, object] = {"bars": {}, "pre_start_seconds": int(BUDGET["pre-start"]), "seconds": 15}
"""Settings whose values without a policy are told in other words than the model's."""
SHOWN = (Column("SETTING"), Column("VALUE", least=12), Column("FROM", least=16))


class Setting(NamedTuple):
    """One setting as it applies."""

    setting: str
    value: object
    source: str
    """The file and line, or `default`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    commands = parser.add_subparsers(dest="action", metavar="check|show", required=True)
    check = commands.add_parser("check", help="whether the policy files are right")
    check.add_argument("files", metavar="FILE", nargs="*", help=f"other files than {' and '.join(policy.FILES)}")
    check.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")
    show = commands.add_parser("show", help="what the policy files say, or what applies to a VM, and where it stands")
    show.add_argument("vmid", metavar="VMID", nargs="?", type=vmid, help="only what applies to this VM and its devices")
    show.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def run(args: argparse.Namespace, host: Host) -> int:
    """Print what is wrong (1 with an error), or what applies; returns the exit code. Raises PassthruError."""
    return _check(args, host) if args.action == "check" else _show(args, host)


# ---- check


def _check(args: argparse.Namespace, host: Host) -> int:
    rows = []
    read = 0
    for path in args.files or policy.FILES:
        try:
            data = _bytes(path) if args.files else policy.text(host, path)
            if data is None:
                continue
            read += 1
            found = list(_problems(policy.check(path, data)))
        except (InputError, UnsafeError) as error:
            read += 1
            line = getattr(error.__cause__, "line", None)
            found = [{"line": line, "severity": "error", "message": error.message, "hint": error.hint}]
        rows += [{"file": path, **row} for row in found]
    if not args.files and not any(row["severity"] == "error" for row in rows):
        sources = _Sources(host)
        for doubt in policy_doubts.doubts(host, policy.read(host)):
            file, _, line = sources.of(doubt.place).rpartition(":")
            where = {"file": file or None, "line": int(line) if file else None}
            rows.append({**where, "severity": doubt.severity, "message": doubt.message, "hint": doubt.hint})
    if args.json:
        print_json(rows)
    else:
        for row in rows:
            place = f"{row['file']}:{row['line']}: " if row["line"] else f"{row['file']}: " if row["file"] else ""
            hint = f"; {row['hint']}" if row["hint"] else ""
            place = "" if row["file"] and row["file"] in str(row["message"]) else place
            print(one_line(f"{row['severity']}: {place}{row['message']}{hint}"))
        if not rows:
            print("fine" if read else f"there is no policy: neither {' nor '.join(policy.FILES)} exists")
    return EXIT_FINDINGS if any(row["severity"] == "error" for row in rows) else EXIT_FINE


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}", "name one that is there") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "name a file that can be read") from error


def _problems(checked: Checked) -> Iterator[dict[str, Any]]:
    for slip in checked.slips:
        yield {"severity": "error", **slip._asdict()}
    for at, entry in enumerate(checked.document.get("silence") or ()):
        if entry["code"] not in catalogue.BY_CODE:
            line = checked.written.line(["silence", at])
            message = f"silence entry {at + 1} names {entry['code']}, and there is no such code"
            yield {"severity": "warning", "line": line, "message": message, "hint": "see docs/rules.md for the codes"}


# ---- show


class _Sources:
    """Where each setting stands."""

    def __init__(self, host: Host) -> None:
        self.files: list[tuple[str, Checked]] = []
        for path in policy.FILES:
            data = policy.text(host, path)
            if data is not None:
                self.files.append((path, policy.check(path, data)))

    def of(self, place: Place) -> str:
        """The file and line in which what stands at these keys is said; the node's goes before the cluster's."""
        for path, checked in reversed(self.files):
            line = checked.line(place)
            if line is not None:
                return f"{path}:{line}"
        return BUILT_IN

    def of_silence(self, entry: Silence) -> str:
        """The file and line of an entry of `silence`."""
        checked = dict(self.files)[entry.path]
        same = (entry.code, entry.vmid, entry.device)
        for at, said in enumerate(checked.document.get("silence") or ()):
            if (said["code"], said.get("vm"), said.get("device")) == same:
                return f"{entry.path}:{checked.written.line(['silence', at])}"
        return entry.path

    def settings(self, defaults: Policy | DevicePolicy, said: list[Said], prefix: str) -> Iterator[Setting]:
        """Each setting of a VM or device as it applies."""
        for name, usual in defaults._asdict().items():
            places = [(place, settings[name]) for place, settings in said if name in settings]
            if places:
                place, value = places[-1]
                yield Setting(f"{prefix}{name}", value, self.of((*place, name)))
            else:
                yield Setting(f"{prefix}{name}", USUAL.get(name, usual), BUILT_IN)


def _show(args: argparse.Namespace, host: Host) -> int:
    policies = policy.read(host)
    sources = _Sources(host)
    if args.vmid is None:
        rows = list(_everything(policies, sources))
        empty = f"there is no policy, so the defaults apply: neither {' nor '.join(policy.FILES)} says anything"
    else:
        rows = list(_of_vm(policies, sources, subjects.load(host, args.vmid, pending=True)))
        empty = ""
    if args.json:
        print_json([row._asdict() for row in rows])
    elif rows:
        print_table(SHOWN, ([row.setting, _word(row.value), row.source] for row in rows))
    else:
        print(empty)
    return EXIT_FINE


def _everything(policies: Policies, sources: _Sources) -> Iterator[Setting]:
    """All that the files say, a line for each value."""

    def leaves(value: object, place: Place) -> Iterator[Setting]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from leaves(inner, (*place, name))
        elif value is not None:
            yield Setting(" ".join(place), value, sources.of(place))

    for name, value in policies.document.items():
        if name != "silence":
            yield from leaves(value, (name,))
    yield from (_silenced(entry, sources) for entry in policies.silence)


def _silenced(entry: Silence, sources: _Sources) -> Setting:
    of = f" of VM {entry.vmid}" if entry.vmid else ""
    on = f" on {entry.device}" if entry.device else ""
    return Setting(f"silence {entry.code}{of}{on}", entry.reason, sources.of_silence(entry))


def _of_vm(policies: Policies, sources: _Sources, subject: Subject) -> Iterator[Setting]:
    """What applies to a VM, to each function that it gets, and what that means for units and parents."""
    inventory = subject.inventory
    yield from sources.settings(Policy(), policies.about_vm(subject.vmid), "")
    devices: dict[str, str | None] = {}
    for device in subject.resolution.passed:
        if device.mdev and device.entry.mapping is not None:
            value, place = policies.placement(device.entry.mapping), ("mappings", device.entry.mapping, "placement")
            source = sources.of(place)
            source = sources.of(("placement",)) if source == BUILT_IN else source
            yield Setting(f"{device.entry.key} placement", value, source)
        if not device.bound_to_vfio:
            continue
        for address in dict.fromkeys(one for functions in device.alternatives for one in functions):
            devices[address] = device.entry.mapping
            said = policies.about_device(inventory, address, device.entry.mapping, subject.vmid)
            yield from sources.settings(DevicePolicy(), said, f"{device.entry.key} {address} ")
    for service in policies.services(inventory, devices):
        yield Setting("stops", service.unit, sources.of(("services", service.unit)))
    for moved in policies.moved(inventory):
        yield Setting("not obeyed", moved.message, sources.of(moved.place))
    for entry in policies.silence:
        if entry.vmid in {None, subject.vmid}:
            yield _silenced(entry, sources)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {inner}" for key, inner in value.items()) or "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
