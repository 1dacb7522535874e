# SPDX-License-Identifier: Apache-2.0
"""What makes virtual functions at boot: sysfsutils, drivers' max_vfs, udev, systemd, tmpfiles.d, ifupdown, cron.

A unit or script is only searched for the file `sriov_numvfs` or NVIDIA's `sriov-manage`, and the scripts that a unit
starts as well; nothing is run.
"""

from __future__ import annotations

from pvepassthru.host.boot import whole
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model import sysfs_conf
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.pci import is_address
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Inventory
    from pvepassthru.host.modules import Modules

SYSFS_CONF = "/etc/sysfs.conf"
SYSFS_FOLDER = "/etc/sysfs.d"
UNITS = "/etc/systemd/system"
UNIT_FOLDERS = (UNITS, "/usr/local/lib/systemd/system")
"""Where owners put units."""
LINKS = ("/etc/systemd/network", ".link")
FOLDERS = (
    ("/etc/udev/rules.d", ".rules"),
    *((folder, ".service") for folder in UNIT_FOLDERS),
    LINKS,
    ("/etc/tmpfiles.d", ".conf"),
    ("/etc/network/interfaces.d", ""),
    ("/etc/network/if-up.d", ""),
    ("/etc/network/if-pre-up.d", ""),
    ("/etc/cron.d", ""),
)
FILES = ("/etc/network/interfaces", "/etc/rc.local", "/etc/crontab", "/var/spool/cron/crontabs/root")
CREATING = ("igb", "ixgbe")
"""Drivers whose parameter max_vfs makes VFs when they are loaded; elsewhere it is only the most."""
_WORDS = ("sriov_numvfs", "sriov-manage", "SR-IOVVirtualFunctions")
_START = Pattern(r"\s*Exec[A-Za-z]+\s*=\s*[-@:+!|]*(.*)", ASCII)
_COUNT = Pattern(
    r"(?:echo\s+(?:-n\s+)?[\"']?|sriov_numvfs[\"'}\s]*=+\s*[\"']?|sriov_numvfs(?:\s+-){4}\s+|SR-IOVVirtualFunctions\s*=\s*)(\d{1,5})\b",
    ASCII,
)
_ADDRESS = Pattern(r"\b[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b", ASCII)
_NET = Pattern(r"class/net/([^/\s\"']+)/device", ASCII)
_SCRIPTS = ("/usr/local/", "/opt/", "/root/", "/etc/", "/srv/")


class Maker(NamedTuple):
    """One thing that makes VFs at boot."""

    where: str
    """`FILE:LINE`, or the file."""
    address: str | None
    """The PF; None when it does not say which in a way that can be read."""
    vfs: int | None
    """How many; None likewise."""


def makers(host: Host, inventory: Inventory, modules: Modules) -> tuple[Maker, ...]:
    """All that makes VFs at boot, in a fixed order."""
    return (
        *_by_sysfs_conf(host),
        *_by_parameter(inventory, modules),
        *_by_text(host),
        *_by_link(host),
    )


def is_readable(host: Host) -> bool:
    """Whether this host has the folders where such a thing would be."""
    return host.exists(UNITS) and host.exists("/etc")


def sysfs_files(host: Host) -> list[str]:
    """The files of sysfsutils, in the order in which it reads them."""
    names = [f"{SYSFS_FOLDER}/{name}" for name in host.names(SYSFS_FOLDER) if name.endswith(".conf")]
    return [path for path in (SYSFS_CONF, *names) if host.exists(path)]


def _by_sysfs_conf(host: Host) -> Iterator[Maker]:
    for path in sysfs_files(host):
        for line in sysfs_conf.parse(whole(host, path) or ""):
            if line.path.endswith("/sriov_numvfs") and line.value is not None:
                yield Maker(f"{path}:{line.number}", function_of(host, line.path), number(line.value))


def function_of(host: Host, path: str) -> str | None:
    """The PF whose file sriov_numvfs this is, by the path itself or by where it leads."""
    for part in reversed(path.split("/")):
        if is_address(part):
            return part
    name = (host.resolve(path.removesuffix("/sriov_numvfs")) or "").rpartition("/")[2]
    return name if is_address(name) else None


def _by_parameter(inventory: Inventory, modules: Modules) -> Iterator[Maker]:
    for name in CREATING:
        option = modules.option(name, "max_vfs")
        if option is None:
            continue
        counts = [number(value) for value in option.value.split(",")]
        for address in inventory.addresses():
            if inventory.driver(address) == name and inventory.has(address, "sriov_numvfs"):
                yield Maker(option.where, address, counts[0] if len(set(counts)) == 1 else None)


def _by_text(host: Host) -> Iterator[Maker]:
    for path in _texts(host):
        for place, line in enumerate((whole(host, path) or "").split("\n"), 1):
            if line.lstrip()[:1] not in {"#", ";"}:
                for command in line.replace("&&", ";").split(";"):
                    if any(word in command for word in _WORDS):
                        yield _maker(host, f"{path}:{place}", command)


def _maker(host: Host, where: str, line: str) -> Maker:
    address = _ADDRESS.search(line)
    net = _NET.search(line)
    count = _COUNT.search(line)
    pf = address[0] if address else None
    if pf is None and net:
        pf = function_of(host, f"/sys/class/net/{net[1]}/device/sriov_numvfs")
    return Maker(where, pf, number(count[1]) if count else None)


def _texts(host: Host) -> Iterator[str]:
    """The files to search: those of FOLDERS and FILES, drop-ins of units, and the scripts that units start."""
    found: dict[str, None] = {}
    for folder, suffix in FOLDERS:
        for name in host.names(folder):
            if name.endswith(suffix) and not name.endswith((".dpkg-old", "~")):
                found[f"{folder}/{name}"] = None
    for name in host.names(UNITS):
        if name.endswith(".service.d"):
            found.update((f"{UNITS}/{name}/{part}", None) for part in host.names(f"{UNITS}/{name}"))
    found.update((path, None) for path in FILES if host.exists(path))
    scripts = {
        script: None for path in found if path.startswith(UNIT_FOLDERS) for script in _scripts(whole(host, path) or "")
    }
    found.update((script, None) for script in scripts if host.exists(script))
    yield from found


def _scripts(unit: str) -> Iterator[str]:
    for line in unit.split("\n"):
        start = _START.match(line)
        for word in (start[1] if start else "").replace('"', " ").replace("'", " ").split():
            if word.startswith(_SCRIPTS):
                yield word


def _by_link(host: Host) -> Iterator[Maker]:
    """PVE's own unit for NVIDIA's GPUs: pve-nvidia-sriov@ALL.service, or with an address."""
    for folder in host.names(UNITS):
        for name in host.names(f"{UNITS}/{folder}") if folder.endswith((".wants", ".requires")) else ():
            if name.startswith("pve-nvidia-sriov@"):
                instance = name.partition("@")[2].removesuffix(".service").replace("\\x2d", "-")
                yield Maker(f"{UNITS}/{folder}/{name}", instance if is_address(instance) else None, None)


def pf_path(address: str) -> str:
    """A PF's file with the number of its VFs."""
    return f"{DEVICES}/{address}/sriov_numvfs"
