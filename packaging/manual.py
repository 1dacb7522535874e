# SPDX-License-Identifier: Apache-2.0
"""Writes the manual pages into a folder: the prose of packaging/manual, filled with what the sources say themselves.

In that prose a line `@commands`, or another key of FILL, stands for what is made here: of the argparse parsers, of the
policy's schema and example, of docs/exit-codes.md. The pages are the same for the same sources: their date is that of
the changelog's newest entry, which is SOURCE_DATE_EPOCH of a package too.
"""

from __future__ import annotations

import email.utils
import json
import os
import re
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import commands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

PROSE = os.path.join(commands.SOURCE, "packaging", "manual")
CHANGELOG = os.path.join(commands.SOURCE, "packaging", "debian", "changelog")
SCHEMA = os.path.join(commands.SOURCE, "pvepassthru", "host", "policy.schema.json")
EXIT_CODES = os.path.join(commands.SOURCE, "docs", "exit-codes.md")
EXAMPLE = os.path.join(commands.SOURCE, "packaging", "policy.example.yaml")
WIDTH = 78
"""Of a line of roff, where it can be broken."""
REFERENCE = "#/definitions/"


def page(name: str) -> str:
    """The manual page whose prose is this file of packaging/manual."""
    lines = [f'.\\" Made by packaging/manual.py of packaging/manual/{name}']
    for line in _read(os.path.join(PROSE, name)).splitlines():
        if line.startswith("@"):
            lines += FILL[line[1:]]()
        elif line.startswith(".TH "):
            lines.append(f'{line} {_date()} "pvepassthru {commands.version()}" "PCI passthrough on Proxmox VE"')
            lines.append(".nh")  # options and file names are not to be parted
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _date() -> str:
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    if not seconds:
        found = re.search(r"^ -- .*>  (.*)$", _read(CHANGELOG), re.MULTILINE)
        if found is None:
            raise SystemExit(f"{CHANGELOG} has no entry with a date")
        seconds = str(email.utils.parsedate_to_datetime(found[1]).timestamp())
    return time.strftime("%Y-%m-%d", time.gmtime(float(seconds)))


# ---- roff


def _escaped(words: str) -> str:
    """Words in which no character means anything to roff."""
    for plain, name in (("\\", "\\e"), ("'", "\\(aq"), ("`", "\\(ga"), ("~", "\\(ti"), ("^", "\\(ha")):
        words = words.replace(plain, name)
    return words


def _literal(words: str) -> str:
    """What is typed: a hyphen is a minus sign."""
    return _escaped(words).replace("-", "\\-")


def _bold(words: str) -> str:
    return f"\\fB{_literal(words)}\\fR"


def _text(words: str) -> list[str]:
    """A paragraph; what stands between ` and ` in it is literal."""
    parts = re.split(r"`([^`]*)`", words)
    source = "".join(_bold(part) if at % 2 else _options_literal(part) for at, part in enumerate(parts))
    lines = textwrap.wrap(source, WIDTH, break_long_words=False, break_on_hyphens=False)
    return [_safe(line) for line in lines]


def _options_literal(words: str) -> str:
    """Prose: only the hyphens of options are minus signs."""
    parts = re.split(r"((?<![\w-])--?[a-z][a-z-]*)", words)
    return "".join(_bold(part) if at % 2 else _escaped(part) for at, part in enumerate(parts))


def _safe(line: str) -> str:
    return f"\\&{line}" if line.startswith((".", "'")) else line


def _verbatim(words: str) -> Iterator[str]:
    yield from (".PP", ".in +2n", ".nf")
    yield from (_safe(_literal(line)) or "\\&" for line in words.splitlines())
    yield from (".fi", ".in")


def _items(found: Iterable[tuple[str, list[str]]]) -> Iterator[str]:
    """Terms, as roff, each with its paragraph."""
    for term, lines in found:
        yield from (".TP", term, *(lines or ["\\&"]))


# ---- the command


def _arguments(found: Iterable[commands.Argument]) -> Iterator[str]:
    group = ""
    for argument in found:
        if argument.group != group:
            group = argument.group
            yield from (".PP", *_text(f"{group[:1].upper()}{group[1:]}:"))
        words = f"{argument.help[:1].upper()}{argument.help[1:]}"
        if not set(argument.choices) <= set(re.findall(r"[\w-]+", f"{words} {argument.metavar}")):
            words += f" ({', '.join(argument.choices)})"
        yield from _items([(_term(argument), _text(f"{words}." if words else ""))])


def _term(argument: commands.Argument) -> str:
    value = f"\\fI{_literal(argument.metavar)}\\fR"
    if argument.nargs in {"*", "+"}:
        value += " ..."
    if not argument.options:
        return value
    return ", ".join(map(_bold, argument.options)) + (f" {value}" if argument.metavar else "")


def _usage(command: commands.Command) -> str:
    words = [_bold(" ".join(("pvepassthru", *command.words)))]
    if any(argument.options and argument.options[0] != "-h" for argument in command.arguments):
        words.append("[\\fIoption\\fR ...]")
    if command.below:
        words.append("\\fIcommand\\fR ...")
    for argument in command.arguments:
        if not argument.options:
            value = _term(argument)
            words.append(f"[{value}]" if argument.nargs in {"?", "*"} else value)
    return " ".join(words)


def _global_options() -> Iterator[str]:
    return _arguments(commands.read()[0].arguments)


def _commands() -> Iterator[str]:
    for command in commands.read()[1:]:
        yield f'.SS "{_literal(" ".join(command.words))}"'
        yield _usage(command)
        told = command.description or command.summary
        if told:
            yield from (".PP", *_text(told if told.endswith(".") else f"{told[:1].upper()}{told[1:]}."))
        yield from _arguments(argument for argument in command.arguments if argument.options[:1] != ("-h",))


def _exit_codes() -> Iterator[str]:
    """The first table of docs/exit-codes.md: code, class, meaning, examples."""
    meanings: dict[str, list[str]] = {}
    for code, meaning in re.findall(r"^\| (\d+) \|[^|]*\| ([^|]*) \|", _read(EXIT_CODES), re.MULTILINE):
        meanings.setdefault(code, []).append(meaning)
    if not meanings:
        raise SystemExit(f"{EXIT_CODES} has no table of codes")
    return _items((_bold(code), _text(f"{'; '.join(said)}.")) for code, said in meanings.items())


# ---- the policy


def _schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_read(SCHEMA))
    return found


KEYS = {
    "selector": "a device: its address, slot, `vendor:device` or `mapping:NAME`",
    "vmid": "a VMID",
    "function": "a physical function: its address, slot or `vendor:device`",
    "unit": "a systemd unit in full, such as `lightdm.service`",
    "index": "the number of a VF, from 0",
    "bar": "the number of a BAR, from 0 to 5",
}
"""What the schema's `keys` say."""


def _sections() -> Iterator[str]:
    schema = _schema()
    for name, section in schema["properties"].items():
        yield f'.SS "{_literal(name)}"'
        if "$ref" in section:
            yield from _text(_told(schema["definitions"][section["$ref"].removeprefix(REFERENCE)]))
            continue
        yield from _text(_told(section))
        inner = section
        if "keys" in section or isinstance(section.get("additionalProperties"), dict):
            inner = section["additionalProperties"]
            key = KEYS[section["keys"]] if "keys" in section else "a name"
            yield from (".PP", *_text(f"A mapping; each key is {key}, each value a mapping of settings."))
        elif "items" in section:
            inner = section["items"]
            yield from (".PP", *_text("A list of mappings."))
        yield from _properties(inner)


def _properties(node: dict[str, Any]) -> Iterator[str]:
    """What a mapping may have: what is described under SETTINGS by name, all else here."""
    required = node.get("required", [])
    found = node.get("properties", {})
    shared = [name for name, value in found.items() if "$ref" in value]
    if shared:
        yield from (".PP", *_text(f"Settings, described below: {', '.join(f'`{name}`' for name in shared)}."))
    for name, value in found.items():
        if "$ref" not in value:
            words = _told(value)
            if name in required:
                words += " It must be there."
            inner = value.get("additionalProperties")
            if isinstance(inner, dict):
                below = ", ".join(f"`{word}`" for word in inner.get("properties", {}))
                words += f" A mapping; each key is {KEYS[value['keys']]}, each value a mapping of {below}."
            yield from _items([(_bold(name), _text(words))])


def _settings() -> Iterator[str]:
    """The definitions that sections refer to, once each."""
    for name, value in _schema()["definitions"].items():
        yield from _items([(_bold(name), _text(_told(value)))])


def _told(value: dict[str, Any]) -> str:
    """What a value is for, what it can be, and what it is when nothing is said."""
    words = [str(value.get("description", ""))]
    if "enum" in value:
        words.append(f"One of {', '.join(f'`{word}`' for word in value['enum'])}.")
    elif "use" in value:
        words.append(f"Value: {value['use']}.")
    elif value.get("type") == "boolean":
        words.append("Value: `true` or `false`.")
    if "default" in value:
        words.append(f"Default: `{json.dumps(value['default']).strip(chr(34))}`.")
    return " ".join(word for word in words if word)


FILL: dict[str, Callable[[], Iterator[str]]] = {
    "options": _global_options,
    "commands": _commands,
    "exit-codes": _exit_codes,
    "sections": _sections,
    "settings": _settings,
    "example": lambda: _verbatim(_read(EXAMPLE)),
}
"""What a line with @ stands for."""


def main(folder: str) -> None:
    """Write every page into a folder."""
    for name in sorted(os.listdir(PROSE)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(page(name))


if __name__ == "__main__":
    main(*sys.argv[1:])
