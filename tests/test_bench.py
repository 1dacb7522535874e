# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bench import fuzz_rom, hosts, plain_reader, run
from bench.measure import BenchError, Program, Row, in_turns
from pvepassthru.cli.main import main
from pvepassthru.host.host import MAX_FILE, Host

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mock import MockerFixture

SLOW = Row("ours", "3.11", 13.0, "theirs", 10.0, 1.2)
FINE = Row("ours", "3.11", 12.0, "theirs", 10.0, 1.2)


def test_a_row_keeps_its_limit_or_not() -> None:
    assert FINE.ok
    assert not SLOW.ok
    lines = run.table([FINE, SLOW]).splitlines()
    assert [line.split()[-2:] for line in lines[1:]] == [["1.20", "ok"], ["TOO", "SLOW"]]


def test_programs_run_in_turns_and_a_warming_round_does_not_count(tmp_path: Path) -> None:
    log = tmp_path / "log"
    programs = [Program(["/bin/sh", "-c", f"echo {name} >> {log}"]) for name in "ab"]
    assert all(milliseconds > 0 for milliseconds in in_turns(programs, 2))
    assert log.read_text().split() == ["b", "a", "a", "b", "b", "a"]


def test_a_failing_program_is_no_measurement() -> None:
    with pytest.raises(BenchError, match="failed with 3"):
        in_turns([Program(["/bin/sh", "-c", "exit 3"])], 1)


def test_what_was_done_is_checked_each_time() -> None:
    seen = []
    in_turns([Program(["/bin/true"], after=lambda: seen.append(1))], 3)
    assert len(seen) == 4


def test_interpreters_are_found_and_the_missing_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "VERSIONS", ("3.0",))
    found = run.interpreters([sys.executable])
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in dict(found)
    assert "not measured: Python 3.0" in capsys.readouterr().err
    with pytest.raises(BenchError, match="is no program"):
        run.interpreters(["/no/such/python"])
    with pytest.raises(BenchError, match="is no Python"):
        run.interpreters(["/bin/false"])


def test_functions_are_distinct_and_well_formed() -> None:
    found = hosts.addresses(hosts.FUNCTIONS)
    assert len(set(found)) == hosts.FUNCTIONS
    assert found[0] == "0000:00:00.0"
    assert found[-1] == "0000:0f:1f.7"


def test_reader_reads_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "FUNCTIONS", 16)
    hosts.validate_host(str(tmp_path), 4)
    reader = [sys.executable, "-I", f"{run.ROOT}/bench/plain_reader.py", str(tmp_path)]
    subprocess.run(reader, check=True)
    os.unlink(tmp_path / "sys/bus/pci/devices/0000:00:00.0/vendor")
    assert subprocess.run(reader, stderr=subprocess.DEVNULL, check=False).returncode == 1


def test_reader_reads_what_validate_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "FUNCTIONS", 16)
    hosts.validate_host(str(tmp_path), 4)
    found: set[str] = set()
    read, target = Host.at_once, Host.target

    def reading(host: Host, path: str, limit: int = MAX_FILE) -> bytes:
        data = read(host, path, limit)
        found.add(path)
        return data

    def following(host: Host, path: str) -> str | None:
        where = target(host, path)
        if where is not None:
            found.add(path)
        return where

    monkeypatch.setattr(Host, "at_once", reading)
    monkeypatch.setattr(Host, "head", lambda host, path, size: reading(host, path)[:size])
    monkeypatch.setattr(Host, "target", following)
    assert main(["--root", str(tmp_path), "--node", "pve", "validate", "--all"]) == 0
    of_one = {path.partition("/0000:00:00.0/")[2] for path in found if "/0000:00:00.0/" in path}
    of_group = {"iommu_group/reserved_regions" for path in found if path.endswith("/reserved_regions")}
    assert of_one | of_group == {*plain_reader.FILES, *plain_reader.LINKS}


def test_validate_that_does_no_work_is_no_measurement() -> None:
    with pytest.raises(BenchError, match="no list of VMs"):
        run.check_validate(["/bin/true"], 1)
    with pytest.raises(BenchError, match="judged 0 of 1 VMs"):
        run.check_validate(["/bin/sh", "-c", "echo []"], 1)


def test_rom_parser_survives_a_short_fuzz_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole run is `./dev fuzz`; each seed of it gives the same inputs again."""
    assert fuzz_rom.main(["--count", "3000", "--seed", "7"]) == 0
    assert capsys.readouterr().out.startswith("3000 ROMs of seed 7: none made the parser fail; ")
    images, faults, _ = fuzz_rom.run(3000, 7)
    assert (images, faults) == fuzz_rom.run(3000, 7)[:2]
    assert images > 1000
    assert faults > 1000


def test_a_failing_input_is_kept(mocker: MockerFixture, tmp_path: Path) -> None:
    mocker.patch.object(fuzz_rom, "FAILED", str(tmp_path / "build/fuzz-rom.bin"))
    mocker.patch("pvepassthru.model.rom.parse", side_effect=IndexError)
    with pytest.raises(IndexError):
        fuzz_rom.run(1, 1)
    assert (tmp_path / "build/fuzz-rom.bin").read_bytes()
