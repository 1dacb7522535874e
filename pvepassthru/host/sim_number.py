# SPDX-License-Identifier: Apache-2.0
"""How the kernel reads numbers and switches that are written to sysfs (lib/kstrtox.c)."""

from __future__ import annotations

import errno
import re

from pvepassthru.host.sim_tree import fail

INTEGER = re.compile(r"\+?(?:0[xX](?P<hex>[0-9a-fA-F]+)|0(?P<octal>[0-7]+)|(?P<decimal>[0-9]+))\n?", re.ASCII)
DECIMAL = re.compile(r"\+?([0-9]+)\n?", re.ASCII)
ULONG = 1 << 64
UINT = 1 << 32


def parse_integer(value: str, path: str) -> int:
    """An unsigned number, its base told by its prefix. Raises OSError: EINVAL, or ERANGE for more than 64 bits."""
    match = INTEGER.fullmatch(value)
    if match is None:
        fail(errno.EINVAL, path)
    if match["hex"]:
        number = int(match["hex"], 16)
    elif match["octal"]:
        number = int(match["octal"], 8)
    elif match["decimal"].startswith("0") and match["decimal"].strip("0"):
        fail(errno.EINVAL, path)  # such as 08: octal by its prefix, and no octal number
    else:
        number = int(match["decimal"])
    if number >= ULONG:
        fail(errno.ERANGE, path)
    return number


def parse_decimal(value: str, path: str) -> int:
    """An unsigned decimal number. Raises OSError: EINVAL, or ERANGE for more than 32 bits."""
    match = DECIMAL.fullmatch(value)
    if match is None:
        fail(errno.EINVAL, path)
    number = int(match[1])
    if number >= UINT:
        fail(errno.ERANGE, path)
    return number


def parse_switch(value: str, path: str) -> bool:
    """A switch: the first letter tells, and the second one after an o. Raises OSError: EINVAL."""
    start = value[:2].lower()
    if start[:1] in {"y", "t", "1"} or start == "on":
        return True
    if start[:1] in {"n", "f", "0"} or start == "of":
        return False
    fail(errno.EINVAL, path)
