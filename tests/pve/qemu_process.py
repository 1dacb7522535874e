# SPDX-License-Identifier: Apache-2.0
"""The program that plays QEMU on a real host; few imports, since Python is slow in the guest."""

from __future__ import annotations

import os
import signal
import sys

from tests.kernel import vfio


def main() -> None:
    """Open the devices NAME=GROUP that follow --open, say so, and hold them until a signal ends the process."""
    words = sys.argv[sys.argv.index("--open") + 1 :]
    opened = []
    try:
        for word in words:
            name, _, group = word.partition("=")
            opened.append(vfio.open_device(name, group))
    except OSError as error:
        os.write(1, f"cannot open {words[len(opened)]}: {error}\n".encode())
        sys.exit(1)
    os.write(1, b"ready\n")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    while True:
        signal.pause()
