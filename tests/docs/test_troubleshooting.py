# SPDX-License-Identifier: Apache-2.0
"""The page of symptoms, and what each page of the guide has to have."""

from __future__ import annotations

import os
import re

import pytest

from pvepassthru.lifecycle import shim
from pvepassthru.rules.catalogue import BY_CODE
from tests.docs.markdown import ROOT
from tests.docs.test_commands import GUIDE

LEAST = 30
"""Symptoms that a rule finds."""
PARTS = ("Says", "Means", "Do", "Found by")


def text_of(path: str) -> str:
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def symptoms() -> dict[str, str]:
    """Each symptom with what is said of it."""
    found: dict[str, str] = {}
    for part in re.split(r"^### ", text_of("docs/troubleshooting.md"), flags=re.MULTILINE)[1:]:
        head, _, rest = part.partition("\n")
        assert head not in found, head
        found[head] = rest.partition("\n## ")[0]
    return found


def test_every_symptom_is_told_whole() -> None:
    for head, rest in symptoms().items():
        assert re.findall(r"^- \*\*([\w ]+):\*\* \S", rest, re.MULTILINE) == list(PARTS), head


def test_rules_find_the_symptoms() -> None:
    counted = 0
    for head, rest in symptoms().items():
        finds = rest.partition("- **Found by:**")[2]
        codes = re.findall(r"\[(PVP\d{3})\]\(rules\.md#(pvp\d{3})\)", finds)
        assert codes or "exit-codes.md" in finds, head
        for code, anchor in codes:
            assert code in BY_CODE, f"{head}: there is no {code}"
            assert anchor == code.lower(), head
        counted += bool(codes)
    assert counted >= LEAST


def test_our_own_words_are_those_of_the_hook() -> None:
    with open(shim.__file__, encoding="utf-8") as file:
        source = file.read()
    for words in ("pvepassthru is not installed on this node for", "install it again, or: qm set"):
        assert words in source
        assert words in text_of("docs/troubleshooting.md")


@pytest.mark.parametrize("path", GUIDE)
def test_a_page_of_the_guide_has_all_its_parts(path: str) -> None:
    text = text_of(path)
    assert re.search(r"^\*\*For:\*\* \S", text, re.MULTILINE), "for whom"
    assert re.search(r"\*\*Needed:\*\* \S", text), "what is needed"
    heads = [head.strip() for head in re.findall(r"^##+ (.+)$", text, re.MULTILINE)]
    assert "How to undo it" in heads
    assert "What may go wrong" in heads
    assert any(head.startswith("How to see that it work") for head in heads)
    assert text.partition("## What may go wrong")[2].count("../troubleshooting.md#") >= 2
