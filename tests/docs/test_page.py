# SPDX-License-Identifier: Apache-2.0
"""A page that says what does not come is found out, and --regenerate mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docs import markdown
from tests.docs.page import Runner, rewritten

if TYPE_CHECKING:
    from pathlib import Path

HOST = "<!-- test: host first -->\n"


def faults(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return list(Runner(markdown.parse("x.md", text), folder, monkeypatch).run())


def block(kind: str, *lines: str) -> str:
    return "\n".join([f"```{kind}", *lines, "```", ""])


@pytest.mark.parametrize(
    "text, fault",
    [
        (block("console", "$ qm status 100", "status: stopped"), ""),
        (block("console", "$ qm status 100", "status: s…"), ""),
        (block("console", "$ qm status 100"), "x.md:3: qm status 100: it printed something else"),
        (block("console", "$ qm status 100", "well"), "it printed something else:\nstatus: stopped"),
        (block("console", "$ qm status 100", "status: stopped", "(exit code 1)"), "it ended with 0, not 1"),
        (block("sh", "pvepassthru policy chekc"), "it ended with 2, not 0"),
        (block("sh", "pvepassthru snapshot -o /x.tar.xz"), "would be a file of the machine that runs the tests"),
        (block("sh", "rmmod nouveau"), "nothing stands for the program rmmod"),
        (block("sh", "qm set 100 --machine Q35"), "not a setting that PVE is known to take"),
        (block("sh", "qm set 100 --hostpci0 0A:00.0"), "not a setting that PVE is known to take"),
        (block("sh", "apt install ./other_1_all.deb"), "not a package that is known here"),
        (block("sh", "systemctl enable other.service"), "not a unit that is known here"),
        (block("text", "hello"), "nobody knows what to do with this block"),
        (f"<!-- test: policy -->\n{block('yaml', 'vfs: 3')}", "this policy has slips"),
        (f"<!-- test: policy -->\n{block('yaml', 'orphans: remove')}", ""),
        (f"<!-- test: config 100 -->\n{block('text', 'machine: q35')}", "VM 100 has no machine: q35"),
        (f"<!-- test: config 100 -->\n{block('text', 'vga: none')}", ""),
        (f"<!-- test: later -->\n{block('sh', 'reboot')}", "nobody knows what to do with this block 'later'"),
    ],
)
def test_what_is_wrong_is_found(text: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = "\n".join(faults(HOST + text, tmp_path, monkeypatch))
    assert (fault in found) if fault else not found, found


def test_a_page_names_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fault,) = faults(block("sh", "reboot"), tmp_path, monkeypatch)
    assert "there is no comment before it that names a host" in fault


def test_a_page_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = HOST + block("console", "$ qm status 100", "wrong", "lines", "(exit code 3)", "$ qm status \\", "  100")
    runner = Runner(markdown.parse("x.md", text), tmp_path, monkeypatch)
    assert len(list(runner.run())) == 2
    lines = ["$ qm status 100", "status: stopped", "$ qm status \\", "  100", "status: stopped"]
    assert rewritten(text, runner.ran) == HOST + block("console", *lines)


def test_what_fits() -> None:
    assert markdown.fits(("a", "…", "d"), "a\nb\nc\nd\n")
    assert not markdown.fits(("a", "…", "d"), "a\nd\n")
    assert markdown.fits(("a … c",), "a b c  \n")
    assert not markdown.fits(("a",), "a\nb\n")
    assert markdown.fits((), "")


@pytest.mark.parametrize(
    "block",
    [
        "~~~sh\nrm -r /\n~~~\n",
        "```console title=x\n$ nonsense\n```\n",
        "```\n$ nonsense\n```\n",
        "````sh\nnonsense\n````\n",
        "> ```sh\n> nonsense\n> ```\n",
        "- ```sh\n  nonsense\n  ```\n",
        "    pvepassthru nonsense\n",
        "\tpvepassthru nonsense\n",
    ],
)
def test_a_block_that_would_not_be_run_is_a_fault(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        found = faults(f"{HOST}words\n\n{block}\nwords\n", tmp_path, monkeypatch)
    except ValueError as error:
        found = [str(error)]
    assert found
    assert "between two lines" in found[0] or "no end" in found[0]


def test_what_is_no_block_is_none() -> None:
    text = "- one\n\n    more of it\n\n  1. two\n\n      and more\n\nwords\n    of one paragraph, `~~~` and `code`\n"
    assert markdown.parse("x.md", text).strange == ()
