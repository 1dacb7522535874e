# SPDX-License-Identifier: Apache-2.0
"""The files of /etc/pve: VM configs of this and other nodes, and the mapping file."""

from __future__ import annotations

import os

from tests.pve import mapping
from tests.pve.config import Config, PveError, Section, parse


class Cluster:
    """/etc/pve below `root`, as `node` sees it."""

    def __init__(self, root: str, node: str) -> None:
        self.root = root
        self.node = node

    def make_folders(self) -> None:
        """Make what every node has: the folders of PVE, their links, and the host name."""
        for folder in ("run/qemu-server", "run/lock/qemu-server", f"etc/pve/nodes/{self.node}/qemu-server", "var"):
            os.makedirs(f"{self.root}/{folder}", exist_ok=True)
        links = {"etc/pve/qemu-server": f"nodes/{self.node}/qemu-server", "var/lock": "../run/lock"}
        for path, target in links.items():
            if not os.path.lexists(f"{self.root}/{path}"):
                os.symlink(target, f"{self.root}/{path}")
        os.makedirs(f"{self.root}/var/lock/qemu-server", exist_ok=True)
        if not os.path.exists(f"{self.root}/etc/hostname"):
            self.put("/etc/hostname", f"{self.node}\n")

    def put(self, path: str, text: str) -> None:
        """Write a file atomically, with its folders."""
        os.makedirs(os.path.dirname(self.root + path), exist_ok=True)
        temporary = f"{self.root}{path}.tmp.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
        os.rename(temporary, self.root + path)

    def path(self, vmid: int, node: str | None = None) -> str:
        """A VM's config file, as on a host; on this node or another."""
        folder = "/etc/pve/qemu-server" if node in (None, self.node) else f"/etc/pve/nodes/{node}/qemu-server"
        return f"{folder}/{vmid}.conf"

    def define(self, vmid: int, text: str, node: str | None = None) -> None:
        """Write a VM's config file."""
        self.put(self.path(vmid, node), text)

    def config(self, vmid: int, node: str | None = None) -> Config:
        """A VM's config as PVE reads it. Raises PveError("no-config")."""
        try:
            with open(self.root + self.path(vmid, node), "rb") as file:
                return parse(file.read())
        except FileNotFoundError:
            raise PveError("no-config", f"VM {vmid}") from None

    def mappings(self) -> dict[str, mapping.Mapping]:
        """The mapped devices."""
        try:
            with open(self.root + mapping.PATH, "rb") as file:
                return mapping.parse(file.read())
        except FileNotFoundError:
            return {}

    def set(self, vmid: int, **values: str | None) -> None:
        """Change keys of the main section; None removes one."""
        config = self.config(vmid)
        config.main.values |= {key: value for key, value in values.items() if value is not None}
        for key in (key for key, value in values.items() if value is None):
            config.main.values.pop(key, None)
        self.define(vmid, config.text())

    def set_pending(self, vmid: int, key: str, value: str | None) -> None:
        """Change a key of a VM that runs: it waits in [PENDING]; None deletes the key."""
        config = self.config(vmid)
        config.deletes = [name for name in config.deletes if name != key]
        config.pending.values.pop(key, None)
        if value is None:
            config.deletes.append(key)
        else:
            config.pending.values[key] = value
        self.define(vmid, config.text())

    def apply_pending(self, vmid: int) -> None:
        """Put what waits in [PENDING] in force; the file is written only if something waits."""
        config = self.config(vmid)
        if config.has_pending():
            config.main, config.pending, config.deletes = config.effective(), Section(), []
            self.define(vmid, config.text())

    def roll_back(self, vmid: int, snapshot: str) -> None:
        """Put a snapshot's config in force. Raises PveError("no-snapshot")."""
        config = self.config(vmid)
        if snapshot not in config.snapshots:
            raise PveError("no-snapshot", snapshot)
        body = "".join(f"{line}\n" for line in config.snapshots[snapshot])
        config.main, config.pending, config.deletes = parse(body.encode("utf-8", "surrogateescape")).main, Section(), []
        self.define(vmid, config.text())

    def move(self, vmid: int, source: str, target: str) -> None:
        """Give a VM's config to another node."""
        os.makedirs(f"{self.root}/etc/pve/nodes/{target}/qemu-server", exist_ok=True)
        os.rename(self.root + self.path(vmid, source), self.root + self.path(vmid, target))
