# SPDX-License-Identifier: Apache-2.0
"""The command `mdev list`: whose the vGPU types are that are set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pvepassthru.cli.main import main
from tests import tree

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

VFS = tuple(f"0000:a1:00.{function}" for function in (4, 5, 6, 7))


def test_vgpus_with_their_vms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devices: dict[str, Any] = {vf: {"nvidia": {"creatable": [], "current": "35"}} for vf in VFS}
    devices[VFS[3]]["nvidia"]["current"] = "0"
    reservations = f"{VFS[0]} 100 pid:42\n{VFS[1]} 101 pid:43\n{VFS[3]} 102 pid:44\n"
    root = tree.build(tmp_path, {"devices": devices}, reservations=reservations, running={100: 42})
    assert main(["--root", root, "mdev", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["parent"], row["vmid"], row["state"]) for row in rows] == [
        (VFS[0], 100, "VM runs"),
        (VFS[1], 101, "set"),
        (VFS[2], None, "set"),
    ]
