# SPDX-License-Identifier: Apache-2.0
"""Assignments of shell variables, as /etc/default/grub holds them, evaluated without a shell.

Source: POSIX, Shell Command Language, 2.2 (quoting), 2.6.2 (parameter expansion) and 2.9.1 (assignments). Only what is
plain is evaluated: quotes, backslashes, `$NAME`, `${NAME}`, `NAME+=...`. Anything that needs a shell (commands, other
expansions, conditions) makes what it assigns unknown, never wrong.
"""

from __future__ import annotations

from pvepassthru.model.record import NamedTuple

_NAME_START = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
_NAME = _NAME_START + "0123456789"
_CLOSED_BY = {"if": "fi", "for": "done", "while": "done", "until": "done", "case": "esac", "{": "}", "(": ")"}
"""Words that open a compound command, each with the word that closes it."""
_INSIDE = frozenset({"then", "else", "elif", "do", "!"})
"""Words after which a command begins."""
_READING = frozenset({".", "source", "eval"})
"""Commands that can assign what nobody sees here."""
_CHANGING = frozenset({"unset", "read", "readonly", "local", "declare", "typeset"})
"""Commands that change the variables that they name."""


_QUOTED = frozenset('"\\$`\n')
"""What means more than itself between double quotes; a new line is told apart for its number."""
_UNQUOTED = _QUOTED | frozenset(" \t;&|<>()'~")
_SINGLE = frozenset("'\n")
LONGEST = 4096
"""Characters, and pieces, of a value that is still evaluated; no kernel takes a command line of more than 4096."""


class Piece(NamedTuple):
    """A part of a variable's value, and where it was written."""

    text: str
    path: str
    line: int


class Assignment(NamedTuple):
    """One `NAME=word` of a script."""

    name: str
    appends: bool
    """Whether it is `NAME+=word`."""
    path: str
    line: int
    start: int
    """Where the word begins in the script's text."""
    end: int
    """Where it ends."""
    parts: tuple[tuple[bool, str, int], ...] | None
    """Of the word: whether this is a variable's name, its name or the literal text, its line; None: not plain."""
    sure: bool
    """Whether it is made whatever happens: it stands in no condition, loop or function."""


class Script(NamedTuple):
    """A file with assignments."""

    path: str
    text: str
    assignments: tuple[Assignment, ...]
    clouds: tuple[tuple[str, int], ...]
    """What may assign unseen: the names of variables that a command changes, or "" for any; each with its line."""


class Value(NamedTuple):
    """What a variable is after some scripts."""

    pieces: tuple[Piece, ...] = ()
    unknown: str = ""
    """Why the value cannot be told, with file and line; empty where it can."""

    @property
    def text(self) -> str:
        """The value as text; what is known of it."""
        return "".join(piece.text for piece in self.pieces)


def parse(path: str, text: str) -> Script:
    """The assignments in a script. Never raises: what is no shell is taken for commands that are not understood."""
    reader = _Reader(path, text)
    reader.read()
    return Script(path, text, tuple(reader.assignments), tuple(reader.clouds))


def evaluate(scripts: tuple[Script, ...], name: str, unset: tuple[str, ...] = ()) -> Value:
    """What a variable is after these scripts were read one after the other by one shell.

    `unset` are the variables that the shell is known not to have before, `name` itself among them.
    """
    values = dict.fromkeys((name, *unset), Value())
    for script in scripts:
        steps: list[tuple[int, int, Assignment | str]] = [(one.line, one.start, one) for one in script.assignments]
        steps += [(line, -1, cloud) for cloud, line in script.clouds]
        for line, _, step in sorted(steps, key=lambda step: step[:2]):
            if isinstance(step, str):
                why = f"{script.path}:{line} has a command that may change it"
                for known in [step] if step else list(values):
                    values[known] = Value(values.get(known, Value()).pieces, why)
            else:
                values[step.name] = _assigned(step, values)
    return values.get(name, Value())


def _assigned(step: Assignment, values: dict[str, Value]) -> Value:
    where = f"{step.path}:{step.line}"
    if step.parts is None:
        return Value((), f"{where} needs a shell to be evaluated")
    pieces: list[Piece] = []
    unknown = "" if step.sure else f"{where} is only assigned under a condition"
    if step.appends:
        before = values.get(step.name, Value())
        pieces += before.pieces
        unknown = unknown or before.unknown
    for is_name, word, line in step.parts:
        if is_name:
            other = values.get(word) or Value((), f"{where} uses ${word}, which is set elsewhere")
            pieces += other.pieces
            unknown = unknown or other.unknown
        else:
            pieces.append(Piece(word, step.path, line))
        if len(pieces) > LONGEST:
            break
    if len(pieces) > LONGEST or sum(len(piece.text) for piece in pieces) > LONGEST:
        return Value((), f"{where} makes it longer than {LONGEST} characters")
    return Value(tuple(pieces), unknown)


def _merged(parts: list[tuple[bool, str, int]]) -> tuple[tuple[bool, str, int], ...]:
    """The parts of a word, literal text of one line in one part."""
    found: list[tuple[bool, list[str], int]] = []
    for is_name, text, line in parts:
        if found and not is_name and not found[-1][0] and found[-1][2] == line:
            found[-1][1].append(text)
        else:
            found.append((is_name, [text], line))
    return tuple((is_name, "".join(texts), line) for is_name, texts, line in found)


class _Reader:
    """Reads a script from its begin to its end."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.place = 0
        self.line = 1
        self.closing: list[str] = []
        """What closes the conditions, loops and functions that are open, the innermost last."""
        self.assignments: list[Assignment] = []
        self.clouds: list[tuple[str, int]] = []
        self.conditional = False
        """Whether the command stands behind `&&`, `||` or a pipe."""

    def read(self) -> None:
        while self.place < len(self.text):
            self._command()

    def _skip_to_end_of_line(self) -> None:
        while self.place < len(self.text) and self.text[self.place] != "\n":
            self.place += 1

    def _separator(self, *, empty: bool) -> bool:
        """Whether the command, still `empty` or not, ends here; passes what ends it."""
        text, place = self.text, self.place
        if place >= len(text):
            return True
        two = text[place : place + 2]
        if two in {"&&", "||"}:
            self.place += 2
            self.conditional = True
            return True
        if text[place] in "\n;&|":
            self.place += 1
            self.line += text[place] == "\n"
            self.conditional = text[place] == "|" or (empty and self.conditional)
            return True
        return False

    def _command(self) -> None:  # noqa: C901 - the cases of a grammar
        """Read one simple command, or a word that opens or closes a compound one."""
        text = self.text
        made: list[Assignment] = []
        words: list[str] = []
        conditional = self.conditional
        line = self.line
        while True:
            while self.place < len(text) and text[self.place] in " \t":
                self.place += 1
            if text[self.place : self.place + 2] == "\\\n":
                self.place += 2
                self.line += 1
                continue
            if self.place < len(text) and text[self.place] == "#":
                self._skip_to_end_of_line()
            if self._separator(empty=not words and not made):
                break
            if text[self.place] in "()":
                self._finish(made, words, line)
                made, words = [], []
                self._nest(text[self.place])
                self.place += 1
                continue
            if text[self.place] in "<>":
                if text[self.place : self.place + 2] == "<<":  # a text up to a line of its own: not read here
                    self.closing.append("")
                self.place += 1
                words.append("<>")
                continue
            if not words or words[0] == "export":
                one = self._assignment(sure=not (conditional or self.closing))
                if one:
                    made.append(one)
                    continue
            start = self.place
            self._word()
            word = text[start : self.place]
            if (not words or word == "{") and (self._nest(word) or word in _INSIDE):
                made, words = [], []
                continue
            words.append(word)
        self._finish(made, words, line)

    def _nest(self, word: str) -> bool:
        """Whether the word opens or closes a compound command; notes it."""
        if word in _CLOSED_BY:
            self.closing.append(_CLOSED_BY[word])
        elif word in self.closing[-1:]:
            self.closing.pop()
        else:
            return False
        return True

    def _finish(self, made: list[Assignment], words: list[str], line: int) -> None:
        command = words[0] if words else "export"
        if command == "export":
            self.assignments += made
        elif command in _READING or "$" in command or "`" in command:
            self.clouds.append(("", line))
        elif command in _CHANGING:
            self.clouds += [(word.partition("=")[0], line) for word in words[1:]]

    def _assignment(self, *, sure: bool) -> Assignment | None:
        """The assignment that begins here, or None."""
        text, start = self.text, self.place
        end = start
        if text[end] not in _NAME_START:
            return None
        while end < len(text) and text[end] in _NAME:
            end += 1
        appends = text[end : end + 2] == "+="
        if not appends and text[end : end + 1] != "=":
            return None
        line = self.line
        self.place = end + 1 + appends
        begin = self.place
        parts = self._word()
        if text[self.place : self.place + 1] == "(":  # an array, which sh does not know
            parts = None
        return Assignment(text[start:end], appends, self.path, line, begin, self.place, parts, sure)

    def _word(self) -> tuple[tuple[bool, str, int], ...] | None:
        """Read one word; its parts, or None where it is not plain."""
        text = self.text
        parts: list[tuple[bool, str, int]] = []
        plain = True
        quoted = False
        while self.place < len(text):
            char = text[self.place]
            if char == '"':
                quoted = not quoted
                self.place += 1
            elif not quoted and char in " \t\n;&|<>()":
                break
            elif not quoted and char == "'":
                plain = self._single(parts) and plain
            elif char == "\\":
                self._backslash(parts, quoted=quoted)
            elif char in "$`":
                plain = self._expansion(parts) and plain
            else:
                plain = plain and (quoted or char != "~")  # somebody's home folder
                self._run(parts, _QUOTED if quoted else _UNQUOTED)
        return _merged(parts) if plain and not quoted else None

    def _run(self, parts: list[tuple[bool, str, int]], special: frozenset[str]) -> None:
        """Read a character and those behind it that mean only themselves."""
        start = self.place
        self.place += 1
        if self.text[start] != "\n":
            while self.place < len(self.text) and self.text[self.place] not in special:
                self.place += 1
        found = self.text[start : self.place]
        self.place = start
        self._literal(parts, found)

    def _literal(self, parts: list[tuple[bool, str, int]], found: str) -> None:
        """Take a character that stands for itself, or several of one line."""
        parts.append((False, found, self.line))
        self.line += found == "\n"
        self.place += len(found)

    def _single(self, parts: list[tuple[bool, str, int]]) -> bool:
        """Read what stands in single quotes; whether they are closed."""
        self.place += 1
        while self.place < len(self.text) and self.text[self.place] != "'":
            self._run(parts, _SINGLE)
        self.place += 1
        return self.place <= len(self.text)

    def _backslash(self, parts: list[tuple[bool, str, int]], *, quoted: bool) -> None:
        after = self.text[self.place + 1 : self.place + 2]
        if after == "\n":
            self.place += 2
            self.line += 1
        elif quoted and after not in {'"', "\\", "$", "`"}:
            self._literal(parts, "\\")
        else:
            self.place += 1
            if after:
                self._literal(parts, after)

    def _expansion(self, parts: list[tuple[bool, str, int]]) -> bool:
        """Read an expansion; whether it is a variable's plain value."""
        text = self.text
        if text[self.place] == "`":
            self._until("`")
            return False
        after = text[self.place + 1 : self.place + 2]
        braced = after == "{"
        end = begin = self.place + 1 + braced
        while end < len(text) and text[end] in _NAME:
            end += 1
        name = text[begin:end]
        plain = name != "" and name[0] in _NAME_START
        if plain and (not braced or text[end : end + 1] == "}"):
            parts.append((True, name, self.line))
            self.place = end + braced
            return True
        if after in {"(", "{"}:
            self._until(_CLOSED_BY[after])
        elif after and (after in "?$!#@*-" or after.isdigit()):
            self.place += 2
        else:  # a lone $
            self._literal(parts, "$")
            return True
        return False

    def _until(self, closing: str) -> None:
        """Pass a substitution with all that it nests, up to and with its closing character."""
        text = self.text
        opening = {")": "(", "}": "{"}.get(closing, "")
        self.place += 1
        depth = 0
        quote = ""
        while self.place < len(text):
            char = text[self.place]
            self.line += char == "\n"
            self.place += 1
            if char == "\\" and quote != "'":
                self.line += text[self.place : self.place + 1] == "\n"
                self.place += 1
            elif quote:
                quote = "" if char == quote else quote
            elif char in "'\"":
                quote = char
            elif char == opening:
                depth += 1
            elif char == closing:
                depth -= 1
                if depth <= 0:
                    return
