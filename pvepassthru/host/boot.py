# SPDX-License-Identifier: Apache-2.0
"""How the host boots: the kernel's command line, which loader gave it, and where the next one is configured.

Sources: Documentation/filesystems/proc.rst (cmdline); the Boot Loader Interface of systemd (LoaderInfo); the manual of
PVE, chapter "Host Bootloader"; for GRUB's files model/grub.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pvepassthru.model import grub, shell
from pvepassthru.model.cmdline import CommandLine
from pvepassthru.model.grub import Configured
from pvepassthru.model.text import shown

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

    Loader = Literal["GRUB", "systemd-boot"]

RUNNING = "/proc/cmdline"
EFI = "/sys/firmware/efi"
LOADER_INFO = f"{EFI}/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
BOOT_TOOL = "/etc/kernel/proxmox-boot-uuids"
"""With it proxmox-boot-tool copies kernels and configuration to the partitions that the firmware reads."""
CMDLINE = "/etc/kernel/cmdline"
GRUB = grub.FILE
GRUB_PARTS = "/etc/default/grub.d"
grub_line = grub.evaluate
"""What GRUB is to give the kernel by its files."""
UPDATE_GRUB = ("update-grub",)
REFRESH = ("proxmox-boot-tool", "refresh")


class Boot(NamedTuple):
    """How a host boots."""

    running: CommandLine | None
    """The command line of the running kernel; None where /proc/cmdline is absent or unreadable."""
    loader: Loader | None
    """What booted the host; None where nothing tells."""
    why: str
    """How that is known, or why it is not; words for people."""
    boot_tool: bool
    """Whether proxmox-boot-tool serves the loader."""
    configured: Configured | None
    """None where there is no such file, or it cannot be told; `trouble` says which."""
    trouble: str
    """Why `configured` is not known; empty where it is."""
    files: tuple[str, ...]
    """The files that `configured` was read from."""
    apply: tuple[str, ...]
    """The command, word by word, that makes the loader take changed files; empty where none is known."""


def read(host: Host) -> Boot:
    """How the host boots. Never raises; files that cannot be read are noted in `host.unreadable`."""
    text = host.text(RUNNING)
    running = CommandLine(text) if text is not None else None
    boot_tool = host.exists(BOOT_TOOL)
    loader, why = _loader(host, running, boot_tool=boot_tool)
    if loader is None:
        return Boot(running, None, why, boot_tool, None, why, (), ())
    if loader == "systemd-boot":
        return Boot(running, loader, why, boot_tool, *_systemd_boot(host), REFRESH if boot_tool else ())
    return Boot(running, loader, why, boot_tool, *_grub(host), REFRESH if boot_tool else UPDATE_GRUB)


def whole(host: Host, path: str) -> str | None:
    """A file as text with all its blanks, so that lines can be counted; else as `host.text`, which strips it."""
    try:
        return host.read(path).decode("utf-8", "surrogateescape")
    except OSError:
        return host.text(path)  # notes it


def _loader(host: Host, running: CommandLine | None, *, boot_tool: bool) -> tuple[Loader | None, str]:
    """Which loader booted the host, and how that is known: by what it left, else by what is configured."""
    efi = host.exists(EFI)
    told = _told(loader_info(host) if efi else None, running)
    if told:
        return told
    grub = host.exists(GRUB)
    if boot_tool and not efi:
        return "GRUB", f"there is {BOOT_TOOL}, and the host did not boot by EFI"
    if boot_tool and grub:
        return None, f"neither {LOADER_INFO} nor {RUNNING} tells which loader booted"
    if boot_tool and host.exists(CMDLINE):
        return "systemd-boot", f"there is {BOOT_TOOL} and {CMDLINE}, and no {GRUB}"
    return ("GRUB", f"there is {GRUB}") if grub else (None, f"there is no {GRUB}, and no {BOOT_TOOL}")


def _told(info: str | None, running: CommandLine | None) -> tuple[Loader, str] | None:
    """Which loader booted, by what it says itself or gave the kernel; None where neither tells."""
    if info and info.startswith("systemd-boot"):
        return "systemd-boot", f"the EFI variable LoaderInfo is {shown(info)}"
    if info and info.startswith("GRUB"):
        return "GRUB", f"the EFI variable LoaderInfo is {shown(info)}"
    if running and running.values("BOOT_IMAGE"):
        return "GRUB", f"{RUNNING} has BOOT_IMAGE="
    if running and any("\\EFI\\proxmox\\" in (value or "") for value in running.values("initrd")):
        return "systemd-boot", f"{RUNNING} has initrd=\\EFI\\proxmox\\"
    return None


def loader_info(host: Host) -> str | None:
    """What the boot loader says that it is, such as "systemd-boot 252.30-1~deb12u2"; None where it says nothing.

    An EFI variable is a file of four bytes with its attributes, then its value: here UTF-16 with a final NUL.
    """
    raw = whole(host, LOADER_INFO)
    if raw is None:
        return None
    data = raw.encode("utf-8", "surrogateescape")
    text = data[4:].decode("utf-16-le", "replace")
    return text.partition("\0")[0].strip()


def _systemd_boot(host: Host) -> tuple[Configured | None, str, tuple[str, ...]]:
    text = whole(host, CMDLINE)
    if text is None:
        unread = CMDLINE in host.unreadable
        return None, f"{CMDLINE} cannot be read" if unread else f"there is no {CMDLINE}", ()
    first = text.partition("\n")[0]  # the rest never reaches the kernel: an entry of systemd-boot has it on one line
    return Configured((shell.Piece(first, CMDLINE, 1),)), "", (CMDLINE,)


def grub_files(host: Host) -> tuple[str, ...]:
    """The files that GRUB's configuration is made from, in the order in which they are read."""
    parts = [f"{GRUB_PARTS}/{name}" for name in host.names(GRUB_PARTS) if name.endswith(".cfg") and name[0] != "."]
    return tuple(path for path in (GRUB, *parts) if host.exists(path))


def _grub(host: Host) -> tuple[Configured | None, str, tuple[str, ...]]:
    paths = grub_files(host)
    scripts = []
    for path in paths:
        text = whole(host, path)
        if text is None:
            return None, f"{path} cannot be read", paths
        scripts.append(shell.parse(path, text))
    if not scripts:
        return None, f"there is no {GRUB}", ()
    return *grub.evaluate(tuple(scripts)), paths
