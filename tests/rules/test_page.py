# SPDX-License-Identifier: Apache-2.0
"""docs/rules.md says what the rules say of themselves."""

from __future__ import annotations

import re

from pvepassthru.rules.catalogue import RULES
from pvepassthru.rules.explanation import parts
from tests.rules.page import PATH, page


def test_the_page_is_that_of_the_rules() -> None:
    with open(PATH, encoding="utf-8") as file:
        assert file.read() == page(), "run ./dev docs"


def test_every_rule_is_in_a_table_and_in_full() -> None:
    text = page()
    assert len(re.findall(r"^\| \[PVP\d{3}\]\(#pvp\d{3}\) \|", text, re.MULTILINE)) == len(RULES)
    assert re.findall(r"^### (PVP\d{3})$", text, re.MULTILINE) == sorted(rule.code for rule in RULES)
    for rule in RULES:
        rows = [line for line in text.splitlines() if line.startswith(f"| [{rule.code}]")]
        assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [7], rule.code


def test_first_sentences_are_titles() -> None:
    """The tables, SARIF and doctor say `whether ...`, with the first sentence's words."""
    for rule in RULES:
        assert parts(rule.explanation)["checks"].startswith("whether "), rule.code
