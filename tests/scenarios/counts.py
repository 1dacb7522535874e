# SPDX-License-Identifier: Apache-2.0
"""How often the crash and race tests repeat: a little in `./dev test`, in full in `./dev soak`.

PVEPASSTHRU_SOAK, which the guest gets too, asks for the full counts: "1", or others: "rounds=100,vms=64,seed=7".
"""

from __future__ import annotations

import os
import random
from typing import NamedTuple

from tests.kernel import checks

VARIABLE = "PVEPASSTHRU_SOAK"
NOTE = "count "
"""How a line of a result that tells a count begins."""


class Counts(NamedTuple):
    """The counts, and the seed of everything random."""

    rounds: int
    """Of start, kill at a random point, and recover."""
    vms: int
    """That race for four instances."""
    seed: int
    handovers: int = 5
    """Starts and stops of a network card, and of a GPU."""


SMALL = Counts(4, 32, 0)
FULL = Counts(100, 64, 0, 100)


def counts() -> Counts:
    """The counts that are asked for; without a seed a new one."""
    text = os.environ.get(VARIABLE, "")
    chosen = FULL if text else SMALL
    if "=" in text:
        chosen = chosen._replace(**{name: int(number) for name, _, number in map(_part, text.split(","))})
    return chosen if chosen.seed else chosen._replace(seed=random.SystemRandom().randrange(1, 1_000_000))


def full() -> bool:
    """Whether the full counts are asked for, or others."""
    return bool(os.environ.get(VARIABLE))


def note(what: str, number: int) -> None:
    """Report a count with the result of this test; tests/kernel/soak.py puts it into its table."""
    checks.done.append(f"{NOTE}{what}: {number}")


def _part(word: str) -> tuple[str, str, str]:
    return word.partition("=")
