# SPDX-License-Identifier: Apache-2.0
"""Words of the command line that mean nothing: the usage of the command that was meant, and the nearest word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.cli.main import COMMANDS, build_parser, main
from tests.cli import environment

if TYPE_CHECKING:
    from pathlib import Path

    from pvepassthru.cli.parser import Parser

Capture = pytest.CaptureFixture[str]


def wrong(words: str, capsys: Capture) -> tuple[str, str]:
    """The usage's first line and the sentence, without the program's name."""
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    return lines[0].removeprefix("usage: "), lines[-1].partition(" error: ")[2]


@pytest.mark.parametrize(
    "words, usage, sentence",
    [
        ("confg 100", "pvepassthru [-h]", "argument COMMAND: confg is none; is config meant?"),
        ("config 100 --devices gpu", "pvepassthru config [-h]", "there is no option --devices; is --device meant?"),
        ("config 100 --devices=gpu", "pvepassthru config [-h]", "there is no option --devices; is --device meant?"),
        ("config 100 --mapp x", "pvepassthru config [-h]", "there is no option --mapp; is --mapping meant?"),
        (
            "config 100 --zzz",
            "pvepassthru config [-h]",
            "there is no option --zzz; pvepassthru config --help lists all",
        ),
        ("config 100 101", "pvepassthru config [-h]", "101 is one word too many"),
        (
            "config 100 --mdev nvidia-63 --mdev nvidia-65",
            "pvepassthru config [-h]",
            "argument --mdev: it is given twice, as nvidia-63 and nvidia-65; keep one of them",
        ),
        (
            "--node a --node=b validate",
            "pvepassthru [-h]",
            "argument --node: it is given twice, as a and b; keep one of them",
        ),
        (
            "config 100 --json --format qm",
            "pvepassthru config [-h]",
            "argument --format: not allowed with argument --json",
        ),
        ("config 100 --format dif", "pvepassthru config [-h]", "argument --format: dif is none; is diff meant?"),
        ("mapping plam x", "pvepassthru mapping [-h] ACTION", "argument ACTION: plam is none; is plan meant?"),
        ("mapping plan x --devise 1", "pvepassthru mapping plan ", "there is no option --devise; is --device meant?"),
        ("fleet capacity --mdv x", "pvepassthru fleet capacity ", "there is no option --mdv; is --mdev meant?"),
        (
            "config 100 --root /x",
            "pvepassthru config [-h]",
            "there is no option --root of config; it stands before the command: pvepassthru --root ... config ...",
        ),
        ("--json config 100", "pvepassthru [-h]", "there is no option --json here; it stands behind config"),
        (
            "mapping --no-vms check x",
            "pvepassthru mapping [-h]",
            "there is no option --no-vms here; it stands behind check",
        ),
    ],
)
def test_what_was_meant(words: str, usage: str, sentence: str, capsys: Capture) -> None:
    said, why = wrong(words, capsys)
    assert said.startswith(usage)
    assert why == sentence


def test_a_word_that_is_near_none(capsys: Capture) -> None:
    _, why = wrong("xyz", capsys)
    assert why.startswith("argument COMMAND: xyz is none; there are validate, doctor")
    assert all(name in why for name in COMMANDS)


def _every(parser: Parser) -> list[Parser]:
    return [parser, *parser.below()]


def test_no_option_may_be_shortened() -> None:
    """Else a new option could change what an old script means."""
    every = _every(build_parser())
    assert len(every) > len(COMMANDS)
    assert not any(parser.allow_abbrev for parser in every)


@pytest.mark.parametrize("words", ["--profile lab mapping check", "mapping check --profile lab"])
def test_a_profile_stands_before_or_behind(
    words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    environment.clear(monkeypatch, tmp_path)
    assert main(words.split()) == 3
    assert "no profile lab" in capsys.readouterr().err


def test_a_profile_where_no_api_is_asked(capsys: Capture) -> None:
    assert main(["--profile", "lab", "explain", "PVP201"]) == 2
    assert "--profile says which API is asked, and explain asks none" in capsys.readouterr().err


def test_which_commands_ask_the_api() -> None:
    """What the sentence above names are those that take the option."""
    having = {parser.prog.split()[1] for parser in build_parser().below() if "--profile" in parser.options()}
    assert having == {"config", "mapping", "migrate-to-mapping", "fleet", "attach"}


def test_the_same_value_twice_is_no_mistake() -> None:
    """Nor is one more reading by the same parser."""
    parser = build_parser()
    for number in ("a", "b"):
        assert parser.parse_args(["--node", number, "--node", number, "validate"]).node == number
    assert parser.parse_args(["config", "100", "--device", "gpu", "--device", "nic"]).device == ["gpu", "nic"]


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("--node pve9 mapping check", "--node before the command says whose files are read, and mapping reads none"),
        ("--node pve1 fleet validate", "and fleet reads none; behind fleet it says which node alone is looked at"),
        ("--root /dev migrate-to-mapping 100", "--root says whose files are read, and migrate-to-mapping reads none"),
        ("--profile a mapping check --profile b", "--profile is given twice, as a and b; keep one of them"),
    ],
)
def test_what_a_command_of_the_api_has_no_use_for(
    words: str, sentence: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PVEPASSTHRU_ROOT", "/nowhere")
    assert main(words.split()) == 2
    assert sentence in capsys.readouterr().err
