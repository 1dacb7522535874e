# SPDX-License-Identifier: Apache-2.0
"""What a rule is, and what is made of its hits."""

from __future__ import annotations

from pvepassthru.model.finding import Finding
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from pvepassthru.model.finding import Origin, Severity
    from pvepassthru.rules.subject import Hit, Subject, Surroundings

    Hook = Literal["refuses", "warns", "itself", "no"]
    """What the hook does with a rule: `refuses` the start on its errors, `warns` of what it finds, has checked it
    `itself` before it asks the rules and refuses, or does `no`t ask it."""

STEPS = (
    "firmware",
    "kernel command line",
    "modules",
    "initramfs",
    "interrupt remapping",
    "groups",
    "GPU",
    "SR-IOV",
    "mediated devices",
    "PVE services",
    "cluster",
)
"""The steps of PVE's chapter, by which `doctor` groups what it says, in their order."""


class Unknown(Exception):  # noqa: N818 - no error: what the rule reads is not there
    """Raised by a rule on the host whose source is absent; its text says what is missing. `validate` says nothing."""


class NotApplicable(Exception):  # noqa: N818 - no error
    """Raised by a rule on the host that has nothing to judge there; its text says why, such as "no NVIDIA GPU"."""


class Rule(NamedTuple):
    """One rule: on a VM (`check`), on the host (`on_host`), or the same thing seen from both."""

    code: str
    severity: Severity
    origin: Origin
    check: Callable[[Subject], Iterator[Hit]] | None
    """What it finds of one VM; its docstring is the explanation."""
    hook: Hook = "refuses"
    on_host: Callable[[Surroundings], Iterator[Hit]] | None = None
    """What it finds of the host, for `doctor`; may raise Unknown and NotApplicable. Its docstring is the explanation
    of a rule without `check`."""
    step: str | None = None
    """Where `doctor` shows it, one of STEPS; every rule with `on_host` has one."""

    @property
    def gate(self) -> bool:
        """Whether the hook refuses a start on it."""
        return self.hook in {"refuses", "itself"}

    @property
    def explanation(self) -> str:
        """The explanation as `pvepassthru explain` prints it."""
        function = self.check or self.on_host
        lines = (function.__doc__ or "").strip().splitlines()
        return "\n".join(line.strip() for line in lines)


def of_host(code: str, severity: Severity, step: str, check: Callable[[Surroundings], Iterator[Hit]]) -> Rule:
    """A rule on the host alone, which the hook does not ask."""
    return Rule(code, severity, "own", None, "no", check, step)


def judge(rules: tuple[Rule, ...], subject: Subject) -> list[Finding]:
    """What these rules find of a VM, in their order."""
    return [
        Finding(rule.code, rule.severity, rule.origin, *hit)
        for rule in rules
        if rule.check
        for hit in rule.check(subject)
    ]
