# SPDX-License-Identifier: Apache-2.0
"""What a rule looks at: one VM on one host, and what all VMs of the host have in common."""

from __future__ import annotations

import errno

from pvepassthru.host import holders, policy, reservations, state, vms
from pvepassthru.host.host import way_out
from pvepassthru.host.inventory import DEVICES, MDEVS, Inventory
from pvepassthru.model import mapping, reservation, resolve, start, vmconfig
from pvepassthru.model.errors import InputError, NotFoundError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Literal, TypeVar

    from pvepassthru.host.holders import Holder
    from pvepassthru.host.host import Host
    from pvepassthru.host.uses import Uses
    from pvepassthru.model.mapping import Mappings
    from pvepassthru.model.passed import Passed
    from pvepassthru.model.policy import Policies
    from pvepassthru.model.problem import Problem
    from pvepassthru.model.reservation import Entry
    from pvepassthru.model.resolve import Resolution
    from pvepassthru.model.vmconfig import Section, VmConfig

    T = TypeVar("T")

MAPPINGS = "/etc/pve/mapping/pci.cfg"


class Hit(NamedTuple):
    """What a rule found; its code, severity and origin are the rule's (rules/catalogue.py)."""

    where: str
    message: str
    hint: str


class Surroundings:
    """What all VMs of a host have in common, each read when it is first asked for and then remembered."""

    def __init__(self, host: Host, inventory: Inventory | None = None) -> None:
        self.host = host
        self.inventory = inventory or Inventory(host)
        self.now = int(host.now())
        """Seconds since the epoch."""
        self.roms: dict[str, tuple[str, str]] = {}
        """The state of each ROM file that was looked at, and why it is so (rules/devices.py)."""
        self.fitting: set[str] = set()
        """Mappings that were found to fit this node's hardware."""
        self._asked: dict[Callable[[Surroundings], Any], Any] = {}
        self._pids: dict[int, int | None] = {}
        self._policies: Policies | None = None
        self._has_mdevs: bool | None = None
        self._subject: Subject | None = None
        self._said: dict[Callable[[Subject], Any], Any] = {}
        """What was asked of `_subject`, the last VM."""
        self._uses: Uses | None = None
        self._configs: dict[str, tuple[bytes, VmConfig]] = {}
        self._opened: dict[str, tuple[Holder, ...]] | None = None
        self._nodes: dict[str, tuple[tuple[str, str], ...]] = {}
        self._quarantined: frozenset[str] | None = None
        self._mappings: tuple[Mappings, str | None] | None = None
        self._reservations: tuple[dict[str, Entry], str | None] | None = None

    def once(self, read: Callable[[Surroundings], T]) -> T:
        """What the function `read` says of these surroundings; it is asked only once."""
        if read not in self._asked:
            self._asked[read] = read(self)
        return self._asked[read]  # type: ignore[no-any-return]  # what `read` returned

    @property
    def mappings_read(self) -> tuple[Mappings, str | None]:
        """The cluster's PCI mappings, none if there is no such file; and why it could not be read."""
        if self._mappings is None:
            data, why = self._read(MAPPINGS)
            self._mappings = (mapping.parse(data), why)
        return self._mappings

    @mappings_read.setter
    def mappings_read(self, known: tuple[Mappings, str | None]) -> None:
        """Take what was read of another node of the cluster."""
        self._mappings = known

    @property
    def reservations_read(self) -> tuple[dict[str, Entry], str | None]:
        """PVE's reservations by address, none if there is no such file; and why it could not be read."""
        if self._reservations is None:
            data, why = self._read(reservations.FILE)
            self._reservations = (reservation.parse(data.decode("utf-8", "replace")), why)
        return self._reservations

    @property
    def policies(self) -> Policies:
        """The owner's policy files. Raises InputError and UnsafeError when one cannot be used."""
        if self._policies is None:
            self._policies = policy.read(self.host)
        return self._policies

    @policies.setter
    def policies(self, known: Policies) -> None:
        """Take what the hook has read by its cache."""
        self._policies = known

    def of(self, subject: Subject, read: Callable[[Subject], T]) -> T:
        """What the function `read` says of a VM; several rules ask it of the same VM one after the other."""
        if self._subject is not subject:
            self._subject, self._said = subject, {}
        if read not in self._said:
            self._said[read] = read(subject)
        return self._said[read]  # type: ignore[no-any-return]  # what `read` returned

    @property
    def uses(self) -> Uses:
        """What the host itself uses its functions for."""
        if self._uses is None:
            from pvepassthru.host import uses  # noqa: PLC0415 - VMs whose devices stay with the host do not pay for it

            self._uses = uses.read(self)
        return self._uses

    def config(self, path: str, data: bytes) -> VmConfig:
        """The VM config that a file's bytes are; rules across VMs ask for the same ones again."""
        if path not in self._configs or self._configs[path][0] != data:
            self._configs[path] = (data, vmconfig.parse(data))
        return self._configs[path][1]

    def know(self, path: str, data: bytes, config: VmConfig) -> None:
        """Take what somebody has parsed of a VM's config: these bytes of this file."""
        self._configs[path] = (data, config)

    @property
    def opened(self) -> dict[str, tuple[Holder, ...]]:
        """VFIO's device nodes that processes have open. Raises PassthruError when that cannot be told.

        A process that is about to be gone does not count: the kernel empties its cmdline before it closes its files.
        """
        if self._opened is None:
            self._opened = {
                node: tuple(user for user in users if self.host.text(f"/proc/{user.pid}/cmdline") != "")
                for node, users in holders.opened(self.host).items()
            }
        return self._opened

    @property
    def has_mdevs(self) -> bool:
        """Whether there is any mediated device on the host."""
        if self._has_mdevs is None:
            self._has_mdevs = bool(self.host.names(MDEVS))
        return self._has_mdevs

    @property
    def quarantined(self) -> frozenset[str]:
        """The functions that are noted to be in quarantine; none if only root may look."""
        if self._quarantined is None:
            self._quarantined = state.quarantined(self.host)
        return self._quarantined

    def nodes(self, address: str) -> tuple[tuple[str, str], ...]:
        """The VFIO device nodes of a function and of the mediated devices on it, each with what it is."""
        if address not in self._nodes:
            folder = f"{DEVICES}/{address}"
            found = [(node, address) for node in holders.vfio_nodes(self.host, folder)]
            for uuid in self.inventory.mdevs_of(address):
                nodes = holders.vfio_nodes(self.host, f"{folder}/{uuid}")
                found += [(node, f"mdev {uuid} on {address}") for node in nodes]
            self._nodes[address] = tuple(found)
        return self._nodes[address]

    def running(self, vmid: int) -> int | None:
        """The pid of a running VM, or None."""
        if vmid not in self._pids:
            self._pids[vmid] = vms.running_pid(self.host, vmid)
        return self._pids[vmid]

    def guest(self, vmid: int) -> Literal["running", "journal", "stopped"]:
        """Whether a VM runs; if not, whether it left a journal."""
        if self.running(vmid) is not None:
            return "running"
        return "journal" if self.host.exists(state.journal_path(vmid)) else "stopped"

    def _read(self, path: str) -> tuple[bytes, str | None]:
        try:
            return self.host.read(path), None
        except OSError as error:
            absent = error.errno in {errno.ENOENT, errno.ENOTDIR}
            return b"", None if absent else error.strerror


class Subject(NamedTuple):
    """One VM on one host."""

    around: Surroundings
    node: str
    vmid: int
    config_path: str
    """As on the host."""
    config: VmConfig
    section: Section
    """What is judged: the main section, or that with the pending changes applied."""
    pending: bool
    """Whether pending changes are applied in `section`."""
    resolution: Resolution
    config_error: str | None
    """Why the config could not be read, where that was to be put up with."""

    @property
    def host(self) -> Host:
        """The host."""
        return self.around.host

    @property
    def inventory(self) -> Inventory:
        """The host's hardware."""
        return self.around.inventory

    @property
    def mappings(self) -> Mappings:
        """The cluster's PCI mappings."""
        return self.around.mappings_read[0]

    def at(self, key: str, line: int | None = None) -> str:
        """Where a finding is: `/etc/pve/qemu-server/100.conf:3 hostpci0`."""
        return f"{self.config_path}:{line} {key}" if line else f"{self.config_path} {key}"

    def problems(self, *codes: str) -> Iterator[Hit]:
        """The problems that PVE has with this VM, of these codes."""
        for problem in self.resolution.problems:
            if problem.code in codes:
                yield self.hit(problem)

    def hit(self, problem: Problem) -> Hit:
        """A problem as what a rule finds."""
        return Hit(self.at(problem.key, problem.line), problem.message, problem.hint)

    def in_the_way(self, address: str) -> tuple[str, Entry] | None:
        """The reservation that keeps this VM from a function, with its code (model/reservation.py), or None."""
        entry = self.around.reservations_read[0].get(address)
        code = reservation.blocks(entry, self.vmid, self.around.now, self.around.running)
        return (code, entry) if code and entry else None

    def held(self, addresses: Iterable[str]) -> list[tuple[str, str]]:
        """(address, who has it) for each of these functions that another VM has."""
        blocked = ((address, self.in_the_way(address)) for address in addresses)
        return [(address, reservation.describe(found[1], self.around.now)) for address, found in blocked if found]


def load(  # noqa: PLR0913 - what varies is by keyword
    host: Host,
    vmid: int,
    *,
    pending: bool,
    config_path: str | None = None,
    inventory: Inventory | None = None,
    around: Surroundings | None = None,
    lenient: bool = False,
) -> Subject:
    """Read one VM's config and resolve its devices on this host.

    `pending` applies the pending changes, as the next start will (`validate`); else the main section is judged (hook).
    `around` is shared by VMs that are judged together. Raises NotFoundError when there is no such VM here, InputError
    when its config cannot be read; with `lenient` that is left to a rule.
    """
    path = config_path or vms.config_path(vmid)
    why = None
    try:
        data = read_config(host, vmid, path)
    except InputError as error:
        if not lenient:
            raise
        data, why = b"", error.message
    around = around or Surroundings(host, inventory)
    config = around.config(path, data)
    section = config.effective() if pending else config.main
    resolution = resolve.EMPTY
    if not config.template and (section.entries or section.get("machine")):
        uses_mapping = any(entry.mapping for entry in section.entries.values())
        mappings = around.mappings_read[0] if uses_mapping else mapping.EMPTY
        resolution = resolve.resolve(
            section, mappings, around.inventory, host.node, vmid, guest=around.guest, fitting=around.fitting
        )
    return Subject(around, host.node, vmid, path, config, section, pending, resolution, why)


def chosen(subject: Subject) -> list[tuple[Passed, tuple[str, ...]]]:
    """The functions that PVE would reserve for each device that is passed whole or as a vendor vGPU.

    Of several alternatives the first that no other VM has, no earlier entry takes and, for a vGPU, that offers its
    type; none if there is no such one (cluster.all_taken tells of that).
    """
    return subject.around.of(subject, _choose)


def _choose(subject: Subject) -> list[tuple[Passed, tuple[str, ...]]]:
    used: set[str] = set()
    found = []
    for device in subject.resolution.passed:
        if device.mdev:
            continue
        free = (
            functions
            for functions in device.alternatives
            if not used & set(functions)
            and not any(subject.in_the_way(address) for address in functions)
            and (device.nvidia is None or start.vgpu_fits(subject.inventory, functions[0], device.nvidia))
        )
        functions = next(free, ()) if len(device.alternatives) > 1 else device.addresses
        used.update(functions)
        found.append((device, functions))
    return found


def group_mates(subject: Subject, functions: tuple[str, ...]) -> list[str]:
    """What else PVE binds to vfio-pci with these functions: the rest of their IOMMU groups but bridges, sorted."""
    mates = {mate for address in functions for mate in subject.inventory.group_members(address)}
    return sorted(mate for mate in mates.difference(functions) if not subject.inventory.has(mate, "pci_bus"))


def read_config(host: Host, vmid: int, path: str) -> bytes:
    """The bytes of a VM's config. Raises NotFoundError when there is none, InputError when it cannot be read."""
    try:
        return host.read(path)
    except OSError as error:
        dangling = host.link(path) is not None and error.errno == errno.ENOENT
        if dangling or error.errno not in {errno.ENOENT, errno.ENOTDIR}:
            why = "it is a link that leads nowhere" if dangling else error.strerror
            raise InputError(
                f"cannot read the config of VM {vmid}, {host.path(path)}: {why}",
                way_out(error, "see that it is a readable file and that pmxcfs (pve-cluster) runs"),
            ) from error
    vms.need_pve(host)
    nodes = [
        name
        for name in host.names(f"{vms.PVE}/nodes")
        if host.exists(f"{vms.PVE}/nodes/{name}/qemu-server/{vmid}.conf")
    ]
    hint = f"it is on node {nodes[0]}; run this there" if nodes else "qm list shows the VMs of this node"
    raise NotFoundError(f"there is no VM {vmid} on node {host.node} ({path})", hint)
