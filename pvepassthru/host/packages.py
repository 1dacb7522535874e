# SPDX-License-Identifier: Apache-2.0
"""Which packages of interest are installed, from dpkg's status file. Source: dpkg(1), /var/lib/dpkg/status.

The file has some megabytes, of which only a few paragraphs matter: it is looked through as bytes.
"""

from __future__ import annotations

import errno

from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

STATUS = "/var/lib/dpkg/status"
WANTED = ("pve-manager", "pve-qemu-kvm", "qemu-server")


class Package(NamedTuple):
    """One package of the status file."""

    name: str
    version: str
    state: str
    """The third word of its Status, such as installed, half-configured, config-files."""

    @property
    def installed(self) -> bool:
        """Whether its files are there and set up."""
        return self.state == "installed"


def read(host: Host) -> dict[str, Package]:
    """The packages of WANTED that the status file has, by name; none without the file or, then noted, unreadable."""
    try:
        data = b"\n" + host.read(STATUS)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
            host.unreadable[STATUS] = error.errno or errno.EIO
        return {}
    found = {}
    for name in WANTED:
        start = data.find(f"\nPackage: {name}\n".encode())
        if start >= 0:
            end = data.find(b"\n\n", start + 1)
            found[name] = _package(name, data[start : end if end >= 0 else None])
    return found


def _package(name: str, paragraph: bytes) -> Package:
    fields = {}
    for line in paragraph.decode("utf-8", "replace").split("\n"):
        key, colon, value = line.partition(":")
        if colon and key in {"Version", "Status"}:
            fields[key] = value.strip()
    return Package(name, fields.get("Version", ""), (fields.get("Status", "").split() or [""])[-1])
