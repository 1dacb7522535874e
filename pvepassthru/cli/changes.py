# SPDX-License-Identifier: Apache-2.0
"""Changes of VMs' configs as the command `config` shows them: in many forms, each with what the rules say."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from pvepassthru.api import render
from pvepassthru.api.free_functions import TAKE_TURNS
from pvepassthru.api.hardware import API_CANNOT_TELL
from pvepassthru.api.pve import TEXTS
from pvepassthru.cli.words import print_error
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE, ApiDeniedError, PassthruError
from pvepassthru.model.text import counted, listed, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from pvepassthru.api.apply import Result
    from pvepassthru.api.change import Change
    from pvepassthru.api.proposal import Proposal

DATA = ("json", "yaml")
"""The forms that are one value, which is printed at the end."""
FORMATS = (*TEXTS, *DATA)


def note(text: str) -> None:
    """Say what is to be known besides."""
    print_error(f"pvepassthru: note: {text}")


def ready(proposals: Iterable[Proposal]) -> list[Change]:
    """The changes that can be made, without those of VMs that are as required already."""
    return [change for one in proposals if (change := one.ready)]


def code(proposals: Iterable[Proposal], results: Mapping[int, Result] | None = None) -> int:
    """The exit code: the first error's, else 1 for a change that was refused, else 0."""
    made = results or {}
    refused = False
    for one in proposals:
        error = one.error or (made[one.vmid].error if one.vmid in made else None)
        if error is not None:
            return error.exit_code
        refused = refused or one.refused
    return EXIT_FINDINGS if refused else EXIT_FINE


# ---- how it is shown


def show(form: str, proposals: Sequence[Proposal], results: Mapping[int, Result] | None = None) -> None:
    """Print the changes in a form; what cannot be said in it goes to standard error."""
    known = [one for one in proposals if one.change]
    if form in DATA:
        print(_dumped(form, [shape(one, (results or {}).get(one.vmid)) for one in known]), end="")
    else:
        for at, one in enumerate(known):
            _show(form, one._replace(change=_once(one, known[:at])) if form == "diff" else one)
    for one in proposals:
        if one.error:
            print_error(f"pvepassthru: {_named(one.vmid, one.error)}")
        elif one.refused:
            print_error(f"pvepassthru: {_refusal(one)}")


def _once(one: Proposal, before: Sequence[Proposal]) -> Change | None:
    """The change without notes that the rules, or those of a VM before, say as well."""
    if one.change is None:
        return None
    found = [*one.judged.new, *one.judged.remaining]
    codes = {finding.code for finding in found}
    told = {note for other in before if other.change for note in other.change.notes if note == API_CANNOT_TELL}
    notes = (
        note
        for note in one.change.notes
        if note not in told
        and not (note.endswith(TAKE_TURNS) and "PVP426" in codes)
        and not any(note.endswith(f": {finding.message}") for finding in found)
    )
    return one.change._replace(notes=tuple(notes))


def _show(form: str, one: Proposal) -> None:
    """Print one change as a text; only in a diff is there room for what the rules say."""
    if one.change:
        print(TEXTS[form](one.change), end="")
    for line in _lines(one if form == "diff" else _by_others(one)):
        if form == "diff":
            print(one_line(line))
        else:
            print_error(f"pvepassthru: VM {one.vmid}: {line.strip()}")


def _by_others(one: Proposal) -> Proposal:
    """A change that is made by other means than --apply: what its own user may not says nothing of these."""
    return one._replace(hindrances=tuple(error for error in one.hindrances if not isinstance(error, ApiDeniedError)))


def _refusal(one: Proposal) -> str:
    codes = {finding.code for finding in one.judged.new if finding.severity == "error" and finding.silenced is None}
    silence = "silence it in the policy with a reason"
    if one.mirrored and one.change:
        silence = (
            f"if its policy silences that, run this on node {one.change.node}: the API does not tell of the policy"
        )
    return (
        f"the change of VM {one.vmid} is refused: it brings {listed(sorted(codes))}; put that right, or {silence} "
        f"(pvepassthru explain {min(codes)} says what it means)"
    )


def tell(form: str, result: Result, *, way: bool = True) -> None:
    """Say what became of one VM's change; with `way` what root can do instead, too."""
    vmid = result.change.vmid
    if result.error is not None:
        print_error(f"pvepassthru: {_named(vmid, result.error)}")
        if way:
            tell_root(form, result)
        return
    done = result.applied
    if done is None or form in DATA:
        return
    gone = {one.key for one in result.change.keys if one.new is None}
    kinds = (
        ("set", [key for key in done.written if key not in gone]),
        ("removed", [key for key in done.written if key in gone]),
        ("its next start sets", [key for key in done.pending if key not in gone]),
        ("its next start removes", [key for key in done.pending if key in gone]),
    )
    words = [f"{word} {listed(keys, 20)}" for word, keys in kinds if keys]
    words += [f"pending values of others took effect: {listed(done.taken, 20)}"] if done.taken else []
    line = f"VM {vmid} is changed: {'; '.join(words)}"
    if form == "diff":
        print(line)
    else:
        print_error(line)


def tell_root(form: str, result: Result) -> None:
    """Print the command for root where this user was refused what is root's alone.

    Not what was shown before it: the reasons, the notes, or with --format qm all.
    """
    if form != "qm" and isinstance(result.error, ApiDeniedError) and any(one.root_only for one in result.change.keys):
        print(render.qm_command(result.change), end="", file=sys.stderr if form in DATA else sys.stdout)


def shape(one: Proposal, result: Result | None = None) -> dict[str, Any]:
    """A change with what the rules say, and what became of it, as JSON has it (docs/json.md)."""
    if one.change is None:
        return {"vmid": one.vmid}
    judged = one.judged
    applied = result.applied._asdict() if result and result.applied else None
    return render.shape(one.change) | {
        "refused": one.refused,
        "findings": {name: [finding._asdict() for finding in findings] for name, findings in judged.findings.items()},
        "hindrances": [str(error) for error in one.hindrances],
        "applied": applied,
        "error": result.error.message if result and result.error else None,
    }


def _dumped(form: str, shapes: list[dict[str, Any]]) -> str:
    if form == "json":
        return json.dumps(shapes, indent=2) + "\n"
    import yaml  # noqa: PLC0415 - only who asks for it needs PyYAML

    return str(yaml.safe_dump(json.loads(json.dumps(shapes)), sort_keys=False, allow_unicode=False, width=120))


def _lines(one: Proposal) -> Iterator[str]:
    """What the rules say, line by line."""
    judged = one.judged
    if one.change is None or not one.change.keys:
        return
    yield from (f"note: as things are now --apply would not do it: {error}" for error in one.hindrances)
    kinds = (
        (judged.new, "new", "new "),
        (judged.remaining, "as before", ""),
        (judged.gone, "put right", "put right: "),
        (judged.moot, "moot, since what is found stays as it is", "moot: "),
    )
    told = [f"{counted(len(findings), 'finding')} {word}" for findings, word, _ in kinds if findings]
    yield f"rules: {listed(told) or 'nothing to say'}"
    for findings, _, word in kinds:
        for finding in findings:
            where = finding.where.rpartition(" ")[2]
            silenced = "silenced " if finding.silenced is not None else ""
            yield f"  {word}{silenced}{finding.severity} {finding.code} {where}: {finding.message}"
            if finding.silenced is not None:
                yield f"    reason: {finding.silenced}"
            elif finding.hint and findings is not judged.gone and findings is not judged.moot:
                yield f"    hint: {finding.hint}"


def _named(vmid: int, error: PassthruError) -> str:
    """An error's sentence, with the VM in it."""
    text = str(error)
    return text if f"VM {vmid}" in text else f"VM {vmid}: {text}"
