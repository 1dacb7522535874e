# SPDX-License-Identifier: Apache-2.0
"""Virtual functions that a VM names, that are not there, and that the policy has.

Its start makes them where the policy says `in_hook: true` (lifecycle/vfs.py): until then nobody may call them missing.
"""

from __future__ import annotations

from pvepassthru.host import numvfs, sriov
from pvepassthru.model import pci
from pvepassthru.model.errors import PassthruError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from pvepassthru.host.host import Host
    from pvepassthru.host.inventory import Inventory
    from pvepassthru.model.policy import SriovPolicy
    from pvepassthru.model.problem import Problem
    from pvepassthru.rules.subject import Hit, Subject, Surroundings


class Promise(NamedTuple):
    """A PF that has VFs of these addresses as soon as it is what its policy says."""

    wanted: SriovPolicy
    functions: tuple[str, ...]
    """The missing ones, in order."""
    why_not: str | None
    """Why no start makes them; None: one does."""

    @property
    def gives(self) -> str:
        """What the policy says of the PF."""
        return f"the policy gives {self.wanted.address} {counted(self.wanted.vfs, 'VF')}"

    def hint(self, subject: Subject | None = None) -> str | None:
        """What to do for them where no start, or not that of this VM, makes them; None if it does."""
        why = self.why_not
        if why is None and subject and not subject.section.get("hookscript"):
            why = "but only the hook makes them, and the VM has no hookscript; pvepassthru sriov apply makes them, too"
        return None if why is None else f"{self.gives}, this one among them, {why}"


def missing(subject: Subject) -> set[str]:
    """The addresses and slots that the VM's entries name, in its config or by mapping, and that are not there."""
    named: set[str] = set()
    for entry in subject.section.entries.values():
        if entry.host:
            named.update(map(pci.with_domain, entry.host.split(";")))
        mapping = subject.mappings.by_name.get(entry.mapping) if entry.mapping else None
        for alternative in mapping.on(subject.node) if mapping else ():
            named.update(alternative.paths)
    return absent(subject.inventory, named)


def absent(inventory: Inventory, named: Iterable[str]) -> set[str]:
    """Which of these addresses and slots have no function."""
    return {name for name in named if not any(one.startswith(name) for one in inventory.in_slot(pci.slot(name)))}


def lacking(host: Host, wanted: SriovPolicy, names: Collection[str]) -> tuple[str, ...] | None:
    """Which of the missing functions are VFs that this PF would have by its policy, in order.

    None if nobody can tell: the card does not say its sriov_offset before it has VFs.
    """
    found = sriov.expected(host, wanted.address, wanted.vfs)
    return None if found is None else tuple(vf for vf in found if any(vf.startswith(name) for name in names))


def promises(around: Surroundings, names: Iterable[str]) -> tuple[Promise, ...]:
    """The PFs that would have these addresses by the policy; none with a policy that cannot be used."""
    try:
        policies = around.policies
    except PassthruError:  # told by hosts.policy_unusable
        return ()
    if not policies.document.get("sriov"):
        return ()
    gone = absent(around.inventory, names)
    found = []
    for wanted in policies.sriov(around.inventory) if gone else ():
        functions = lacking(around.host, wanted, gone)
        if functions:
            found.append(Promise(wanted, functions, _why_not(around.host, wanted)))
    return tuple(found)


def _why_not(host: Host, wanted: SriovPolicy) -> str | None:
    """Why a start does not make a PF's VFs (lifecycle/vfs.py), in words behind a comma; None if it does."""
    if not wanted.in_hook:
        return "but not in a hook; pvepassthru sriov apply makes them, and in_hook: true lets the start do it"
    present = sriov.functions(host, wanted.address)
    if present:
        return (
            f"but it has {counted(len(present), 'VF')}, and a start never changes a number of VFs that is not 0; when "
            f"nobody uses them: pvepassthru sriov set {wanted.address} {wanted.vfs}"
        )
    try:
        numvfs.look(host, numvfs.Wish(wanted.address, wanted.vfs, wanted.autoprobe, wanted.manage))
    except PassthruError as error:
        return f"but the start could not make them: {error}"
    return None


def made_at_start(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the VM names virtual functions that are not there and that its start makes.

    The policy has them (`sriov`, with `in_hook: true`), and their physical function has none now.

    Why it matters: only the hook makes them. Where the VM's hookscript is another one PVE refuses to start it.

    How to fix: nothing, if it is this tool's; `pvepassthru sriov apply` makes them before.
    """
    codes = {"device-not-found", "mapping-device-not-found"}
    for problem in subject.resolution.problems:
        promise = of_problem(subject.around, problem) if problem.code in codes else None
        if promise and promise.hint(subject) is None:
            message = f"{problem.device} is not there yet: {promise.gives}, and the start makes them"
            yield subject.hit(problem)._replace(message=message, hint="see that its hookscript is pvepassthru's")


def judged(subject: Subject, code: str) -> Iterator[Hit]:
    """The problems of a code that say of a device that it is not there, without what the start itself makes."""
    for problem in subject.resolution.problems:
        if problem.code == code and not (subject.section.get("hookscript") and untold(subject.around, problem)):
            promise = of_problem(subject.around, problem)
            hint = promise.hint(subject) if promise else problem.hint
            if hint is not None:
                yield subject.hit(problem)._replace(hint=hint)


def untold(around: Surroundings, problem: Problem) -> bool:
    """Whether nobody can tell if the hook makes what a problem misses: the policy is not here, and it may be a VF.

    That is where a function without VFs stands before it on its bus.
    """
    if not around.host.partial or problem.device is None:
        return False
    bus = problem.device.rpartition(":")[0]
    return any(
        address.rpartition(":")[0] == bus
        and address < problem.device
        and not around.inventory.is_bridge(address)
        and not around.inventory.physical_function(address)
        and not around.inventory.virtual_functions(address)
        for address in around.inventory.addresses()
    )


def of_problem(around: Surroundings, problem: Problem) -> Promise | None:
    """The PF that would have the device that a problem misses, or None."""
    return next(iter(promises(around, [problem.device])), None) if problem.device else None
