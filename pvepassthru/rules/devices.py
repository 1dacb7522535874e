# SPDX-License-Identifier: Apache-2.0
"""Rules on devices, PVP2xx."""

from __future__ import annotations

import errno
import os

from pvepassthru.model.hostpci import ROMS
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, shown
from pvepassthru.rules.subject import Hit, chosen, group_mates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.host import Host
    from pvepassthru.rules.subject import Subject, Surroundings


def not_found(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the PCI devices that hostpci entries name are there.

    `01:00` is every function of a slot, `01:00.1` one; without a domain 0000 is meant.

    Why it matters: PVE refuses to start the VM.

    How to fix: `lspci -D` lists the devices. A card that was added or removed can move others to new addresses; a
    mapping tells when that has happened. VFs that the policy has are made by `pvepassthru sriov apply`; those that the
    start itself makes (`in_hook: true`) do not count as missing.
    """
    return not_there(subject, "device-not-found")


def not_there(subject: Subject, code: str) -> Iterator[Hit]:
    """The problems of a code that say of a device that it is not there, without the VFs that the start itself makes."""
    if not any(problem.code == code for problem in subject.resolution.problems):
        return iter(())
    from pvepassthru.rules import vfs  # noqa: PLC0415 - a start whose devices are all there does not pay for it

    return vfs.judged(subject, code)


def assigned_twice(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a function is passed twice to the same VM.

    `01:00` holds `01:00.1` already.

    Why it matters: PVE refuses to start the VM.

    How to fix: remove one of the two.
    """
    return subject.problems("device-assigned-twice")


def none_free(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a mapping has as many devices on this node as the VM's entries take of it.

    Why it matters: PVE takes the first free device of each in turn, and refuses to start the VM when none is left.

    How to fix: add devices of this node to the mapping, or remove an entry.
    """
    return subject.problems("no-free-device")


def info_unreadable(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device's irq, vendor and device in sysfs have the form that PVE reads.

    Why it matters: PVE refuses to start the VM. A device that fell off its bus looks like this.

    How to fix: see the kernel log; remove and rescan the device, or reboot.
    """
    return subject.problems("device-info-unreadable")


def no_group(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device to be bound to vfio-pci is in an IOMMU group.

    Why it matters: PVE refuses to start the VM.

    How to fix: enable the IOMMU for it in the firmware; some devices stand behind no IOMMU at all.
    """
    return subject.problems("device-without-iommu-group")


def mdev_unsupported(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device whose entry has `mdev=` has mediated device types.

    Why it matters: PVE cannot create the mediated device, and the start fails.

    How to fix: load the driver that provides the types (NVIDIA's vGPU host driver, or i915 with `i915.enable_gvt=1` and
    kvmgt), or name the device that has them: where a GPU's virtual functions do, one of these.
    """
    for hit in subject.problems("mdev-unsupported"):
        vfs = [
            vf
            for device in subject.resolution.passed
            if hit.where == subject.at(device.entry.key, device.entry.line)
            for parent in device.addresses
            for vf in subject.inventory.virtual_functions(parent)
            if subject.inventory.has(vf, "mdev_supported_types") or subject.inventory.has(vf, "nvidia")
        ]
        yield hit._replace(hint=f"name one of its virtual functions: {listed(vfs, 4)}") if vfs else hit


def mdev_type_unknown(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the type of `mdev=` is one that the device has.

    Why it matters: PVE cannot create the mediated device, and the start fails.

    How to fix: choose a type that the hint lists; `pvepassthru mdev types` shows all with their room.
    """
    return subject.problems("mdev-type-unknown")


def mdev_no_instance(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether an instance is left of the mdev type, for every entry of the VM that wants one.

    An instance that the VM has already counts as its own. What the driver says is advice: only the create tells.

    Why it matters: PVE cannot create the mediated device, and the start fails.

    How to fix: stop a VM that uses one (the message names them), choose a smaller type, or use a mapping with more
    devices. A VM that does not run may be starting; else `pvepassthru recover` gives back what its last start left. An
    instance that no VM owns was made by hand: `pvepassthru mdev remove UUID`.
    """
    return subject.problems("mdev-no-instance")


def mdev_uuid_taken(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the UUID of this VM's mediated device is there with another type or device.

    PVE makes the UUID from the VMID and the entry's number. What a VM has that runs is fine: PVE removes it when the VM
    stops.

    Why it matters: PVE cannot create the mediated device, and the start fails. As a rule it is left of an
    earlier start.

    How to fix: `pvepassthru recover VMID` when this tool made it; else remove it as the hint says, with the VM
    stopped.
    """
    return subject.problems("mdev-uuid-taken")


def vgpu_no_sysfs(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a function whose entry has `mdev=nvidia-N` can have a vGPU type.

    The physical function has an `nvidia` folder too, but no types.

    Why it matters: PVE cannot set the type, and the start fails.

    How to fix: name a virtual function; enable them with NVIDIA's sriov-manage.
    """
    return subject.problems("nvidia-no-sysfs")


def vgpu_type_not_on_offer(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a virtual function offers the vGPU type of `mdev=nvidia-N` now.

    What is on offer shrinks with what the GPU's other virtual functions use.

    Why it matters: PVE cannot set the type, and the start fails.

    How to fix: choose a type on offer, or stop a VM that uses the GPU.
    """
    return subject.problems("vgpu-type-not-available")


def vgpu_no_alternative(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether any device of a mapping offers the vGPU type of `mdev=nvidia-N` now, for each entry.

    Why it matters: PVE finds no free device, and the start fails.

    How to fix: choose a type on offer, stop a VM that uses the GPU, or add devices to the mapping.
    """
    return subject.problems("vgpu-no-alternative")


def vgpu_other_type(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a virtual function has another vGPU type set than the entry wants.

    Why it matters: it is left of an earlier start. PVE resets it to 0 first, which fails while something uses it.

    How to fix: nothing, if no VM uses it; else stop that VM.
    """
    for device, functions in chosen(subject):
        if not device.nvidia or len(device.alternatives) > 1:
            continue
        current = subject.inventory.vgpu_current(functions[0])
        if current not in {None, "0", device.nvidia}:
            message = f"{functions[0]} has vGPU type {current} set, not {device.nvidia}: PVE resets it first"
            yield Hit(subject.at(device.entry.key, device.entry.line), message, "see that no other VM uses it")


def mdev_kept_driver(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether an entry has both `mdev=` and `driver=keep`.

    Why it matters: with `driver=keep` PVE itself creates no mediated device. This tool's hook creates it; without the
    hook QEMU does not find it, and the start fails.

    How to fix: nothing, while the VM has the hookscript; else remove `driver=keep`, or set the hookscript.
    """
    for device in subject.resolution.passed:
        if device.mdev and device.entry.keeps_driver:
            message = (
                f"with driver=keep PVE itself creates no mediated device {shown(device.mdev)}: the hook does; without "
                "the hook the start fails"
            )
            yield Hit(subject.at(device.entry.key, device.entry.line), message, "see that the VM has the hookscript")


def mdev_parent_passed(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a device is passed whole on which the same VM wants a mediated device.

    Why it matters: PVE binds the device to vfio-pci, and the mediated devices on it go with its driver.

    How to fix: remove one of the two entries.
    """
    parents = {address: device for device in subject.resolution.passed if device.mdev for address in device.addresses}
    for device in subject.resolution.passed:
        shared = [address for address in device.addresses if address in parents] if device.bound_to_vfio else []
        if shared:
            message = f"{shared[0]} is passed whole, and {parents[shared[0]].entry.key} wants an mdev on it"
            yield Hit(subject.at(device.entry.key, device.entry.line), message, "remove one of the two entries")


# ---- ROM files


def in_quarantine(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a function that the VM gets, or that PVE binds with it, fell off the bus after a stop.

    The hook has put it in quarantine then, in /run/pvepassthru. One that answers again passes.

    Why it matters: the VM does not start, or gets a dead device; some drivers, and some hosts, crash on one.

    How to fix: remove and rescan it (the hint has the commands), then `pvepassthru release ADDRESS`; as a rule only
    powering the host off helps.
    """
    noted = subject.around.quarantined
    for device, functions in chosen(subject) if noted else ():
        mates = group_mates(subject, functions) if device.bound_to_vfio else []
        for address in sorted(noted.intersection((*functions, *mates))):
            from pvepassthru.host import quarantine  # noqa: PLC0415 - hosts without such a function do not pay for it

            found = quarantine.standing(subject.host, address)
            if found:
                message = f"{found.why}; it has been in quarantine since VM {found.vmid} stopped"
                where = subject.at(device.entry.key, device.entry.line)
                yield Hit(where, message, quarantine.way_out(address))


def rom_outside(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a romfile lies in /usr/share/kvm, with all links followed.

    Why it matters: QEMU runs as root and shows the guest what it reads; a link or `../` would give it any file of the
    host.

    How to fix: copy the ROM to /usr/share/kvm and give its plain name.
    """
    return _roms(subject, "outside", f"copy the ROM to {ROMS} and give its name alone")


def rom_absent(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a romfile is there. The name is relative to /usr/share/kvm.

    Why it matters: PVE does not check it, and QEMU fails to start.

    How to fix: copy the ROM to /usr/share/kvm, on each node that the VM may run on.
    """
    return _roms(subject, "absent", f"copy the ROM to {ROMS}, or remove romfile=")


def rom_unreadable(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a romfile is a file that can be read.

    Why it matters: QEMU fails to start.

    How to fix: see what it is; a folder or a broken disk is no ROM.
    """
    return _roms(subject, "unreadable", "put a readable file there, or remove romfile=")


def rom_empty(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a romfile holds anything.

    Why it matters: QEMU refuses an empty one. Reading a ROM from sysfs without enabling it first gives such a file.

    How to fix: dump the ROM again, or remove romfile=.
    """
    return _roms(subject, "empty", "dump the ROM again, or remove romfile=")


def _roms(subject: Subject, state: str, hint: str) -> Iterator[Hit]:
    if subject.config.template:
        return
    for _, entry in sorted(subject.section.entries.items()):
        if entry.romfile is not None:
            is_in, why = rom_state(subject.around, entry.romfile)
            if is_in == state:
                yield Hit(subject.at(entry.key, entry.line), f"romfile {shown(entry.romfile)} {why}", hint)


def rom_state(around: Surroundings, name: str) -> tuple[str, str]:
    """As `_rom`; each file is looked at once."""
    if name not in around.roms:
        around.roms[name] = _rom(around.host, name)
    return around.roms[name]


def _rom(host: Host, name: str) -> tuple[str, str]:
    """The state of a ROM file (fine, outside, absent, unreadable, empty or unknown), and why in words."""
    path = f"{ROMS}/{name}"
    if "\0" in path:
        return "absent", "cannot be a file's name: it has a NUL byte"
    top = host.resolve(ROMS) or ROMS
    real = host.resolve(path)
    if real is not None and real != top and not real.startswith(f"{top}/"):
        return "outside", f"leads out of {ROMS}, to {shown(real)}"
    empty = True
    try:
        host.read(path, 0)
    except OSError as error:
        if error.errno != errno.EFBIG:  # more than nothing
            return _unread_rom(host, path, error)
        empty = False
    if real is None:
        return "outside", f"leads out of {ROMS}"
    return ("empty", f"in {ROMS} is empty") if empty else ("fine", "")


def _unread_rom(host: Host, path: str, error: OSError) -> tuple[str, str]:
    """The state of a ROM file that could not be read, in words."""
    plain = os.path.normpath(path)
    if not plain.startswith(f"{ROMS}/") and plain != ROMS:
        return "outside", f"leads out of {ROMS}, to {shown(plain)}"
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return ("unknown", "") if host.partial else ("absent", f"is not in {ROMS}")
    return "unreadable", f"cannot be read: {error.strerror}"
