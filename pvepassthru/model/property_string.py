# SPDX-License-Identifier: Apache-2.0
"""PVE's property strings: `value,key=value,key=value`, as in hostpci entries, the machine property and map lines.

A value that does not fit its schema spoils the whole string. The words for why it does not (`Fault.reason`) are those
of tests/conformance/README.md. Source: behaviour of PVE's JSON schema code.
"""

from __future__ import annotations

from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import BLANKS, LONGEST, listed, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ON = {"1", "on", "yes", "true"}
_OFF = {"0", "off", "no", "false"}
_INTEGER = Pattern(r"[-+]?[0-9]+", ASCII)
_NUMBER = Pattern(r"[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?", ASCII)
MAX_DIGITS = 300
"""Of a number; more do not fit a float."""


class Key(NamedTuple):
    """What a sub-key accepts."""

    kind: str = "string"
    """string, boolean, integer, number, or enum."""
    fits: Callable[[str], bool] | None = None
    """Whether a string is as it must be."""
    reason: str = "bad-pattern"
    """Why a string is refused that is not."""
    form: str = ""
    """What fits, in words for people, with an example."""
    values: tuple[str, ...] = ()
    """What an enum allows; what a string may be besides what fits."""
    default: bool = False
    """The key that a part without `=` sets."""
    required: bool = False
    longest: int | None = None
    least: float | None = None
    most: float | None = None


class Fault(NamedTuple):
    """One thing that is wrong with a property string."""

    reason: str
    message: str
    hint: str


class PropertyError(ValueError):
    """A property string that PVE does not accept; `faults` says why, never empty."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = faults

    @property
    def reasons(self) -> tuple[str, ...]:
        """The different reasons, sorted."""
        return tuple(sorted({fault.reason for fault in self.faults}))


def boolean(text: str) -> bool | None:
    """What PVE takes for a boolean, in any ASCII case, or None if it is none."""
    word = text.lower()
    return True if word in _ON else False if word in _OFF else None


def parse(text: str, keys: Mapping[str, Key]) -> dict[str, str]:
    """The values by key, booleans as "1" and "0". Raises PropertyError."""
    values: dict[str, str] = {}
    bare = False
    for part in text.split(","):
        if not part.strip(BLANKS):
            continue
        name, equals, value = part.partition("=")
        if not equals:
            _take_bare(part, keys, values, again=bare)
            bare = True
            continue
        if not name or not value:
            raise PropertyError(_empty(part, name, keys))
        if name in values:
            raise PropertyError(Fault("duplicate-key", f"{shown(name)} is given twice", f"keep one {shown(name)}="))
        if name not in keys:
            raise PropertyError(_unknown(name, value, keys))
        flag = boolean(value) if keys[name].kind == "boolean" else None
        values[name] = value if flag is None else str(int(flag))
    faults = [fault for name, value in values.items() if (fault := _fault(name, value, keys[name]))]
    faults += [
        Fault("missing-key", f"{name} is missing", f"add {name}={key.form}")
        for name, key in keys.items()
        if key.required and name not in values
    ]
    if faults:
        raise PropertyError(*faults)
    return values


def write(values: Mapping[str, str], keys: Mapping[str, Key]) -> str:
    """The property string of these values, the default key first and bare."""
    default = next((name for name, key in keys.items() if key.default and name in values), None)
    parts = [values[default]] if default else []
    return ",".join(parts + [f"{name}={value}" for name, value in values.items() if name != default])


def _take_bare(part: str, keys: Mapping[str, Key], values: dict[str, str], *, again: bool) -> None:
    """Give a part without `=` to the default key. Raises PropertyError."""
    default = next((name for name, key in keys.items() if key.default), None)
    if default is None:
        raise PropertyError(Fault("missing-key", f"{shown(part)} has no key", "write KEY=VALUE"))
    if again or values.get(default, "0") != "0":  # PVE's code takes the value "0" for none
        key = keys.get(part.strip(BLANKS))
        if key and key.kind == "boolean":
            hint = f"write {part.strip(BLANKS)}=1"
        elif near := nearest(part, keys):
            hint = f"write {near}=VALUE if that is meant"
        else:
            hint = f"remove it, or put its key and = before it ({listed(keys, 20)})"
        raise PropertyError(Fault("duplicate-key", f"{shown(part)} is a second value for {default}", hint))
    values[default] = part


def _empty(part: str, name: str, keys: Mapping[str, Key]) -> Fault:
    if name in keys:
        return Fault("missing-key", f"{name}= has no value", f"give a value or remove {name}=")
    return Fault("missing-key", f"{shown(part)} is not KEY=VALUE", "give both a key and a value")


def _unknown(name: str, value: str, keys: Mapping[str, Key]) -> Fault:
    stripped = name.strip(BLANKS)
    if stripped != name and stripped in keys:
        hint = f"write {stripped}={shown(value)}: a blank before or after a key belongs to it"
    elif near := nearest(name, keys):
        hint = f"write {near}={shown(value)} if that is meant"
    else:
        hint = f"remove it; the keys are {listed(keys, 20)}"
    return Fault("unknown-key", f'there is no key "{shown(name)}"', hint)


def _fault(name: str, value: str, key: Key) -> Fault | None:
    """Why a value does not fit its key, or None."""
    if key.kind == "boolean":
        hint = f"write {name}=1 or {name}=0"
        text = f'{name} is "{shown(value)}", which is no boolean'
        return None if value in {"0", "1"} else Fault("bad-boolean", text, hint)
    if key.kind == "enum":
        return None if value in key.values else _enum_fault(name, value, key)
    if key.kind in {"integer", "number"}:
        return _number_fault(name, value, key)
    return _string_fault(name, value, key)


def _enum_fault(name: str, value: str, key: Key) -> Fault:
    near = next((known for known in key.values if known == value.strip(BLANKS).lower()), None)
    hint = f"write {name}={near}" if near else f"use one of {listed(key.values)}"
    return Fault("bad-enum", f'{name} is "{shown(value)}", which it does not allow', hint)


def _number_fault(name: str, value: str, key: Key) -> Fault | None:
    pattern = _INTEGER if key.kind == "integer" else _NUMBER
    if not pattern.fullmatch(value) or len(value) > MAX_DIGITS:
        return Fault("bad-number", f'{name} is "{shown(value)}", which is no {key.kind}', "write digits only")
    if (key.least is not None and float(value) < key.least) or (key.most is not None and float(value) > key.most):
        return Fault("bad-number", f"{name} is {shown(value)}", f"{name} goes from {key.least} to {key.most}")
    return None


def _string_fault(name: str, value: str, key: Key) -> Fault | None:
    if key.longest is not None and len(value.encode("utf-8", "surrogateescape")) > key.longest:
        return Fault("bad-length", f"{name} has {len(value)} characters", f"{name} can have {key.longest} at most")
    if key.fits and value not in key.values and not key.fits(value):
        return Fault(key.reason, f'{name} is "{shown(value)}", which is not {key.form}', _suggest(name, value, key))
    return None


def _suggest(name: str, value: str, key: Key) -> str:
    """A value that fits and was probably meant, as a hint."""
    for guess in (value.strip(BLANKS), value.strip('"'), value.lower(), f"0x{value}", value.replace(" ", "")):
        if key.fits and len(guess) <= LONGEST and key.fits(guess):
            return f"write {name}={guess}"
    return f"write {key.form}"
