# SPDX-License-Identifier: Apache-2.0
"""For each rule a host that fires it and nothing else, and one beside it that fires nothing.

The examples stand in tests/rules/examples, a file for each file of rules: EXAMPLES of what is judged of a VM,
HOST_EXAMPLES of what is judged of the host; both have the bad tree first, then the good one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.rules.catalogue import RULES, host_states
from pvepassthru.rules.rule import STEPS
from pvepassthru.rules.subject import Surroundings
from tests.rules.examples import across, critical, drivers, functions, gate, guests, kernel, roms, sharing

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.model.finding import Finding
    from tests.rules.example import Tree

EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    **gate.EXAMPLES,
    **critical.EXAMPLES,
    **kernel.EXAMPLES,
    **across.EXAMPLES,
    **functions.EXAMPLES,
    **roms.EXAMPLES,
    **guests.EXAMPLES,
}
HOST_EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    **kernel.HOST_EXAMPLES,
    **drivers.HOST_EXAMPLES,
    **sharing.HOST_EXAMPLES,
    **across.HOST_EXAMPLES,
    **functions.HOST_EXAMPLES,
    **guests.HOST_EXAMPLES,
}
BY_CODE = {rule.code: rule for rule in RULES}


@pytest.mark.parametrize("code", [rule.code for rule in RULES if rule.check])
def test_bad_example_fires_this_rule_alone(code: str, tmp_path: Path) -> None:
    found = EXAMPLES[code][0].findings(tmp_path, lenient=code == "PVP330")
    assert {finding.code for finding in found} == {code}, found
    _check_words(code, found)


@pytest.mark.parametrize("code", [rule.code for rule in RULES if rule.on_host])
def test_bad_host_fires_this_rule_alone(code: str, tmp_path: Path) -> None:
    found = HOST_EXAMPLES[code][0].host_findings(tmp_path)
    assert {finding.code for finding in found} == {code}, found
    _check_words(code, found)


@pytest.mark.parametrize("code", [rule.code for rule in RULES if rule.on_host])
def test_good_host_is_silent(code: str, tmp_path: Path) -> None:
    """And the rule has judged it: what it reads is there."""
    host = HOST_EXAMPLES[code][1].build(tmp_path)
    states = {state.rule.code: state for state in host_states(Surroundings(host))}
    assert [state for state in states.values() if state.findings] == []
    assert states[code].state == "fine", states[code]


def _check_words(code: str, found: list[Finding]) -> None:
    for finding in found:
        assert (finding.severity, finding.origin) == (BY_CODE[code].severity, BY_CODE[code].origin)
        assert finding.message
        assert finding.hint
        assert finding.where.startswith("/")


@pytest.mark.parametrize("code", [rule.code for rule in RULES if rule.check])
def test_good_example_is_silent(code: str, tmp_path: Path) -> None:
    assert EXAMPLES[code][1].findings(tmp_path) == []


def test_codes_are_unique_and_in_their_ranges() -> None:
    codes = [rule.code for rule in RULES if rule.check]
    assert len(set(codes)) == len(codes)
    assert set(EXAMPLES) == {rule.code for rule in RULES if rule.check}
    assert set(HOST_EXAMPLES) == {rule.code for rule in RULES if rule.on_host}
    assert all((rule.on_host is None) == (rule.step is None) for rule in RULES)
    assert {rule.step for rule in RULES if rule.step} <= set(STEPS)
    assert all(code.startswith("PVP") and code[3] in "1234" and len(code) == 6 for code in codes)


def test_explanations_have_three_parts() -> None:
    for rule in RULES:
        parts = [rule.explanation.find(part) for part in ("What it checks: ", "Why it matters: ", "How to fix: ")]
        assert parts[0] == 0, rule.code
        assert parts == sorted(parts), rule.code
        assert -1 not in parts, rule.code
