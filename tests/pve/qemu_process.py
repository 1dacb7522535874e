# SPDX-License-Identifier: Apache-2.0
"""The program that plays QEMU on a real host; few imports, since Python is slow in the guest."""

from __future__ import annotations

import fcntl
import os
import signal
import sys

from tests.kernel import vfio


def main() -> None:
    """Open the devices NAME=GROUP that follow --open, say so, and hold them until a signal ends the process."""
    groups: dict[str, vfio.Opened] = {}
    for word in sys.argv[sys.argv.index("--open") + 1 :]:
        name, _, group = word.partition("=")
        try:
            if group in groups:  # a group is opened once, for all its devices
                wanted = bytearray(name.encode() + b"\0")
                fcntl.ioctl(groups[group].group, vfio.GROUP_GET_DEVICE_FD, wanted)
            else:
                groups[group] = vfio.open_device(name, group)
        except OSError as error:
            os.write(1, f"cannot open {name}: {error}\n".encode())
            sys.exit(1)
    os.write(1, b"ready\n")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    while True:
        signal.pause()
