# SPDX-License-Identifier: Apache-2.0
"""Kernel modules of a host: which are loaded, which could be, and what the configuration says of them.

Configuration is read as kmod does (modprobe.d(5)): of files of one name the first folder's counts, all are taken in
the order of their names, and the kernel command line comes last (`MODULE.parameter=`, `modprobe.blacklist=`).
"""

from __future__ import annotations

import os

from pvepassthru.host import firmware
from pvepassthru.host.boot import whole
from pvepassthru.model import modprobe
from pvepassthru.model.modprobe import plain
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pvepassthru.host.host import Host
    from pvepassthru.model.cmdline import CommandLine

OWN_FOLDER = "/etc/modprobe.d"
FOLDERS = (OWN_FOLDER, "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")
LOAD_FOLDERS = (
    "/etc/modules-load.d",
    "/run/modules-load.d",
    "/usr/local/lib/modules-load.d",
    "/usr/lib/modules-load.d",
)
ETC_MODULES = "/etc/modules"
INITRAMFS_MODULES = "/etc/initramfs-tools/modules"
CMDLINE = "/proc/cmdline"


class Setting(NamedTuple):
    """A value that a module's parameter is given, and where: `FILE:LINE`, or /proc/cmdline."""

    value: str
    where: str


class Listed(NamedTuple):
    """A module that is to be loaded at boot."""

    name: str
    """As written."""
    path: str
    number: int

    @property
    def where(self) -> str:
        """File and line, as in a finding."""
        return f"{self.path}:{self.number}"


class Modules:
    """The kernel modules of a host, all read when it is made."""

    def __init__(self, host: Host, running: CommandLine | None = None) -> None:
        self.host = host
        self.release = firmware.release(host)
        """Of the running kernel, or None."""
        self.folder = f"/lib/modules/{self.release}"
        self.loaded = _loaded(host)
        """The modules that are loaded or built in with parameters; None if that cannot be told."""
        self.lines: list[modprobe.Line] = []
        self.bad: list[modprobe.Bad] = []
        for path in config_files(host, FOLDERS):
            good, bad = modprobe.parse(whole(host, path) or "", path)
            self.lines += good
            self.bad += bad
        self.boot = tuple(_boot_lists(host))
        """What /etc/modules and modules-load.d list."""
        self.initramfs = tuple(_listed(host, INITRAMFS_MODULES))
        """What the initramfs loads by /etc/initramfs-tools/modules."""
        self.running = running
        """The running kernel's command line, or None."""
        self._listings: dict[str, frozenset[str] | None] = {}

    # ---- what there is

    def available(self, name: str) -> bool | None:
        """Whether a module is loaded, built in or can be loaded into the running kernel; None if nobody can tell."""
        if plain(name) in (self.loaded or ()):
            return True
        dep, builtin = self._listing("modules.dep"), self._listing("modules.builtin")
        if plain(name) in (dep or frozenset()) | (builtin or frozenset()):
            return True
        return None if dep is None or builtin is None else False

    def is_loaded(self, name: str) -> bool | None:
        """Whether a module is loaded, or built in; None if nobody can tell."""
        if self.loaded is None:
            return None
        return plain(name) in self.loaded or self.is_builtin(name)

    def is_builtin(self, name: str) -> bool:
        """Whether the running kernel says that it has this module built in."""
        return plain(name) in (self._listing("modules.builtin") or ())

    def file(self, name: str) -> str | None:
        """The file that a module would be loaded from, or None."""
        for line in (self.host.text(f"{self.folder}/modules.dep") or "").splitlines() if self.release else ():
            path = line.partition(":")[0]
            if plain(module_of(path)) == plain(name):
                return f"{self.folder}/{path}"
        return None

    def knows(self, name: str, parameter: str) -> bool | None:
        """Whether a module has a parameter; None if its file is compressed, or cannot be read."""
        path = self.file(name)
        if path is None or not path.endswith(".ko"):
            return None
        try:
            return f"parmtype={parameter}:".encode() in self.host.read(path)
        except OSError:
            return None

    def parameter(self, module: str, name: str) -> str | None:
        """What the running kernel has in a parameter (Y, N, a number), or None: not loaded, or it does not show."""
        return self.host.text(f"/sys/module/{plain(module)}/parameters/{name}")

    def of_driver(self, driver: str) -> str:
        """The module that a PCI driver is in."""
        return self.host.link(f"/sys/bus/pci/drivers/{driver}/module") or plain(driver)

    def _listing(self, name: str) -> frozenset[str] | None:
        """The modules that modules.dep or modules.builtin names; None without that file."""
        if name not in self._listings:
            text = self.host.text(f"{self.folder}/{name}") if self.release else None
            paths = [line.partition(":")[0] for line in (text or "").splitlines()]
            self._listings[name] = None if text is None else frozenset(plain(module_of(path)) for path in paths)
        return self._listings[name]

    # ---- what is configured

    def of(self, command: str, module: str | None = None) -> list[modprobe.Line]:
        """The lines of a command, of one module or of all."""
        lines = [line for line in self.lines if line.command == command]
        return lines if module is None else [line for line in lines if line.module == plain(module)]

    def options(self, module: str) -> dict[str, list[Setting]]:
        """What a module's parameters are given, each in the order in which it comes: the last counts."""
        found: dict[str, list[Setting]] = {}
        for line in self.of("options", module):
            for name, value in line.settings:
                found.setdefault(name, []).append(Setting(value, line.where))
        for word in self.running.parameters if self.running else ():
            owner, dot, name = word.name.partition(".")
            if dot and not word.to_init and plain(owner) == plain(module):
                found.setdefault(plain(name), []).append(Setting(word.value or "", CMDLINE))
        return found

    def option(self, module: str, name: str) -> Setting | None:
        """The value of a module's parameter that counts, or None."""
        found = self.options(module).get(name)
        return found[-1] if found else None

    def blacklisted(self, module: str) -> str | None:
        """Where a module is kept from being loaded for a device (`blacklist`), or None."""
        for line in self.of("blacklist", module):
            return line.where
        return CMDLINE if plain(module) in self._on_cmdline("modprobe.blacklist", "module_blacklist") else None

    def disabled(self, module: str) -> str | None:
        """Where a module is kept from being loaded at all: `install MODULE /bin/false`, module_blacklist=; or None."""
        for line in self.of("install", module):
            if line.rest.rpartition("/")[2] in {"false", "true", ":"}:
                return line.where
        return CMDLINE if plain(module) in self._on_cmdline("module_blacklist") else None

    def loads_before(self, first: str, module: str) -> bool:
        """Whether a softdep makes modprobe load `first` before `module`."""
        for line in self.of("softdep", module):
            before = line.rest.partition("pre:")[2].partition("post:")[0]
            if plain(first) in map(plain, before.split()):
                return True
        return False

    def listed(self, module: str) -> Listed | None:
        """Where a list loads this module at boot, or None."""
        for one in (*self.boot, *self.initramfs):
            if plain(one.name) == plain(module):
                return one
        return None

    def _on_cmdline(self, *names: str) -> set[str]:
        values = [value for name in names for value in (self.running.values(name) if self.running else ())]
        return {plain(name) for value in values for name in (value or "").split(",")}


def module_of(path: str) -> str:
    """The name of the module in a file: `vfio-pci` of kernel/drivers/vfio/pci/vfio-pci.ko.zst."""
    return path.rpartition("/")[2].partition(".ko")[0]


def config_files(host: Host, folders: Iterable[str]) -> list[str]:
    """The *.conf files of these folders in force, by name; the first folder that has a name masks it in the others."""
    found: dict[str, str] = {}
    for folder in folders:
        for name in host.names(folder):
            if name.endswith(".conf"):
                found.setdefault(name, f"{folder}/{name}")
    return [found[name] for name in sorted(found)]


def changed(host: Host, path: str) -> float | None:
    """When a file was last changed, in seconds since the epoch; None if that cannot be told."""
    try:
        return os.stat(host.path(path)).st_mtime
    except OSError:
        return None


def _loaded(host: Host) -> frozenset[str] | None:
    names = host.names("/sys/module")
    if names:
        return frozenset(names)
    text = host.text("/proc/modules")
    return None if text is None else frozenset(line.split(None, 1)[0] for line in text.splitlines() if line.split())


def _boot_lists(host: Host) -> Iterator[Listed]:
    yield from _listed(host, ETC_MODULES)
    for path in config_files(host, LOAD_FOLDERS):
        if host.link(path) is None or host.resolve(path) != ETC_MODULES:  # Debian links modules.conf to /etc/modules
            yield from _listed(host, path)


def _listed(host: Host, path: str) -> Iterator[Listed]:
    for number, name in modprobe.listed(whole(host, path) or ""):
        yield Listed(name, path, number)
