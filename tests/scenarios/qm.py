# SPDX-License-Identifier: Apache-2.0
"""A program that stands for `qm` in a tree: `set VMID --hookscript VOLUME` and `--delete hookscript`, as PVE does them.

It looks at the script, the VM's lock and its pending changes, which take effect while the VM does not run. What a
storage's folder is it takes from lines `path` of storage.cfg. It notes its words in the tree's qm.log.
"""

from __future__ import annotations

import os
import sys

ROOT = os.path.abspath(__file__).rsplit("/", 3)[0]


def _main(words: list[str]) -> int:
    with open(f"{ROOT}/qm.log", "a", encoding="utf-8") as log:
        log.write(" ".join(words) + "\n")
    if os.path.exists(f"{ROOT}/qm.fails"):
        return _die("unable to write file: Permission denied")
    vmid, option, value = words[1:]
    path = f"{ROOT}/etc/pve/qemu-server/{vmid}.conf"
    if not os.path.exists(path):
        return _die(f"Configuration file 'nodes/pve/qemu-server/{vmid}.conf' does not exist")
    with open(path, encoding="utf-8") as file:
        main, _, pending = file.read().partition("[PENDING]\n")
    lines = main.splitlines()
    if any(line.startswith("lock:") for line in lines):
        return _die("VM is locked")
    if option == "--hookscript":
        why = _fault(value)
        if why:
            return _die(f"400 Parameter verification failed.\nhookscript: script '{value}' {why}")
    lines = [line for line in lines if line and not line.startswith("hookscript:")]
    if option == "--hookscript":
        lines.append(f"hookscript: {value}")
    if pending and not os.path.exists(f"{ROOT}/run/qemu-server/{vmid}.pid"):
        lines, pending = [*lines, *pending.splitlines()], ""
    text = "\n".join(lines) + "\n" + (f"\n[PENDING]\n{pending}" if pending else "")
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(f"{path}.tmp", path)
    print(f"update VM {vmid}: -{option[2:]} {value}")  # noqa: T201 - as qm does
    return 0


def _fault(volume: str) -> str:
    storage, _, file = volume.partition(":")
    script = f"{ROOT}{_folders().get(storage, '/nowhere')}/{file}"
    if not os.path.isfile(script):
        return "does not exist"
    return "" if os.stat(script).st_mode & 0o111 else "is not executable"


def _folders() -> dict[str, str]:
    found = {"local": "/var/lib/vz"}
    name = ""
    try:
        with open(f"{ROOT}/etc/pve/storage.cfg", encoding="utf-8") as file:
            for line in file:
                kind, _, rest = line.strip().partition(" ")
                if kind.endswith(":"):
                    name = rest
                elif kind == "path":
                    found[name] = rest
    except FileNotFoundError:
        pass
    return found


def _die(why: str) -> int:
    sys.stderr.write(f"{why}\n")
    return 255


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
