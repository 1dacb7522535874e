# SPDX-License-Identifier: Apache-2.0
"""The VMs of this node: their configs, and whether they run. Source: qemu-server, PVE::QemuServer::Helpers."""

from __future__ import annotations

from pvepassthru.model.errors import NotFoundError
from pvepassthru.model.pci import MAX_VMID, MIN_VMID
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import number

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

PVE = "/etc/pve"
CONFIGS = "/etc/pve/qemu-server"


def need_pve(host: Host) -> None:
    """Raise NotFoundError when this host has no PVE: nothing below /etc/pve."""
    if not host.names(PVE):
        raise NotFoundError(
            f"no Proxmox VE on this machine: {host.path(PVE)} is absent or empty",
            "run this on a PVE node, or give --root with a host's files",
        )


def vmid_of(word: str) -> int | None:
    """The VMID that a word is, or None: PVE's go from 100 to 999999999, without a leading zero."""
    if not (word.isascii() and word.isdecimal() and len(word) <= len(str(MAX_VMID)) and word[0] != "0"):
        return None
    return int(word) if int(word) >= MIN_VMID else None


def config_path(vmid: int) -> str:
    """Where the config of a VM of this node lies."""
    return f"{CONFIGS}/{vmid}.conf"


def config_lock_path(host: Host, vmid: int) -> str:
    """PVE's own lock on a VM's config, in /var/lock, which on Debian is a link to /run/lock."""
    folder = "/var/lock" if host.link("/var/lock") is None and host.exists("/var/lock") else "/run/lock"
    return f"{folder}/qemu-server/lock-{vmid}.conf"


def vmids(host: Host) -> list[int]:
    """The VMs that have a config on this node, in order."""
    names = (name.removesuffix(".conf") for name in host.names(CONFIGS) if name.endswith(".conf"))
    return sorted(vmid for name in names if (vmid := vmid_of(name)) is not None)


def running_pid(host: Host, vmid: int) -> int | None:
    """The pid of a running VM, or None; as PVE does it, a zombie or another process with that pid does not count."""
    pid = number((host.text(f"/run/qemu-server/{vmid}.pid") or "").split("\n", 1)[0].strip())
    if pid is None:
        return None
    try:
        arguments = host.read(f"/proc/{pid}/cmdline").split(b"\0")
    except OSError:
        return None
    program = arguments[0]
    if not (program.endswith(b"kvm") or program.rpartition(b"/")[2].startswith(b"qemu-")):
        return None
    places = [place for place, argument in enumerate(arguments[:-1]) if argument == b"-pidfile"]
    if not places or arguments[places[-1] + 1] != f"/var/run/qemu-server/{vmid}.pid".encode():
        return None
    state = (host.text(f"/proc/{pid}/stat") or "").rpartition(")")[2].strip()
    return None if state.startswith("Z") else pid


def scope_pids(host: Host, vmid: int) -> tuple[int, ...]:
    """The processes in a VM's systemd scope, VMID.scope of qemu.slice; none if there is no such scope."""
    text = host.text(f"/sys/fs/cgroup/qemu.slice/{vmid}.scope/cgroup.procs") or ""
    return tuple(pid for word in text.split() if (pid := number(word)) is not None)
