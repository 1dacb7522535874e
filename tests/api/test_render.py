# SPDX-License-Identifier: Apache-2.0
"""The forms of changes, each against its golden file. pytest --regenerate writes them anew."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.api import present, render, snippets, wish
from pvepassthru.api.change import Change, KeyChange
from pvepassthru.api.generate import generate
from pvepassthru.api.wish import Device, Wish
from pvepassthru.host import strict_yaml
from tests.api import node
from tests.api.told import mappings_of

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
MAPPINGS = mappings_of(node.MAPPINGS)
DISK = "boot: order=scsi0\nscsi0: local-lvm:vm-100-disk-0,size=32G\n"


class Case(NamedTuple):
    """A config and a wish."""

    config: str
    wish: Wish


CASES = {
    "new-vm": Case(
        "memory: 8192\n", wish.of_arguments(devices=["01:00"], primary_gpu=True)._replace(storage="local-zfs")
    ),
    "installed-vm": Case(
        f"{DISK}balloon: 2048\nmachine: pc-i440fx-8.1\nmemory: 8192\nostype: win11\nhostpci0: 06:00.0,rombar=0\n",
        Wish(
            (Device(addresses=("0000:01:00",), primary=True, rom="my gpu.rom"), Device(vf_of="0000:03:00.0")),
            bios="ovmf",
            hidden=True,
            hookscript="local:snippets/pvepassthru",
        ),
    ),
    "mapping": Case("machine: q35\n", wish.of_arguments(mappings=["p4"], mdev_type="best", min_framebuffer="2G")),
    "igd": Case(f"{DISK}machine: q35\nvga: std\n", wish.of_arguments(igd=True)),
    "nothing": Case("hostpci0: 06:00.0\n", wish.of_arguments(devices=["nic"])),
    "card": Case("machine: q35\nhostpci5: 04:00.0,driver=keep\n", wish.of_arguments(devices=["06:00.0;01:00.0"])),
}
FORMS: dict[str, Callable[[Change], str]] = {
    "diff": render.diff,
    "qm": render.qm,
    "json": lambda change: render.as_json([change]),
    "yaml": lambda change: render.as_yaml([change]),
    "terraform": snippets.terraform,
    "ansible": snippets.ansible,
}


def run(script: str) -> list[str]:
    """The words that a shell gives to qm."""
    program = "qm() { printf '%s\\0' qm \"$@\"; }\n" + script
    done = subprocess.run(["sh", "-c", program], capture_output=True, check=True, env={})
    return [word.decode() for word in done.stdout.split(b"\0")[:-1]]


def change(case: Case) -> Change:
    now = present.of_file(100, node.NODE, case.config.encode())
    return generate(now, case.wish, node.by_api(), MAPPINGS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, form: str, *, regenerate: bool) -> None:
    text = FORMS[form](change(CASES[name]))
    path = os.path.join(GOLDEN, f"{name}.{form}.txt")
    if regenerate:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    with open(path, encoding="utf-8") as file:
        assert text == file.read(), "if that is meant: pytest --regenerate, and look at what is new"


def test_no_golden_file_is_left_over() -> None:
    assert set(os.listdir(GOLDEN)) == {f"{name}.{form}.txt" for name in CASES for form in FORMS}


@pytest.mark.parametrize("name", CASES)
def test_json_and_yaml_say_the_same(name: str) -> None:
    found = change(CASES[name])
    told = json.loads(render.as_json([found]))
    assert told == [render.shape(found)]
    assert strict_yaml.parse(render.as_yaml([found]).encode()).value == told


@pytest.mark.parametrize("name", CASES)
def test_the_command_sets_what_changes(name: str) -> None:
    found = change(CASES[name])
    text = render.qm(found)
    words = run(text)
    if not found.keys:
        assert words == []
        return
    assert words[:3] == ["qm", "set", "100"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options.pop("--digest") == found.digest
    gone = options.pop("--delete", "").split(",")
    assert {f"--{one.key}": one.new for one in found.keys if one.new is not None} == options
    assert [one.key for one in found.keys if one.new is None] == [key for key in gone if key]


@given(st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF, exclude_characters="\n\r\0"), min_size=1))
def test_any_value_is_quoted(value: str) -> None:
    """Nothing that a value holds is a command of its own, nor an expression or another key of a snippet."""
    before = present.of_file(100, node.NODE, b"")
    one = KeyChange("hookscript", None, value, f"because of {value}")
    found = Change(before, before.changed({one.key: value}), (one,), (value,), ())
    assert run(render.qm(found))[:5] == ["qm", "set", "100", "--hookscript", value]
    (task,) = yaml.safe_load(snippets.ansible(found))
    assert task["community.proxmox.proxmox_kvm"]["hookscript"] == value
    (line,) = [line for line in snippets.terraform(found).split("\n") if line.startswith("  hook_script_file_id = ")]
    quoted = line.removeprefix("  hook_script_file_id = ").replace("$${", "${").replace("%%{", "%{")
    assert json.loads(quoted) == value
    assert all(line.startswith(("VM ", "+ ", "    ", "note: ")) for line in render.diff(found).splitlines())


def test_templates_of_terraform_are_no_templates() -> None:
    before = present.of_file(100, node.NODE, b"")
    one = KeyChange("hookscript", None, 'a:${file("x")}%{if}', "x")
    found = Change(before, before.changed({one.key: one.new}), (one,), (), ())
    assert '"a:$${file(\\"x\\")}%%{if}"' in snippets.terraform(found)
