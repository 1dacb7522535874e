# SPDX-License-Identifier: Apache-2.0
"""The hookscript's way in. Most phases of most VMs have nothing to do, and they leave here within a millisecond.

This module may import nothing but gc and os: `qm start` of every VM that has the hookscript waits for it.
"""

import gc
import os

PHASES = ("pre-start", "post-start", "pre-stop", "post-stop")
MAX_CONFIG = 64 * 1024 * 1024
"""Bytes, as host.MAX_FILE."""
USAGE = "usage: pvepassthru VMID pre-start|post-start|pre-stop|post-stop, VMID from 100 to 999999999"


def main(argv: list[str]) -> int:
    """Run one hook phase (argv: script, VMID, phase) and return its exit code."""
    if len(argv) != 3 or not is_vmid(argv[1]) or argv[2] not in PHASES:
        said = " ".join(ascii(word) for word in argv[1:]) or "nothing"
        try:
            os.write(2, f"pvepassthru: error: the hook was called with {said}; {USAGE}\n".encode())
        except OSError:  # nobody listens
            pass
        return 2
    root = os.environ.get("PVEPASSTHRU_ROOT", "").rstrip("/")
    if nothing_to_do(root, argv[1], argv[2], os.environ.get("PVE_MIGRATED_FROM", "")):
        return 0
    gc.disable()  # nothing that is made below becomes garbage before the process ends

    from pvepassthru.lifecycle import hook  # noqa: PLC0415 - the fast path ends above

    return hook.run(root or "/", int(argv[1]), argv[2], os.environ)


def is_vmid(word: str) -> bool:
    """Whether a word is a VMID as PVE writes one: 100 to 999999999 (pve-common, format pve-vmid). As vms.vmid_of."""
    return 3 <= len(word) <= 9 and word.isascii() and word.isdigit() and word[0] != "0"


def nothing_to_do(root: str, vmid: str, phase: str, source: str) -> bool:
    """Whether the VM has no journal and, at pre-start, no line that could be a hostpci entry. Doubt is a no."""
    try:
        os.lstat(f"{root}/run/pvepassthru/{vmid}.journal")
    except FileNotFoundError:
        pass
    except OSError:
        return False
    else:
        return False
    if phase != "pre-start":
        return True
    folder = f"/etc/pve/nodes/{source}" if source else "/etc/pve"
    config = _read(f"{root}{folder}/qemu-server/{vmid}.conf")
    return config is not None and b"hostpci" not in config


def _read(path: str) -> bytes | None:
    """The bytes of a plain file, or None: there is none, or it cannot be read or is too large. Waits for nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):  # ValueError: a NUL byte in the path
        return None
    try:
        if os.fstat(fd).st_mode & 0o170000 != 0o100000:
            return None
        chunks = []
        left = MAX_CONFIG
        while left >= 0 and (chunk := os.read(fd, 65536)):
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks) if left >= 0 else None
    except OSError:
        return None
    finally:
        os.close(fd)
