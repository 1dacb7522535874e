# SPDX-License-Identifier: Apache-2.0
"""The way back: what a change has written so far is given its former values again, and nothing else is touched.

What is to be done is decided anew from each reading, so it does not matter how far a write came that was refused,
cut off or lost. A former value that is written again takes back what waits for the next start: PVE keeps nothing
pending that equals what is in force, and deleting a key that is only pending forgets it. Where somebody else has put
another value in force meanwhile, only what we left waiting is dropped, by PVE's `revert`, and their value stays.

Source: PVE::API2::Qemu's update of a config, and PVE::QemuConfig's pending section.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import reading
from pvepassthru.api.change import ALLOCATING, Write
from pvepassthru.model.errors import ApiError, ApiUnsureError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from pvepassthru.api.client import Client
    from pvepassthru.api.reading import Reading


MOST = 3
"""Requests for each write that is undone; others may write the same keys at the same time."""


class Undone(NamedTuple):
    """How far the way back led."""

    now: Reading
    """The last reading."""
    left: tuple[str, ...]
    """Keys that have our value still, or may have it."""
    others: tuple[str, ...]
    """Keys that somebody else has given another value since; they keep it."""
    volumes: dict[str, str]
    """Volumes that PVE made for the change and that are left, by their keys unusedN."""
    why: ApiError | None
    """What stood in the way."""
    fresh: bool = True
    """Whether `now` was read after all that was sent; else nothing could be read any more."""


SETTLING = sum(reading.SETTLING)
"""Seconds in which a write without an answer shows itself, or never will."""


def undo(  # noqa: PLR0913 - what is known of the writes, by keyword
    client: Client,
    former: Reading,
    last: Reading,
    writes: Sequence[Write],
    *,
    allocated: bool,
    awaited: str | None = None,
) -> Undone:
    """Give the keys of these writes, the last of them first, the values of `former` again.

    `last` is the last reading; `allocated` says that PVE answered that it has made a volume for them, which is removed
    then; else it may be another one's, and is left. `awaited` is the digest of a write that was not answered: PVE may
    be at it still, as long as the config has that digest. Raises nothing of the API; what could not be done is said in
    the result.
    """
    if not writes:
        return _told(former, last, writes, None)
    own: set[str] = set()
    dropped: set[str] = set()
    deadline: float | None = None
    sent = failed = waited = 0
    settled = time.monotonic() + SETTLING
    why: ApiError | None = None
    now = last
    while True:
        try:
            now = reading.read_surely(client, now.vmid, now.node)
        except ApiError as unread:
            return Undone(now, tuple(_keys(writes)), (), {}, unread, fresh=False)
        deadline = deadline or time.monotonic() + reading.PATIENCE
        own.update(_allocated(now, writes) if allocated else ())
        write = step(former, now, writes, own, dropped)
        if write is None:
            if sent or now.digest != awaited or not _paused(waited, settled):
                return _told(former, now, writes, None, dropped)
            waited += 1
            continue
        if sent > MOST * len(writes):
            why = ApiError(f"{', '.join(keys(write))} does not stay as it is written")
        if sent > MOST * len(writes) or (failed and time.monotonic() >= deadline):
            return _told(former, now, writes, why, dropped)
        error = _send(client, now, write, dropped)
        if error is None:
            sent += 1
            continue
        if _only_volume(write):
            return _told(former, now, writes, error, dropped)
        why = error
        reading.pause(failed, deadline)
        failed += 1


def _send(client: Client, now: Reading, write: Write, dropped: set[str]) -> ApiError | None:
    """Send a request of the way back; returns why it has failed, if it has. What it may have reverted is noted."""
    error: ApiError | None = None
    try:
        client.put(path(now), digest=now.digest, **parameters(write))
    except ApiError as failed:
        error = failed
    if error is None or isinstance(error, ApiUnsureError):
        dropped.update(write.revert)
    return error


def _paused(turn: int, deadline: float) -> bool:
    """Wait a little; False when it is too late for that."""
    if time.monotonic() >= deadline:
        return False
    reading.pause(turn, deadline)
    return True


def step(
    former: Reading, now: Reading, writes: Sequence[Write], made: Container[str], dropped: Container[str] = ()
) -> Write | None:
    """The next request on the way back; None when nothing is left to do.

    `made` has the volumes that are ours to remove, `dropped` the keys whose waiting values have been dropped before:
    what they have in force is somebody else's, even if it is what we wrote.
    """
    for write in reversed(writes):
        todo = [key for key in keys(write) if _is_ours(former, now, write, key, dropped)]
        if todo:
            revert = tuple(key for key in todo if is_over_theirs(former, now, key))
            values = {key: former.value(key) for key in todo if key not in revert}
            return Write(
                {key: text for key, text in values.items() if text is not None},
                tuple(key for key, text in values.items() if text is None),
                revert,
            )
    unused = [key for key, text in _new_volumes(former, now).items() if volume(text) in made]
    return Write({}, (unused[0],)) if unused else None


# ---- what a reading says of a write


def _is_ours(former: Reading, now: Reading, write: Write, key: str, dropped: Container[str]) -> bool:
    """Whether a key has what we wrote and not what it had, and it is not somebody else who put it in force."""
    if as_before(former, now, key) or not is_placed(write, key, now):
        return False
    return now.waits(key) or key not in dropped


def is_over_theirs(former: Reading, now: Reading, key: str) -> bool:
    """Whether ours only waits, over a value that somebody else has put in force; what waited before comes back."""
    return now.waits(key) and not former.waits(key) and now.main.get(key) != former.main.get(key)


def keys(write: Write) -> tuple[str, ...]:
    """All keys of a write."""
    return (*write.set, *write.delete, *write.revert)


def is_placed(write: Write, key: str, now: Reading) -> bool:
    """Whether a key of a write is as it was sent, in force or waiting for the next start."""
    sent, found = write.set.get(key), now.value(key)
    if sent == found:
        return True
    return key == ALLOCATING and sent is not None and found is not None and is_made(sent, found)


def is_made(sent: str, found: str) -> bool:
    """Whether `found` is what PVE makes of `sent`, STORAGE:SIZE: a volume there, and no option is another one."""
    wanted, *options = sent.split(",")
    got, *others = found.split(",")
    storage, name = volume(got).partition(":")[::2]
    values = dict(part.partition("=")[::2] for part in others)
    return (
        storage == volume(wanted).partition(":")[0]
        and not name.replace(".", "").isdecimal()
        and all(values.get(key, "0") == text for key, text in (part.partition("=")[::2] for part in options))
    )


def volume(text: str) -> str:
    """The volume that a disk's value names."""
    return text.partition(",")[0].removeprefix("file=").removeprefix("volume=")


def as_before(former: Reading, now: Reading, key: str) -> bool:
    """Whether a key is as it was; what waited then may have taken effect."""
    return now.same(former, key) or (now.value(key) == former.value(key) and not now.waits(key))


def path(now: Reading) -> str:
    """The path of the API by which the config is changed."""
    return f"nodes/{now.node}/qemu/{now.vmid}/config"


def parameters(write: Write) -> dict[str, str]:
    """The parameters of the request that a write is, without the digest."""
    lists = {"delete": write.delete, "revert": write.revert}
    return write.set | {name: ",".join(listed) for name, listed in lists.items() if listed}


# ---- how it ended


def _told(
    former: Reading, now: Reading, writes: Sequence[Write], why: ApiError | None, dropped: Container[str] = ()
) -> Undone:
    left: list[str] = []
    others: list[str] = []
    for write in writes:
        for key in keys(write):
            if not as_before(former, now, key):
                (left if _is_ours(former, now, write, key, dropped) else others).append(key)
    allocated = any(ALLOCATING in write.set for write in writes)
    return Undone(now, tuple(left), tuple(others), _new_volumes(former, now) if allocated else {}, why)


def _only_volume(write: Write) -> bool:
    """Whether a request would remove a volume only, which may as well stay."""
    return all(key.startswith(reading.UNUSED) for key in keys(write))


def _allocated(now: Reading, writes: Sequence[Write]) -> Iterator[str]:
    """The volume that PVE made for these writes, while the config names it."""
    text = now.value(ALLOCATING)
    if text is not None and any(ALLOCATING in write.set and is_placed(write, ALLOCATING, now) for write in writes):
        yield volume(text)


def _new_volumes(former: Reading, now: Reading) -> dict[str, str]:
    """The volumes that PVE keeps under keys unusedN and that the VM had nowhere before."""
    before = {volume(text) for text in (*former.main.values(), *former.pending.values())}
    return {
        key: text for key, text in now.main.items() if key.startswith(reading.UNUSED) and volume(text) not in before
    }


def _keys(writes: Sequence[Write]) -> Iterator[str]:
    return (key for write in writes for key in keys(write))
