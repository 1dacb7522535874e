# SPDX-License-Identifier: Apache-2.0
"""Which VMs there are, and which of them run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import vms
from pvepassthru.host.host import Host
from pvepassthru.lifecycle import quick
from pvepassthru.model.errors import NotFoundError
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "word", ["", "99", "0", "-1", "0100", "1000000000", "../../etc/passwd", "1e3", "\u0661\u0660\u0660", "100 "]
)
def test_what_is_no_vmid(word: str) -> None:
    assert vms.vmid_of(word) is None
    assert not quick.is_vmid(word)


@pytest.mark.parametrize("word", ["100", "999999999"])
def test_what_is_a_vmid(word: str) -> None:
    assert vms.vmid_of(word) == int(word)
    assert quick.is_vmid(word)


def test_vmids_are_sorted_as_numbers(tmp_path: Path) -> None:
    tree.build(tmp_path, configs={1000: "", 100: "", 200: ""})
    for name in ("99.conf", "300.conf.tmp.1", "x.conf", "0400.conf"):
        tree.put(tmp_path, f"etc/pve/qemu-server/{name}")
    assert vms.vmids(Host(str(tmp_path))) == [100, 200, 1000]


def test_need_pve(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "etc/pve")
    with pytest.raises(NotFoundError, match="no Proxmox VE on this machine"):
        vms.need_pve(Host(str(tmp_path)))


def _cmdline(*arguments: str) -> bytes:
    return "".join(f"{argument}\0" for argument in arguments).encode()


OWN = ("-pidfile", "/var/run/qemu-server/100.pid")


@pytest.mark.parametrize(
    "pid_file, cmdline, stat, pid",
    [
        ("42\n", _cmdline("/usr/bin/kvm", "-id", "100", *OWN), None, 42),
        ("42", _cmdline("kvm", *OWN), "42 (kvm) S 1", 42),
        ("42\nmore\n", _cmdline("/usr/bin/qemu-system-aarch64", *OWN), None, 42),
        ("42\n", _cmdline("kvm", "-pidfile", "/x", *OWN), None, 42),
        ("42\n", _cmdline("kvm", *OWN, "-pidfile", "/x"), None, None),
        ("42\n", _cmdline("kvm", "-pidfile", "/var/run/qemu-server/200.pid"), None, None),
        ("42\n", _cmdline("kvm", "-pidfile"), None, None),
        ("42\n", _cmdline("/opt/qemu-x/sh", *OWN), None, None),
        ("42\n", _cmdline("/bin/sh", *OWN), None, None),
        ("42\n", b"", None, None),
        ("42\n", _cmdline("kvm", *OWN), "42 (a) Z) Z 1", None),
        ("43\n", _cmdline("kvm", *OWN), None, None),
        ("x\n", _cmdline("kvm", *OWN), None, None),
        ("-42\n", _cmdline("kvm", *OWN), None, None),
        ("9" * 5000, _cmdline("kvm", *OWN), None, None),
        ("", _cmdline("kvm", *OWN), None, None),
        (None, _cmdline("kvm", *OWN), None, None),
    ],
)
def test_running(pid_file: str | None, cmdline: bytes, stat: str | None, pid: int | None, tmp_path: Path) -> None:
    if pid_file is not None:
        tree.put(tmp_path, "run/qemu-server/100.pid", pid_file)
    tree.put(tmp_path, "proc/42/cmdline", cmdline)
    if stat is not None:
        tree.put(tmp_path, "proc/42/stat", stat)
    assert vms.running_pid(Host(str(tmp_path)), 100) == pid


def test_scope(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    assert vms.scope_pids(host, 100) == ()
    tree.put(tmp_path, "sys/fs/cgroup/qemu.slice/100.scope/cgroup.procs", "42\n43\n" + "9" * 5000 + "\n")
    assert vms.scope_pids(host, 100) == (42, 43)


def test_config_lock(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    assert vms.config_lock_path(host, 100) == "/run/lock/qemu-server/lock-100.conf"
    tree.folder(tmp_path, "var/lock")
    assert vms.config_lock_path(host, 100) == "/var/lock/qemu-server/lock-100.conf"
