# SPDX-License-Identifier: Apache-2.0
"""What sets a function's driver_override at each boot: udev rules, scripts of the initramfs, units, driverctl.

Files are searched for words, and nothing is run. Sources: udev(7), initramfs-tools(7), driverctl(8) (one file a device
in /etc/driverctl.d), pvepassthru/host/overrides.py (this tool's own two files).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.host.inventory import DEVICES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.host import Host

DRIVERCTL = "/etc/driverctl.d"
FOLDERS = (
    "/etc/udev/rules.d",
    "/usr/local/lib/udev/rules.d",
    "/etc/modprobe.d",
    "/etc/initramfs-tools/scripts",
    "/etc/initramfs-tools/scripts/init-top",
    "/etc/initramfs-tools/scripts/init-premount",
    "/etc/initramfs-tools/scripts/local-top",
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/etc/tmpfiles.d",
    "/etc/sysfs.d",
    "/etc/cron.d",
    "/usr/local/bin",
    "/usr/local/sbin",
)
FILES = ("/etc/rc.local", "/etc/sysfs.conf", "/etc/crontab", "/var/spool/cron/crontabs/root")
MOST = 1 << 18
"""Bytes that are searched of a file."""
WORDS = ("driver_override", "driverctl")


class Sources:
    """The files of a host that set overrides."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._texts: dict[str, str] | None = None
        self._addresses = host.names(DEVICES)

    def of(self, address: str) -> str | None:
        """The file that sets, or may well set, the override of a function, or None.

        A file that names devices sets those that it names; one that names none finds them by itself.
        """
        if self._host.exists(f"{DRIVERCTL}/{address}"):
            return f"{DRIVERCTL}/{address}"
        if self._texts is None:
            self._texts = dict(self._read())
        for path, text in self._texts.items():
            if address in text or not any(other in text for other in self._addresses):
                return path
        return None

    def _read(self) -> Iterator[tuple[str, str]]:
        paths = [f"{folder}/{name}" for folder in FOLDERS for name in self._host.names(folder)]
        for path in (*paths, *FILES):
            text = self._text(path)
            if any(word in text for word in WORDS):
                yield path, text

    def _text(self, path: str) -> str:
        """The start of a file as text; nothing of a folder or a program, as owners have them in /usr/local."""
        try:
            data = self._host.head(path, MOST)
        except OSError:
            return ""
        return "" if b"\0" in data else data.decode("utf-8", "replace")
