# SPDX-License-Identifier: Apache-2.0
"""A Debian, small and real, to install the package in: a copy of a tree that tests/doctor/debian.py caches."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from tests.doctor import debian
from tests.kernel import testbed
from tests.packaging.package import LIMIT, PROJECT, need, said

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RELEASES = {"bookworm": "3.11", "trixie": "3.13"}
"""Debian's releases, with their Python."""
SYSTEMCTL = """#!/bin/sh
case " $* " in
*" preset "* | *" enable "* | *" disable "* | *" is-enabled "*) SYSTEMD_OFFLINE=1 exec /usr/bin/systemctl.real "$@" ;;
esac
echo "$*" >> /var/log/systemctl
case " $* " in
*ActiveState*recover.service*)
    state=$(head -n 1 /var/log/recover)
    sed -i 1d /var/log/recover
    echo "${state:-inactive}" ;;
*" is-active "*) echo inactive; exit 3 ;;
esac
"""
"""Stands in for systemctl: notes what it is asked, and says of recover's state what the test wrote, a line a time.

Links are made and read by the real one, which needs no running systemd for that.
"""
MOUNTS = """
set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
cd /
root=$1
shift
exec chroot "$root" "$@"
"""
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
VARYING = ("var/log/", "var/cache/", "var/lib/dpkg/", "root/", "tmp/", "proc/", "dev/", "run/")
"""Where dpkg and the tests write."""


class Done(NamedTuple):
    """What became of a program."""

    code: int
    said: str
    """On both streams."""


class Debian(NamedTuple):
    """One tree."""

    root: Path

    def run(self, *words: str, **variables: str) -> Done:
        """Run a program of the tree in it."""
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", MOUNTS, "sh", str(self.root), *words],
            env={**ENVIRONMENT, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode("utf-8", "replace"))

    def fine(self, *words: str, **variables: str) -> str:
        """What a program of the tree said. Raises AssertionError when it fails."""
        done = self.run(*words, **variables)
        assert done.code == 0, f"{words} ended with {done.code}: {done.said[-6000:]}"
        return done.said

    def dpkg(self, action: str, package: Path | str) -> str:
        """What `dpkg ACTION` said of a package's file, or of a package by its name."""
        if isinstance(package, str):
            return self.fine("dpkg", action, package)
        shutil.copy(package, self.root / "tmp")
        return self.fine("dpkg", action, f"/tmp/{package.name}")

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the tree, in place of what is there: that may be a link into the cache."""
        real = self.root / path.lstrip("/")
        real.parent.mkdir(parents=True, exist_ok=True)
        real.unlink(missing_ok=True)
        real.write_text(text, encoding="utf-8")
        real.chmod(mode)

    def with_systemd(self) -> None:
        """Let maintainer scripts think that systemd runs."""
        program = self.root / "usr/bin/systemctl"
        program.rename(program.with_name("systemctl.real"))
        self.put("usr/bin/systemctl", SYSTEMCTL, 0o755)
        (self.root / "run/systemd/system").mkdir(parents=True)
        self.recover_is()

    def recover_is(self, *states: str) -> None:
        """What systemd says of pvepassthru-recover.service, one answer after the other, then `inactive`."""
        self.put("var/log/recover", "".join(f"{state}\n" for state in states))

    def asked(self) -> list[str]:
        """What systemctl was asked since the last question."""
        path = self.root / "var/log/systemctl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def files(self) -> set[str]:
        """All that is in the tree, but where dpkg and the tests write."""
        found = set()
        for folder, folders, names in os.walk(self.root):
            for name in (*folders, *names):
                path = os.path.relpath(os.path.join(folder, name), self.root)
                if not path.startswith(VARYING):
                    found.add(path)
        return found


def make(release: str, where: Path) -> Debian:
    """A tree of a release in a new folder of testbed.BUILD."""
    need(why=debian.missing())
    debian.copy(debian.base(release), where)
    return Debian(where)


def place(name: str) -> Path:
    """Where a tree can be made: links do not leave a file system."""
    debian.CACHE.mkdir(parents=True, exist_ok=True)
    return testbed.BUILD / "debian" / f"{name}.{os.getpid()}"


def older(package: Path, folder: Path, version: str, module: str) -> Path:
    """The package as an older version of itself, with one more Python module."""
    said("dpkg-deb", "--raw-extract", package, folder / "older")
    control = folder / "older/DEBIAN/control"
    text = control.read_text("utf-8")
    own = next(line for line in text.splitlines() if line.startswith("Version: "))
    control.write_text(text.replace(own, f"Version: {version}"), encoding="utf-8")
    path = folder / "older/usr/lib/python3/dist-packages" / module
    path.write_text("GONE = True\n", encoding="utf-8")
    made = folder / f"older_{version}.deb"
    said("dpkg-deb", "--root-owner-group", "-Znone", "--build", folder / "older", made)
    return made


def tools(python: str, where: Path, names: Sequence[str]) -> None:
    """Install pinned test tools, for a version of Python, into a folder."""
    words = ["--target", str(where), "--python-version", python, "--only-binary=:all:", "--no-deps"]
    pip = [str(PROJECT / ".venv/bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    said(*pip, *words, *names)
