# SPDX-License-Identifier: Apache-2.0
"""`validate --all` on a real server with 200 VMs finds what was checked by hand (README.md), in the same order always.

The golden files hold a line a finding. pytest --regenerate writes them anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.cli.words import scratch
from tests import golden
from tests.captured import server
from tests.captured.configs import KINDS, MACHINES, configs
from tests.captured.report import FOLDER, report

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS = ("1", "2")


@pytest.mark.parametrize("variant", ["classic", "vendor"])
def test_validate_all(variant: str, *, regenerate: bool) -> None:
    """One test, since to unpack the host takes seconds."""
    archive = server.capture()
    if archive is None:
        pytest.skip(f"no captured server: there is no {server.CAPTURE} beside the checkout")
    with scratch("captured.") as root:  # 30,000 files: in memory
        server.build(archive, root, vendor=variant == "vendor")
        first, second = (_validate(root, seed) for seed in SEEDS)
    assert first == second, "two runs must say the same in the same order"
    answer = json.loads(first)
    assert [vm["vmid"] for vm in answer] == list(range(1000, 1200))
    assert sum(len(vm["devices"]) for vm in answer) > 150
    plain = 1000 + 4 * KINDS.index(())
    assert [vm["findings"] for vm in answer if vm["vmid"] in range(plain, plain + len(MACHINES))] == [[]] * len(
        MACHINES
    )
    lines = list(_lines(answer))
    advice = "see README.md, then pytest --regenerate, and check what is new"
    golden.compare(lines, f"{FOLDER}/{variant}.txt", advice, regenerate=regenerate)


def _validate(root: str, seed: str) -> bytes:
    done = subprocess.run(
        [sys.executable, "-m", "pvepassthru", "--root", root, "validate", "--all", "--json"],
        cwd=server.ROOT,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONHASHSEED": seed},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    return done.stdout


def _lines(answer: list[dict[str, Any]]) -> Iterator[str]:
    for vm in answer:
        for found in vm["findings"]:
            place = found["where"].removeprefix(f"/etc/pve/qemu-server/{vm['vmid']}.conf")
            words = f"{found['message']} || {found['hint']}"
            yield f"{vm['vmid']} {found['severity']} {found['code']} {place.replace(' ', '_')} {words}"


def test_there_are_two_hundred_different_configs() -> None:
    found = configs()
    assert len(found) == len(set(found.values())) == 200


@pytest.mark.parametrize("variant", ["classic", "vendor"])
def test_report(variant: str) -> None:
    text = report(variant, [])
    assert text.count("\n") == 2 * text.count(" VMs\n") > 40
    assert report(variant, ["PVP201"]).count(" PVP201 ") == int(text.partition("PVP201: ")[2].split()[0])
