# SPDX-License-Identifier: Apache-2.0
"""Findings as SARIF 2.1.0, the format that code scanning services and editors read. Source: the OASIS standard."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pvepassthru
from pvepassthru.rules.catalogue import RULES
from pvepassthru.rules.explanation import parts, title

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pvepassthru.cli.codes import Choice
    from pvepassthru.model.errors import PassthruError
    from pvepassthru.model.finding import Finding
    from pvepassthru.rules.rule import Rule
    from pvepassthru.rules.subject import Subject

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"error": "error", "warning": "warning", "info": "note"}
HOST = "HOST"
"""Where the paths of findings begin: the root of the host's files."""


def log(
    judged: Iterable[tuple[Subject, list[Finding]]], failures: Sequence[PassthruError], wanted: Choice
) -> dict[str, Any]:
    """The log of one run of `validate`: the rules that were asked, and what they found."""
    rules = [rule for rule in RULES if rule.check and wanted.wants(rule.code)]
    index = {rule.code: at for at, rule in enumerate(rules)}
    run = {
        "tool": {
            "driver": {
                "name": "pvepassthru",
                "semanticVersion": pvepassthru.__version__,
                "rules": [_rule(rule) for rule in rules],
            }
        },
        "invocations": [
            {
                "executionSuccessful": not failures,
                "toolExecutionNotifications": [
                    {"level": "error", "message": {"text": str(failure)}} for failure in failures
                ],
            }
        ],
        "originalUriBaseIds": {HOST: {"uri": "file:///"}},
        "columnKind": "unicodeCodePoints",
        "results": [result for subject, found in judged for result in _results(subject, found, index)],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def place(where: str) -> tuple[str, int | None, str]:
    """The path, the line and the key of a finding's place: `/etc/pve/qemu-server/100.conf:3 hostpci0`."""
    path, _, key = where.partition(" ")
    head, _, line = path.rpartition(":")
    if head and line.isascii() and line.isdecimal() and len(line) < 10 and not path.startswith("/sys/"):
        return head, int(line), key  # sysfs has paths that end so, and no lines
    return path, None, key


def _rule(rule: Rule) -> dict[str, Any]:
    told = parts(rule.explanation)
    return {
        "id": rule.code,
        "shortDescription": {"text": f"Checks whether {title(rule)}."},
        "fullDescription": {"text": f"What it checks: {told['checks']}\nWhy it matters: {told['matters']}"},
        "help": {"text": rule.explanation},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
        "properties": {"origin": rule.origin, "hook": rule.hook},
    }


def _results(subject: Subject, found: list[Finding], index: dict[str, int]) -> Iterable[dict[str, Any]]:
    seen: dict[tuple[str, ...], int] = {}
    for finding in found:
        path, line, key = place(finding.where)
        same = (subject.node, str(subject.vmid), finding.code, path, key)
        seen[same] = seen.get(same, 0) + 1
        physical: dict[str, Any] = {"artifactLocation": {"uri": quote(_bytes(path).lstrip(b"/")), "uriBaseId": HOST}}
        if line:
            physical["region"] = {"startLine": line}
        name = f"{subject.node}/{subject.vmid}/{key}" if key else f"{subject.node}/{subject.vmid}"
        result: dict[str, Any] = {
            "ruleId": finding.code,
            "ruleIndex": index[finding.code],
            "level": LEVELS[finding.severity],
            "message": {"text": f"{finding.message}; {finding.hint}" if finding.hint else finding.message},
            "locations": [{"physicalLocation": physical, "logicalLocations": [{"fullyQualifiedName": name}]}],
            "partialFingerprints": {"place/v1": _fingerprint(*same, str(seen[same]))},
            "properties": {
                "node": subject.node,
                "vmid": subject.vmid,
                "origin": finding.origin,
                "hint": finding.hint,
            },
        }
        if finding.silenced is not None:
            result["suppressions"] = [
                {"kind": "external", "status": "accepted", "justification": finding.silenced},
            ]
        yield result


def _fingerprint(*words: str) -> str:
    """The same for the same finding, whatever the lines and numbers around it are."""
    return hashlib.sha256(b"\0".join(map(_bytes, words))).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
