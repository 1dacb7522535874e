# SPDX-License-Identifier: Apache-2.0
"""A VM's config file and its property strings, read as leniently as PVE reads them.

A line that PVE cannot use is dropped with a warning and the rest counts. This module shares no code with the package
under test: it is the other opinion on the same facts, held to PVE's own verdicts by test_conformance.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping

BLANKS = " \t\n\r\f\v"
"""The ASCII blanks, and only they, are trimmed."""

HOSTPCI = tuple(f"hostpci{index}" for index in range(16))

_KEY = re.compile(r"([a-z][a-z_-]*[0-9]*):")
_SECTION = re.compile(r"\[([^\]]*)\][ \t\n\r\f\v]*")
_SNAPSHOT = re.compile(r"[a-z][a-z0-9_-]+", re.IGNORECASE | re.ASCII)
_PART = re.compile(r"([^=]+)=(.+)", re.DOTALL)


class PveError(Exception):
    """PVE refuses: `code` as the conformance data names it, `whys` all the reasons for a property string."""

    def __init__(self, code: str, text: str = "", whys: tuple[str, ...] = ()) -> None:
        super().__init__(f"{code}: {text}" if text else code)
        self.code = code
        self.whys = whys or (code,)


Check = Callable[[str], str]
"""Takes a value, returns it as PVE keeps it, raises PveError."""


def pattern(expression: str, code: str = "bad-pattern", longest: int = 1 << 30) -> Check:
    """A check that the whole value matches."""
    compiled = re.compile(expression, re.ASCII)

    def check(value: str) -> str:
        if len(value) > longest or not compiled.fullmatch(value):
            raise PveError(code, value)
        return value

    return check


def one_of(*words: str) -> Check:
    """A check that the value is one of these words."""

    def check(value: str) -> str:
        if value not in words:
            raise PveError("bad-enum", value)
        return value

    return check


def boolean(value: str) -> str:
    """The value as 1 or 0."""
    lower = value.lower()
    if lower in ("1", "on", "yes", "true"):
        return "1"
    if lower in ("0", "off", "no", "false"):
        return "0"
    raise PveError("bad-boolean", value)


def number(least: float, most: float) -> Check:
    """A check that the value is a number within these bounds."""
    digits = pattern(r"[+-]?[0-9]+(\.[0-9]+)?", "bad-format")

    def check(value: str) -> str:
        if not least <= float(digits(value)) <= most:
            raise PveError("bad-format", value)
        return value

    return check


def properties(text: str, checks: Mapping[str, Check], default: str | None = None) -> dict[str, str]:
    """A property string's keys and values; raises PveError with every reason for which PVE refuses it."""
    if "\r" in text:
        raise PveError("bad-format", text)
    found = _split(text, checks, default)
    whys = set()
    for key, value in found.items():
        try:
            found[key] = checks[key](value)
        except PveError as error:
            whys.add(error.code)
    if whys:
        raise PveError(min(whys), text, tuple(sorted(whys)))
    return found


def _split(text: str, checks: Mapping[str, Check], default: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip(BLANKS):
            continue
        if pair := _PART.fullmatch(part):
            key, value = pair[1], pair[2]
            if key not in checks:
                raise PveError("unknown-key", key)
        elif "=" in part or default is None:
            raise PveError("missing-key", part)
        else:
            key, value = default, part
        if key in found:
            raise PveError("duplicate-key", key)
        found[key] = value
    return found


_SELECTOR = r"(?:[0-9a-f]{4,}:)?[0-9a-f]{2}:[0-9a-f]{2}(?:\.[0-9a-f])?"
_ID = pattern(r"0x[0-9a-fA-F]{4}")
_HOSTPCI_CHECKS: dict[str, Check] = {
    "host": pattern(f"{_SELECTOR}(?:;{_SELECTOR})*"),
    "mapping": pattern(r"[a-zA-Z][a-zA-Z0-9_-]+", "bad-format"),
    "rombar": boolean,
    "romfile": pattern(r"[^,;]+"),
    "pcie": boolean,
    "x-vga": boolean,
    "legacy-igd": boolean,
    "mdev": pattern(r"[^/.:]+"),
    "vendor-id": _ID,
    "device-id": _ID,
    "sub-vendor-id": _ID,
    "sub-device-id": _ID,
    "driver": one_of("vfio", "keep"),
}
_VERSION = r"[0-9]+(?:\.[0-9]+)+(?:\+pve[0-9]+)?(?:\.pxe)?"
_MACHINE_CHECKS: dict[str, Check] = {
    "type": pattern(
        rf"pc|pc(?:-i440fx)?-{_VERSION}|q35|pc-q35-{_VERSION}|virt(?:-[0-9]+(?:\.[0-9]+)+)?(?:\+pve[0-9]+)?", longest=40
    ),
    "viommu": one_of("intel", "virtio"),
    "aw-bits": number(32, 64),
    "enable-s3": boolean,
    "enable-s4": boolean,
}
_VGA = "cirrus qxl qxl2 qxl3 qxl4 none serial0 serial1 serial2 serial3 std virtio virtio-gl vmware"
_VGA_CHECKS: dict[str, Check] = {
    "type": one_of(*_VGA.split()),
    "memory": number(4, 512),
    "clipboard": one_of("vnc"),
}


def hostpci(text: str) -> dict[str, str]:
    """A hostpci entry's properties; raises PveError with the reasons for which PVE drops it."""
    return properties(text, _HOSTPCI_CHECKS, "host")


def machine(text: str) -> dict[str, str]:
    """The machine property's parts; raises PveError when PVE drops it."""
    return properties(text, _MACHINE_CHECKS, "type")


def _machine_text(text: str) -> str:
    machine(text)
    return text


def _vga_text(text: str) -> str:
    properties(text, _VGA_CHECKS, "type")
    return text


@dataclasses.dataclass
class Section:
    """The keys of one section that PVE keeps, and the hostpci lines that it dropped."""

    values: dict[str, str] = dataclasses.field(default_factory=dict)
    dropped: list[tuple[str, tuple[str, ...]]] = dataclasses.field(default_factory=list)

    def read(self, key: str, value: str) -> None:
        """Take one `key: value` line."""
        try:
            if key in HOSTPCI:
                hostpci(value)
            elif key.startswith("hostpci"):
                raise PveError("bad-format", key)
            elif key == "machine":
                _machine_text(value)
            elif key == "vga":
                _vga_text(value)
            elif key == "template":
                boolean(value)
        except PveError as error:
            if key.startswith("hostpci"):
                self.dropped.append((key, error.whys))
            return
        self.values[key] = value

    @property
    def template(self) -> bool:
        """Whether this is a template, which ignores hostpci."""
        return "template" in self.values and boolean(self.values["template"]) == "1"

    @property
    def q35(self) -> bool:
        """Whether the machine is a q35."""
        kind = machine(self.values.get("machine", "")).get("type", "")
        return kind == "q35" or kind.startswith("pc-q35-")

    @property
    def machine_invalid(self) -> bool:
        """Whether the machine property passes its schema but not the start."""
        parts = machine(self.values.get("machine", ""))
        viommu = parts.get("viommu")
        if viommu == "intel" and not self.q35:
            return True
        if "aw-bits" not in parts:
            return False
        return viommu is None or (viommu == "intel" and float(parts["aw-bits"]) not in (39, 48))

    def entries(self) -> dict[int, dict[str, str]]:
        """The hostpci entries by index, in PVE's order; none for a template."""
        if self.template:
            return {}
        return {index: hostpci(self.values[key]) for index, key in enumerate(HOSTPCI) if key in self.values}


@dataclasses.dataclass
class Config:
    """A VM's whole config file."""

    main: Section = dataclasses.field(default_factory=Section)
    pending: Section = dataclasses.field(default_factory=Section)
    deletes: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    """The description: lines that start with #."""
    snapshots: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """The lines of each snapshot by its name, as they are."""
    others: list[str] = dataclasses.field(default_factory=list)
    """The lines of sections that concern nobody here, with their headers."""

    def effective(self) -> Section:
        """The main section with [PENDING] applied."""
        values = {key: value for key, value in self.main.values.items() if key not in self.deletes}
        return Section({**values, **self.pending.values}, list(self.main.dropped))

    def has_pending(self) -> bool:
        """Whether anything waits in [PENDING]."""
        return bool(self.deletes or self.pending.values)

    def text(self) -> str:
        """The file as PVE writes it: what it dropped is gone, keys are sorted."""
        lines = [*self.notes, *_sorted_lines(self.main.values)]
        if self.has_pending():
            lines += ["", "[PENDING]"]
            lines += [f"delete: {','.join(self.deletes)}"] if self.deletes else []
            lines += _sorted_lines(self.pending.values)
        for name, body in self.snapshots.items():
            lines += ["", f"[{name}]", *body]
        return "".join(f"{line}\n" for line in lines + self.others)


def _sorted_lines(values: Mapping[str, str]) -> list[str]:
    return [f"{key}: {value}" for key, value in sorted(values.items())]


def _key_value(line: str) -> tuple[str, str] | None:
    match = _KEY.match(line)
    rest = line[match.end() :] if match else ""
    if not match or not rest:
        return None
    return match[1], rest.strip(BLANKS) or rest[-1]  # blanks alone count as one blank


def parse(data: bytes) -> Config:
    """The config of these bytes; whatever they are, PVE makes something of them."""
    config = Config()
    section: Section | None = config.main
    body: list[str] | None = None
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        if header := _SECTION.fullmatch(line):
            section, body = _enter(config, header[1], line)
        elif body is not None:
            if line.strip(BLANKS):
                body.append(line)
        elif section is config.main and line.startswith("#"):
            config.notes.append(line)
        elif section is not None and (pair := _key_value(line)):
            if pair[0] != "delete":
                section.read(*pair)
            elif section is config.pending:
                config.deletes += _words(pair[1])
    return config


def _enter(config: Config, name: str, line: str) -> tuple[Section | None, list[str] | None]:
    """Where the lines after a section's header go: keys that count, or lines that are kept as they are."""
    if name.upper() == "PENDING":
        config.pending = Section()
        config.deletes = []
        return config.pending, None
    if _SNAPSHOT.fullmatch(name):
        config.snapshots[name] = []
        return None, config.snapshots[name]
    config.others.append(line)
    return None, config.others


def _words(text: str) -> list[str]:
    return [word.lstrip("!") for word in re.split(r"[,; \t\n\r\f\v]+", text) if word.lstrip("!")]
