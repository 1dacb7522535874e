# SPDX-License-Identifier: Apache-2.0
"""What the commands have in common: types of arguments, and how things are printed."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from pvepassthru.host.vms import vmid_of
from pvepassthru.model.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def vmid(word: str) -> int:
    """The VMID that a word of the command line is; argparse reports what is none as wrong usage."""
    number = vmid_of(word)
    if number is None:
        raise argparse.ArgumentTypeError(f"{word!r} is no VMID: a number from 100 to 999999999")
    return number


def print_json(value: Any) -> None:  # noqa: ANN401 - whatever json takes
    """Print a value as JSON; bytes of a config that were no UTF-8 are escaped."""
    print(json.dumps(value, indent=2))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns as wide as their content."""
    lines = [tuple(header), *(tuple(one_line(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
