# SPDX-License-Identifier: Apache-2.0
"""What a fake cluster is at the moment; tests look at it, and change it as somebody else would."""

from __future__ import annotations

import collections
import hashlib
import random
import secrets
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.api.fake_pve import configtext, mappingtext, marks, privileges
from tests.api.fake_pve.data import ROOT, User
from tests.api.fake_pve.request import Died, Refusal, failed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.api.fake_pve.configtext import Config
    from tests.api.fake_pve.data import Cluster, Device, Node

LONGEST_LOG = 20_000


@dataclass
class Vm:
    """A VM: the text of its config file, and whether it runs."""

    node: str
    text: str
    running: bool = False
    _values: tuple[str, dict[str, str]] | None = None

    @property
    def config(self) -> Config:
        """The config's parts; changes to them are nothing until `write`."""
        return configtext.parse(self.text)

    def write(self, config: Config) -> None:
        """Store a config."""
        self.text = configtext.write(config)

    @property
    def values(self) -> dict[str, str]:
        """The config with what is pending; not to be changed. Kept, since lists of all VMs ask each of them."""
        if self._values is None or self._values[0] != self.text:
            self._values = self.text, self.config.effective()
        return self._values[1]

    @property
    def digest(self) -> str:
        """The digest of the config file."""
        return configtext.digest(self.text)

    def change(self, **values: str | None) -> None:
        """Set keys in the main section, or take them away, as somebody else with an editor."""
        config = self.config
        for key, value in values.items():
            config.main.pop(key, None)
            if value is not None:
                config.main[key] = value
        self.write(config)


@dataclass
class Task:
    """A task; its deed is done when it ends."""

    upid: str
    node: str
    type: str
    id: str
    user: str
    number: int
    start: int
    polls: int
    """How many more times its status is read before it ends."""
    deed: Callable[[Task], None]
    log: list[str] = field(default_factory=list)
    exit: str | None = None
    """Its exit status, None while it runs."""

    def end(self) -> None:
        """Do what it is there for."""
        try:
            self.deed(self)
        except Refusal as refusal:
            self.exit = refusal.reason
            self.log += [refusal.reason, f"TASK ERROR: {refusal.reason}"]
        except Died:
            self.exit = "unexpected status"
            raise
        else:
            self.exit = "OK"
            self.log.append("TASK OK")


@dataclass(frozen=True)
class Ticket:
    """A login."""

    user: str
    csrf: str


@dataclass(frozen=True)
class Entry:
    """One request that was served, or refused."""

    user: str | None
    method: str
    path: str
    params: dict[str, list[str]]
    """Passwords left out."""
    status: int | None
    """None: there was no answer."""
    node: str
    """The node that it was sent to."""


class State:
    """Everything that changes. Hold `lock` where requests may come in at the same time."""

    def __init__(self, cluster: Cluster) -> None:
        self.lock = threading.RLock()
        self.cluster = cluster
        self.nodes: dict[str, Node] = {name: replace(node) for name, node in cluster.nodes.items()}
        self.users: dict[str, User] = {ROOT: User()} | {name: replace(user) for name, user in cluster.users.items()}
        self.roles = privileges.ROLES | {
            name: frozenset(word.strip() for word in words.split(",")) for name, words in cluster.roles.items()
        }
        self.vms = {
            vmid: Vm(name, text, vmid in node.running)
            for name, node in cluster.nodes.items()
            for vmid, text in node.vms.items()
        }
        self.mapping_text = cluster.mappings
        self.down: dict[str, int] = {}
        """Nodes that cannot be reached, each with the status that requests to it get: 595 or 596."""
        self.stale: set[str] = set()
        """Nodes that are online and whose status service hangs, so that nobody knows the state of their VMs."""
        self.fingerprints: dict[str, str] = {}
        self.tickets: dict[str, Ticket] = {}
        self.challenges: dict[str, str] = {}
        """Users who gave their password and owe the second factor, by challenge."""
        self.tasks: dict[str, Task] = {}
        self.polls: dict[str, int] = {}
        """How many times the status of a task of this type is read before it ends; 0 if it is not here."""
        self.volumes: dict[str, int | None] = {}
        """Volumes that were made, each with its VM."""
        self.log: collections.deque[Entry] = collections.deque(maxlen=LONGEST_LOG)
        self.order: Callable[[list[str]], Sequence[str]] = self._shuffled
        """In which order a worker writes the keys of one request; PVE's order is random, and so is this one (but the
        same in every run)."""
        self._random = random.Random(1)  # noqa: S311 - an order that can be repeated, no secret

    @property
    def version(self) -> str:
        """The version of pve-manager."""
        return self.cluster.version

    @property
    def mappings(self) -> dict[str, mappingtext.Mapping]:
        """The mappings; changes to them are nothing until `write_mappings`."""
        return mappingtext.parse(self.mapping_text)

    @property
    def mapping_digest(self) -> str:
        """The digest of the file of the mappings."""
        return configtext.digest(self.mapping_text)

    @property
    def writes(self) -> list[Entry]:
        """The requests that were to change something, logins left out."""
        return [entry for entry in self.log if is_write(entry.method, entry.path)]

    def write_mappings(self, mappings: dict[str, mappingtext.Mapping]) -> None:
        """Store the mappings."""
        self.mapping_text = mappingtext.write(mappings)

    def privileges(self, user: str, path: str) -> frozenset[str]:
        """What a user or a token may do on a path."""
        return privileges.of(user, path, self.users, self.roles)

    def fingerprint(self, node: str) -> str:
        """The fingerprint of a node's certificate; one is made up for a node that has none."""
        made_up = hashlib.sha256(node.encode()).hexdigest().upper()
        return self.fingerprints.get(node) or ":".join(made_up[place : place + 2] for place in range(0, 64, 2))

    def vm(self, vmid: int, node: str | None = None) -> Vm:
        """A VM, on this node if one is named. Raises Refusal."""
        vm = self.vms.get(vmid)
        if vm is None or (node is not None and vm.node != node):
            place = f"nodes/{node}/qemu-server/{vmid}.conf" if node else f"qemu-server/{vmid}.conf"
            raise failed(f"file '{place}' {marks.ABSENT}")
        return vm

    def device(self, node: str, address: str) -> Device | None:
        """A function of a node; of a whole slot its function 0."""
        full = address if "." in address else f"{address}.0"
        return next((device for device in self.nodes[node].pci if device.id == full), None)

    def login(self, user: str) -> str:
        """A new ticket of a user."""
        ticket = f"PVE:{user}:{int(time.time()):08X}::{secrets.token_urlsafe(48)}"
        self.tickets[ticket] = Ticket(user, f"{int(time.time()):08X}:{secrets.token_urlsafe(24)}")
        return ticket

    def expire_tickets(self) -> None:
        """Make all logins worth nothing, as two hours do."""
        self.tickets.clear()

    def task(self, node: str, kind: str, subject: object, user: str, deed: Callable[[Task], None]) -> Task:
        """Start a task; without polls to wait for it ends at once."""
        number = len(self.tasks) + 0x5300
        start = int(time.time())
        upid = f"UPID:{node}:{number:08X}:{number:08X}:{start:08X}:{kind}:{subject}:{user}:"
        task = Task(upid, node, kind, str(subject), user, number, start, self.polls.get(kind, 0), deed)
        self.tasks[upid] = task
        if not task.polls:
            task.end()
        return task

    def _shuffled(self, keys: list[str]) -> list[str]:
        mixed = sorted(keys)
        self._random.shuffle(mixed)
        return mixed


def is_write(method: str, path: str) -> bool:
    """Whether a request is to change something; a login is not meant."""
    return method != "GET" and path != "/access/ticket"
