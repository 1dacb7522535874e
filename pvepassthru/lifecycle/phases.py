# SPDX-License-Identifier: Apache-2.0
"""The four hook phases of a VM. Whoever calls one holds the VM's lock (lifecycle/hook.py, cli/plan.py)."""

from __future__ import annotations

from pvepassthru.host import policy, state, vms
from pvepassthru.host.deadline import Deadline, pause
from pvepassthru.lifecycle import mdev, reserve, vgpu
from pvepassthru.lifecycle.undo import describe, tell_damage, undo_all
from pvepassthru.lifecycle.work import Want
from pvepassthru.model import pci
from pvepassthru.model.errors import DeviceError, EndedError, UsageError
from pvepassthru.model.mapping import NODE_NAME
from pvepassthru.model.policy import HOST_SAVING, Policies
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.rules import gate as gates
from pvepassthru.rules import subject as subjects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pvepassthru.lifecycle.handover import Handover
    from pvepassthru.lifecycle.journal import Step
    from pvepassthru.lifecycle.undo import Kept
    from pvepassthru.lifecycle.work import Work
    from pvepassthru.model.finding import Finding
    from pvepassthru.rules.subject import Subject

BUDGET = {"pre-start": 60.0, "post-start": 10.0, "pre-stop": 10.0, "post-stop": 30.0}
"""Seconds that a phase may take: PVE's `qm cleanup` waits 60 s for the VM's lock, and a start waits for pre-start, to
which the owner's policy may give more."""
UNDO_BUDGET = 20.0
"""Seconds that a failing pre-start may take to undo itself."""
PATIENCE = 10.0
"""Seconds that post-stop waits for a QEMU that is still going: PVE runs it 1 s after a SIGKILL."""


def _nothing() -> None:
    """Do nothing."""


class Start(NamedTuple):
    """How a pre-start is run."""

    environment: Mapping[str, str]
    pending: bool = False
    """Whether to take pending changes as applied. PVE applies them before pre-start, so only a dry run needs it."""
    finish: Callable[[], object] = _nothing
    """Called when all is done, or is to be undone: from then on no signal may end the phase half way."""


def pre_start(work: Work, start: Start) -> None:
    """Check the VM and prepare its devices; on any failure everything is as before, and the error is raised."""
    pid = vms.running_pid(work.host, work.vmid)
    if pid is not None:
        raise DeviceError(
            f"cannot prepare VM {work.vmid}: it is running as process {pid}",
            "pre-start is for a VM that is not running",
        )
    try:
        taken = _prepare(work, start)
        start.finish()
    except BaseException:
        try:
            start.finish()
        except EndedError:  # by a signal that came just now, and was the last one to be heeded
            pass
        for kept in undo_all(work._replace(deadline=Deadline(UNDO_BUDGET), patience=0)):
            work.voice.warn(_kept_sentence(work, kept))
        raise
    if taken is not None:
        from pvepassthru.lifecycle import handover  # noqa: PLC0415 - loaded already

        handover.complete(work, taken)


def post_start(work: Work) -> None:
    """Note in the journal that the VM runs."""
    if work.journal.exists:
        work.journal.note_running()


def pre_stop(work: Work) -> None:
    """Say that the VM is about to stop; its devices are in use until it has."""
    count = sum(_is_undone(work, step) for step in work.journal.steps)
    if count:
        work.voice.say(f"{count} step{'s' if count > 1 else ''} will be undone after the stop")


def post_stop(work: Work) -> None:
    """Undo everything in the journal that is still ours; needs no config, and none may be there any more.

    Nothing is undone while the VM runs, as one does whose hook is called by hand. PVE removes the pid file first, but
    for an aborted migration, whose QEMU has got its SIGTERM just now.
    """
    tell_damage(work.journal, work.voice.warn)
    pid = _running_still(work)
    if pid is not None:
        work.voice.warn(
            f"VM {work.vmid} runs as process {pid}: nothing is given back; its stop does that, or pvepassthru recover"
        )
        return
    looks = [step for step in work.journal.steps if step.kind == "health"]
    for kept in undo_all(work):
        work.voice.warn(_kept_sentence(work, kept))
    if looks:
        from pvepassthru.lifecycle import stay  # noqa: PLC0415 - VMs with mediated devices only do not pay for it

        for sentence in stay.sentences(work, [step for step in looks if step not in work.journal.steps]):
            work.voice.say(sentence)


def _running_still(work: Work) -> int | None:
    """The VM's process, if it runs and has not ended when the patience is over."""
    end = Deadline(work.deadline.left(work.patience)) if work.journal.exists else None
    while (pid := vms.running_pid(work.host, work.vmid)) is not None and end is not None and pause(end, 0.05):
        pass
    return pid


def _is_undone(work: Work, step: Step) -> bool:
    """Whether undoing a step changes what has a device; not so for reservations, looks, and what stays with VFIO."""
    if step.kind == "override":
        return work.journal.of("driver", step.target) is not None
    return step.kind not in {reserve.KIND, "health"}


def config_path(vmid: int, environment: Mapping[str, str]) -> str:
    """Where the config of a starting VM lies: on a migration target still under the source node. Raises UsageError."""
    source = environment.get("PVE_MIGRATED_FROM", "")
    if not source:
        return vms.config_path(vmid)
    if not NODE_NAME.fullmatch(source):
        raise UsageError(f"PVE_MIGRATED_FROM={source!r} is no node's name")
    return f"/etc/pve/nodes/{source}/qemu-server/{vmid}.conf"


def wants(subject: Subject) -> tuple[Want, ...]:
    """The mediated devices and vGPU types that a start of this VM needs from us.

    A VF with NVIDIA's vendor interface that is one of several alternatives is left to PVE, which takes the first that
    it can reserve and cannot be steered to another.
    """
    if subject.config.template:
        return ()
    found = []
    for device in subject.resolution.passed:
        if device.mdev:
            uuid = pci.mdev_uuid(device.index, subject.vmid)
            parents = tuple(device.addresses)
            found.append(Want(device.index, mdev.KIND, device.mdev, parents, uuid, device.entry.mapping))
        elif device.nvidia and len(device.alternatives) == 1 and len(device.alternatives[0]) == 1:
            found.append(Want(device.index, vgpu.KIND, device.nvidia, tuple(device.alternatives[0]), ""))
    return tuple(found)


def _prepare(work: Work, start: Start) -> Handover | None:
    """Check and prepare; returns what was taken from the host as a whole."""
    path = config_path(work.vmid, start.environment)
    pending = start.pending and path == vms.config_path(work.vmid)  # a migration target starts the main section
    subject = subjects.load(work.host, work.vmid, pending=pending, config_path=path)
    needed = wants(subject)
    policies = Policies() if subject.config.template else policy.read(work.host, cached=True)
    allowed = policies.of(work.vmid)
    work = work._replace(deadline=work.deadline.raised(allowed.pre_start_seconds))
    if policies.document.get("sriov"):
        from pvepassthru.lifecycle import vfs  # noqa: PLC0415 - only hosts whose policy has VFs pay for it

        if vfs.create_missing(work, subject, policies):
            subject = subjects.load(work.host, work.vmid, pending=pending, config_path=path)
            needed = wants(subject)
    whole = _whole(subject, policies)
    if work.journal.exists:
        _settle(work, needed, whole)
        subject = subjects.load(work.host, work.vmid, pending=pending, config_path=path)
        whole = _whole(subject, policies)
    if subject.config.template:
        return None
    try:
        subject, whole = _reserve(work, subject, whole, _Gate(allowed.gate, policies))
        for want in needed:
            if want.kind == mdev.KIND:
                mdev.create(work, want, policies.placement(want.mapping))
            else:
                vgpu.set_type(work, want)
        if whole is not None:
            from pvepassthru.lifecycle import handover  # noqa: PLC0415 - loaded already

            handover.take(work, whole)
    except DeviceError:
        if subject.section.get("lock") == "backup":
            work.voice.warn(
                f"a backup starts VM {work.vmid}, which was stopped, with its devices; see when the backup job runs"
            )
        raise
    return whole


class _Gate(NamedTuple):
    """What judges a start."""

    mode: str
    """`enforce`, `warn` or `off`."""
    policies: Policies


def _reserve(work: Work, subject: Subject, whole: Handover | None, gate: _Gate) -> tuple[Subject, Handover | None]:
    """Judge the start and reserve what it takes as a whole; returns the look at the VM that holds in the end.

    Of VMs that start at once, several choose the same device of a mapping, and one is the first to reserve it: the
    others look anew and choose another, or are told by the gate who has them. Raises DeviceError and BusyError.
    """
    told: set[Finding] = set()
    left: int | None = None
    while True:
        subject.around.policies = gate.policies
        _judge(work, subject, gate, told)
        if whole is None:
            return subject, whole
        from pvepassthru.lifecycle import handover  # noqa: PLC0415 - loaded already

        try:
            handover.reserved(work, whole)
        except DeviceError:
            left = handover.choices(whole) if left is None else left - 1
            if not left:
                raise
        else:
            return subject, whole
        subject = subjects.load(work.host, work.vmid, pending=subject.pending, config_path=subject.config_path)
        whole = _whole(subject, gate.policies)


def _whole(subject: Subject, policies: Policies) -> Handover | None:
    """What the start takes from the host as a whole; VMs with mediated devices only do not pay for it."""
    if subject.config.template or all(device.mdev or device.nvidia for device in subject.resolution.passed):
        return None
    from pvepassthru.lifecycle import handover  # noqa: PLC0415 - see above

    return handover.plan(subject, policies)


def _settle(work: Work, needed: tuple[Want, ...], whole: Handover | None) -> None:
    """Carry over what this start needs of a left-over journal and undo the rest.

    A write that outlived its hook has ended then. Raises DeviceError when a step that cannot be undone stands in the
    way of a device that this start needs, and BusyError when such a write does not end.
    """
    work.voice.say("an earlier start left a journal: settling it first")
    tell_damage(work.journal, work.voice.warn)
    spare = {
        step.number
        for step in work.journal.steps
        for want in needed
        if (step.kind == want.kind and step.after == want.type and _is_target(step.target, want))
        or (step.kind == reserve.KIND and want.kind == vgpu.KIND and step.target in want.candidates)
    }
    for step in work.journal.steps:
        if step.number in spare:
            (mdev if step.kind == mdev.KIND else vgpu).await_writes(work, step)
    if whole is not None:
        from pvepassthru.lifecycle import handover  # noqa: PLC0415 - loaded already

        spare |= handover.carried(work, whole)
    for kept in undo_all(work, spare):
        target = kept.step.target
        if any(_stands_in_the_way(target, want) for want in needed) or (whole and whole.has(target)):
            raise DeviceError(
                f"cannot undo {describe(kept.step)} of an earlier start: {kept.why}",
                f"end what holds it, then: pvepassthru recover {work.vmid}",
            )
        work.voice.warn(_kept_sentence(work, kept))


def _is_target(target: str, want: Want) -> bool:
    parent, _, uuid = target.partition("/")
    return parent in want.candidates and uuid == want.uuid


def _stands_in_the_way(target: str, want: Want) -> bool:
    parent, _, uuid = target.partition("/")
    return uuid == want.uuid if uuid else parent in want.candidates


def _judge(work: Work, subject: Subject, gate: _Gate, told: set[Finding]) -> None:
    """Run the gate's rules: an error refuses the start, unless the policy says otherwise; all else is a warning.

    An error that the policy silences is a warning with the owner's reason; what else it silences is not said, nor is
    what was `told` by an earlier look. Whatever the gate is, what would take the host's disks or network refuses the
    start, unless it is silenced.
    """
    found = gates.findings(subject, HOST_SAVING if gate.mode == "off" else gates.ALL)
    if gate.policies.silence:
        from pvepassthru.rules import silence  # noqa: PLC0415 - only hosts whose policy silences something pay for it

        marked = silence.of_vm(gate.policies.silence, subject, found)
        found = [finding for finding in marked if finding.severity == "error" or finding.silenced is None]
    refuses = [finding for finding in found if finding.severity == "error" and finding.silenced is None]
    errors = [finding for finding in refuses if gate.mode == "enforce" or finding.code.startswith(HOST_SAVING)]
    for finding in [one for one in found if one not in told]:
        if finding not in errors:
            work.voice.warn(_words(finding))
        elif finding is not errors[-1]:  # that one is said by the exception
            work.voice.fail(_words(finding))
    told.update(found)
    if errors:
        raise DeviceError(_words(errors[-1]))


def _words(finding: Finding) -> str:
    hint = f"; {finding.hint}" if finding.hint else ""
    silenced = f" (silenced by the policy: {finding.silenced})" if finding.silenced is not None else ""
    return f"{finding.code} {finding.where}: {finding.message}{hint}{silenced}"


def _kept_sentence(work: Work, kept: Kept) -> str:
    address = kept.step.target.partition("/")[0]
    later = "pvepassthru recover undoes it later"
    if address in state.quarantined(work.host):
        later = f"when it answers again: pvepassthru release {address}, then pvepassthru recover"
    return f"kept {describe(kept.step)}: {kept.why}; {later}"
