# SPDX-License-Identifier: Apache-2.0
"""What the commands have in common: types of arguments, how things are printed, where a host's files are copied to."""

from __future__ import annotations

import argparse
import json
import os
import sys

from pvepassthru.host.vms import vmid_of
from pvepassthru.model import pci
from pvepassthru.model.errors import PassthruError, UsageError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import one_line, shown

if TYPE_CHECKING:
    import tempfile
    from typing import Any, TextIO

MEMORY = "/dev/shm"  # noqa: S108 - a private folder is made in it
"""Where the many small files of a host lie best."""


def vmid(word: str) -> int:
    """The VMID that a word of the command line is; argparse reports what is none as wrong usage."""
    number = vmid_of(word)
    if number is None:
        raise argparse.ArgumentTypeError(f"{word!r} is no VMID: a number from 100 to 999999999")
    return number


def function_address(word: str) -> str:
    """The full PCI address that a word of the command line is, in any case, with a domain or not. Raises UsageError."""
    full = pci.with_domain(word.lower())
    if not pci.is_address(full):
        raise UsageError(f"{shown(word)} is no PCI address", "write it as lspci does: 0000:01:00.0 or 01:00.0")
    return full


def seconds(word: str) -> float:
    """The time that a word of the command line is, more than none; argparse reports else wrong usage."""
    number = float(word) if word.replace(".", "", 1).isdecimal() and word.isascii() else 0.0
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"{word!r} is no time: a number of seconds")
    return number


def print_error(words: str) -> None:
    """Print words as one line on standard error; where that is closed or full nobody listens."""
    try:
        if sys.stderr is not None:  # print would take standard output for None
            print(one_line(words), file=sys.stderr, flush=True)
    except OSError:
        drop(sys.stderr)


def drop(stream: TextIO) -> None:
    """Send what was printed nowhere, so that Python neither complains of it at its end nor changes the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_json(value: Any) -> None:  # noqa: ANN401 - whatever json takes
    """Print a value as JSON; bytes of a config that were no UTF-8 are escaped."""
    print(json.dumps(value, indent=2))


def scratch(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """A private folder for a host's files, in memory where that can be written; it goes with its `with` block.

    Raises PassthruError when there is no place for it.
    """
    import tempfile  # noqa: PLC0415 - `validate` is run often, and needs none

    try:
        return tempfile.TemporaryDirectory(prefix=prefix, dir=MEMORY)
    except OSError:  # absent, or not for us
        pass
    try:
        return tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:
        hint = "make /tmp writable, or set TMPDIR to a folder that is"
        raise PassthruError(f"cannot make a temporary folder: {error.strerror}", hint) from error
