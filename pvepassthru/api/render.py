# SPDX-License-Identifier: Apache-2.0
"""A change in words and forms: a diff for people, commands of qm, JSON and YAML; for others see api/snippets.py."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from pvepassthru.model.text import counted, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pvepassthru.api.change import Change


def diff(change: Change) -> str:
    """The change key by key, each with its reason, and what is to be known besides."""
    head = f"VM {change.vmid} on node {change.node}"
    if not change.keys:
        lines = [f"{head}: nothing to change"]
    else:
        lines = [f"{head}: {counted(len(change.keys), 'change')}"]
        for one in change.keys:
            lines += [f"- {one.key}: {one.old}"] if one.old is not None else []
            lines += [f"+ {one.key}: {one.new}"] if one.new is not None else []
            lines.append(f"    {one.reason}")
    lines += [f"note: {note}" for note in change.notes]
    return "".join(f"{one_line(line)}\n" for line in lines)


def qm(change: Change) -> str:
    """The change as one command for root on the VM's node, quoted for a shell; refused if the config has changed."""
    lines = [f"# VM {change.vmid}, for root on node {change.node}"]
    lines += [f"# {one.key}: {one.reason}" for one in change.keys]
    lines += [f"# note: {note}" for note in change.notes]
    lines += [qm_command(change).removesuffix("\n")] if change.keys else ["# nothing to change"]
    return "".join(f"{line}\n" for line in _commented(lines))


def qm_command(change: Change) -> str:
    """That command alone, of a change that has keys."""
    words = [f"--{one.key} {shlex.quote(one.new)}" for one in change.keys if one.new is not None]
    gone = [one.key for one in change.keys if one.new is None]
    words += [f"--delete {','.join(gone)}"] if gone else []
    words += [f"--digest {shlex.quote(change.digest)}"] if change.digest else []
    return " \\\n  ".join([f"qm set {change.vmid}", *words]) + "\n"


def _commented(lines: Iterable[str]) -> Iterable[str]:
    """Lines whose comments cannot end early."""
    return (one_line(line) if line.startswith("#") else line for line in lines)


def shape(change: Change) -> dict[str, Any]:
    """The change as JSON has it (docs/json.md)."""
    return {
        "vmid": change.vmid,
        "node": change.node,
        "digest": change.digest,
        "changes": [
            {
                "key": one.key,
                "old": one.old,
                "new": one.new,
                "reason": one.reason,
                "root_only": one.root_only,
                "needs": [need._asdict() for need in one.needs(change.vmid)],
            }
            for one in change.keys
        ],
        "writes": [{"set": write.set, "delete": list(write.delete)} for write in change.writes()],
        "functions": list(change.functions),
        "notes": list(change.notes),
    }


def as_json(changes: Iterable[Change]) -> str:
    """The changes as a list in JSON."""
    return json.dumps([shape(change) for change in changes], indent=2) + "\n"


def as_yaml(changes: Iterable[Change]) -> str:
    """The changes as a list in YAML."""
    import yaml  # noqa: PLC0415 - only who asks for it needs PyYAML

    shapes = [shape(change) for change in changes]
    return str(yaml.safe_dump(shapes, sort_keys=False, allow_unicode=False, width=120))
