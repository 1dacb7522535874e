# SPDX-License-Identifier: Apache-2.0
"""The kernel's command line, read as the kernel reads it, and changed so that all else in it stays byte for byte.

Source: Linux lib/cmdline.c (next_arg) and kernel/params.c (parse_args, parameq): blanks part parameters, except between
double quotes; the first `=` after the first character parts the name from the value; the quotes around a whole
parameter or value are no part of it, and nothing escapes a quote; `-` and `_` are the same in a name, upper and lower
case are not; what follows a lone `--` is for init. Where a parameter stands twice most take the last one.
"""

from __future__ import annotations

from pvepassthru.model.record import NamedTuple

BLANKS = " \t\n\v\f\r"
"""What parts parameters."""


class Parameter(NamedTuple):
    """One word of a command line."""

    text: str
    """As it stands there, quotes included."""
    name: str
    """Without quotes, as written."""
    value: str | None
    """Without quotes; None without a `=`."""
    start: int
    """Where `text` begins in the command line."""
    to_init: bool = False
    """Whether it stands behind `--`, where the kernel does not look; the `--` itself too."""

    @property
    def end(self) -> int:
        """Where `text` ends in the command line."""
        return self.start + len(self.text)


class CommandLine(NamedTuple):
    """A kernel command line."""

    text: str

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All its words, in their order."""
        return parse(self.text)

    def named(self, name: str) -> tuple[Parameter, ...]:
        """The kernel's parameters of this name, in their order; `-` and `_` are the same."""
        return tuple(word for word in self.parameters if not word.to_init and same_name(word.name, name))

    def values(self, name: str) -> tuple[str | None, ...]:
        """The values of a parameter in their order, the last of which counts for most; None is one without a `=`."""
        return tuple(word.value for word in self.named(name))

    def has(self, parameter: str) -> bool:
        """Whether the kernel gets this parameter, such as `intel_iommu=on`, in the last place where its name stands."""
        wanted = parse(parameter)[0]
        return self.values(wanted.name)[-1:] == (wanted.value,)

    def miswritten(self, name: str) -> tuple[Parameter, ...]:
        """The parameters that would be of this name, were they not in the wrong case, which the kernel minds."""
        return tuple(
            word
            for word in self.parameters
            if not word.to_init and not same_name(word.name, name) and same_name(word.name.lower(), name.lower())
        )

    def with_added(self, parameter: str) -> CommandLine:
        """The command line with this parameter as the kernel's last one, before a `--`."""
        end = 0
        for word in self.parameters:
            if word.to_init:
                break
            end = word.end
        before, after = self.text[:end], self.text[end:]
        if not end:
            return CommandLine(parameter + (" " if after and after[0] not in BLANKS else "") + after)
        return CommandLine(f"{before} {parameter}{after}")

    def with_replaced(self, old: Parameter, parameter: str) -> CommandLine:
        """The command line with another parameter in the place of `old`, one of `parameters`."""
        return CommandLine(self.text[: old.start] + parameter + self.text[old.end :])

    def with_removed(self, old: Parameter) -> CommandLine:
        """The command line without `old`, one of `parameters`, and the blanks before it (behind it, if it is first)."""
        before, after = self.text[: old.start], self.text[old.end :]
        kept = before.rstrip(BLANKS)
        return CommandLine(kept + after) if kept else CommandLine(before + after.lstrip(BLANKS))


def same_name(one: str, other: str) -> bool:
    """Whether the kernel takes two names for the same parameter."""
    return one.replace("-", "_") == other.replace("-", "_")


def parse(text: str) -> tuple[Parameter, ...]:
    """The words of a command line in their order. Never raises; an unclosed quote reaches to the end."""
    words: list[Parameter] = []
    to_init = False
    place = 0
    while True:
        while place < len(text) and text[place] in BLANKS:
            place += 1
        if place == len(text):
            return tuple(words)
        start = place
        quoted = False
        while place < len(text) and (quoted or text[place] not in BLANKS):
            quoted ^= text[place] == '"'
            place += 1
        word = _parameter(text[start:place], start)
        to_init = to_init or (word.name == "--" and word.value is None)
        words.append(word._replace(to_init=to_init))


def _parameter(text: str, start: int) -> Parameter:
    whole = text
    if text[0] == '"':  # around the whole parameter
        whole = text[1:-1] if len(text) > 1 and text[-1] == '"' else text[1:]
    equals = whole.find("=", 1)
    if equals < 0:
        return Parameter(text, whole, None, start)
    value = whole[equals + 1 :]
    if value[:1] == '"':
        value = value[1:-1] if len(value) > 1 and value[-1] == '"' else value[1:]
    return Parameter(text, whole[:equals], value, start)
