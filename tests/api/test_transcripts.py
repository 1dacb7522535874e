# SPDX-License-Identifier: Apache-2.0
"""The fake PVE answers each recorded call as PVE did: status, error class, shape of the body, marks; not the words.

Of VM configs, pending changes, mappings and hardware the values are compared too.
"""

from __future__ import annotations

import os

import pytest

from tests.api import transcripts
from tests.api.fake_pve import marks
from tests.api.fake_pve.server import FakePve
from tests.api.transcripts import Recorded, Replay, Replayed

UNSUPPORTED: dict[int, str] = {}
"""Calls, by their line in the recording, that the fake answers otherwise, each with the reason."""


def differences(call: Recorded, answer: Replayed) -> list[str]:
    """In what the fake's answer is another."""
    pairs = {
        "status": (call.status, answer.status),
        "proxmoxer": (call.raised, transcripts.raised(call.path, answer.status)),
        "content type": (call.content_type, answer.content_type),
        "shape": (transcripts.shape(call.body), transcripts.shape(answer.body)),
        "values": (transcripts.values(call.path, call.body), transcripts.values(call.path, answer.body)),
        "marks": (_marks(call.reason, call.body), _marks(answer.reason, answer.body)),
    }
    return [f"{what}: {theirs!r} by PVE, {ours!r} here" for what, (theirs, ours) in pairs.items() if theirs != ours]


def _marks(reason: str, body: object) -> set[str]:
    """The marks in the reason and in the texts of the parameters."""
    errors = body.get("errors", {}) if isinstance(body, dict) else {}
    return {mark for mark in marks.ALL if any(mark in text for text in (reason, *errors.values()))}


def test_recorded_calls() -> None:
    path = transcripts.find()
    if path is None:
        assert os.environ.get("CI") != "true", f"CI needs the recorded calls: {transcripts.PLACE}"
        pytest.skip(f"no recorded calls: there is no {transcripts.PLACE} beside the checkout; set API_TRANSCRIPTS")
    calls = transcripts.read(path)
    assert len(calls) >= 237
    with FakePve(transcripts.cluster(calls)) as pve:
        answers = Replay(pve, calls).run()
    wrong = []
    for call, answer in zip(calls, answers, strict=True):
        found = differences(call, answer)
        title = f"{call.number} [{call.note}] {call.user} {call.method} {call.path}"
        if found and call.number not in UNSUPPORTED:
            wrong += [title, *(f"    {text}" for text in found), f"    {answer.status} {answer.reason}"]
        elif not found and call.number in UNSUPPORTED:
            wrong.append(f"{title}: it is as PVE's, so it must not stand in UNSUPPORTED")
    wrong += [f"{number} is no recorded call" for number in UNSUPPORTED.keys() - {call.number for call in calls}]
    assert not wrong, "\n".join(["", *wrong])
