# SPDX-License-Identifier: Apache-2.0
"""JSON for the hook's fast path: what it writes is plain, and json brings `re` with it.

Values with anything but printable ASCII, tabs and line ends in their texts are left to json. What reads JSON is the
part of json that is written in C, by itself; what that does not take as it is, is left to json, errors too.
"""

from __future__ import annotations

try:
    from _json import make_scanner
except ImportError:  # json does without it, too
    make_scanner = None  # type: ignore[assignment,misc]  # looked at before it is called

from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, ClassVar

CONSTANTS = {None: "null", True: "true", False: "false"}


class _Options:
    """What json's decoder tells the scanner when nobody asks it for anything special."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: ClassVar[dict[str, str]] = {}


def dumps(value: object) -> str:
    """A value of None, bool, int, str, list, tuple and dict (with str as keys) as one line of JSON.

    Raises TypeError for any other.
    """
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return CONSTANTS[value]
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join([dumps(item) for item in value]) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join([f"{_text(key)}: {dumps(item)}" for key, item in value.items()]) + "}"
    raise TypeError(f"no JSON for {type(value).__name__}")


def loads(data: bytes) -> Any:  # noqa: ANN401 - whatever the text holds
    """The value of a JSON text. Raises ValueError."""
    if make_scanner is not None:
        try:
            text = data.decode()
            value, end = make_scanner(_Options)(text, 0)  # type: ignore[arg-type]  # it takes whatever has these
        except (UnicodeDecodeError, StopIteration, SystemError):  # SystemError: its own error class is in json
            pass
        else:
            if end == len(text) or text[end:] == "\n":
                return value
    import json  # noqa: PLC0415 - the reason for this module

    return json.loads(data)


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    if escaped.isascii() and escaped.isprintable():
        return f'"{escaped}"'
    import json  # noqa: PLC0415 - as above

    return json.dumps(text)
