# SPDX-License-Identifier: Apache-2.0
"""Rules across the VMs of a node: who wants the same device, PVP425 to PVP449."""

from __future__ import annotations

from pvepassthru.host import cluster
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, shown
from pvepassthru.rules.boot import shortages
from pvepassthru.rules.demand import Demand, demand, ha_resources
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.cluster import Job
    from pvepassthru.model.passed import Passed
    from pvepassthru.rules.boot import Shortage
    from pvepassthru.rules.demand import Wish
    from pvepassthru.rules.subject import Subject, Surroundings


def both_start(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether another VM that starts by itself has the same function as this VM, which does so too.

    A VM starts by itself with `onboot: 1`, or when HA keeps it running.

    Why it matters: after a boot of the node one of the two gets the device, and PVE refuses to start the other.

    How to fix: let only one of them start by itself (`qm set VMID --onboot 0`, of a VM that HA manages
    `ha-manager set vm:VMID --state stopped`), or give them different devices.
    """
    wanted = _demand(subject)
    if not wanted.starts(subject.vmid):
        return
    for device, rivals in _rivals(subject, wanted):
        starting = {vmid: what for vmid, what in rivals.items() if wanted.starts(vmid)}
        if starting:
            message = f"{_who(starting)} too, and each starts by itself: only the first gets it"
            last = max(starting)
            by_ha = last in subject.around.once(ha_resources)
            stay = f"ha-manager set vm:{last} --state stopped" if by_ha else f"qm set {last} --onboot 0"
            yield _hit(subject, device, message, f"{stay}, or pass another device")


def by_turns(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether another VM has the same function in its config.

    Why it matters: only one of them can run at a time; PVE refuses to start the second. That may be what is wanted.

    How to fix: nothing, if they take turns; else give them different devices, or a mapping with several.
    """
    wanted = _demand(subject)
    for device, others in _rivals(subject, wanted):
        rivals = _unless_all_start(subject, wanted, others)
        if rivals and not subject.held(device.addresses) and not _backups(subject, wanted):
            message = f"{_who(rivals)} too: only one of them can run at a time"
            yield _hit(subject, device, message, "nothing, if they take turns; else use a mapping with several devices")


def group_split_at_boot(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a VM that starts by itself has another device of the same IOMMU group, as this VM has.

    Why it matters: a group belongs to one VM. After a boot the first gets it; the second fails, or takes the device
    from the first.

    How to fix: pass the whole group to one VM, or move one of the devices to a slot with a group of its own.
    """
    wanted = _demand(subject)
    if wanted.starts(subject.vmid):
        for device, others in _splits(subject, wanted):
            starting = {vmid: what for vmid, what in others.items() if wanted.starts(vmid)}
            if starting:
                yield _split_hit(subject, device, starting, "and each starts by itself")


def group_split(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether another VM has another device of the same IOMMU group in its config.

    Why it matters: a group belongs to one VM, so the two cannot run together: PVE binds all of it to vfio-pci, away
    from the other VM's driver, and QEMU cannot open it twice.

    How to fix: pass the whole group to one VM, or move one of the devices to a slot with a group of its own.
    """
    wanted = _demand(subject)
    for device, others in _splits(subject, wanted):
        split = _unless_all_start(subject, wanted, others)
        mates = tuple(address for address, _ in split.values())
        if split and not subject.held(mates):
            yield _split_hit(subject, device, split, "so the two cannot run together")


def few_instances(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether an mdev instance is left for this VM when all VMs that start by themselves have theirs.

    VMs start by their `startup` order, then by VMID.

    Why it matters: after a boot of the node nothing is left for this VM, and PVE cannot start it.

    How to fix: let fewer VMs start by themselves, choose smaller types, or use a mapping with more devices.
    """
    for lack in _shortages(subject, "mdev"):
        message = f"after a boot no instance of {shown(lack.wish.mdev or '')} is left: {_takers(lack)}"
        yield _boot_hit(subject, lack, message, "let fewer VMs start by themselves, or choose smaller types")


def few_vgpus(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a virtual function is left that offers this VM's vGPU type when all VMs have started.

    Those that start by themselves count, by their `startup` order, then by VMID.

    Why it matters: after a boot of the node nothing is left for this VM, and PVE refuses to start it.

    How to fix: let fewer VMs start by themselves, choose smaller types, or add GPUs to the mapping.
    """
    for lack in _shortages(subject, "vgpu"):
        message = f"after a boot mapping {lack.wish.pool} has no vGPU of type {lack.wish.nvidia} left: {_takers(lack)}"
        yield _boot_hit(subject, lack, message, "let fewer VMs start by themselves, or choose smaller types")


def other_size(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether VMs that start by themselves want vGPUs of different framebuffer sizes on one GPU.

    The size is in the type's name: `A16-4Q` has 4 GB. Nothing is said where the GPU shows sizes side by side now.

    Why it matters: by default the first vGPU fixes the size for its whole GPU, so this VM fails to start after a boot.

    How to fix: use one size for all VMs of a GPU, or a GPU of its own for each size; newer GPUs and drivers have a
    mixed-size mode, which must be set after each boot, before the VMs start.
    """
    for lack in _shortages(subject, "size"):
        kind = lack.wish.mdev or f"nvidia-{lack.wish.nvidia}"
        message = f"after a boot {shown(kind)} does not fit: {lack.detail}, by VM {lack.takers[0]}, which starts before"
        yield _boot_hit(subject, lack, message, "use one framebuffer size for all VMs of a GPU")


def few_devices(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device of its mapping is left for this VM when all VMs that start by themselves run.

    VMs start by their `startup` order, then by VMID.

    Why it matters: after a boot PVE finds no free device for this VM, and refuses to start it.

    How to fix: add devices to the mapping, or let fewer of the VMs that use it start by themselves.
    """
    for lack in _shortages(subject, "pool"):
        count = len(lack.wish.alternatives)
        message = f"after a boot none of the {count} devices of mapping {lack.wish.pool} is left: {_takers(lack)}"
        yield _boot_hit(subject, lack, message, "add devices to the mapping, or let fewer VMs start by themselves")


def pf_is_passed(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether another VM has the physical function whose virtual function this VM has.

    Why it matters: virtual functions live by the driver of their physical function, which PVE takes away: what this VM
    has stops working, or the other VM does not start.

    How to fix: pass virtual functions to both VMs, or only the physical function to one.
    """
    wanted = _demand(subject)
    for device in subject.resolution.passed:
        pairs = [(address, subject.inventory.physical_function(address)) for address in device.addresses]
        parents = tuple(dict.fromkeys(parent for _, parent in pairs if parent and parent not in device.addresses))
        others = _whole(wanted.others(subject.vmid, parents)) if len(device.alternatives) == 1 else {}
        for parent, some in _by_address(others):
            vf = next(address for address, above in pairs if above == parent)
            message = f"the physical function of {vf}, {parent}, is passed to {_whom(some)}"
            hint = f"pass another virtual function of {parent} to VM {listed(some)} instead"
            yield _hit(subject, device, message, hint)


def parent_is_passed(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether one VM has a device whole on which another VM wants a mediated device.

    Why it matters: PVE binds the device to vfio-pci, and the mediated devices on it go with its driver; so only one of
    the two VMs can run.

    How to fix: give all of them mediated devices, or the whole device to one VM alone.
    """
    wanted = _demand(subject)
    for device in subject.resolution.passed:
        others: dict[int, tuple[str, Wish]] = {}
        what = ""
        if device.bound_to_vfio:
            others = wanted.other_mdevs(subject.vmid, device.addresses)
            what = "is passed whole, and an mdev on it is wanted by"
        elif device.mdev and len(device.alternatives) == 1:
            others = _whole(wanted.others(subject.vmid, device.addresses))
            what = "is the parent of an mdev for this VM, and is passed whole to"
        for address, some in _by_address(others):
            message = f"{address} {what} {_whom(some)}"
            yield _hit(subject, device, message, "give all of them mediated devices, or the device to one VM alone")


def backup_starts(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a backup job starts this VM, which does not run, while another VM has its device.

    The other VM runs now, or starts by itself.

    Why it matters: PVE starts a stopped VM for its backup, with its devices, in every mode: that start fails, and the
    backup of this VM with it.

    How to fix: leave the VM out of the job and back it up by hand, or remove its hostpci entry while the other VM has
    the device.
    """
    wanted = _demand(subject)
    for device, others, jobs in _backups(subject, wanted):
        names = listed(shown(job.id) for job in jobs)
        having = listed(f"VM {listed(some)} has {address}" for address, some in _by_address(others))
        what = f"backup job {names} starts this VM, and {having} then"
        hint = f"leave VM {subject.vmid} out of the job, or back it up by hand"
        yield _hit(subject, device, f"{what}: that backup fails", hint)


def _backups(subject: Subject, wanted: Demand) -> list[tuple[Passed, dict[int, tuple[str, Wish]], list[Job]]]:
    """The first device that another VM has when a backup starts this one: with these VMs, and the jobs."""
    if wanted.starts(subject.vmid) or subject.around.running(subject.vmid) is not None:
        return []
    rivals = [(device, _having(subject, wanted, others)) for device, others in _rivals(subject, wanted)]
    having = [(device, others) for device, others in rivals if others]
    jobs = subject.around.once(backup_jobs) if having else ()
    named = [job for job in jobs if job.includes(subject.vmid, subject.node)]
    return [(*having[0], named)] if named else []


# ---- what they have in common


def backup_jobs(around: Surroundings) -> tuple[Job, ...]:
    """The backup jobs; ask through `around.once`."""
    return cluster.backup_jobs(around.host)


_NOBODY = Demand({}, {}, {}, {})


def _demand(subject: Subject) -> Demand:
    """What all VMs want, when this one has a device; else nothing, which spares reading them."""
    return subject.around.once(demand) if subject.resolution.passed else _NOBODY


def _unless_all_start(
    subject: Subject, wanted: Demand, others: dict[int, tuple[str, Wish]]
) -> dict[int, tuple[str, Wish]]:
    """Those with which this VM cannot meet at boot, of which a rule of its own tells."""
    if not wanted.starts(subject.vmid):
        return others
    return {vmid: what for vmid, what in others.items() if not wanted.starts(vmid)}


def _rivals(subject: Subject, wanted: Demand) -> list[tuple[Passed, dict[int, tuple[str, Wish]]]]:
    """For each device that this VM surely takes the other VMs that surely take it too."""
    found = []
    for device in subject.resolution.passed:
        if not device.mdev and len(device.alternatives) == 1:
            others = wanted.others(subject.vmid, device.addresses)
            if others:
                found.append((device, others))
    return found


def _splits(subject: Subject, wanted: Demand) -> list[tuple[Passed, dict[int, tuple[str, Wish]]]]:
    """For each device the other VMs that take another device of its IOMMU group, and none of its own functions."""
    mine = {address for device in subject.resolution.passed for address in device.addresses}
    told: set[int] = set()
    found = []
    for device in subject.resolution.passed:
        if not device.bound_to_vfio or len(device.alternatives) > 1:
            continue
        mates = dict.fromkeys(
            mate
            for address in device.addresses
            for mate in subject.inventory.group_members(address)
            if mate not in mine and not subject.inventory.has(mate, "pci_bus")
        )
        rivals = wanted.others(subject.vmid, tuple(mine)) | wanted.other_mdevs(subject.vmid, tuple(mine))
        addresses = tuple(mates)
        others = wanted.others(subject.vmid, addresses) | wanted.other_mdevs(subject.vmid, addresses)
        new = {vmid: what for vmid, what in sorted(others.items()) if vmid not in rivals and vmid not in told}
        told.update(new)
        if new:
            found.append((device, new))
    return found


def _whole(others: dict[int, tuple[str, Wish]]) -> dict[int, tuple[str, Wish]]:
    return {vmid: what for vmid, what in others.items() if what[1].whole}


def _having(subject: Subject, wanted: Demand, others: dict[int, tuple[str, Wish]]) -> dict[int, tuple[str, Wish]]:
    """Those of the VMs that run now or start by themselves."""
    return {
        vmid: what for vmid, what in others.items() if wanted.starts(vmid) or subject.around.running(vmid) is not None
    }


def _shortages(subject: Subject, cause: str) -> list[Shortage]:
    wanted = _demand(subject)
    if not wanted.starts(subject.vmid):
        return []
    lacks = subject.around.once(shortages).get(subject.vmid, ())
    return [lack for lack in lacks if lack.cause == cause]


def _takers(lack: Shortage) -> str:
    verb = "has" if len(lack.takers) == 1 else "have"
    return f"VM {listed(lack.takers)}, which {'starts' if verb == 'has' else 'start'} before, {verb} all"


def _who(others: dict[int, tuple[str, Wish]]) -> str:
    """Words for other VMs, each with its entry: `0000:02:00.0 is passed to VM 200 (hostpci0)`."""
    words: list[str] = []
    for address, some in _by_address(others):
        first, *more = (f"VM {vmid} ({wish.key})" for vmid, (_, wish) in some.items())
        words += [f"{address} {'to' if words else 'is passed to'} {first}", *more]
    return listed(words)


def _by_address(others: dict[int, tuple[str, Wish]]) -> list[tuple[str, dict[int, tuple[str, Wish]]]]:
    """Other VMs by the function that they want, which may be another one for each."""
    found: dict[str, dict[int, tuple[str, Wish]]] = {}
    for vmid, (address, wish) in others.items():
        found.setdefault(address, {})[vmid] = (address, wish)
    return list(found.items())


def _whom(others: dict[int, tuple[str, Wish]]) -> str:
    """Other VMs, each with its entry: `VM 200 (hostpci0), VM 201 (hostpci1)`."""
    return listed(f"VM {vmid} ({wish.key})" for vmid, (_, wish) in others.items())


def _split_hit(subject: Subject, device: Passed, others: dict[int, tuple[str, Wish]], why: str) -> Hit:
    group = subject.inventory.group(device.addresses[0])
    words = listed(f"{address} to VM {vmid} ({wish.key})" for vmid, (address, wish) in others.items())
    message = f"IOMMU group {group} of {device.addresses[0]} is split over VMs, {words}, {why}"
    return _hit(subject, device, message, "pass the whole group to one VM, or move one of the devices to another slot")


def _boot_hit(subject: Subject, lack: Shortage, message: str, hint: str) -> Hit:
    return Hit(subject.at(lack.wish.key, subject.section.line(lack.wish.key)), message, hint)


def _hit(subject: Subject, device: Passed, message: str, hint: str) -> Hit:
    return Hit(subject.at(device.entry.key, device.entry.line), message, hint)
