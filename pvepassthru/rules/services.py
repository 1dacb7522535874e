# SPDX-License-Identifier: Apache-2.0
"""Rules on PVE's services and files as `doctor` sees them, and on what could not be read."""

from __future__ import annotations

import os

from pvepassthru.host import policy, reservations, snippets, vms
from pvepassthru.host.inventory import DEVICES
from pvepassthru.model.errors import InputError, UnsafeError
from pvepassthru.model.policy import Policies
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed
from pvepassthru.rules.hosts import unread
from pvepassthru.rules.rule import NotApplicable, Unknown
from pvepassthru.rules.subject import MAPPINGS, Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.rules.subject import Surroundings

PVE = "/etc/pve"
UNITS = "/etc/systemd/system"
TIMER = "pvepassthru-recover.timer"
DATABASE = "/var/lib/pve-cluster/config.db"


def no_pmxcfs(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether PVE's cluster file system is mounted on /etc/pve.

    Why it matters: without it there is no VM config, no mapping and no policy: nothing starts, and this tool cannot
    judge any VM.

    How to fix: `systemctl restart pve-cluster`; `journalctl -u pve-cluster` says why it does not run. Often /etc/hosts
    does not name the node's address.
    """
    if not around.host.exists(DATABASE):
        if around.host.names(PVE):
            return
        raise Unknown(f"there is neither {DATABASE} nor anything in {PVE}")
    if not around.host.names(PVE) and PVE not in around.host.unreadable:
        yield Hit(PVE, f"{PVE} is empty: pmxcfs (pve-cluster) does not run", "systemctl restart pve-cluster")


def stale_reservations(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether each of PVE's reservations of a device is one that still holds.

    Why it matters: nothing; PVE takes it over at the next start of a VM with that device. It tells that a VM ended in
    an unusual way.

    How to fix: nothing to be done.
    """
    reserved, why = around.reservations_read
    if why or not around.host.exists(reservations.FILE):
        raise Unknown(f"{reservations.FILE} cannot be read" if why else f"there is no {reservations.FILE}")
    for address, entry in sorted(reserved.items()):
        if entry.holder(around.running) is None and not entry.pending(around.now):
            ended = f"process {entry.value} is gone" if entry.kind == "pid" else "its time is over"
            message = f"{address} is reserved for VM {entry.vmid}, but {ended}"
            yield Hit(reservations.FILE, message, "nothing to be done: PVE takes it over by itself")


def reservations_unreadable(around: Surroundings) -> Iterator[Hit]:
    """Whether PVE's file of reserved devices can be read."""
    if not around.host.names("/run/qemu-server") and not around.host.exists("/run/qemu-server"):
        raise Unknown("there is no /run/qemu-server")
    yield from unread(reservations.FILE, around.reservations_read[1])


def policy_unusable(around: Surroundings) -> Iterator[Hit]:
    """Whether the owner's policy files can be used."""
    if not any(around.host.exists(path) or around.host.link(path) for path in policy.FILES):
        raise NotApplicable("there is no policy file")
    try:
        _ = around.policies
    except (InputError, UnsafeError) as error:
        path = next((path for path in policy.FILES if path in error.message), policy.FILES[0])
        if isinstance(error.__cause__, PermissionError) and os.geteuid():  # noted: `unreadable` tells
            around.host.text(path)
            return
        message = f"the hook refuses to start every VM with a device: {error.message}"
        yield Hit(path, message, error.hint or "correct the file")


def no_recover_timer(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether pvepassthru-recover.timer is enabled where VMs of this node have this tool's hookscript.

    Why it matters: PVE runs no hook after a start that failed, on the source of a migration, or where it died itself.
    What such a VM holds comes back at its next start, or when somebody runs `pvepassthru recover`.

    How to fix: `apt install ./pvepassthru_VERSION_all.deb`, which enables and starts it. Where the package is
    installed: `systemctl enable --now pvepassthru-recover.timer`. packaging/README.md says how it is done without the
    package.
    """
    users = [vmid for vmid in vms.vmids(around.host) if _has_hookscript(around, vmid)]
    if not users:
        raise NotApplicable("no VM of this node has the hookscript")
    if not around.host.names(UNITS):
        raise Unknown(f"there is nothing in {UNITS}")
    if TIMER not in around.host.names(f"{UNITS}/timers.target.wants"):
        who = f"VM {listed(map(str, users), 4)} {'has' if len(users) == 1 else 'have'} the hookscript"
        message = f"{TIMER} is not enabled, and {who}: what a start that failed leaves behind waits for somebody"
        yield Hit(
            f"{UNITS}/timers.target.wants/{TIMER}",
            message,
            f"systemctl enable --now {TIMER}, which the Debian package has",
        )


def _has_hookscript(around: Surroundings, vmid: int) -> bool:
    path = vms.config_path(vmid)
    try:
        data = around.host.read(path)
    except OSError:  # gone meanwhile; else PVP330 tells
        return False
    if b"hookscript" not in data:
        return False
    return snippets.is_ours(around.config(path, data).main.get("hookscript"))


def policy_moved(around: Surroundings) -> Iterator[Hit]:
    """Whether every rule by address of the policy is for the device that lies there."""
    try:
        policies = around.policies
    except (InputError, UnsafeError) as error:
        raise Unknown("the policy cannot be used") from error
    if policies == Policies():
        raise NotApplicable("there is no policy")
    for rule in policies.moved(around.inventory):
        hint = "see where that card is now (pvepassthru devices), and correct the policy"
        yield Hit(f"{DEVICES}/{rule.address}", rule.message, hint)


def mappings_unreadable(around: Surroundings) -> Iterator[Hit]:
    """Whether the cluster's PCI mappings can be read."""
    _, why = around.mappings_read
    if not why and not around.host.exists(MAPPINGS):
        if not around.host.names(PVE):
            raise Unknown(f"there is nothing in {PVE}")
        raise NotApplicable("the cluster has no PCI mapping")
    yield from unread(MAPPINGS, why)


def unreadable(around: Surroundings) -> Iterator[Hit]:
    """Whether every file could be read that the rules on the host need."""
    for path, number in sorted(around.host.unreadable.items()):
        yield Hit(path, f"cannot read {path}: {os.strerror(number)}", "run this as root, and see the kernel log")
