# SPDX-License-Identifier: Apache-2.0
"""Rules on SR-IOV: what makes the virtual functions at boot, PVP156 to PVP161, PVP174 and PVP175."""

from __future__ import annotations

from pvepassthru.host import boot as boots
from pvepassthru.host import persistence
from pvepassthru.model import sysfs_conf
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import counted, listed, number, shown
from pvepassthru.rules import sources
from pvepassthru.rules.rule import NotApplicable, Unknown
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.persistence import Maker
    from pvepassthru.model.policy import SriovPolicy
    from pvepassthru.rules.subject import Surroundings

NVIDIA = "10de"
UNIT = "pvepassthru-sriov.service"


def makers(around: Surroundings) -> tuple[Maker, ...]:
    """All that makes VFs at boot, but our own unit."""
    return persistence.makers(around.host, around.inventory, around.once(sources.modules))


def wanted(around: Surroundings) -> dict[str, SriovPolicy]:
    """What the policy says of each PF, nothing if it cannot be used, of which another rule tells."""
    try:
        return {wanted.address: wanted for wanted in around.policies.sriov(around.inventory)}
    except PassthruError:
        return {}


def by_unit(around: Surroundings) -> bool:
    """Whether our unit, which makes what the policy says, is enabled."""
    host = around.host
    folders = (folder for folder in host.names(persistence.UNITS) if folder.endswith((".wants", ".requires")))
    return any(UNIT in host.names(f"{persistence.UNITS}/{folder}") for folder in folders)


def _pfs(around: Surroundings) -> dict[str, tuple[int, int | None]]:
    """Each PF with the number of its VFs and the most it can have. Raises NotApplicable without one."""
    found = {}
    for address in around.inventory.addresses():
        present = number(around.inventory.attribute(address, "sriov_numvfs"))
        if present is not None:
            found[address] = (present, number(around.inventory.attribute(address, "sriov_totalvfs")))
    if not found:
        raise NotApplicable("no device of this host does SR-IOV")
    return found


def _need_sources(around: Surroundings) -> None:
    if not persistence.is_readable(around.host):
        raise Unknown(f"there is no {persistence.UNITS}")


def _counted(around: Surroundings, address: str) -> dict[int, str]:
    """How many VFs a PF is to get at boot, each number with the first place that says so.

    A 0 does not count: it is written to make room for another number, or when a service is stopped.
    """
    counts: dict[int, str] = {}
    for maker in around.once(makers):
        if maker.address == address and maker.vfs is not None:
            counts.setdefault(maker.vfs, maker.where)
    return {count: where for count, where in counts.items() if count}


def not_persistent(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether something makes the virtual functions anew at boot, where a device has some.

    Looked for are /etc/sysfs.conf and sysfs.d, max_vfs in modprobe.d, udev rules, systemd units and what they start,
    .link files, tmpfiles.d, ifupdown, cron, and PVE's pve-nvidia-sriov@.

    Why it matters: VFs are gone after a reboot, and VMs that use them do not start.

    How to fix: `sriov` in the policy, which the package's pvepassthru-sriov.service makes so at boot; or a systemd unit
    of your own that writes sriov_numvfs before pve-guests.service and pve-ha-lrm.service; or sysfsutils with a line in
    /etc/sysfs.d. For NVIDIA: `systemctl enable pve-nvidia-sriov@ALL.service`.
    """
    pfs = _pfs(around)
    _need_sources(around)
    for address, (present, _) in pfs.items():
        if address in around.once(wanted):
            continue  # PVP174 tells whether the policy is made so at boot
        if present and not any(maker.address in {address, None} for maker in around.once(makers)):
            nvidia = sources.ids(around, address)[0] == NVIDIA
            line = f"bus/pci/devices/{address}/sriov_numvfs = {present}"
            hint = (
                "systemctl enable pve-nvidia-sriov@ALL.service"
                if nvidia
                else f"apt install sysfsutils; echo '{line}' >> {persistence.SYSFS_FOLDER}/pvepassthru.conf"
            )
            has = f"{sources.named(around, address)} has {counted(present, 'VF')}"
            message = f"{has}, and nothing makes them anew after a reboot"
            yield Hit(persistence.pf_path(address), message, hint)


def two_makers(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether only one number of virtual functions is set up for a device at boot.

    Why it matters: which one wins depends on the order of the boot, and a number cannot be changed for another without
    destroying all VFs first.

    How to fix: remove all but one.
    """
    pfs = _pfs(around)
    _need_sources(around)
    for address in pfs:
        counts = _counted(around, address)
        if len(counts) > 1:
            words = listed([f"{count} by {where}" for count, where in sorted(counts.items())])
            yield Hit(
                persistence.pf_path(address),
                f"{address} is to get different numbers of VFs: {words}",
                "leave one of them",
            )


def other_number(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a device has as many virtual functions as are set up for it.

    Why it matters: VMs that name a missing VF do not start. As a rule the driver refused the number, or came too late.

    How to fix: see the kernel log; ENOMEM there means that the firmware gave the device no room (enable SR-IOV and
    "Above 4G decoding"). A change of the number needs a 0 first, with no VF in use.
    """
    pfs = _pfs(around)
    _need_sources(around)
    for address, (present, total) in pfs.items():
        counts = _counted(around, address)
        if len(counts) == 1 and (total is None or next(iter(counts)) <= total):
            (count, where), *_ = counts.items()
            if count != present:
                message = f"{sources.named(around, address)} has {counted(present, 'VF')}, and {where} sets up {count}"
                yield Hit(persistence.pf_path(address), message, "see the kernel log for what the driver said at boot")


def no_max_vfs(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a driver that is given max_vfs= has this parameter.

    Why it matters: the kernel passes over it, and there are no VFs after the boot. Newer drivers know only
    sriov_numvfs.

    How to fix: set sriov_numvfs by the policy (`sriov`), a systemd unit or sysfsutils, and remove max_vfs= from
    modprobe.d.
    """
    modules = around.once(sources.modules)
    given = {line.module: line for line in modules.of("options") if any(name == "max_vfs" for name, _ in line.settings)}
    if not given:
        raise NotApplicable("no driver is given max_vfs=")
    known = {name: modules.knows(name, "max_vfs") for name in given}
    if set(known.values()) == {None}:
        raise Unknown("the modules' files are compressed or absent")
    for name, line in sorted(given.items()):
        if known[name] is False:
            message = f"the driver {name} of kernel {modules.release} has no parameter max_vfs"
            yield Hit(line.where, message, "set sriov_numvfs at boot in its place, by sysfsutils or a systemd unit")


def too_many(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a device can have as many virtual functions as are set up for it (sriov_totalvfs).

    Why it matters: the kernel refuses the whole number, and there is no VF at all.

    How to fix: write at most what sriov_totalvfs says; some cards can be told to offer more by their firmware's tool.
    """
    pfs = _pfs(around)
    _need_sources(around)
    for address, (_, total) in pfs.items():
        counts = _counted(around, address)
        for count, where in sorted(counts.items()) if total is not None and len(counts) == 1 else ():
            if total is not None and count > total:
                message = (
                    f"{where} sets up {counted(count, 'VF')}, but {sources.named(around, address)} can have {total}"
                )
                yield Hit(where, message, f"write {total} or less")


def sysfs_conf_line(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether sysfsutils is there and understands the lines on SR-IOV in /etc/sysfs.conf and sysfs.d.

    Why it matters: what it does not understand it passes over, and the VFs are missing after the boot.

    How to fix: write `bus/pci/devices/0000:01:00.0/sriov_numvfs = 4`, without /sys before it; `apt install sysfsutils`.
    """
    files = persistence.sysfs_files(around.host)
    lines = [
        (path, line)
        for path in files
        for line in sysfs_conf.parse(boots.whole(around.host, path) or "")
        if "sriov" in line.attribute
    ]
    if not lines:
        raise NotApplicable("sysfsutils is told nothing of SR-IOV")
    info = "/var/lib/dpkg/info"
    if around.host.names(info) and not around.host.exists(f"{info}/sysfsutils.list"):
        yield Hit(
            lines[0][0], "nothing reads this file: the package sysfsutils is not installed", "apt install sysfsutils"
        )
    for path, line in lines:
        where = f"{path}:{line.number}"
        if line.value is None or number(line.value) is None:
            message = f"{shown(line.attribute)} is given no number"
            yield Hit(where, message, "write: bus/pci/devices/ADDRESS/sriov_numvfs = NUMBER")
        elif line.attribute.lstrip("/").startswith("sys/"):
            message = f"{shown(line.attribute)} is taken below /sys, so it is not there"
            yield Hit(where, message, f"write: {line.attribute.lstrip('/').removeprefix('sys/')} = {line.value}")


def policy_not_at_boot(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether something makes at boot the virtual functions that the policy wants.

    That is the unit pvepassthru-sriov.service, the start itself (`in_hook: true`), or any of what PVP156 looks for.

    Why it matters: VFs are gone after a reboot, and VMs that use them do not start.

    How to fix: `apt install ./pvepassthru_VERSION_all.deb`, which enables the unit; where the package is installed:
    `systemctl enable pvepassthru-sriov.service`; or, without our unit, `pvepassthru sriov files --write`.
    """
    found = around.once(wanted)
    if not found:
        raise NotApplicable("the policy says nothing of VFs of a PF that is there")
    _need_sources(around)
    if by_unit(around):
        return
    for address, policy in found.items():
        others = any(maker.address in {address, None} for maker in around.once(makers))
        if policy.vfs and not policy.in_hook and not others:
            gives = f"the policy gives {sources.named(around, address)} {counted(policy.vfs, 'VF')}"
            message = f"{gives}, and nothing makes them at boot"
            yield Hit(persistence.pf_path(address), message, f"systemctl enable {UNIT}")


def other_than_policy(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a device has, and gets at boot, as many virtual functions as the policy says.

    One whose VFs are made by the start of a VM (`in_hook: true`) may also have none.

    Why it matters: VMs that name a missing VF do not start, and the next `pvepassthru sriov apply` changes the number.

    How to fix: `pvepassthru sriov apply`, which says what is in the way; and leave one number in all places.
    """
    found = around.once(wanted)
    if not found:
        raise NotApplicable("the policy says nothing of VFs of a PF that is there")
    pfs = _pfs(around)
    for address, policy in found.items():
        present = pfs.get(address, (0, None))[0]
        words = [f"has {present}"] if present != policy.vfs and not (policy.in_hook and present == 0) else []
        others = {count: where for count, where in _counted(around, address).items() if count != policy.vfs}
        words += [f"gets {count} at boot by {where}" for count, where in sorted(others.items())]
        if words:
            message = (
                f"the policy gives {sources.named(around, address)} {counted(policy.vfs, 'VF')}, and it {listed(words)}"
            )
            yield Hit(persistence.pf_path(address), message, "pvepassthru sriov apply; leave one number in all places")
