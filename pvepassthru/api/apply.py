# SPDX-License-Identifier: Apache-2.0
"""A change is made as a whole or not at all: written request by request, each one read back, else all undone.

PVE's own update is not atomic: a request that is refused in its middle leaves a part of its keys pending. Each write
carries the digest of the reading before it, in which nothing but our own writes was found, so that PVE refuses it when
somebody else was faster; and so that one without an answer can be sent again: PVE does it once at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn

from pvepassthru.api import hindrance, outcome, reading, restore
from pvepassthru.api.change import ALLOCATING, Write
from pvepassthru.model.errors import (
    ApiCertificateError,
    ApiConflictError,
    ApiError,
    ApiUnreachableError,
    ApiUnsureError,
    EndedError,
    PassthruError,
)
from pvepassthru.model.text import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pvepassthru.api.change import Change
    from pvepassthru.api.client import Client
    from pvepassthru.api.reading import Reading

TRIES = 2
"""How often a write is sent of which it is not known, nor to be seen, that it was done."""


class Applied(NamedTuple):
    """A change that was made."""

    vmid: int
    node: str
    written: tuple[str, ...]
    """The keys that have their new values in force; none when nothing was to change."""
    pending: tuple[str, ...]
    """The keys whose new values wait until the VM starts the next time."""
    taken: tuple[str, ...]
    """Keys of others whose pending values took effect with it."""


class Result(NamedTuple):
    """What became of one VM's change."""

    change: Change
    applied: Applied | None
    error: PassthruError | None
    """Why it was not made; the VM is as before then, but for ApiPartialError and ApiUnsureError."""


def apply(client: Client, change: Change, *, take_pending: bool = False) -> Applied:
    """Make a change, as a whole or not at all; one without keys sends nothing.

    Pending values of others stay as they are while the VM runs. While it does not, PVE makes them effective with any
    write: so they are refused, unless `take_pending` takes them along.

    Raises ApiError. Before the first write: ApiConflictError, ApiDeniedError, ApiMissingError, as hindrance.check.
    After one: an error of the same class as what went wrong, when the former config is there again; ApiPartialError
    when some keys could be neither written nor given their former values; ApiUnsureError when that cannot be told. A
    KeyboardInterrupt, and whatever else a signal raises, comes through after the way back.
    """
    if not change.keys:
        return Applied(change.vmid, change.node, (), (), ())
    former = hindrance.check(client, change, take_pending=take_pending)
    work = _Work(client, change, former)
    try:
        work.write_all()
    except BaseException as error:  # noqa: BLE001 - whatever ends it, what was written is given back first
        work.give_back(error)
    return work.applied()


def apply_all(
    client: Client, changes: Iterable[Change], *, take_pending: bool = False, stop_at_first: bool = False
) -> Iterator[Result]:
    """Make the changes of several VMs, one after the other, and tell of each as it is done.

    One that fails does not stop the others, unless `stop_at_first` says so, or it was ended by a signal and could not
    be undone. Raises nothing of the API; EndedError and KeyboardInterrupt come through.
    """
    for change in changes:
        try:
            yield Result(change, apply(client, change, take_pending=take_pending), None)
        except EndedError:
            raise
        except PassthruError as error:
            yield Result(change, None, error)
            if stop_at_first or isinstance(error.__cause__, EndedError | KeyboardInterrupt):
                return


class _Work:
    """One change on its way."""

    def __init__(self, client: Client, change: Change, former: Reading) -> None:
        self.client = client
        self.change = change
        self.former = former
        self.last = former
        self.sent: list[Write] = []
        self.awaited: str | None = None
        """The digest of a write that was sent and not answered: it may be done yet, as long as the config has it."""
        self.allocated = False
        """Whether PVE has answered that it has made a volume."""

    def write_all(self) -> None:
        """Send all writes. Raises ApiError at the first that is not done, or not alone."""
        writes = self.change.writes()
        for place, write in enumerate(writes, 1):
            before = self.last
            self._write(write, before)
            if place < len(writes):
                self._need_alone(before, write)

    def give_back(self, cause: BaseException) -> NoReturn:
        """Undo what was written, and raise what tells of it."""
        try:
            undone = restore.undo(
                self.client, self.former, self.last, self.sent, allocated=self.allocated, awaited=self.awaited
            )
        except (KeyboardInterrupt, EndedError) as error:
            raise outcome.interrupted(self.change, self.sent, error) from cause
        raise outcome.failure(self.change, self.former, undone, cause) from cause

    def applied(self) -> Applied:
        """What has been done."""
        now = self.last
        own = tuple(one.key for one in self.change.keys)
        return Applied(
            now.vmid,
            now.node,
            tuple(key for key in own if not now.waits(key)),
            tuple(key for key in own if now.waits(key)),
            tuple(key for key in self.former.waiting if key not in own and not now.waits(key)),
        )

    # ---- one write

    def _write(self, write: Write, before: Reading) -> None:
        """Send a write and read it back. Raises ApiError when it is not there as it was sent."""
        doubt: ApiError | None = None
        failed: ApiError | None = None
        for _ in range(TRIES):
            failed = self._put(write, before)
            if failed is None or isinstance(failed, ApiUnsureError):
                doubt = failed
            elif doubt is None and not isinstance(failed, ApiUnreachableError):
                raise failed
            if self._has(write):
                if failed is not None and self._half(write):
                    self._finish(write)
                return
            if failed is None:
                raise self._mismatch(write)
            if not isinstance(failed, ApiUnsureError | ApiUnreachableError):
                break
        raise doubt or failed or self._mismatch(write)

    def _put(self, write: Write, now: Reading) -> ApiError | None:
        """Send a write; returns why it has failed, if it has."""
        new = write not in self.sent
        if new:
            self.sent.append(write)
        before, self.awaited = self.awaited, now.digest
        try:
            self.client.put(restore.path(now), digest=now.digest, **restore.parameters(write))
        except ApiUnsureError as error:
            return error
        except ApiError as error:
            self.awaited = before
            if new and isinstance(error, ApiUnreachableError | ApiCertificateError):
                self.sent.remove(write)  # nobody has got it
            return error
        self.awaited = None
        self.allocated = self.allocated or ALLOCATING in write.set
        return None

    def _has(self, write: Write) -> bool:
        """Read, and tell whether a write is there. Raises ApiError."""
        self.last = reading.read_surely(self.client, self.last.vmid, self.last.node)
        return all(restore.is_placed(write, key, self.last) for key in restore.keys(write))

    def _half(self, write: Write) -> bool:
        """Whether the VM does not run, and has the write only pending: PVE's worker died before it took it over."""
        waits = any(self.last.waits(key) for key in restore.keys(write))
        return waits and not reading.runs(self.client, self.last.vmid, self.last.node)

    def _finish(self, write: Write) -> None:
        """Write again what is pending though the VM does not run, volumes by their names. Raises ApiError."""
        values = {key: self.last.pending[key] for key in write.set if key in self.last.pending}
        failed = self._put(Write(values, write.delete), self.last)
        if failed is not None:
            raise failed
        if not self._has(write):
            raise self._mismatch(write)

    def _mismatch(self, write: Write) -> ApiConflictError:
        wrong = [key for key in restore.keys(write) if not restore.is_placed(write, key, self.last)]
        return ApiConflictError(
            f"{listed(wrong)} of VM {self.change.vmid} is not what was written, though PVE took it",
            "does somebody else change the VM at the same time?",
        )

    def _need_alone(self, before: Reading, write: Write) -> None:
        """Raise ApiConflictError when somebody else has changed something since the reading before a write."""
        wrong = reading.changed(before, self.last, restore.keys(write))
        if wrong:
            raise ApiConflictError(
                f"somebody else has changed {listed(wrong)} of VM {self.change.vmid} meanwhile",
                "read the config again and repeat",
            )
