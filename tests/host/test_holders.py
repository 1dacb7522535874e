# SPDX-License-Identifier: Apache-2.0
"""Who has a device open."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.host.holders import Holder, holders, opened
from pvepassthru.host.host import Host
from pvepassthru.model.errors import PassthruError
from tests import tree
from tests.host.machine import memory_folder, unprivileged

if TYPE_CHECKING:
    from pathlib import Path

NODE = "/dev/vfio/7"


def test_holders(tmp_path: Path) -> None:
    for pid, target in ((4711, NODE), (4712, "/dev/vfio/8"), (4713, NODE)):
        tree.put(tmp_path, f"proc/{pid}/comm", "kvm\n")
        os.symlink(target, f"{tree.folder(tmp_path, f'proc/{pid}/fd')}/3")
    tree.folder(tmp_path, "proc/self/fd")
    assert holders(Host(str(tmp_path)), [NODE]) == (Holder(4711, "kvm"), Holder(4713, "kvm"))


def test_all_users_of_vfio_in_one_look(tmp_path: Path) -> None:
    for pid, targets in ((4711, (NODE, NODE, "/dev/null")), (4713, (NODE, "/dev/vfio/vfio")), (4714, ("/dev/vfio8",))):
        tree.put(tmp_path, f"proc/{pid}/comm", "kvm\n")
        for number, target in enumerate(targets):
            os.symlink(target, f"{tree.folder(tmp_path, f'proc/{pid}/fd')}/{number}")
    first, second = Holder(4711, "kvm"), Holder(4713, "kvm")
    assert opened(Host(str(tmp_path))) == {NODE: (first, second), "/dev/vfio/vfio": (second,)}


def test_no_proc(tmp_path: Path) -> None:
    assert holders(Host(str(tmp_path)), [NODE]) == ()
    assert opened(Host(str(tmp_path))) == {}


def test_unreadable_proc_is_not_nobody() -> None:
    with memory_folder() as folder:
        os.chmod(folder, 0o755)
        proc = tree.folder(folder, "proc")
        os.chmod(proc, 0)
        with unprivileged(), pytest.raises(PassthruError, match="cannot tell who has devices open: cannot read /proc"):
            holders(Host(folder), [NODE])
