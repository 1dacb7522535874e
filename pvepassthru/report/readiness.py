# SPDX-License-Identifier: Apache-2.0
"""Whether the host is ready, as `doctor` says it: each rule on the host with its state, by the steps of the chapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.rules.explanation import title
from pvepassthru.rules.rule import STEPS

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.rules.catalogue import HostState


def has_error(states: list[HostState]) -> bool:
    """Whether an error is among the findings that the policy does not silence."""
    return any(state_of(state) == "error" for state in states)


def state_of(state: HostState) -> str:
    """The state in a word: that of the worst finding, where there are any that the policy does not silence."""
    if state.state != "findings":
        return state.state
    found = {finding.severity for finding in state.findings if finding.silenced is None}
    return next((severity for severity in ("error", "warning", "info") if severity in found), "silenced")


def shape(host: Host, states: list[HostState]) -> dict[str, Any]:
    """The shape of docs/json.md."""
    return {
        "node": host.node,
        "ok": not has_error(states),
        "steps": [
            {
                "step": step,
                "rules": [
                    {
                        "code": state.rule.code,
                        "title": title(state.rule, of_host=True),
                        "state": state_of(state),
                        "why": state.why,
                        "findings": [finding._asdict() for finding in state.findings],
                    }
                    for state in states
                    if state.rule.step == step
                ],
            }
            for step in STEPS
        ],
    }
