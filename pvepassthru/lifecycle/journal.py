# SPDX-License-Identifier: Apache-2.0
"""A VM's journal: what was done to its devices, written before each deed, so that it can be undone whatever happens.

/run/pvepassthru/VMID.journal. The first line names the format's version and the boot. Then one JSON object a line, each
written by one O_APPEND write:

    {"n": 1, "do": "mdev", "target": "0000:03:00.0/UUID", "before": null, "after": "nvidia-63"}   the intent
    {"n": 1, "done": true}                                                                        the deed is done
    {"n": 1, "undone": "removed"}                                                                 nothing of it remains
    {"state": "running"}                                                                          post-start was here

A torn last line is normal: the process was killed while it wrote. Without `done` the deed may or may not have happened,
so undoing always looks at the present value. Nothing is synced: /run is memory, like the state described.
"""

from __future__ import annotations

import errno
import os

from pvepassthru.host import state
from pvepassthru.host.host import way_out
from pvepassthru.model import jsontext
from pvepassthru.model.errors import InputError, PassthruError, UnsafeError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any

    from pvepassthru.host.host import Host

LONGEST_TARGET = 200
"""Characters."""
VERSION = 1
"""Of the format. Newer code reads older formats; older code refuses a newer one."""


class Step(NamedTuple):
    """One deed of a journal that is not undone yet."""

    number: int
    kind: str
    """What was done, such as mdev.KIND; undo.undoing knows what undoes it."""
    target: str
    before: str | None
    after: str | None
    done: bool


class Journal:
    """The journal of one VM; whoever uses it holds the VM's lock."""

    def __init__(self, host: Host, vmid: int) -> None:
        """Read the journal, if there is one.

        Raises InputError when it is there and cannot be read or is newer than this program, UnsafeError when it is not
        root's own plain file.
        """
        self.host = host
        self.vmid = vmid
        self.path = state.journal_path(vmid)
        self.state: str | None = None
        """"running" after post-start, else None."""
        self.damaged: list[int] = []
        """Numbers of lines, other than a torn last one, that could not be understood."""
        self.lost: set[int] = set()
        """Numbers of steps that were done, and whose intent is in a damaged line: nobody knows what they are."""
        self._steps: dict[int, Step] = {}
        self._last = 0
        self._torn = False
        self.exists = self._read()

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps not undone yet, in the order in which they were done."""
        return tuple(self._steps[number] for number in sorted(self._steps))

    # ---- writing

    def intend(self, kind: str, target: str, before: str | None, after: str | None) -> Step:
        """Note a deed that is about to be done. Raises PassthruError when it cannot be written: then do not do it."""
        if not self.exists:
            self._create()
        step = Step(self._last + 1, kind, target, before, after, done=False)
        self._append({"n": step.number, "do": kind, "target": target, "before": before, "after": after})
        self._last = step.number
        self._steps[step.number] = step
        return step

    def done(self, step: Step) -> None:
        """Note that a deed is done."""
        self._append({"n": step.number, "done": True})
        self._steps[step.number] = step._replace(done=True)

    def undone(self, step: Step, how: str) -> None:
        """Note that nothing of a step remains. It counts even where it cannot be written: undoing looks again."""
        self._steps.pop(step.number, None)
        self._append({"n": step.number, "undone": how})

    def amend(self, step: Step, *, before: str | None = None, after: str | None = None) -> None:
        """Note other values for a step that is done; the later line of a number is the one that counts.

        Raises PassthruError when it cannot be written.
        """
        step = step._replace(before=before, after=after)
        self._append({"n": step.number, "do": step.kind, "target": step.target, "before": before, "after": after})
        self._steps[step.number] = step
        self.done(step)

    def of(self, kind: str, target: str) -> Step | None:
        """The last step of this kind on `target` that is not undone, or None."""
        found = [step for step in self.steps if (step.kind, step.target) == (kind, target)]
        return found[-1] if found else None

    def gone(self, kind: str, target: str) -> None:
        """Note that nothing remains of the steps of this kind on `target`: somebody else has undone them."""
        for step in self.steps:
            if (step.kind, step.target) == (kind, target):
                self.undone(step, "gone")

    def found(self, kind: str, target: str) -> None:
        """Note that the steps of this kind on `target` were done: what they were to make is there."""
        for step in self.steps:
            if (step.kind, step.target) == (kind, target) and not step.done:
                self.done(step)

    def note_running(self) -> None:
        """Note that the VM runs."""
        self._append({"state": "running"})
        self.state = "running"

    def remove(self) -> None:
        """Remove the journal: nothing is left to undo. Kept as VMID.damaged if steps are lost. Raises PassthruError."""
        try:
            if self.lost:
                os.rename(self.host.path(self.path), self.host.path(state.damaged_path(self.host, self.vmid)))
            else:
                self.host.remove(self.path)
        except OSError as error:
            raise PassthruError(f"cannot remove {self.path}: {error.strerror}") from error
        self.exists = False
        self._steps.clear()
        self.lost.clear()
        self.damaged.clear()
        self._last = 0
        self._torn = False

    def _create(self) -> None:
        self.exists = True  # before it does: a signal may come at any point, and `remove` minds no absent file
        try:
            fd = os.open(
                self.host.path(self.path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            os.close(fd)
        except OSError as error:
            self.exists = False
            raise PassthruError(
                f"cannot write the journal {self.path}: {error.strerror}",
                way_out(error, "check that /run is writable and not full"),
            ) from error
        self._append({"v": VERSION, "vmid": self.vmid, "boot": _boot_id(self.host)})

    def _append(self, record: dict[str, object]) -> None:
        line = jsontext.dumps(record) + "\n"
        try:
            self.host.append(self.path, "\n" + line if self._torn else line)
        except OSError as error:
            self._torn = True  # a part of the line may be there
            raise PassthruError(
                f"cannot write the journal {self.path}: {error.strerror}",
                way_out(error, "check that /run is writable and not full"),
            ) from error
        self._torn = False

    # ---- reading

    def _read(self) -> bool:
        try:
            info = os.lstat(self.host.path(self.path))
            plain = info.st_mode & 0o170000 == 0o100000
            if not state.is_own(info) or not plain or info.st_mode & 0o022:
                mend = f"chown root: {self.path}; chmod 600 {self.path}"
                raise UnsafeError(
                    f"the journal {self.path} is not a plain file that only root can write, so it is not trusted",
                    f"look at its lines, and if they are right: {mend}" if plain else "look who made it, and remove it",
                )
            data = self.host.read(self.path)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                return False
            raise InputError(f"cannot read the journal {self.path}: {error.strerror}", way_out(error)) from error
        self._torn = bool(data) and not data.endswith(b"\n")
        lines = data.split(b"\n")[: -1 if data.endswith(b"\n") else None]
        boot: object = None
        for number, line in enumerate(lines, 1):
            try:
                record = jsontext.loads(line)
                if not isinstance(record, dict):
                    raise ValueError(record)  # noqa: TRY004 - one way to say "no record"
                boot = record.get("boot", boot)
                self._take(record)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                if line and not (self._torn and number == len(lines)):
                    self.damaged.append(number)
        now = _boot_id(self.host)
        if boot and now and boot != now:  # the state that it describes went with that boot
            self._steps.clear()
            self.lost.clear()
            self.state = None
        return True

    def _take(self, record: dict[str, Any]) -> None:
        if "v" in record:
            if int(record["v"]) > VERSION:
                raise InputError(
                    f"the journal {self.path} has format {record['v']}, this program knows {VERSION}",
                    "finish with the newer version of pvepassthru that wrote it: pvepassthru recover",
                )
        elif "state" in record:
            self.state = str(record["state"])
        elif "do" in record:
            number = int(record["n"])
            before, after = record["before"], record["after"]
            if not _is_target(record["target"]):
                raise ValueError(record["target"])
            step = Step(
                number,
                str(record["do"]),
                str(record["target"]),
                None if before is None else str(before),
                None if after is None else str(after),
                done=False,
            )
            self._steps[number] = step
            self._last = max(self._last, number)
        elif "done" in record:
            number = int(record["n"])
            self._last = max(self._last, number)
            if number in self._steps:
                self._steps[number] = self._steps[number]._replace(done=True)
            else:
                self.lost.add(number)
        else:
            number = int(record["n"])
            self._last = max(self._last, number)
            self._steps.pop(number, None)
            self.lost.discard(number)


def _is_target(text: object) -> bool:
    """Whether this can be what a step is done to: part of a path, without blanks and `..`. Else it is damage."""
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST_TARGET:
        return False
    return ".." not in text and all("!" <= char <= "~" for char in text)


def _boot_id(host: Host) -> str:
    return host.text("/proc/sys/kernel/random/boot_id") or ""
