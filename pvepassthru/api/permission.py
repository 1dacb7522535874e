# SPDX-License-Identifier: Apache-2.0
"""What of a change its user may not make, told before the first write.

Source: access/permissions, which tells a user, or a token, of a path each privilege that it has there, with whether
that is passed on to what lies below: one that is not passed on counts on the path itself all the same. Pools are
included. What is root@pam's alone no privilege gives, nor any token.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import mappings
from pvepassthru.api.change import is_roots
from pvepassthru.model import hostpci, pci
from pvepassthru.model.errors import ApiDeniedError, ApiError
from pvepassthru.model.mapping import EMPTY
from pvepassthru.model.property_string import PropertyError
from pvepassthru.model.text import listed, shown
from pvepassthru.model.vmconfig import is_hostpci

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pvepassthru.api.change import Change, KeyChange, Need
    from pvepassthru.api.client import Client
    from pvepassthru.model.hostpci import HostpciEntry
    from pvepassthru.model.mapping import Mappings


MIGRATE = "pvepassthru migrate-to-mapping"
"""What makes mappings for the addresses that a VM's entries have."""


class Lack(NamedTuple):
    """A key that the user may not change."""

    key: str
    needs: tuple[Need, ...]
    """The privileges that the user does not have; none for what is root@pam's alone."""


def lacks(client: Client, change: Change) -> tuple[Lack, ...]:
    """What of a change the client's user may not make, in the order of its keys; none for root@pam itself.

    Raises ApiError.
    """
    if client.is_root:
        return ()
    has: dict[str, frozenset[str]] = {}
    found = []
    for one in change.keys:
        needs = one.needs(change.vmid)
        for need in needs:
            if need.path not in has:
                has[need.path] = privileges(client, need.path)
        missing = tuple(need for need in needs if need.privilege not in has[need.path])
        if one.root_only or missing:
            found.append(Lack(one.key, missing))
    return tuple(found)


def privileges(client: Client, path: str) -> frozenset[str]:
    """What the client's user may do on a path such as /vms/100. Raises ApiError."""
    return frozenset(granted(client, path))


def granted(client: Client, path: str) -> dict[str, object]:
    """The privileges on a path, each with whether it is passed on to what lies below: 1, or 0. Raises ApiError."""
    answer = client.get("access/permissions", path=path)
    here = answer.get(path) if isinstance(answer, dict) else None
    return here if isinstance(here, dict) else {}


def refusal(client: Client, change: Change, found: tuple[Lack, ...]) -> ApiDeniedError:
    """The error that says all that a user may not, and the ways out. Asks for the mappings where one may be of use."""
    parts = []
    ways = []
    roots = [lack.key for lack in found if not lack.needs]
    if roots:
        former = [one for one in change.keys if one.key in roots and one.replaces_host]
        own = [key for key in roots if key not in {one.key for one in former}]
        if own:
            parts.append(f"{listed(own)} can be set by root@pam with its password only, by no token")
        parts += [_of_former(one) for one in former]
        known = _mappings(client)
        ways += [
            f"mapping {' or '.join(names)} has the device of {key}: require it by that (--by-mapping)"
            for key, names in offers(change, known).items()
        ]
        absent = sorted(name for one in change.keys if (name := _new_mapping(one)) and name not in known.by_name)
        if absent:
            ways.append(f"as root@pam, which makes {listed(absent)} first: {MIGRATE} {change.vmid} --apply")
        else:
            ways.append(f"as root on node {change.node}: {command(change)}")
        replaced = [one.key for one in former if one.new is not None]
        if replaced and not absent:
            gone = f"qm set {change.vmid} --delete {','.join(replaced)}"
            ways.append(f"or root takes the old value away ({gone}), and then the same can be done without root")
            free = _free(change)
            ways += [f"another device could have {free}, which is free and needs no root"] if free else []
    for lack in found:
        if lack.needs:
            needs = (f"{need.privilege} on {need.path}" for need in lack.needs)
            parts.append(f"{lack.key} needs {' and '.join(needs)}")
    if len(roots) < len(found):
        ways.append("an administrator can grant it; a token with privilege separation needs it too")
    message = f"{client.user} may not make this change to VM {change.vmid}: {'; '.join(parts)}"
    return ApiDeniedError(message, "; ".join(ways))


def _of_former(one: KeyChange) -> str:
    """Why a key is root@pam's alone for what it has now, whatever it is to have."""
    old = next((text for text in (one.in_force, one.old) if text is not None and is_roots(text)), "")
    done = "removed" if one.new is None else "replaced, by a mapping too,"
    message = f"{one.key} has {shown(old)} now, and an address or ROM file can be {done}"
    return f"{message} by root@pam with its password only, by no token"


def _free(change: Change) -> str | None:
    """The first hostpci key that the VM has in no way; None if there is none."""
    used = {one.key for one in change.before.section.dropped} | change.before.values.keys() | change.after.values.keys()
    used |= change.before.config.main.values.keys()
    keys = (f"hostpci{index}" for index in range(pci.MAX_INDEX + 1))
    return next((key for key in keys if key not in used), None)


def command(change: Change) -> str:
    """What root runs on the VM's node instead, in short; render.qm has it whole, with its reasons."""
    return qm_set(change.vmid, {one.key: one.new for one in change.keys})


def qm_set(vmid: int, values: Mapping[str, str | None]) -> str:
    """The command of PVE that gives a VM's keys these values, quoted for a shell; None deletes."""
    words = [word for key, text in values.items() if text is not None for word in (f"--{key}", shlex.quote(text))]
    gone = [key for key, text in values.items() if text is None]
    return " ".join(["qm set", str(vmid), *words, *(["--delete", ",".join(gone)] if gone else [])])


def offers(change: Change, mappings: Mappings) -> dict[str, tuple[str, ...]]:
    """Per key that is root@pam's alone for the address in it: the mappings that have just that device there, sorted."""
    found = {}
    for one in change.keys:
        entry = _entry(one)
        if entry is None or not entry.host or one._replace(new="mapping=any").root_only:
            continue
        wanted = {pci.with_domain(selector) for selector in entry.host.split(";")}
        names = [
            name
            for name, mapping in sorted(mappings.by_name.items())
            if [set(other.paths) for other in mapping.on(change.node)] == [wanted] and mapping.mdev == entry.wants_mdev
        ]
        if names and entry.romfile is None:
            found[one.key] = tuple(names)
    return found


def _new_mapping(one: KeyChange) -> str | None:
    """The mapping that a key is to name, or None."""
    entry = _entry(one)
    return entry.mapping if entry else None


def _entry(one: KeyChange) -> HostpciEntry | None:
    """The hostpci entry that a key is to have; None if it is none."""
    if one.new is None or not is_hostpci(one.key):
        return None
    try:
        return hostpci.parse(0, one.new)
    except PropertyError:
        return None


def _mappings(client: Client) -> Mappings:
    try:
        return mappings.plain(mappings.read(client))
    except ApiError:  # they were only to be offered
        return EMPTY
