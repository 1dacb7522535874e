# SPDX-License-Identifier: Apache-2.0
"""The kernel's command line as GRUB's files configure it, and changes to it that touch nothing else of them.

Source: Debian's grub-mkconfig, which reads /etc/default/grub and then grub.d/*.cfg, and its 10_linux, which gives the
kernel GRUB_CMDLINE_LINUX and GRUB_CMDLINE_LINUX_DEFAULT. Whether a change does what it is to do is not guessed: the
files are evaluated again with it.
"""

from __future__ import annotations

from pvepassthru.model import shell
from pvepassthru.model.cmdline import CommandLine, Parameter
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = "/etc/default/grub"
VARIABLES = ("GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT")
"""In the order in which the kernel gets them."""
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-+=.,:/@%")
"""What means only itself to a shell, quoted or not."""
_AROUND = frozenset("\"' \t\n")
"""What can stand around a parameter in an assignment."""


class Origin(NamedTuple):
    """A configured parameter, and where it was written."""

    parameter: Parameter
    path: str
    line: int

    @property
    def where(self) -> str:
        """`/etc/default/grub:10`."""
        return f"{self.path}:{self.line}"


class Configured(NamedTuple):
    """What the loader is to give the kernel at the next boot, beside what it adds itself (root=, BOOT_IMAGE=)."""

    pieces: tuple[shell.Piece, ...]

    @property
    def line(self) -> CommandLine:
        """The command line."""
        return CommandLine("".join(piece.text for piece in self.pieces))

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Its parameters in their order, each with the file and line that it comes from."""
        found = []
        for parameter in self.line.parameters:
            end = 0
            for piece in self.pieces:
                end += len(piece.text)
                if parameter.start < end:
                    found.append(Origin(parameter, piece.path, piece.line))
                    break
        return tuple(found)


def evaluate(scripts: tuple[shell.Script, ...]) -> tuple[Configured | None, str]:
    """What GRUB is to give the kernel by these files, in the order in which they are read, or why nobody can tell."""
    pieces: list[shell.Piece] = []
    for name in VARIABLES:
        value = shell.evaluate(scripts, name, VARIABLES)
        if value.unknown:
            return None, f"{name} cannot be told: {value.unknown}"
        if pieces and value.pieces:
            pieces.append(shell.Piece(" ", value.pieces[0].path, value.pieces[0].line))
        pieces += value.pieces
    return Configured(tuple(pieces)), ""


def with_added(scripts: tuple[shell.Script, ...], parameter: str) -> tuple[shell.Script, ...] | None:
    """The files with one more parameter for the kernel; None where no assignment takes it.

    The parameter holds nothing that means something to a shell.
    """
    old = _words(scripts)
    if old is None or not set(parameter) <= _PLAIN:
        return None
    for changed in _additions(scripts, parameter):
        new = _words(changed)
        if new and any(new[:at] + new[at + 1 :] == old for at, word in enumerate(new) if word == parameter):
            configured = evaluate(changed)[0]
            if configured and configured.line.has(parameter):
                return changed
    return None


def with_replaced(
    scripts: tuple[shell.Script, ...], parameter: str, other: str | None
) -> tuple[shell.Script, ...] | None:
    """The files with another parameter (None: with none) for this one, everywhere; None where that cannot be done."""
    old = _words(scripts)
    if old is None or not set(parameter + (other or "")) <= _PLAIN:
        return None
    wanted = [other if word == parameter else word for word in old]
    left = old.count(parameter)
    while left:
        for changed in _replacements(scripts, parameter, other):
            new = _words(changed)
            if new is not None and new.count(parameter) < left:
                scripts, left = changed, new.count(parameter)
                break
        else:
            return None
    return scripts if _words(scripts) == [word for word in wanted if word is not None] else None


def _words(scripts: tuple[shell.Script, ...]) -> list[str] | None:
    configured = evaluate(scripts)[0]
    return [word.text for word in configured.line.parameters] if configured else None


def _assignments(scripts: tuple[shell.Script, ...]) -> Iterator[tuple[int, shell.Assignment]]:
    """The assignments of the two variables, those of GRUB_CMDLINE_LINUX_DEFAULT first."""
    for name in reversed(VARIABLES):
        for number, script in enumerate(scripts):
            for one in script.assignments:
                if one.name == name and one.parts is not None:
                    yield number, one


def _additions(scripts: tuple[shell.Script, ...], parameter: str) -> Iterator[tuple[shell.Script, ...]]:
    for number, one in _assignments(scripts):
        word = scripts[number].text[one.start : one.end]
        quote = word[-1:]
        if quote in {'"', "'"} and len(word) > 1:
            blank = "" if word[-2] in _AROUND else " "
            yield _with(scripts, number, one, f"{word[:-1]}{blank}{parameter}{quote}")
        if word[:1] in {'"', "'"}:  # before a `--`
            yield _with(scripts, number, one, f"{word[0]}{parameter} {word[1:]}")
        if set(word) <= _PLAIN:
            yield _with(scripts, number, one, f'"{word} {parameter}"' if word else f'"{parameter}"')
    for number, script in enumerate(scripts):
        if script.path == FILE:
            gap = "" if script.text.endswith("\n") or not script.text else "\n"
            yield _exchanged(scripts, number, f'{script.text}{gap}{VARIABLES[1]}="{parameter}"\n')


def _replacements(
    scripts: tuple[shell.Script, ...], parameter: str, other: str | None
) -> Iterator[tuple[shell.Script, ...]]:
    for number, one in _assignments(scripts):
        word = scripts[number].text[one.start : one.end]
        place = word.find(parameter)
        while place >= 0:
            end = place + len(parameter)
            before, after = word[:place], word[end:]
            if (not before or before[-1] in _AROUND) and (not after or after[0] in _AROUND):
                if other is None:
                    kept = before.rstrip(" \t")
                    after = after.lstrip(" \t") if kept[-1:] in {'"', "'"} else after
                    yield _with(scripts, number, one, kept + after)
                else:
                    yield _with(scripts, number, one, before + other + after)
            place = word.find(parameter, end)


def _with(scripts: tuple[shell.Script, ...], number: int, one: shell.Assignment, word: str) -> tuple[shell.Script, ...]:
    text = scripts[number].text
    return _exchanged(scripts, number, text[: one.start] + word + text[one.end :])


def _exchanged(scripts: tuple[shell.Script, ...], number: int, text: str) -> tuple[shell.Script, ...]:
    return (*scripts[:number], shell.parse(scripts[number].path, text), *scripts[number + 1 :])
