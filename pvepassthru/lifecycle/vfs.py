# SPDX-License-Identifier: Apache-2.0
"""Virtual functions that a VM needs and that are missing, made at pre-start where the policy allows it (`in_hook`).

They are the PF's state, not a step of the journal: sriov_numvfs=0 would take other VMs' VFs away. So a stop leaves
them, and what a hook that was killed left half made the next one, or `pvepassthru sriov apply`, completes.
"""

from __future__ import annotations

from pvepassthru.host import sriov, state
from pvepassthru.model.errors import DeviceError
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import counted, listed
from pvepassthru.rules import vfs

if TYPE_CHECKING:
    from pvepassthru.lifecycle.work import Work
    from pvepassthru.model.policy import Policies, SriovPolicy
    from pvepassthru.rules.subject import Subject


def create_missing(work: Work, subject: Subject, policies: Policies) -> bool:
    """Make the VFs that this VM names and that are not there; returns whether any were made: look at it all anew then.

    Also completes VFs of its PFs that were made and not set up. Raises DeviceError when the PF has another number of
    VFs, the driver refuses, or a VF cannot be set up as the policy says; BusyError when that takes too long.
    """
    missing = vfs.missing(subject)
    unfinished = {name for name in work.host.names(state.FOLDER) if name.endswith(state.UNFINISHED)}
    if not missing and not unfinished:
        return False
    mine = {address for device in subject.resolution.passed for address in device.addresses}
    parents = {parent for address in mine if (parent := subject.inventory.physical_function(address))}
    made = False
    for wanted in policies.sriov(subject.inventory):
        lacks = _lacking(work, wanted, missing)
        half = wanted.address in parents and wanted.address + state.UNFINISHED in unfinished
        if lacks and wanted.in_hook:
            made = _make(work, wanted, lacks) or made
        elif half and wanted.in_hook:
            _make(work, wanted, ())
        elif lacks:
            gives = f"the policy gives {wanted.address} {counted(wanted.vfs, 'VF')}, {listed(lacks)} among them"
            work.voice.warn(
                f"{gives}, but not in a hook; pvepassthru sriov apply makes them, and in_hook: true lets a start do it"
            )
        elif half:
            work.voice.warn(f"the VFs of {wanted.address} are not all set up; see pvepassthru sriov apply")
    return made


def _lacking(work: Work, wanted: SriovPolicy, missing: set[str]) -> tuple[str, ...]:
    """Which of the missing functions are VFs that this PF would have by its policy, in order."""
    if not missing:
        return ()
    found = vfs.lacking(work.host, wanted, missing)
    if found is None:
        work.voice.warn(f"nobody can tell which VFs {wanted.address} would have: its sriov_offset says 0")
    return found or ()


def _make(work: Work, wanted: SriovPolicy, lacks: tuple[str, ...]) -> bool:
    """Make a PF what its policy says, if it has no VFs yet; returns True. Raises as `create_missing`."""
    from pvepassthru.host import numvfs, vf_settings  # noqa: PLC0415 - few starts make VFs

    host = work.host
    said: list[str] = []
    warnings: list[str] = []
    with numvfs.take_lock(host, wanted.address, work.deadline) as lock:
        there = {vf.address for vf in sriov.functions(host, wanted.address)}
        gone = [vf for vf in lacks if vf not in there]  # another hook may have made them while this one waited
        if gone and there:
            raise DeviceError(
                f"cannot make {listed(gone)}: {wanted.address} has {counted(len(there), 'VF')}, the policy says "
                f"{wanted.vfs}, and a start never changes a number of VFs that is not 0",
                f"when nobody uses them: pvepassthru sriov set {wanted.address} {wanted.vfs}",
            )
        try:
            vf_settings.under_lock(host, wanted, lock, work.deadline, said, warnings, work.vmid)
        finally:
            for sentence in said:
                work.voice.say(sentence)
            for sentence in warnings:
                work.voice.warn(sentence)
    return bool(lacks)
