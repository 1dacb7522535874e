# SPDX-License-Identifier: Apache-2.0
"""The command `doctor`: what it says of a host, and how --fix and --undo go about a host's files."""

from __future__ import annotations

import json
import os
import shutil
import signal
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.cli import doctor, fix
from pvepassthru.cli.main import main
from pvepassthru.host import boot, changes, filelocks, tools
from pvepassthru.host.host import Host
from pvepassthru.model.finding import Finding
from pvepassthru.report import readiness
from pvepassthru.rules import catalogue, explanation
from pvepassthru.rules.catalogue import HostState
from pvepassthru.rules.rule import STEPS, of_host
from tests import tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pvepassthru.rules.subject import Hit, Surroundings

GRUB = 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n'
NIC = {"vendor": "0x8086", "device": "0x10d3", "class": "0x020000", "driver": "e1000e", "iommu_group": 2}


def example(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a thing of version 6.8 is as it must be.

    And more of it.

    Why it matters: it does.

    How to fix: do.
    """
    raise NotImplementedError


RULE = of_host("PVP199", "error", "modules", example)
BAD = HostState(RULE, "findings", (Finding("PVP199", "error", "own", "/proc/x", "it is \x1b[31mbad", "mend it"),), "")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An Intel host with an old kernel and two identical network cards, on which no program can be run."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)  # a slow disk
    tree.build(tmp_path, {"devices": {"0000:01:00.0": NIC, "0000:02:00.0": {**NIC, "iommu_group": 3}}})
    tree.put(tmp_path, boot.GRUB, GRUB)
    tree.put(tmp_path, "/proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: vmx\n\n")
    tree.put(tmp_path, "/proc/sys/kernel/osrelease", "6.5.13-5-pve\n")
    return str(tmp_path)


def etc(root: str) -> dict[str, bytes]:
    found = {}
    for folder, _, names in os.walk(f"{root}/etc"):
        for name in names:
            with open(f"{folder}/{name}", "rb") as file:
                found[f"{folder}/{name}"] = file.read()
    return found


def test_titles_are_one_sentence() -> None:
    assert explanation.title(RULE, of_host=True) == "a thing of version 6.8 is as it must be"
    for rule in catalogue.RULES:
        if rule.on_host:
            assert 8 < len(explanation.title(rule, of_host=True)) < 200, rule.code
            assert rule.step in STEPS


def test_states(root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    states = [
        HostState(RULE._replace(step="groups"), "fine", (), ""),
        BAD,
        HostState(RULE, "unknown", (), "there is no /proc/cmdline"),
    ]
    monkeypatch.setattr(catalogue, "host_states", lambda _around: states)
    assert main(["--root", root, "doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "node pve",
        "",
        "modules",
        "  error           PVP199  whether a thing of version 6.8 is as it must be",
        "      /proc/x: it is \\x1b[31mbad",
        "        mend it",
        "  unknown         PVP199  whether a thing of version 6.8 is as it must be (there is no /proc/cmdline)",
        "",
        "groups",
        "  fine            PVP199  whether a thing of version 6.8 is as it must be",
        "",
        "1 fine, 1 error, 1 unknown; `pvepassthru explain CODE` says more of a code",
    ]
    assert main(["--root", root, "doctor", "--json"]) == 1
    shape = json.loads(capsys.readouterr().out)
    assert shape["ok"] is False
    assert [step["step"] for step in shape["steps"]] == list(STEPS)
    rules = {step["step"]: step["rules"] for step in shape["steps"]}
    assert [(rule["code"], rule["state"], rule["why"]) for rule in rules["modules"]] == [
        ("PVP199", "error", ""),
        ("PVP199", "unknown", "there is no /proc/cmdline"),
    ]
    assert rules["modules"][0]["findings"][0]["hint"] == "mend it"


def test_a_host_without_pve_is_said(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = "no Proxmox VE here (/etc/pve is absent or empty), so most checks can tell nothing"
    main(["--root", root, "doctor"])
    assert words not in capsys.readouterr().out
    shutil.rmtree(f"{root}/etc/pve")
    main(["--root", root, "doctor"])
    assert words in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("severity, code", [("warning", 0), ("info", 0), ("error", 1)])
def test_only_an_error_fails(root: str, monkeypatch: pytest.MonkeyPatch, severity: Any, code: int) -> None:  # noqa: ANN401 - a severity
    finding = BAD.findings[0]._replace(severity=severity)
    state = BAD._replace(findings=(finding,))
    monkeypatch.setattr(catalogue, "host_states", lambda _around: [state])
    assert main(["--root", root, "doctor"]) == code
    assert readiness.state_of(state) == severity


def test_what_could_not_be_read_is_said(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkdir(f"{root}/proc/cmdline")
    main(["--root", root, "doctor"])
    assert "/proc/cmdline: cannot read /proc/cmdline: Is a directory" in capsys.readouterr().out


def test_colour_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.paint("fine", "fine") == "fine"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert doctor.paint("fine", "fine") == "\x1b[32mfine\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert doctor.paint("fine", "fine") == "fine"


def test_fix_and_undo(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = etc(root)
    words = ["--root", root, "doctor", "--fix", "--for", "01:00.0", "--max-vfs", "e1000e=2"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert '  +GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on"' in said
    assert "then: update-initramfs -u -k all\nthen: update-grub\nnothing was changed" in said
    assert etc(root) == before
    assert main([*words, "--yes"]) == 0
    said = capsys.readouterr().out
    assert "files changed: 5; pvepassthru doctor --undo takes that back" in said
    assert "run this yourself: update-grub (in that host: programs of another tree are run only with --chroot)" in said
    assert said.endswith("a reboot is due\n")
    after = etc(root)
    assert after != before
    assert main([*words, "--yes"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert etc(root) == after
    assert main(["--root", root, "doctor", "--undo", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert '  +GRUB_CMDLINE_LINUX_DEFAULT="quiet"' in said
    assert "then: update-initramfs -u -k all\nthen: update-grub\nnothing was changed; the same command without" in said
    assert etc(root) == after
    assert main(["--root", root, "doctor", "--undo"]) == 0
    assert '  +GRUB_CMDLINE_LINUX_DEFAULT="quiet"' in capsys.readouterr().out
    assert etc(root) == before
    assert main(["--root", root, "doctor", "--undo", "--dry-run"]) == 3
    assert main(["--root", root, "doctor", "--undo"]) == 3


def test_fix_and_undo_as_json(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "doctor", "--fix", "--json"]) == 0
    shape = json.loads(capsys.readouterr().out)
    assert (shape["applied"], shape["reboot"], shape["notes"]) == (False, True, [])
    assert shape["commands"] == ["update-initramfs -u -k all", "update-grub"]
    assert [change["path"] for change in shape["changes"]] == [boot.GRUB, "/etc/modules-load.d/pvepassthru.conf"]
    assert main(["--root", root, "doctor", "--fix", "--yes", "--json"]) == 0
    shape = json.loads(capsys.readouterr().out)
    assert shape["applied"] is True
    assert [one["code"] for one in shape["ran"]] == [None, None]
    assert main(["--root", root, "doctor", "--undo", "--dry-run", "--json"]) == 0
    ahead = json.loads(capsys.readouterr().out)
    assert main(["--root", root, "doctor", "--undo", "--json"]) == 0
    shape = json.loads(capsys.readouterr().out)
    assert (ahead.pop("applied"), shape["applied"], ahead.pop("ran")) == (False, True, [])
    assert ahead == {key: shape[key] for key in ahead}
    assert shape["undone"]
    assert [change["path"] for change in shape["changes"]] == [boot.GRUB, "/etc/modules-load.d/pvepassthru.conf"]


def test_a_program_that_fails_is_run_again(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = {"update-initramfs": 0, "update-grub": 127}
    ran: list[str] = []

    def run(_host: Host, command: tuple[str, ...], *, chroot: bool = False) -> tools.Run:
        assert not chroot
        ran.append(command[0])
        return tools.Run(command, codes[command[0]], "no \x1b[31mdisk\n")

    monkeypatch.setattr(tools, "run", run)
    assert main(["--root", root, "doctor", "--fix", "--yes"]) == 5
    said = capsys.readouterr()
    assert "update-grub failed with exit code 127" in said.err
    assert "--undo" in said.err
    assert "  no \\x1b[31mdisk" in said.out
    codes["update-grub"] = 0
    assert main(["--root", root, "doctor", "--fix"]) == 0
    assert "then: update-grub" in capsys.readouterr().out
    assert main(["--root", root, "doctor", "--fix", "--yes"]) == 0
    assert ran == ["update-initramfs", "update-grub"] * 2
    codes["update-initramfs"] = 1
    assert main(["--root", root, "doctor", "--undo"]) == 5
    assert (Host(root).text(boot.GRUB) or "") + "\n" == GRUB
    codes["update-initramfs"] = 0
    assert main(["--root", root, "doctor", "--undo"]) == 0
    assert main(["--root", root, "doctor", "--undo"]) == 3


def test_programs_of_another_tree_are_run_only_on_the_owners_word(
    root: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody else made that tree, and chroot holds no program that root runs."""
    ran: list[tuple[str, ...]] = []
    os.chmod(tree.put(root, "/usr/sbin/update-initramfs", "#!/bin/sh\n"), 0o755)
    file = str(tmp_path_factory.mktemp("snapshot") / "host.tar.xz")

    def run(words: tuple[str, ...], **_more: object) -> CompletedProcess[bytes]:
        ran.append(tuple(words))
        return CompletedProcess(words, 0, b"")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 0)
        patch.setattr("subprocess.run", run)
        assert main(["--root", root, "doctor", "--fix", "--yes"]) == 0
        said = capsys.readouterr().out
        assert "run this yourself: update-initramfs -u -k all (in that host: " in said
        assert main(["--root", root, "doctor", "--undo"]) == 0
        assert ran == []
        assert main(["--root", root, "snapshot", "-o", file]) == 0
        assert main(["--root", file, "doctor", "--fix", "--yes"]) == 0
        assert main(["--root", file, "doctor", "--fix", "--yes", "--chroot"]) == 2
        assert ran == []
        assert main(["--root", root, "doctor", "--fix", "--yes", "--chroot"]) == 0
    assert ran == [("chroot", root, "/usr/sbin/update-initramfs", "-u", "-k", "all")]
    assert "no program of a snapshot is ever run" in capsys.readouterr().err


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_whoever_interrupts_is_told_what_is_done(
    root: str, number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_host: Host, command: tuple[str, ...], *, chroot: bool = False) -> tools.Run:
        said = capsys.readouterr().out  # before the program has come to its end
        assert "quiet" in said
        assert "files changed: 2" in said or "the files are as before" in said
        os.kill(os.getpid(), number)
        return tools.Run(command, 0 if chroot else None, "")

    before = {known: signal.getsignal(known) for known in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(tools, "run", run)
    for option, done in (("--fix", "the files are changed (pvepassthru doctor --undo"), ("--undo", "the files are as")):
        try:
            ended = main(["--root", root, "doctor", option, *(["--yes"] if option == "--fix" else [])])
        except SystemExit as end:
            ended = int(str(end.code))
        assert ended == code
        said = capsys.readouterr().err
        assert f"interrupted: {done}" in said
        assert "update-initramfs -u -k all and update-grub has not come to its end" in said
    assert {known: signal.getsignal(known) for known in before} == before
    assert (Host(root).text(boot.GRUB) or "") + "\n" == GRUB


def test_a_signal_waits_until_the_files_are_changed(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    apply = changes.apply

    def interrupted(*words: Any) -> Any:  # noqa: ANN401 - what apply takes
        assert "+GRUB_CMDLINE_LINUX_DEFAULT" in capsys.readouterr().out
        os.kill(os.getpid(), signal.SIGINT)
        return apply(*words)

    monkeypatch.setattr(changes, "apply", interrupted)
    assert main(["--root", root, "doctor", "--fix", "--yes"]) == 130
    assert "the files are changed" in capsys.readouterr().err
    assert "intel_iommu=on" in (Host(root).text(boot.GRUB) or "")


def test_nothing_to_do_is_not_all_well(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "doctor", "--fix", "--yes"]) == 0
    tree.put(root, "/proc/cmdline", "intel_iommu=on Intel_iommu=on\n")
    tree.put(root, boot.GRUB, 'GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on $(x)"\n')
    capsys.readouterr()
    assert main(["--root", root, "doctor", "--fix"]) == 0
    assert (
        "nothing to do in files that --fix writes; see the notes; pvepassthru doctor still finds PVP117"
        in capsys.readouterr().out
    )


def test_vms_that_want_a_part_of_what_is_taken_are_told(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.put(root, "/etc/pve/nodes/pve/qemu-server/104.conf", "hostpci0: 0000:01:00.0,mdev=nvidia-63\n")
    tree.put(root, "/etc/pve/nodes/pve/qemu-server/105.conf", "hostpci0: 0000:01:00.0\n")
    tree.link(root, "/etc/pve/qemu-server", "/etc/pve/nodes/pve/qemu-server")
    assert main(["--root", root, "doctor", "--fix", "--for", "01:00.0"]) == 0
    said = capsys.readouterr().out
    assert "note: VM 104 (hostpci0) wants a mediated device of what vfio-pci takes" in said
    assert "VM 105" not in said


def test_a_program_that_always_fails_does_not_keep_older_changes(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = etc(root)
    assert main(["--root", root, "doctor", "--fix", "--yes"]) == 0
    assert main(["--root", root, "doctor", "--fix", "--yes", "--for", "01:00.0"]) == 0
    monkeypatch.setattr(tools, "run", lambda _host, command, chroot: tools.Run(command, 126 + chroot, ""))
    assert [main(["--root", root, "doctor", "--undo"]) for _ in range(4)] == [5, 5, 5, 5]
    assert "the next pvepassthru doctor --undo takes the change before" in capsys.readouterr().err
    assert etc(root) == before
    assert main(["--root", root, "doctor", "--undo", "--dry-run"]) == 3
    assert main(["--root", root, "doctor", "--undo"]) == 3


def test_undo_shows_what_was_changed_since(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", root, "doctor", "--fix", "--yes"]) == 0
    tree.put(root, boot.GRUB, "A=1\n")
    for words in (["--undo", "--dry-run"], ["--undo"]):
        assert main(["--root", root, "doctor", *words]) == 4
        said = capsys.readouterr().err
        assert "+A=1" in said
        assert "/etc/default/grub was changed since" in said
    assert (Host(root).text(boot.GRUB)) == "A=1"


def test_two_doctors_do_not_meet(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fix, "PATIENCE", 0.1)
    with filelocks.hold(Host(root), changes.LOCK, 1, "it"):
        assert main(["--root", root, "doctor", "--fix", "--yes"]) == 6
    assert "cannot lock the host's configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--yes"],
        ["--for", "01:00.0"],
        ["--undo", "--for", "01:00.0"],
        ["--undo", "--yes"],
        ["--dry-run"],
        ["--fix", "--dry-run"],
        ["--chroot"],
        ["--fix", "--undo"],
        ["--fix", "--method", "other"],
        ["--fix", "--max-vfs", "igb"],
        ["--fix", "--max-vfs", "i g=4"],
        ["--fix", "--max-vfs", "igb=0"],
        ["--fix", "--for", "x"],
    ],
)
def test_wrong_usage(root: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["--root", root, "doctor", *words])
    except SystemExit as end:  # argparse's
        code = int(str(end.code))
    assert code == 2
    assert capsys.readouterr().err


def test_a_silenced_finding_does_not_count(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """PVP117, a parameter in wrong case: shown with the owner's reason, and no error any more."""
    tree.put(root, "/proc/cmdline", "Intel_iommu=on\n")
    assert main(["--root", root, "doctor"]) == 1
    assert "error           PVP117" in capsys.readouterr().out
    tree.put(root, "/etc/pvepassthru.yaml", 'silence: [{code: PVP117, reason: "no VM needs it"}]\n')
    main(["--root", root, "doctor"])
    out = capsys.readouterr().out
    assert "silenced        PVP117" in out
    assert "silenced: no VM needs it" in out
    main(["--root", root, "doctor", "--json"])
    rules = [rule for step in json.loads(capsys.readouterr().out)["steps"] for rule in step["rules"]]
    (state,) = [rule for rule in rules if rule["code"] == "PVP117"]
    assert (state["state"], state["findings"][0]["silenced"]) == ("silenced", "no VM needs it")
