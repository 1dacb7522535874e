# SPDX-License-Identifier: Apache-2.0
"""Network settings of virtual functions, through their PF's interface: `ip -json link show`, `ip link set dev ... vf`.

The kernel has no other way to them but netlink. Sources: ip-link(8); iproute2, ip/ipaddress.c (what the JSON has);
Linux include/uapi/linux/if_link.h, IFLA_VFINFO_LIST. Every setting is read first, set only where it differs, and read
again.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from pvepassthru.host import programs
from pvepassthru.host.nets import NETS
from pvepassthru.model.errors import DeviceError, InputError
from pvepassthru.model.policy import VfSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.host import Host

LIMIT = 20.0
"""Seconds for one call of ip: a driver asks its firmware."""
MACHINE_ID = "/etc/machine-id"
NO_MAC = "00:00:00:00:00:00"
"""A VF's administrative MAC that is not set."""
_HEX = frozenset("0123456789abcdef")


class NetLink(NamedTuple):
    """What ip says of a PF's interface."""

    permanent: str | None
    """The MAC that it has by itself, whatever was set since; None if it has none."""
    vfs: dict[int, VfSettings]
    """By number."""


# ---- reading


def show(host: Host, net: str) -> NetLink:
    """An interface with the settings of its VFs. Raises DeviceError when ip cannot be asked."""
    done = _ip(host, "-json", "-details", "link", "show", "dev", net)
    try:
        (link,) = json.loads(done)
        vfs = {entry["vf"]: parse(entry) for entry in link.get("vfinfo_list", ())}
        return NetLink(_permanent(host, net, link), vfs)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DeviceError(f"cannot read what ip says of {net}: {error}", "see: ip -json link show") from error


def _permanent(host: Host, net: str, link: dict[str, Any]) -> str | None:
    """An interface's own MAC; ip tells `permaddr` only where that differs from the address.

    A random address is none. Source: Linux Documentation/ABI/testing/sysfs-class-net, addr_assign_type.
    """
    mac = link.get("permaddr")
    if mac is None and host.text(f"{NETS}/{net}/addr_assign_type") in {"0", "3"}:
        mac = link.get("address")
    return str(mac).lower() if mac and mac != NO_MAC else None


def parse(entry: dict[str, Any]) -> VfSettings:
    """One entry of `vfinfo_list`. Older ip has vlan and qos in the entry itself, newer in its vlan_list."""
    listed = entry.get("vlan_list")
    tags: dict[str, Any] = listed[0] if listed else entry
    rates: dict[str, Any] = entry.get("rate") or {}
    spoofchk, trust = (_switch(entry.get(name)) for name in ("spoofchk", "trust"))
    return VfSettings(
        mac=str(entry["address"]).lower() if "address" in entry else None,
        vlan=int(tags.get("vlan", 0)),
        qos=int(tags.get("qos", 0)),
        spoofchk=spoofchk,
        trust=trust,
        state=entry.get("link_state"),
        max_tx_rate=rates.get("max_tx"),
        min_tx_rate=rates.get("min_tx"),
    )


def _switch(value: object) -> bool | None:
    """A switch as ip writes it: true in JSON, `on` in older versions."""
    return value if isinstance(value, bool) else {"on": True, "off": False}.get(str(value))


# ---- setting


def differences(wanted: VfSettings, present: VfSettings) -> dict[str, tuple[object, object]]:
    """The names of the settings that are wanted otherwise, each with the present value and the wanted one."""
    pairs = zip(VfSettings._fields, present, wanted, strict=True)
    return {name: (is_so, shall) for name, is_so, shall in pairs if shall is not None and shall != is_so}


def set_vf(host: Host, net: str, index: int, wanted: VfSettings, present: VfSettings) -> list[str]:
    """Set what differs, and read it back; returns words for what was set. Raises DeviceError."""
    todo = differences(wanted, present)
    if not todo:
        return []
    for words in commands(wanted, present):
        _ip(host, "link", "set", "dev", net, "vf", str(index), *words)
    for name, (seen, shall) in differences(wanted, show(host, net).vfs.get(index, VfSettings())).items():
        if seen is not None:  # else the driver does not tell it
            raise DeviceError(
                f"cannot set {name} of VF {index} of {net} to {_word(shall)}: ip took it, but it reads {_word(seen)}",
                "see what the driver says in the kernel log",
            )
    return described(todo)


def described(todo: dict[str, tuple[object, object]]) -> list[str]:
    """Words for differences: `vlan 100`, `trust on`."""
    return [f"{name} {_word(shall)}" for name, (_, shall) in todo.items()]


def commands(wanted: VfSettings, present: VfSettings) -> Iterator[tuple[str, ...]]:
    """The words behind `ip link set dev NET vf N`, a call each, so that what a driver refuses is told by its name.

    vlan and qos go together, as do the two rates: a call with one alone sets the other to 0.
    """
    todo = differences(wanted, present)
    if "mac" in todo:
        yield ("mac", str(wanted.mac))
    if "vlan" in todo or "qos" in todo:
        vlan, qos = (_or(shall, is_so) for shall, is_so in ((wanted.vlan, present.vlan), (wanted.qos, present.qos)))
        yield ("vlan", vlan, "qos", qos)
    for name in ("spoofchk", "trust"):
        if name in todo:
            yield (name, "on" if todo[name][1] else "off")
    if "state" in todo:
        yield ("state", str(wanted.state))
    if "max_tx_rate" in todo or "min_tx_rate" in todo:
        yield (
            *("max_tx_rate", _or(wanted.max_tx_rate, present.max_tx_rate)),
            *("min_tx_rate", _or(wanted.min_tx_rate, present.min_tx_rate)),
        )


def _or(wanted: int | None, present: int | None) -> str:
    return str(wanted if wanted is not None else present or 0)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _ip(host: Host, *words: str) -> str:
    """What ip prints. Raises DeviceError with what it says."""
    command = f"ip {' '.join(words)}"
    path = programs.find(host, "ip")
    if path is None:
        why = "programs of another tree are not run" if host.root else "there is no program ip"
        hint = f"run this on {host.node} itself, without --root" if host.root else "apt install iproute2"
        raise DeviceError(f"cannot run {command}: {why}", hint)
    done = programs.run(host, (path, *words), LIMIT)
    if done.code != 0:
        how = f"it ended with {done.code}" if done.code is not None else "it did not end"
        raise DeviceError(f"{command} failed: {done.words or how}", "see what the driver says in the kernel log")
    return done.stdout


# ---- stable MACs


def stable_mac(host: Host, pf: str, permanent: str | None, index: int) -> str:
    """A MAC for a VF that stays the same over reboots: of this host, this PF and this number. Raises InputError.

    SHA-256 of `pvepassthru-vf-mac-1`, the host's machine-id, the PF's permanent MAC (its PCI address where it has none)
    and the number, joined by newlines; its first six bytes, of the first of which bit 0 is cleared (unicast) and bit 1
    set (locally administered; IEEE 802-2014, 8.4). The chance that two of 10,000 VFs share one is below 10^-6.
    """
    machine = host.text(MACHINE_ID) or ""
    if len(machine) != 32 or not _HEX.issuperset(machine):
        hint = "systemd-machine-id-setup makes one; or give each VF a mac in the policy"
        raise InputError(f"cannot derive stable MACs: {MACHINE_ID} holds no machine id", hint)
    return derive(machine, permanent or pf, index)


def derive(machine: str, pf: str, index: int) -> str:
    """The MAC of `stable_mac` from its parts."""
    digest = hashlib.sha256("\n".join(("pvepassthru-vf-mac-1", machine, pf, str(index))).encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (digest[0] & 0xFC | 0x02, *digest[1:6]))


def check_mac(mac: str) -> str:
    """A MAC in lower case. Raises InputError for one that no interface can have: zero, multicast, malformed."""
    text = mac.lower()
    parts = text.split(":")
    if len(parts) != 6 or any(len(part) != 2 or not _HEX.issuperset(part) for part in parts):
        raise InputError(f"{mac!r} is no MAC address", "write it as 02:00:00:12:34:56")
    if text == NO_MAC:
        raise InputError(f"{mac} is no MAC that a VF can have", "give another, or `stable`")
    if int(parts[0], 16) & 1:
        raise InputError(f"{mac} is a multicast address", "make the first byte even, such as 02")
    return text
