# SPDX-License-Identifier: Apache-2.0
"""Physical functions with their virtual functions, and who uses one of these.

Sources: Linux Documentation/ABI/testing/sysfs-bus-pci (sriov_*), drivers/pci/iov.c; the PCI Express specification,
chapter Single Root I/O Virtualization (First VF Offset, VF Stride).
"""

from __future__ import annotations

from pvepassthru.host import holders, reservations, vms
from pvepassthru.host.inventory import DEVICES, Inventory
from pvepassthru.host.nets import NETS
from pvepassthru.model import reservation, sriov_drivers
from pvepassthru.model.errors import NotFoundError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.start import owners
from pvepassthru.model.text import listed, number

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.model.sriov_drivers import SriovDriver

_UP = 1
"""Bit of an interface's flags. Source: Linux include/uapi/linux/if.h, IFF_UP."""


class Vf(NamedTuple):
    """A virtual function."""

    number: int
    """As in `virtfnN` and in `ip link set ... vf N`."""
    address: str
    driver: str | None
    group: int | None


class Pf(NamedTuple):
    """A physical function."""

    address: str
    driver: str | None
    most: int
    """VFs that the card can have: sriov_totalvfs."""
    vfs: int | None
    """What sriov_numvfs says; None: it cannot be read now, since a removal of VFs waits for somebody."""
    autoprobe: bool | None
    """Whether new VFs get a driver of the host by themselves; None where the kernel does not say."""
    nets: tuple[str, ...]
    """Its network interfaces, the uplink first; its VFs' representors are not among them."""
    switch: str | None
    """The id of the switch that its uplink is a port of, in switchdev mode; else None."""
    functions: tuple[Vf, ...]

    @property
    def known(self) -> SriovDriver:
        """What is known of its driver."""
        return sriov_drivers.of(self.driver)


def is_pf(host: Host, address: str) -> bool:
    """Whether a function can have virtual functions."""
    return host.exists(f"{DEVICES}/{address}/sriov_totalvfs")


def physical_functions(host: Host) -> tuple[str, ...]:
    """The addresses of all physical functions, sorted."""
    return tuple(address for address in Inventory(host).addresses() if is_pf(host, address))


def read(host: Host, address: str) -> Pf:
    """A physical function as it is now. Raises NotFoundError when there is none, or it is no PF."""
    inventory = Inventory(host)
    folder = f"{DEVICES}/{address}"
    if not host.exists(folder):
        raise NotFoundError(f"no PCI function {address} on this host", "see lspci -D")
    most = number(host.text(f"{folder}/sriov_totalvfs"))
    if most is None:
        physical = inventory.physical_function(address)
        hint = f"it is a VF of {physical}" if physical else "pvepassthru sriov show lists those that can"
        raise NotFoundError(f"{address} can have no virtual functions: it has no SR-IOV", hint)
    autoprobe = host.text(f"{folder}/sriov_drivers_autoprobe")
    nets = interfaces(host, address)
    switch = host.text(f"{NETS}/{nets[0]}/phys_switch_id") if nets else None
    return Pf(
        address,
        inventory.driver(address),
        most,
        numvfs(host, address),
        None if autoprobe is None else autoprobe != "0",
        nets,
        switch or None,
        functions(host, address),
    )


def numvfs(host: Host, address: str, seconds: float | None = None) -> int | None:
    """What sriov_numvfs says, or None: it cannot be read, or not within so many seconds (without them as Host.read)."""
    path = f"{DEVICES}/{address}/sriov_numvfs"
    try:
        text = host.read(path) if seconds is None else host.within(path, seconds)
        return number(text.decode("ascii", "replace").strip())
    except OSError:
        return None


def functions(host: Host, address: str) -> tuple[Vf, ...]:
    """The virtual functions of a PF by number, as its links `virtfnN` list them; this never waits."""
    inventory = Inventory(host)
    folder = f"{DEVICES}/{address}"
    found = []
    for name in host.names(folder):
        index = number(name[6:]) if name.startswith("virtfn") else None
        vf = host.link(f"{folder}/{name}") if index is not None else None
        if index is not None and vf:
            found.append(Vf(index, vf, inventory.driver(vf), inventory.group(vf)))
    return tuple(sorted(found))


def interfaces(host: Host, address: str) -> tuple[str, ...]:
    """The network interfaces of a function, its uplink first, without representors of VFs.

    In switchdev mode these are interfaces of the PF as well; their phys_port_name is pf0vf3 and the like (Linux
    Documentation/networking/switchdev.rst).
    """
    ranked = []
    for name in host.names(f"{DEVICES}/{address}/net"):
        port = host.text(f"{NETS}/{name}/phys_port_name") or ""
        if "vf" not in port and "sf" not in port:
            ranked.append((number(host.text(f"{NETS}/{name}/dev_port")) or 0, name))
    return tuple(name for _, name in sorted(ranked))


def is_up(host: Host, net: str) -> bool | None:
    """Whether an interface is up (IFF_UP); None if its flags cannot be read."""
    flags = host.text(f"{NETS}/{net}/flags")
    try:
        return None if flags is None else bool(int(flags, 0) & _UP)
    except ValueError:
        return None


def address_of(pf: str, offset: int, stride: int, index: int) -> str | None:
    """The address that a PF's VF of this number has or will have; None when there is no such routing id.

    A routing id is bus << 8 | device << 3 | function; a VF's is that of its PF and offset and stride * index more.
    """
    domain, bus, rest = pf.split(":")
    device, _, function = rest.partition(".")
    routing_id = (int(bus, 16) << 8 | int(device, 16) << 3 | int(function)) + offset + stride * index
    if not 0 <= routing_id < 1 << 16:
        return None
    return f"{domain}:{routing_id >> 8:02x}:{routing_id >> 3 & 31:02x}.{routing_id & 7}"


def expected(host: Host, pf: str, count: int) -> tuple[str, ...] | None:
    """The addresses that a PF's first `count` VFs have or will have; None if that cannot be told.

    Some cards say neither offset nor stride as long as they have no VFs. Never waits for a removal of VFs.
    """
    folder = f"{DEVICES}/{pf}"
    offset, stride = (number(host.text(f"{folder}/{name}")) for name in ("sriov_offset", "sriov_stride"))
    if not offset or (not stride and count > 1):
        return None
    found = (address_of(pf, offset, stride or 0, index) for index in range(count))
    return tuple(address for address in found if address)


# ---- who uses a VF


class Users:
    """Who uses VFs now: each file and process is looked at once."""

    def __init__(self, host: Host, but: int | None = None) -> None:
        """`but` is a VM whose reservation does not count: its own start asks.

        Raises InputError and PassthruError when it cannot be told.
        """
        self.host = host
        self.inventory = Inventory(host)
        self.now = int(host.now())
        self._but = but
        self._reserved = reservation.parse(reservations.text(host))
        self._opened = holders.opened(host)

    def why(self, vf: Vf) -> str | None:
        """Who uses a VF, in words, or None if nobody does."""
        entry = self._reserved.get(vf.address)
        if entry and entry.vmid != self._but and (entry.pending(self.now) or entry.holder(self._running) is not None):
            return reservation.describe(entry, self.now)
        users = self._holders(vf.address)
        if users:
            return f"{holders.describe(users)} has it open"
        current = self.inventory.vgpu_current(vf.address)
        if current not in {None, "0"}:
            return f"it has vGPU type {current}"
        uuids = self.inventory.mdevs_of(vf.address)
        if uuids:
            return f"it has mediated devices of {owners(uuids)[1]}"
        return self._host_use(vf)

    def in_use(self, functions: tuple[Vf, ...]) -> list[str]:
        """Words for each of these VFs that somebody uses: `0000:02:00.1: process 4711 (kvm) has it open`."""
        return [f"{vf.address}: {why}" for vf in functions if (why := self.why(vf))]

    def _running(self, vmid: int) -> int | None:
        return vms.running_pid(self.host, vmid)

    def _holders(self, address: str) -> tuple[holders.Holder, ...]:
        nodes = holders.vfio_nodes(self.host, f"{DEVICES}/{address}")
        return tuple(sorted({user for node in nodes for user in self._opened.get(node, ())}))

    def _host_use(self, vf: Vf) -> str | None:
        """What the host itself does with a VF that one of its own drivers has."""
        if vf.driver is None or "vfio" in vf.driver:
            return None
        from pvepassthru.host.uses import Uses  # noqa: PLC0415 - only VFs that the host's drivers have need it

        nets = self.host.names(f"{DEVICES}/{vf.address}/net")
        for net in nets:
            if is_up(self.host, net):
                return f"it is the host's interface {net}, which is up"
        if not nets and self.inventory.pci_class(vf.address).startswith("02") and vf.driver in _net_vf_drivers():
            return f"its interface (driver {vf.driver}) is in another network namespace, as of a container"
        uses = Uses(self.host, self.inventory).of(vf.address)
        return listed([use.detail for use in uses], 2) if uses else None


def _net_vf_drivers() -> set[str]:
    names = ("igb", "ixgbe", "i40e", "ice", "mlx5_core", "bnxt_en")
    return {known.vf_driver for name in names if (known := sriov_drivers.of(name)).vf_driver}
