# SPDX-License-Identifier: Apache-2.0
"""modprobe's configuration, modprobe.d/*.conf, and lists of modules (modules-load.d, /etc/modules), as text.

Source: kmod's modprobe.d(5) and systemd's modules-load.d(5). A `#` starts a comment only at the beginning of a line; a
backslash at its end joins the next one; `-` and `_` are the same in a module's name; commands are in lower case.
"""

from __future__ import annotations

from pvepassthru.model.record import NamedTuple

COMMANDS = {"alias": 2, "blacklist": 1, "install": 2, "options": 2, "remove": 2, "softdep": 2, "weakdep": 2}
"""Each command with the fewest words that must follow it."""
OBSOLETE = frozenset({"include", "config"})
"""What old releases knew; kmod warns of it and goes on."""


class Line(NamedTuple):
    """One line of the configuration that means something."""

    path: str
    number: int
    """From 1; of a line that goes on, where it begins."""
    command: str
    module: str
    """With `_`; the alias of an `alias` line, as written."""
    rest: str
    """What follows the module, without outer blanks."""

    @property
    def where(self) -> str:
        """File and line, as in a finding."""
        return f"{self.path}:{self.number}"

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """Of an `options` line: parameter (with `_`) and value, in their order."""
        return tuple(setting(word) for word in words(self.rest))


class Bad(NamedTuple):
    """A line that kmod passes over."""

    path: str
    number: int
    text: str
    why: str

    @property
    def where(self) -> str:
        """File and line, as in a finding."""
        return f"{self.path}:{self.number}"


def plain(module: str) -> str:
    """A module's name as the kernel writes it: `vfio-pci` is vfio_pci."""
    return module.replace("-", "_")


def words(text: str) -> tuple[str, ...]:
    """The words of a module's options, parted by blanks except between double quotes, as the kernel parts them."""
    found = []
    word = ""
    quoted = False
    for char in text:
        quoted ^= char == '"'
        if char in " \t\n\r\f\v" and not quoted:
            found.append(word)
            word = ""
        else:
            word += char
    return tuple(one for one in (*found, word) if one)


def setting(word: str) -> tuple[str, str]:
    """A parameter (with `_`) and its value without quotes, empty without one."""
    name, _, value = word.partition("=")
    return plain(name.strip('"')), value.strip('"')


def parse(text: str, path: str) -> tuple[tuple[Line, ...], tuple[Bad, ...]]:
    """The lines of one file, and those that kmod passes over. Never raises."""
    lines: list[Line] = []
    bad: list[Bad] = []
    for number, line in _joined(text):
        command, *rest = line.split(None, 1) or ("#",)
        arguments = rest[0].split(None, 1) if rest else []
        if command[0] == "#":
            continue
        if command not in COMMANDS:
            why = "is obsolete" if command in OBSOLETE else "is no command of modprobe"
            bad.append(Bad(path, number, line.strip(), f"{command} {why}"))
        elif len(arguments) < COMMANDS[command]:
            missing = "no module is named" if not arguments else f"nothing follows {arguments[0]}"
            bad.append(Bad(path, number, line.strip(), missing))
        else:
            name = arguments[0] if command == "alias" else plain(arguments[0])
            lines.append(Line(path, number, command, name, arguments[1].strip() if len(arguments) > 1 else ""))
    return tuple(lines), tuple(bad)


def _joined(text: str) -> list[tuple[int, str]]:
    """The lines, those that end in a backslash joined with the next, each with its number."""
    found = []
    begun = ""
    start = 0
    for number, line in enumerate(text.split("\n"), 1):
        start = start or number
        if line.endswith("\\"):
            begun += line[:-1]
        else:
            found.append((start, begun + line))
            begun, start = "", 0
    return [*found, (start, begun)] if start else found


def listed(text: str) -> tuple[tuple[int, str], ...]:
    """The modules that a modules-load.d file, /etc/modules or /etc/initramfs-tools/modules lists, with their lines.

    The names are as written; `#` and `;` begin a comment line; what follows a name is left out.
    """
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        first = line.split(None, 1)[:1]
        if first and first[0][0] not in "#;":
            found.append((number, first[0]))
    return tuple(found)
