# SPDX-License-Identifier: Apache-2.0
"""Words for functions that stay with VFIO's driver after a stop, and why. Loaded by a stop of a VM that had some."""

from __future__ import annotations

from pvepassthru.lifecycle import drivers
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pvepassthru.lifecycle.journal import Step
    from pvepassthru.lifecycle.work import Work

_BECAUSE = {
    drivers.AUTO: " (give_back: auto keeps GPUs there); give_back: former in the policy gives {it} back",
    drivers.STAY: ", as the policy's give_back says",
    drivers.WAS_THERE: ", which had {it} before the start",
}


def sentences(work: Work, steps: Iterable[Step]) -> Iterator[str]:
    """One sentence for each reason and driver; `steps` are those that looked at functions after the stop."""
    found: dict[tuple[str, str], list[str]] = {}
    for step in steps:
        driver = drivers.current(work.host, step.target)
        if step.before in _BECAUSE and driver is not None and "vfio" in driver:
            found.setdefault((step.before or "", driver), []).append(step.target)
    for (why, driver), addresses in found.items():
        several = len(addresses) > 1
        because = _BECAUSE[why].format(it="them" if several else "it")
        yield f"{' and '.join(sorted(addresses))} {'stay' if several else 'stays'} on {driver}{because}"
