# SPDX-License-Identifier: Apache-2.0
"""Builds the Debian package of the files that git tracks: `deb.py [--into FOLDER]`, by default build/deb.

dpkg-buildpackage runs in a copy, with packaging/debian as its debian/. The package depends on these files only: not on
the folder, the time, the user's settings or the umask.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import stat
import subprocess
import sys

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Debian's own programs: another Python would not see the packages that the build needs. Whether these are there is
asked by `./dev deb`; dpkg would ask for a C++ compiler too."""


class BuildError(Exception):
    """The package cannot be built; the message says why."""


def tracked() -> list[str]:
    """The files that git tracks, those that are gone from the folder left out. Raises BuildError without git."""
    try:
        listed = _git("ls-files", "-z", "--cached")
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{PROJECT} is no checkout of git, or git is missing: {error}") from error
    return [name for name in listed.split("\0") if name and os.path.lexists(os.path.join(PROJECT, name))]


def uncommitted() -> list[str]:
    """What `git status` says has changed since the last commit, a line each."""
    return _git("status", "--porcelain").splitlines()


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return done.stdout.decode()


def copy(names: list[str], folder: str) -> None:
    """Copy files of the project into a new folder, and packaging/debian as debian/ too, with modes as git has them."""
    for name in names:
        source = os.path.join(PROJECT, name)
        runnable = os.lstat(source).st_mode & stat.S_IXUSR
        for target in (name, name.removeprefix("packaging/")) if name.startswith("packaging/debian/") else (name,):
            path = os.path.join(folder, target)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shutil.copyfile(source, path, follow_symlinks=False)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if runnable else 0o644)


def version(folder: str) -> str:
    """The version of debian/changelog in a folder. Raises BuildError when the Python package has another one."""
    with open(os.path.join(folder, "debian", "changelog"), encoding="utf-8") as file:
        found = re.match(r"pvepassthru \(([^)]+)\) ", file.readline())
    with open(os.path.join(folder, "pvepassthru", "__init__.py"), encoding="utf-8") as file:
        own = re.search(r'^__version__ = "([^"]+)"$', file.read(), re.MULTILINE)
    if not found or not own or found[1] != own[1]:
        said = f"{found and found[1]}, pvepassthru/__init__.py {own and own[1]}"
        raise BuildError(f"packaging/debian/changelog has version {said}: give both the same")
    return found[1]


def build(into: str) -> str:
    """Build the package into a folder and return its path. Raises BuildError when that fails."""
    source = os.path.join(into, "source")
    shutil.rmtree(source, ignore_errors=True)
    copy(tracked(), source)
    name = f"pvepassthru_{version(source)}_all.deb"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PVEPASSTHRU_"))}
    log = os.path.join(into, "build.log")
    with open(log, "wb") as file:
        command = ["dpkg-buildpackage", "--build=binary", "--no-sign", "--no-pre-clean", "--no-check-builddeps"]
        done = subprocess.run(
            command,
            cwd=source,
            env={**environment, "PATH": PATH},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        with open(log, encoding="utf-8", errors="replace") as text:
            sys.stderr.write(text.read()[-6000:])
        raise BuildError(f"dpkg-buildpackage ended with {done.returncode}; {log} has all that it said")
    return os.path.join(into, name)


def main() -> int:
    """Build, say what was built, and return the exit code."""
    parser = argparse.ArgumentParser(description="build the Debian package of the files that git tracks")
    folder = os.path.join(PROJECT, "build", "deb")
    parser.add_argument("--into", default=folder, metavar="FOLDER", help="where (default: build/deb)")
    into = os.path.abspath(parser.parse_args().into)
    os.makedirs(into, exist_ok=True)
    try:
        changed = uncommitted()
        if changed:
            first = "\n  ".join(changed[:10])
            print(
                f"deb: changes that are not committed; new files are left out, all else is in:\n  {first}",
                file=sys.stderr,
            )
        print(build(into))
    except BuildError as error:
        print(f"deb: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
