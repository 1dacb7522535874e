# SPDX-License-Identifier: Apache-2.0
"""The Debian package as `./dev deb` builds it, once a run of the tests, and the programs that look at it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent
NAME = "pvepassthru"
LIMIT = 600
"""Seconds for a program."""


def need(*programs: str, why: str = "") -> None:
    """Fail with CI=true, else skip, when a program is not here or `why` is not empty."""
    absent = [name for name in programs if shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    reason = why or (f"needs the Debian packages of {', '.join(absent)}, see ./dev" if absent else "")
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def said(*words: str | Path, **variables: str) -> str:
    """What a program printed, to both streams. Raises AssertionError with it when the program fails."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=PROJECT,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"{words} ended with {done.returncode}: {done.stdout[-4000:]}"
    return done.stdout


def build(into: Path, *before: str, **variables: str) -> Path:
    """Build the package into a folder, with words before the command and variables of the environment."""
    need("dpkg-buildpackage", "dh", "pybuild", "git")
    said(*before, sys.executable, PROJECT / "packaging" / "deb.py", "--into", into, **variables)
    (made,) = into.glob("*.deb")
    return made
