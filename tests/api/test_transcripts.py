# SPDX-License-Identifier: Apache-2.0
"""The fake PVE answers each recorded call as PVE did: status, error class, shape of the body, marks; not the words.

Of VM configs, pending changes, mappings and hardware the values are compared too.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.api import transcripts
from tests.api.fake_pve import marks
from tests.api.fake_pve.server import FakePve
from tests.api.transcripts import Recorded, Replay, Replayed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

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


def complaints(calls: Sequence[Recorded], answers: Sequence[Replayed], unsupported: Mapping[int, str]) -> list[str]:
    """All that is not as it should be, in lines for people."""
    wrong = []
    for call, answer in zip(calls, answers, strict=True):
        found = differences(call, answer)
        title = f"{call.number} [{call.note}] {call.user} {call.method} {call.path}"
        if found and call.number not in unsupported:
            wrong += [title, *(f"    {text}" for text in found), f"    {answer.status} {answer.reason}"]
        elif not found and call.number in unsupported:
            wrong.append(f"{title}: it is as PVE's, so it must not stand in UNSUPPORTED")
    return wrong + [f"{number} is no recorded call" for number in unsupported.keys() - {call.number for call in calls}]


def _marks(reason: str, body: object) -> set[str]:
    """The marks in the reason and in the texts of the parameters."""
    errors = body.get("errors", {}) if isinstance(body, dict) else {}
    return {mark for mark in marks.ALL if any(mark in text for text in (reason, *errors.values()))}


def test_recorded_calls() -> None:
    path = transcripts.find()
    if path is None:
        message = f"no recorded calls: there is no {transcripts.PLACE} beside the checkout; set API_TRANSCRIPTS"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    calls = transcripts.read(path)
    assert len(calls) >= 237
    with FakePve(transcripts.cluster(calls)) as pve:
        answers = Replay(pve, calls).run()
    wrong = complaints(calls, answers, UNSUPPORTED)
    assert not wrong, "\n".join(["", *wrong])


CALL = Recorded(7, "a note", "root@pam", "GET", "/nodes/pve1/qemu/100/config", {}, 200, "OK", "json", {}, None)
SAME = {"data": {"cores": 2, "digest": "a"}}


def test_same_answer_passes_and_must_not_stand_among_the_unsupported() -> None:
    call = replace(CALL, body={"data": {"cores": 2, "digest": "b"}})
    answer = Replayed(200, "All right", "json", SAME)
    assert complaints([call], [answer], {}) == []
    assert "must not stand" in complaints([call], [answer], {7: "some reason"})[0]
    assert complaints([call], [answer], {8: "some reason"}) == ["8 is no recorded call"]


@pytest.mark.parametrize(
    "body, status, reason, what",
    [
        (SAME, 500, "OK", "status"),
        ({"data": {"cores": 3, "digest": "a"}}, 200, "OK", "values"),
        ({"data": {"cores": "2", "digest": "a"}}, 200, "OK", "shape"),
        ({"data": {"cores": 2}}, 200, "OK", "shape"),
        ({"data": None}, 200, "OK", "shape"),
        ("", 200, "OK", "shape"),
        (SAME, 200, f"{marks.STALE_VM}!", "marks"),
    ],
)
def test_other_answer_fails(body: object, status: int, reason: str, what: str) -> None:
    answer = Replayed(status, reason, "json", body)
    found = complaints([replace(CALL, body=SAME)], [answer], {})
    assert any(line.strip().startswith(what) for line in found)
    assert complaints([replace(CALL, body=SAME)], [answer], {7: "some reason"}) == []


def test_recording_is_found_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    file.touch()
    monkeypatch.setenv("API_TRANSCRIPTS", str(file))
    assert transcripts.find() == str(file)
