# SPDX-License-Identifier: Apache-2.0
"""What tests see of the program that stands for `ip` (tests/host/ip_program.py)."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from pvepassthru.host import programs
from pvepassthru.host.host import Host

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from pvepassthru.host.programs import Output

NET = "enp3s0f0"
MAC = "52:54:00:0b:0e:01"
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ip_program.py")


class Ip:
    """The program's side that tests see."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = folder / "ip.json"
        self._log = folder / "ip.log"
        self._log.write_text("")
        self.vfs(0)
        run = programs.run
        words = (sys.executable, "-I", PROGRAM, str(self._file), str(self._log))

        def run_ours(_host: Host, command: tuple[str, ...], seconds: float, keep: tuple[int, ...] = ()) -> Output:
            return run(Host("/"), (*words, *command[1:]), seconds, keep)

        monkeypatch.setattr(programs, "find", lambda _host, name: f"/usr/sbin/{name}")
        monkeypatch.setattr(programs, "run", run_ours)

    def vfs(self, count: int, **more: Any) -> None:  # noqa: ANN401 - JSON
        """Have the interface show this many VFs, all at their driver's defaults; `more`: refuse, forget (words)."""
        vf = {"mac": "00:00:00:00:00:00", "vlan": 0, "qos": 0, "spoofchk": "on", "trust": "off", "state": "auto"}
        vf |= {"max_tx_rate": 0, "min_tx_rate": 0}
        state = {"net": NET, "mac": MAC, "vfs": [dict(vf) for _ in range(count)], "refuse": "", "forget": "", **more}
        self._file.write_text(json.dumps(state))

    def of(self, number: int) -> dict[str, Any]:
        """What is set of a VF."""
        found: dict[str, Any] = json.loads(self._file.read_text())["vfs"][number]
        return found

    def sets(self) -> list[str]:
        """The calls that set something, since the last time that this was asked."""
        lines = self._log.read_text().splitlines()
        self._log.write_text("")
        return [line for line in lines if " set " in f" {line}"]
