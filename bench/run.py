# SPDX-License-Identifier: Apache-2.0
"""The benchmark: `./dev bench [--fast] [--rounds N] [--json|--write]`.

Exit code 1 if a limit is broken, 2 if it cannot run.

All numbers are ratios of medians of one run, since the speed of machines differs. docs/design.md has the limits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench import fleet, growth, hosts, page, races
from bench.measure import BenchError, Program, Row, in_turns
from pvepassthru.host.sim import SimHost
from pvepassthru.lifecycle import shim_file
from tests.kernel import testbed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PERL = "/usr/bin/perl"
PLAIN_HOOK = f"{ROOT}/bench/plain_hook.pl"
COMMAND = f"import sys; sys.path.insert(0, {ROOT!r}); from pvepassthru.cli.main import main; sys.exit(main())"
"""`pvepassthru` from the checkout, isolated as an installed one."""
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 - a private folder in it
"""Where the trees lie: in memory, as a real host's /sys and /run do."""
NOTHING_LIMIT = 1.2
MDEV_LIMIT = 3.0
GPU_LIMIT = 4.0
READ_LIMIT = 5.0
ONE_VM_LIMIT = 10.0
ONE_VM_FUNCTIONS = 200
GROWTH_LIMIT = 2.2
"""For twice the VMs: 2 is linear, and the machine's noise is on top; a quadratic part would show as 4."""
PEER_LIMIT = 1.0
VERSIONS = ("3.11", "3.13")
VMS = (250, 500, 1000)
GUEST_LIMIT = 300.0
"""Seconds."""


def interpreters(given: Sequence[str]) -> list[tuple[str, str]]:
    """Python 3.11 and 3.13, those of Debian 12 and 13, as far as they are at hand: (version, path).

    `given` come first. Raises BenchError if one of them cannot run; says on standard error which version is not there.
    """
    found: dict[str, str] = {}
    ask = "import os, sys; print('%d.%d' % sys.version_info[:2], os.path.realpath(sys.executable))"
    for candidate in (*given, "/usr/bin/python3", *(shutil.which(f"python{version}") for version in VERSIONS)):
        if candidate is None or not os.access(candidate, os.X_OK):
            if candidate in given:
                raise BenchError(f"{candidate} is no program")
            continue
        asked = subprocess.run([candidate, "-I", "-c", ask], capture_output=True, text=True, check=False)
        if asked.returncode == 0:  # a shim of a version manager may have no such version behind it
            version, path = asked.stdout.split(maxsplit=1)
            found.setdefault(version, path.strip())
        elif candidate in given:
            raise BenchError(f"{candidate} is no Python: {asked.stderr.strip()}")
    for version in VERSIONS:
        if version not in found:
            print(
                f"bench: not measured: Python {version}, which is not at hand; --python PATH adds it", file=sys.stderr
            )
    return sorted(found.items())


def install_hook(folder: str) -> str:
    """The path of the hookscript as `attach` puts it on a storage, with the checkout as the package that it finds.

    PVE starts it by its first line, `python3 -I`; here the interpreter that is measured is named, with the same option.
    """
    path = f"{folder}/pvepassthru"
    first, _, rest = shim_file.text().partition(b"\n")
    with open(path, "wb") as file:
        file.write(first + f"\nimport sys; sys.path.insert(0, {ROOT!r})\n".encode() + rest)
    os.chmod(path, shim_file.MODE)
    return path


def hook_rows(folder: str, rounds: int, pythons: Sequence[tuple[str, str]]) -> Iterator[Row]:
    """The hook against an interpreter that does nothing."""
    root, hook = f"{folder}/hook", install_hook(folder)
    hosts.hook_host(root)
    environment = {"PVEPASSTHRU_ROOT": root}
    instance = f"{root}/sys/bus/mdev/devices/{hosts.MDEV_UUID}"
    for version, python in pythons:

        def undo(python: str = python) -> None:
            if not os.path.lexists(instance):
                raise BenchError("pre-start made no mdev: there is nothing to measure")
            subprocess.run(
                [python, "-I", hook, "101", "post-stop"], env=environment, stdout=subprocess.DEVNULL, check=True
            )
            if os.path.lexists(instance):
                raise BenchError("post-stop left the mdev: the next round would measure something else")

        def give_back(python: str = python) -> None:
            check_gpu(root)
            subprocess.run(
                [python, "-I", hook, "102", "post-stop"], env=environment, stdout=subprocess.DEVNULL, check=True
            )
            host = SimHost(root)  # a display stays with vfio-pci, and the next round would have nothing to do
            for address, driver in hosts.GPU.items():
                host.write("/sys/bus/pci/drivers/vfio-pci/unbind", address)
                host.write(f"/sys/bus/pci/drivers/{driver}/bind", address)

        programs = [
            Program([python, "-I", "-c", "pass"]),
            Program([python, "-I", hook, "100", "pre-start"], environment),
            Program([python, "-I", hook, "101", "pre-start"], environment, undo),
            Program([python, "-I", hook, "102", "pre-start"], environment, give_back),
        ]
        nothing, plain, mdev, gpu = in_turns(programs, rounds)
        baseline = "python3 -I -c pass"
        yield Row("pre-start of a VM without hostpci", version, plain, baseline, nothing, NOTHING_LIMIT)
        yield Row("pre-start with one mdev", version, mdev, baseline, nothing, MDEV_LIMIT)
        yield Row("pre-start of a GPU with two functions", version, gpu, baseline, nothing, GPU_LIMIT)


def perl_rows(folder: str, rounds: int, pythons: Sequence[tuple[str, str]]) -> Iterator[Row]:
    """The hook against a hookscript in Perl, where neither has anything to do, and both interpreters bare.

    There is no limit: how long an interpreter takes to start is not this project's doing.
    """
    root, hook = f"{folder}/perl", install_hook(folder)
    hosts.hook_host(root)
    environment = {"PVEPASSTHRU_ROOT": root}
    for version, python in pythons:
        bare_python, ours, bare_perl, theirs = in_turns(
            [
                Program([python, "-I", "-c", "pass"]),
                Program([python, "-I", hook, "100", "pre-start"], environment),
                Program([PERL, "-e", "1"]),
                Program([PERL, PLAIN_HOOK, "100", "pre-start"], environment),
            ],
            rounds,
        )
        what = "a hookscript in Perl that reads the config"
        yield Row("pre-start of a VM without hostpci", version, ours, what, theirs, None)
        yield Row(what, version, theirs, "perl -e 1", bare_perl, None)
        yield Row("python3 -I -c pass", version, bare_python, "perl -e 1", bare_perl, None)


def check_gpu(root: str) -> None:
    """Make sure that the GPU's functions have vfio-pci. Raises BenchError."""
    for one in hosts.GPU:
        found = os.path.basename(os.readlink(f"{root}/sys/bus/pci/devices/{one}/driver"))
        if found != "vfio-pci":
            raise BenchError(f"{one} has {found} and not vfio-pci: something else would be measured")


def validate_rows(folder: str, rounds: int, pythons: Sequence[tuple[str, str]]) -> Iterator[Row]:
    """`validate --all` against reading its files, and against itself with half the VMs."""
    for vms in VMS:
        hosts.validate_host(f"{folder}/{vms}", vms)
    for version, python in pythons:
        commands = {
            vms: [python, "-I", "-c", COMMAND, "--root", f"{folder}/{vms}", "--node", "pve", "validate", "--all"]
            for vms in VMS
        }
        for vms, command in commands.items():
            check_validate(command, vms)
        largest = VMS[-1]
        reader = Program([python, "-I", f"{ROOT}/bench/plain_reader.py", f"{folder}/{largest}"])
        doctor = Program([*commands[largest][:-2], "doctor"])
        read, host, *ours = in_turns([reader, doctor, *(Program(command) for command in commands.values())], rounds)
        size = f"{largest} VMs, {hosts.FUNCTIONS} functions"
        yield Row(f"validate --all, {size}", version, ours[-1], "reading the same files", read, READ_LIMIT)
        yield Row(f"doctor, {size}", version, host, "reading the same files", read, READ_LIMIT)
        for index in range(1, len(VMS)):
            what, half = f"validate --all, {VMS[index]} VMs", f"{VMS[index - 1]} VMs"
            yield Row(what, version, ours[index], half, ours[index - 1], GROWTH_LIMIT)


def one_vm_rows(folder: str, rounds: int, pythons: Sequence[tuple[str, str]]) -> Iterator[Row]:
    """`validate VMID` against an interpreter that does nothing."""
    root = f"{folder}/one"
    hosts.validate_host(root, ONE_VM_FUNCTIONS // 4, ONE_VM_FUNCTIONS)
    for version, python in pythons:
        command = [python, "-I", "-c", COMMAND, "--root", root, "--node", "pve", "validate"]
        check_validate([*command, "--all"], ONE_VM_FUNCTIONS // 4)
        nothing, ours = in_turns([Program([python, "-I", "-c", "pass"]), Program([*command, "1000"])], rounds)
        what = f"validate VMID, {ONE_VM_FUNCTIONS} functions"
        yield Row(what, version, ours, "python3 -I -c pass", nothing, ONE_VM_LIMIT)


def check_validate(command: list[str], vms: int) -> None:
    """Make sure that there is work done: every VM judged, with its four devices. Raises BenchError."""
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    try:
        judged = json.loads(done.stdout)
        devices = sum(len(vm["devices"]) for vm in judged)
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(
            f"validate --json gave no list of VMs with devices ({error}), exit {done.returncode}"
        ) from None
    if (done.returncode, len(judged), devices) != (0, vms, 4 * vms):
        raise BenchError(f"validate judged {len(judged)} of {vms} VMs, {devices} devices, exit {done.returncode}")


def guest_rows() -> list[Row]:
    """The hook against mdevctl, and against driverctl, on a real kernel. Raises BenchError when the guest fails."""
    kernels = testbed.kernels()
    if not kernels:
        raise BenchError("no kernel to boot on this system; leave it out with --fast")
    with tempfile.TemporaryDirectory(prefix="bench.") as share:
        how = testbed.Boot(GUEST_LIMIT, share=Path(share))
        done = testbed.run(kernels[0], "/usr/bin/python3 -m bench.in_guest", how)
        if done.code:
            raise BenchError(f"the guest failed with {done.code}:\n{done.output[-3000:]}")
        with open(f"{share}/bench.json", encoding="utf-8") as file:
            numbers = json.load(file)
    whats = (
        (f"pre-start with 8 mdevs, kernel {kernels[0]}", "8 times mdevctl start"),
        (f"the hook's binding of a NIC to vfio-pci, kernel {kernels[0]}", "driverctl set-override"),
    )
    return [
        Row(
            what,
            ".".join(row["interpreter"].split(".")[:2]),
            row["ours_ms"],
            baseline,
            row["baseline_ms"],
            PEER_LIMIT,
        )
        for (what, baseline), row in zip(whats, numbers, strict=True)
    ]


def table(rows: Sequence[Row]) -> str:
    """All rows as aligned text."""
    lines = [("what", "python", "ms", "against", "ms", "ratio", "limit", "")]
    for row in rows:
        limit, words = ("-", "") if row.limit is None else (f"{row.limit:.2f}", "ok" if row.ok else "TOO SLOW")
        numbers = (f"{row.baseline_ms:.1f}", f"{row.ratio:.2f}", limit, words)
        lines.append((row.what, row.interpreter, f"{row.ours_ms:.1f}", row.baseline, *numbers))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    right = {2, 4, 5, 6}
    text = ""
    for line in lines:
        cells = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text += "  ".join(cells).rstrip() + "\n"
    return text


def measure(rounds: int, pythons: Sequence[tuple[str, str]], *, fast: bool) -> list[Row]:
    """All rows. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="bench.", dir=MEMORY) as folder:
        rows = [
            *hook_rows(folder, rounds, pythons),
            *perl_rows(folder, rounds, pythons),
            *races.rows(folder, install_hook(folder), max(3, rounds // 4), pythons),
            *one_vm_rows(folder, rounds, pythons),
            *validate_rows(folder, max(3, rounds // 8), pythons),
        ]
    rows += fleet.rows()
    if not fast:
        rows += guest_rows()
    return rows


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measure, and compare with the project's limits.")
    parser.add_argument("--fast", action="store_true", help="leave out the guest with a real kernel")
    parser.add_argument("--rounds", type=int, default=40, help="runs of each hook phase (default: %(default)s)")
    parser.add_argument("--python", action="append", default=[], metavar="PATH", help="measure this interpreter too")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--json", action="store_true", help="one JSON list of rows")
    write = "measure growth too, and renew the numbers of docs/performance.md and its plots"
    what.add_argument("--write", action="store_true", help=write)
    args = parser.parse_args()
    try:
        pythons = interpreters(args.python)
        rows = measure(args.rounds, pythons, fast=args.fast)
        if args.write:
            curves = growth.measure(COMMAND, pythons[0][1], MEMORY)
            page.write(ROOT, page.about(pythons, args.rounds, fast=args.fast), rows, curves)
    except (BenchError, testbed.TestbedError, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps([{**row._asdict(), "ratio": row.ratio, "ok": row.ok} for row in rows], indent=1))
    else:
        print(table(rows), end="")
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
