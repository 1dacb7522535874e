# SPDX-License-Identifier: Apache-2.0
"""Commands that stand in the text of a page are ones that there are, with options that they have."""

from __future__ import annotations

import argparse
import functools
import os
import re

import pytest

from pvepassthru.cli.main import COMMANDS, build_parser
from tests.docs.markdown import ROOT
from tests.docs.test_links import PAGES

INLINE = re.compile(r"`pvepassthru ([^`]+)`")
NO_SHELL = re.compile(r"\[([^\]]*)\]")
"""What may be left out, as pages write it: `recover [VMID] [--dry-run]`."""


@functools.cache
def options(command: str) -> dict[str, frozenset[str]]:
    """The options of a command, and of each of its actions by its name; those before the command are in all."""
    parser = build_parser([command])
    before = _of(parser)
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    own = commands.choices[command]
    found = {"": before | _of(own)}
    for action in own._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {name: before | _of(own) | _of(inner) for name, inner in action.choices.items()}
    return found


def _of(parser: argparse.ArgumentParser) -> frozenset[str]:
    return frozenset(option for action in parser._actions for option in action.option_strings)


def fault(words: str) -> str:
    """What is wrong with the words behind `pvepassthru`; empty if nothing is."""
    parts = NO_SHELL.sub(r"\1", words).split()
    while parts and parts[0] in {"--root", "--node", "--profile"}:
        parts = parts[2:]
    if not parts or parts[0].isupper() or parts[0].startswith("--"):
        return ""
    command, *rest = re.split(r"\s+", " ".join(parts))
    if command not in COMMANDS:
        return f"there is no command {command}"
    known = options(command)
    chosen = next((part for part in rest if part in known), "")
    if len(known) > 1 and rest and not chosen and re.fullmatch(r"[a-z]+", rest[0]):
        return f"{command} has no {rest[0]}"
    unknown = [part for part in rest if re.fullmatch(r"-[a-z]|--[a-z-]+", part) and part not in known[chosen]]
    return f"{command} {chosen} has no {unknown[0]}" if unknown else ""


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith(("README", "docs/", "packaging/"))])
def test_commands_in_the_text_are_right(page: str) -> None:
    with open(os.path.join(ROOT, page), encoding="utf-8") as file:
        text = file.read()
    plain = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL).replace("\n", " ")
    faults = [f"`pvepassthru {words}`: {why}" for words in INLINE.findall(plain) if (why := fault(words))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "words, why",
    [
        ("validate 100", ""),
        ("--root DIR validate --all", ""),
        ("recover [VMID] [--dry-run]", ""),
        ("COMMAND --help", ""),
        ("valdate", "there is no command valdate"),
        ("validate --al", "validate  has no --al"),
        ("mapping plan NAME --device 10de:2204", ""),
        ("mapping plna NAME", "mapping has no plna"),
        ("sriov set --apply", "sriov set has no --apply"),
    ],
)
def test_what_is_wrong_is_found(words: str, why: str) -> None:
    assert fault(words) == why
