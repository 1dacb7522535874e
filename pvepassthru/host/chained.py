# SPDX-License-Identifier: Apache-2.0
"""The cluster's file of chained hookscripts (model/chain.py): read, and changed by one node at a time."""

from __future__ import annotations

import errno

from pvepassthru.host.host import way_out
from pvepassthru.model import chain
from pvepassthru.model.errors import DeviceError, InputError
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvepassthru.host.host import Host
    from pvepassthru.model.chain import Link

LOCK = "pvepassthru"
MODE = 0o640
"""What pmxcfs gives all files outside of priv; it refuses any other."""


def read(host: Host) -> dict[int, Link]:
    """The chained hookscripts by VMID; none without the file. Raises InputError when it cannot be used."""
    data = raw(host)
    return {} if data is None else chain.parse(data)


def raw(host: Host) -> bytes | None:
    """The file's bytes, None if there is none. Raises InputError when it cannot be read."""
    try:
        return host.read(chain.FILE)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return None
        raise InputError(f"cannot read {chain.FILE}: {error.strerror}", way_out(error)) from error


def note(host: Host, vmid: int, link: Link | None, still: Callable[[], bool]) -> bool:
    """Note a VM's former hookscript, or with None forget it; returns whether that is so.

    `still` is asked under the lock whether it is to be done. Raises InputError, DeviceError, what the cluster's lock
    raises, and what `still` raises.
    """
    if read(host).get(vmid) == link:
        return True
    import json  # noqa: PLC0415 - the hook loads this module, too, and only reads

    from pvepassthru.host import cluster_lock  # noqa: PLC0415 - as json

    with cluster_lock.hold(host, LOCK, chain.FILE):
        if not still():
            return False
        links = read(host)
        if link is None:
            links.pop(vmid, None)
        else:
            links[vmid] = link
        data = json.dumps(chain.document(links), indent=1).encode() + b"\n"
        try:
            if links:
                host.replace(chain.FILE, data, MODE)
            else:
                host.remove(chain.FILE)
        except OSError as error:
            hint = way_out(error, "has the cluster quorum? (pvecm status)")
            raise DeviceError(f"cannot write {chain.FILE}: {error.strerror}", hint) from error
    return True
