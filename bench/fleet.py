# SPDX-License-Identifier: Apache-2.0
"""`fleet validate` against the bare requests: a large cluster on the fake PVE, in a process of its own.

The fake answers both in the same way, and one answer takes it about as long as the client; a real cluster takes longer,
so its ratio is better.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from bench.measure import BenchError, Row
from tests.api.fake_pve.apart import Apart
from tests.api.fake_pve.data import PASSWORD, ROOT, Cluster, Device, Node

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.api.fake_pve.apart import Place

NODES = 32
VMS = 4000
FUNCTIONS = 64
"""Of each node; half of them virtual functions of one card, which a mapping has for all nodes."""
JOBS = 8
TIME_LIMIT = 1.5
MEMORY_LIMIT = 300.0
"""MiB of memory that the process holds at most (ru_maxrss)."""
ROUNDS = 5
FOLDER = os.path.dirname(os.path.abspath(__file__))
OWN_PYTHON = f"{os.path.dirname(FOLDER)}/.venv/bin/python"
"""What ./dev has installed requests and proxmoxer for; without it the present interpreter needs them."""
MAPPING = "vfs"
_PF, _VF = "8086:1592", "8086:1889"


class Run(NamedTuple):
    """One run of a program."""

    seconds: float
    memory: float
    """MiB at most."""


def cluster(nodes: int = NODES, vms: int = VMS) -> Cluster:
    """So many nodes and VMs; each second VM passes a device, by address or by mapping."""
    names = [f"pve{number:02d}" for number in range(1, nodes + 1)]
    functions = _functions()
    lines = [
        f"\tmap node={name},path={function.id},id={_VF},iommugroup={function.group}\n"
        for name in names
        for function in functions
        if function.physfn
    ]
    configs: dict[str, dict[int, str]] = {name: {} for name in names}
    for number in range(vms):
        name = names[number % nodes]
        configs[name][1000 + number] = _config(1000 + number, len(configs[name]), functions)
    made = {name: Node(functions, configs[name], [vmid for vmid in configs[name] if vmid % 3]) for name in names}
    return Cluster(made, mappings=f"{MAPPING}\n{''.join(lines)}")


def _functions() -> list[Device]:
    half = FUNCTIONS // 2
    plain = [
        Device(f"0000:{bus:02x}:00.0", "144d", "a80a", group=bus, class_="010802", subsystem="144d:a801")
        for bus in range(1, half)
    ]
    vendor, _, device = _PF.partition(":")
    card = Device("0000:81:00.0", vendor, device, group=100, class_="020000")
    vendor, _, device = _VF.partition(":")
    vfs = [
        Device(f"0000:81:{1 + number // 8:02x}.{number % 8}", vendor, device, group=101 + number, class_="020000",
               physfn=card.id)
        for number in range(half)
    ]  # fmt: skip
    return [*plain, card, *vfs]


def _config(vmid: int, place: int, functions: Sequence[Device]) -> str:
    disk = f"scsi0: local-lvm:vm-{vmid}-disk-0,iothread=1,size=32G\nscsihw: virtio-scsi-single\n"
    net = f"net0: virtio=BC:24:11:00:{vmid >> 8 & 255:02X}:{vmid & 255:02X},bridge=vmbr0\nmemory: 8192\n"
    plain = f"agent: 1\nboot: order=scsi0\ncores: 4\ncpu: host\nname: vm{vmid}\nostype: l26\nsockets: 1\n{disk}{net}"
    if place % 2:
        return plain
    device = f"mapping={MAPPING}" if place % 4 else functions[place // 4 % (FUNCTIONS // 2 - 1)].id
    return f"{plain}hostpci0: {device},pcie=1\nmachine: q35\n"


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Time and memory, each against its limit. Raises BenchError."""
    with Apart(cluster()) as place:
        ours, bare = measured(place, rounds)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    what = f"fleet validate, {NODES} nodes, {VMS} VMs"
    times = [statistics.median(run.seconds for run in runs) * 1000 for runs in (ours, bare)]
    most = max(run.memory for run in ours)
    return [
        Row(what, version, times[0], "the same requests", times[1], TIME_LIMIT),
        Row(f"{what}, MiB of memory at most", version, most, "1 MiB", 1.0, MEMORY_LIMIT),
    ]


def measured(place: Place, rounds: int) -> tuple[list[Run], list[Run]]:
    """The runs of `fleet validate` and of the bare requests, in turns; the first round does not count."""
    environment = {
        "PVE_HOST": f"{place.host}:{place.port}",
        "PVE_USER": ROOT,
        "PVE_PASSWORD": PASSWORD,
        "PVE_CA_FILE": place.ca_file,
        "PATH": os.environ.get("PATH", ""),
        "HOME": "/nonexistent",
    }
    python = OWN_PYTHON if os.access(OWN_PYTHON, os.X_OK) else sys.executable
    command = [python, "-m", "pvepassthru", "fleet", "validate", "--json", "--jobs", str(JOBS)]
    other = [python, f"{FOLDER}/bare_requests.py", str(JOBS)]
    ours: list[Run] = []
    bare: list[Run] = []
    for turn in range(rounds + 1):
        pairs = [(command, ours, check_ours), (other, bare, check_bare)]
        for argv, runs, check in pairs if turn % 2 else pairs[::-1]:
            run, output = once(argv, environment)
            check(output)
            if turn:
                runs.append(run)
    return ours, bare


def once(argv: list[str], environment: Mapping[str, str]) -> tuple[Run, str]:
    """One run of a program, with what it printed. Raises BenchError."""
    start = time.perf_counter()
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env=environment, cwd=os.path.dirname(FOLDER)
    ) as process:
        output = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode > 1:
        raise BenchError(f"`{' '.join(argv)}` failed with {process.returncode}")
    return Run(seconds, usage.ru_maxrss / 1024), output


def check_ours(output: str) -> None:
    """Make sure that all VMs were looked at, and half of them judged. Raises BenchError."""
    report = json.loads(output)
    if (report["checked"], len(report["vms"]), report["failures"]) != (VMS, NODES * -(-VMS // NODES // 2), []):
        raise BenchError(f"fleet validate looked at {report['checked']} VMs and judged {len(report['vms'])}")


def check_bare(output: str) -> None:
    """Make sure that all was asked for. Raises BenchError."""
    if output.split() != [str(VMS), str(NODES)]:
        raise BenchError(f"the bare requests were for {output}")


def main() -> int:
    """Measure, print each run and both rows; 1 if a limit is broken."""
    with Apart(cluster()) as place:
        ours, bare = measured(place, ROUNDS)
    for mine, other in zip(ours, bare, strict=True):
        print(
            f"ours {mine.seconds:.2f} s, {mine.memory:.0f} MiB; bare {other.seconds:.2f} s, {other.memory:.0f} MiB; "
            f"ratio {mine.seconds / other.seconds:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
