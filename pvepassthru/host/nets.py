# SPDX-License-Identifier: Apache-2.0
"""The host's network interfaces: on which PCI function each is, and what the host has on top of it.

Sources: Linux Documentation/ABI/testing/sysfs-class-net (upper_*, lower_*, master), the kernel's net/bridge
(brport, bridge), net/ipv4/fib_trie.c (/proc/net/route) and net/ipv6/route.c (/proc/net/ipv6_route).
"""

from __future__ import annotations

from pvepassthru.host.blocks import functions_above
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pvepassthru.host.host import Host

NETS = "/sys/class/net"
ROUTES = "/proc/net/route"
ROUTES6 = "/proc/net/ipv6_route"
OVS = "ovs-system"
"""What Open vSwitch makes the master of every port of its bridges."""


class Above(NamedTuple):
    """What the host has on one interface."""

    names: tuple[str, ...]
    """The interface and all that is made of it, sorted: bonds, VLANs, bridges."""
    bridges: tuple[str, ...]
    """Those of them that are bridges, and `ovs-system`."""
    default: tuple[str, ...]
    """Those of them that the default route goes through."""
    networks: tuple[str, ...]
    """Those of them that the host has another route through: it has an address there."""


class Nets:
    """All network interfaces, each read when it is first asked for."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.asked: set[str] = set()
        """Paths that were read; those of them in Host.unreadable could not be."""
        self.damaged: dict[str, int] = {}
        """Files with a line that makes no sense, each with the number of the first."""
        self._on: dict[str, list[str]] | None = None
        self._routes: tuple[set[str], set[str]] | None = None

    def on(self, address: str) -> tuple[str, ...]:
        """The names of the interfaces of a PCI function, sorted."""
        if self._on is None:
            self._on = {}
            for name in self._names(NETS):
                path = f"{NETS}/{name}"
                self.asked.add(path)
                for function in functions_above(self.host.target(path) or ""):
                    self._on.setdefault(function, []).append(name)
        return tuple(self._on.get(address, ()))

    def above(self, name: str) -> Above:
        """What the host has on an interface."""
        found: set[str] = set()
        bridges: set[str] = set()
        open_ends = [name]
        while open_ends:
            end = open_ends.pop()
            if end in found:
                continue
            found.add(end)
            uppers = {entry[6:] for entry in self._names(f"{NETS}/{end}") if entry.startswith("upper_")}
            for link in ("master", "brport/bridge"):
                path = f"{NETS}/{end}/{link}"
                self.asked.add(path)
                uppers.add(self.host.link(path) or end)
            bridges.update(upper for upper in uppers if upper != end and self._is_bridge(upper))
            open_ends += uppers
        default, networks = self._read_routes()
        through = found | self._of_ovs() if OVS in found else found
        return Above(
            tuple(sorted(found)),
            tuple(sorted(bridges)),
            tuple(sorted(through & default)),
            tuple(sorted(found & networks)),
        )

    def _is_bridge(self, name: str) -> bool:
        path = f"{NETS}/{name}/bridge"
        self.asked.add(path)
        return name == OVS or self.host.exists(path)

    def _of_ovs(self) -> set[str]:
        """Interfaces that may be Open vSwitch's own: virtual ones below which the kernel knows nothing."""
        return {
            name
            for name in self._names(NETS)
            if "/virtual/" in (self.host.target(f"{NETS}/{name}") or "")
            and not any(entry.startswith("lower_") for entry in self._names(f"{NETS}/{name}"))
        }

    def _read_routes(self) -> tuple[set[str], set[str]]:
        """The interfaces of default routes, and those of other routes."""
        if self._routes is None:
            self._routes = (set(), set())
            for number, line in enumerate((self._text(ROUTES) or "").split("\n"), 1):
                words = line.split()
                if number == 1 and (words[:1], words[-1:]) == (["Iface"], ["IRTT"]):
                    continue
                if len(words) >= 11:
                    self._add(words[0], is_default=set(words[1] + words[7]) == {"0"})
                elif words:
                    self.damaged.setdefault(ROUTES, number)
            for number, line in enumerate((self._text(ROUTES6) or "").split("\n"), 1):
                words = line.split()
                if len(words) >= 10:
                    if words[0][:2] not in {"fe", "ff"}:  # link-local and multicast: every interface that is up
                        self._add(words[-1], is_default=set(words[0] + words[1]) == {"0"})
                elif words:
                    self.damaged.setdefault(ROUTES6, number)
        return self._routes

    def _add(self, name: str, *, is_default: bool) -> None:
        if self._routes and name != "lo":
            self._routes[0 if is_default else 1].add(name)

    def _names(self, folder: str) -> list[str]:
        self.asked.add(folder)
        return self.host.names(folder)

    def _text(self, path: str) -> str | None:
        self.asked.add(path)
        return self.host.text(path)
