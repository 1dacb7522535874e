# SPDX-License-Identifier: Apache-2.0
"""How the kernel reads numbers and switches that are written to sysfs (lib/kstrtox.c)."""

from __future__ import annotations

import errno

from pvepassthru.host.sim_tree import fail

DIGITS = {8: "01234567", 10: "0123456789", 16: "0123456789abcdefABCDEF"}
ULONG = 1 << 64
UINT = 1 << 32


def parse_integer(value: str, path: str) -> int:
    """An unsigned number, its base told by its prefix. Raises OSError: EINVAL, or ERANGE for more than 64 bits."""
    digits = value.removesuffix("\n").removeprefix("+")
    if digits[:2] in {"0x", "0X"}:
        return _parse(digits[2:], 16, ULONG, path)
    return _parse(digits, 8 if digits.startswith("0") else 10, ULONG, path)


def parse_decimal(value: str, path: str) -> int:
    """An unsigned decimal number. Raises OSError: EINVAL, or ERANGE for more than 32 bits."""
    return _parse(value.removesuffix("\n").removeprefix("+"), 10, UINT, path)


def _parse(digits: str, base: int, limit: int, path: str) -> int:
    if not digits or digits.strip(DIGITS[base]):
        fail(errno.EINVAL, path)
    number = int(digits, base)
    if number >= limit:
        fail(errno.ERANGE, path)
    return number


def parse_switch(value: str, path: str) -> bool:
    """A switch: the first letter tells, and the second one after an o. Raises OSError: EINVAL."""
    start = value[:2].lower()
    on = start[:1] in {"y", "t", "1"} or start == "on"
    if not on and start[:1] not in {"n", "f", "0"} and start != "of":
        fail(errno.EINVAL, path)
    return on
