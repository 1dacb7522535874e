# SPDX-License-Identifier: Apache-2.0
"""Codes on the command line: which findings `--select` and `--ignore` leave, and which of them fail a command."""

from __future__ import annotations

from pvepassthru.model.errors import UsageError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import nearest, shown
from pvepassthru.rules.catalogue import BY_CODE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from pvepassthru.model.finding import Finding

ALWAYS = ("PVP103", "PVP104", "PVP105", "PVP330", "PVP411")
"""What could not be read, and so not be judged. --select keeps these, and --ignore takes them by their whole code only:
else "not checked" would look like "fine"."""
SEVERITIES = ("error", "warning", "info")
"""The worst first."""
FAIL_ON = (*SEVERITIES, "never")


class Choice(NamedTuple):
    """Which findings are wanted: codes, or how they begin, in capitals."""

    select: tuple[str, ...] = ()
    """Everything, if empty."""
    ignore: tuple[str, ...] = ()

    def wants(self, code: str) -> bool:
        """Whether findings of a code are wanted."""
        if code in ALWAYS:
            return code not in self.ignore
        return (not self.select or code.startswith(self.select)) and not code.startswith(self.ignore)

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return not self.select and not self.ignore

    def left_out(self, count: int) -> str:
        """Words for findings that are not wanted, behind those for the others: `, 3 left out by --ignore`; or none."""
        options = [option for option, words in (("--select", self.select), ("--ignore", self.ignore)) if words]
        return f", {count} left out by {' and '.join(options)}" if count else ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which findings are wanted, and which fail the command."""
    which = parser.add_argument_group("which findings")
    which.add_argument("--select", action="append", metavar="CODE", help="only these; may be given several times")
    which.add_argument("--ignore", action="append", metavar="CODE", help="all but these; may be given several times")
    which.add_argument(
        "--fail-on",
        choices=FAIL_ON,
        default="error",
        help="exit with 1 when a finding is as bad as this, or worse (default: %(default)s)",
    )


def choice(select: Sequence[str] | None, ignore: Sequence[str] | None) -> Choice:
    """The choice that the words of --select and --ignore are, each a list with commas.

    Raises UsageError for what no code begins with.
    """
    return Choice(_codes("--select", select or ()), _codes("--ignore", ignore or ()))


def fails(found: Iterable[Finding], fail_on: str) -> bool:
    """Whether there is a finding as bad as `fail_on`, or worse, that is not silenced."""
    bad = SEVERITIES[: FAIL_ON.index(fail_on) + 1] if fail_on != "never" else ()
    return any(finding.severity in bad and finding.silenced is None for finding in found)


def _codes(option: str, words: Sequence[str]) -> tuple[str, ...]:
    codes = tuple(dict.fromkeys(part.strip().upper() for word in words for part in word.split(",") if part.strip()))
    if words and not codes:
        raise UsageError(f"{option} names no code", f"{option} PVP2,PVP310")
    for code in codes:
        if not any(known.startswith(code) for known in BY_CODE):
            near = nearest(code, BY_CODE) if not code.startswith("PVP") else None
            hint = f"is {near} meant?" if near else "pvepassthru explain --all lists all codes"
            raise UsageError(f"{option} {shown(code)}: no code begins so", hint)
    return codes
