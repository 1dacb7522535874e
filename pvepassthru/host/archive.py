# SPDX-License-Identifier: Apache-2.0
"""The archive of a snapshot, a .tar.xz: written in one go, and unpacked without trust.

An archive comes from somebody else, perhaps by mail. Python's own filter for such archives is not in Debian 12's
Python, so `unpack` makes only what a snapshot has: files, folders, and symbolic links that stay inside. Nothing is ever
put below a link, and a link goes up only at its beginning; so none can lead out, however they are combined.
"""

from __future__ import annotations

import lzma
import os
import re
import tarfile
from typing import TYPE_CHECKING, cast

from pvepassthru.host.host import MAX_FILE
from pvepassthru.model.errors import InputError
from pvepassthru.model.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, BinaryIO

MOST_BYTES = 1024 * 1024 * 1024
"""Unpacked, with what the format itself takes; 4,096 functions take a seventh of it."""
MOST_MEMBERS = 1_000_000
_LEVEL = 1
"""xz's; of these small and equal files the higher ones make little less, and take many times longer."""
_CHUNK = 1024 * 1024
_HINT = "give the file that `pvepassthru snapshot` made, or make it anew"
_OPENED = re.compile(r"proc/[0-9]+/fd/[^/]+")
_DEVICE_NODE = re.compile(r"/dev/(vfio/|vfio/devices/|dri/|snd/|nvidia)[A-Za-z0-9_-]*")
"""The only links that lead to absolute paths: what a process has open; they are read, never followed."""
_UP = re.compile(r"(\.\./)*")


class Archive:
    """A .tar.xz that is being written: a target of copies (host/capture.py). Paths are as on a host."""

    def __init__(self, file: BinaryIO, change: Callable[[str, bytes], bytes], rename: Callable[[str], str]) -> None:
        self._xz = lzma.LZMAFile(file, "wb", preset=_LEVEL)  # noqa: SIM115 - see close
        self._buffer = bytearray()
        self._change = change
        self._rename = rename
        self._done: set[str] = set()
        self._parents: set[str] = set()
        self._folders: dict[str, int] = {}

    def folder(self, path: str) -> None:
        """Have a folder, with those above it."""
        self._folders.setdefault(self._rename(path), 0)

    def put(self, path: str, data: bytes, info: os.stat_result | None = None) -> None:
        """Add a file as `change` makes it; with `info` its mode, owner and time."""
        member = self._member(path)
        if member is None:
            return
        content = self._change(path, data)
        member.size = len(content)
        member.mode = 0o644
        if info:
            member.mode, member.uid, member.gid = info.st_mode & 0o777, info.st_uid, info.st_gid
            member.mtime = int(info.st_mtime)
        self._write(member, content)

    def link(self, path: str, text: str) -> None:
        """Add a symbolic link with this text, unless it may lead out of the snapshot."""
        opened = _OPENED.fullmatch(path.strip("/")) and _DEVICE_NODE.fullmatch(text)
        member = self._member(path) if opened or stays_inside(path, text) else None
        if member is not None:
            member.type, member.linkname = tarfile.SYMTYPE, self._rename(text)
            self._write(member)

    def own(self, path: str, info: os.stat_result) -> None:
        """Give a folder its mode."""
        if path not in self._done:
            self._folders[self._rename(path)] = info.st_mode & 0o777

    def _member(self, path: str) -> tarfile.TarInfo | None:
        """What a new file or link is written with, or None if there is one of that name already."""
        name = self._rename(path).strip("/")
        if name in self._done:
            return None
        self._done.add(name)
        self._parents.add(name.rpartition("/")[0])
        return tarfile.TarInfo(name)

    def close(self) -> None:
        """Write the folders that are empty or have a mode of their own, and what is left."""
        for path, mode in sorted(self._folders.items()):
            name = path.strip("/")
            if name and name not in self._done and (mode or name not in self._parents):
                member = tarfile.TarInfo(name)
                member.type, member.mode = tarfile.DIRTYPE, mode or 0o755
                self._write(member)
        self._buffer += bytes(2 * tarfile.BLOCKSIZE)  # the end of a tar archive
        self._xz.write(self._buffer)
        self._xz.close()

    def _write(self, member: tarfile.TarInfo, content: bytes = b"") -> None:
        """Add a member; what tarfile's own addfile does besides takes twice the time."""
        self._buffer += member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        self._buffer += content
        self._buffer += bytes(-len(content) % tarfile.BLOCKSIZE)
        if len(self._buffer) > _CHUNK:
            self._xz.write(self._buffer)
            self._buffer.clear()


def unpack(path: str, destination: str, check: Callable[[str, bytes], None]) -> frozenset[str]:
    """Unpack an archive into a private, empty folder; `check` sees the first file, and may refuse it.

    Nothing of it can be executed; returned are the names of the files that could be on the host.

    Raises InputError when this is no archive of ours, damaged, or wants what no snapshot has; OSError when
    `destination` cannot be written.
    """
    unpacking = _Unpacking(destination)
    members = 0
    try:
        with lzma.open(path) as xz, tarfile.open(fileobj=cast("IO[bytes]", _Limited(path, xz)), mode="r|") as tar:
            for member in tar:
                members += 1
                if members > MOST_MEMBERS:
                    raise InputError(f"{path} is no snapshot: it has more than {MOST_MEMBERS} files", _HINT)
                data = _data(path, tar, member)
                if members == 1:
                    check(member.name, data)
                try:
                    unpacking.take(member, data)
                except ValueError as error:
                    why = f"{path} is no snapshot: {shown(member.name)} {error}"
                    raise InputError(why, _HINT) from error
            while xz.read(1 << 16):  # what is damaged may be behind the last file
                pass
    except (lzma.LZMAError, tarfile.TarError, EOFError) as error:
        if members:
            raise InputError(f"{path} is damaged: {error}", _HINT) from error
        raise InputError(f"{path} is no snapshot: it is no .tar.xz archive", _HINT) from error
    if not members:
        raise InputError(f"{path} is no snapshot: the archive is empty", _HINT)
    unpacking.finish()
    return frozenset(unpacking.executable)


def _data(path: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The content of a file; nothing of what is none."""
    if not member.isreg():
        return b""
    if member.size > MAX_FILE:
        raise InputError(f"{path} is no snapshot: {shown(member.name)} has {member.size} bytes", _HINT)
    file = tar.extractfile(member)
    return file.read() if file else b""


def stays_inside(path: str, text: str) -> bool:
    """Whether a link at this path cannot lead above the root: it goes up only at its beginning, and not too far."""
    depth = path.strip("/").count("/")
    up = _UP.match(text)
    ups = up[0].count("/") if up else 0
    rest = text[3 * ups :].split("/")
    if rest == [".."]:
        ups, rest = ups + 1, []
    return bool(text) and "\0" not in text and not text.startswith("/") and ups <= depth and ".." not in rest


class _Limited:
    """A stream that ends with an error when more than MOST_BYTES come out of it."""

    def __init__(self, path: str, stream: lzma.LZMAFile) -> None:
        self._path = path
        self._stream = stream
        self._left = MOST_BYTES

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise InputError(f"{self._path} is no snapshot: unpacked it has more than {MOST_BYTES >> 20} MiB", _HINT)
        return data


class _Unpacking:
    """Makes members in a folder. Raises ValueError, with what is wrong, for what no snapshot has."""

    def __init__(self, destination: str) -> None:
        self._root = destination
        self._folders = {""}
        self._modes: list[tuple[str, tarfile.TarInfo]] = []
        self.executable: set[str] = set()
        """Names of files that whoever made them could execute."""

    def take(self, member: tarfile.TarInfo, data: bytes) -> None:
        parts = member.name.split("/")
        if any(part in {"", ".", ".."} for part in parts) or "\0" in member.name:
            raise ValueError("is no name of a file below a host's root")
        self._parents(parts[:-1])
        real = f"{self._root}/{member.name}"
        if member.isdir():
            self._parents(parts)
            self._modes.append((real, member))
        elif member.issym():
            self._link(member, real)
        elif member.isreg():
            self._file(member, real, data)
        else:
            raise ValueError("is neither a file, a folder nor a symbolic link")

    def _parents(self, parts: list[str]) -> None:
        """Make folders; each is one that we made ourselves, so no link is followed."""
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            if name not in self._folders:
                try:
                    os.mkdir(f"{self._root}/{name}", 0o755)
                except FileExistsError:
                    raise ValueError("lies below what is no folder, or is there twice") from None
                self._folders.add(name)

    @staticmethod
    def _link(member: tarfile.TarInfo, real: str) -> None:
        text = member.linkname
        if text.startswith("/"):
            if not (_OPENED.fullmatch(member.name) and _DEVICE_NODE.fullmatch(text)):
                raise ValueError("is a link to an absolute path")
        elif not stays_inside(member.name, text):
            raise ValueError("is a link that may lead out of the snapshot")
        try:
            os.symlink(text, real)
        except FileExistsError:
            raise ValueError("is there twice") from None

    def _file(self, member: tarfile.TarInfo, real: str, data: bytes) -> None:
        try:
            fd = os.open(real, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise ValueError("is there twice") from None
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            _own(fd, member, 0o600, 0o666)
            if member.mode & 0o111:
                self.executable.add(member.name)
            if 0 < member.mtime < 1 << 33:
                os.utime(fd, (member.mtime, member.mtime))
        finally:
            os.close(fd)

    def finish(self) -> None:
        """Give folders their modes, now that all is in them."""
        for real, member in reversed(self._modes):
            fd = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _own(fd, member, 0o700, 0o777)
            finally:
                os.close(fd)


def _own(fd: int, member: tarfile.TarInfo, least: int, most: int) -> None:
    """Give a file its mode, at least readable to us, and, where we may, its owner, which rules judge."""
    os.fchmod(fd, member.mode & most | least)
    if member.uid or member.gid:
        try:
            os.fchown(fd, member.uid, member.gid)
        except (PermissionError, OverflowError, ValueError):
            pass
