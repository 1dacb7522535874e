# SPDX-License-Identifier: Apache-2.0
"""One api.yaml: its YAML checked against profile.schema.json, each slip with its line.

Nothing of what is written there is quoted in a message but the names of keys and profiles, and values that cannot be
secret: the file holds passwords, and a slip can put one where it does not belong.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import jsonschema

from pvepassthru.host import strict_yaml
from pvepassthru.model.errors import InputError
from pvepassthru.model.text import listed, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pvepassthru.host.strict_yaml import Document

SCHEMA = os.path.join(os.path.dirname(__file__), "profile.schema.json")
KEY = re.compile(r"[A-Za-z_-]{0,40}")
"""The part of an unknown key that is shown: up to the colon that a blank is missing after."""
PLAIN = re.compile(r"[A-Za-z_-]{1,40} is there twice|[A-Za-z ]+")
"""Words of the YAML parser that quote nothing of the file but a key."""
TYPES = {"object": "a mapping", "array": "a list", "string": "text", "integer": "a whole number", "number": "a number"}
TYPES |= {"boolean": "true or false"}


class Slip(NamedTuple):
    """Something that the schema does not have."""

    path: tuple[str | int, ...]
    at: tuple[str | int, ...]
    """Where in the file; an unknown key's own place, while `path` is that of the mapping which has it."""
    message: str
    """What follows the name of the place: `has no hosts`."""
    hint: str


class Checked(NamedTuple):
    """A file that keeps to the schema."""

    value: dict[str, Any]
    written: Document

    def line(self, path: Iterable[object]) -> int:
        """The line, from 1, of what stands at these keys."""
        return self.written.line(path)


def check(path: str, data: bytes) -> Checked:
    """An api.yaml by its bytes. Raises InputError, with the line of the first slip."""
    try:
        written = strict_yaml.parse(data)
    except strict_yaml.YamlError as error:
        why = f": {error}" if PLAIN.fullmatch(str(error)) else ""
        place = f"{path}:{error.line}" if error.line else path
        raise InputError(f"{place} is not valid YAML{why}", "put texts with special characters in quotes") from None
    slips = [(written.line(slip.at), slip) for slip in _slips(written.value, _schema())]
    if slips:
        line, slip = min(slips, key=lambda entry: entry[0])
        raise InputError(f"{path}:{line}: {_place(slip.path)} {slip.message}", slip.hint)
    value: dict[str, Any] = written.value  # type: ignore[assignment]  # the schema asks for a mapping
    return Checked(value, written)


def slips_of_profile(value: object) -> list[Slip]:
    """The slips of one profile."""
    schema = _schema()
    return list(_slips(value, {**schema["definitions"]["profile"], "definitions": schema["definitions"]}))


def _schema() -> dict[str, Any]:
    with open(SCHEMA, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def _slips(value: object, schema: dict[str, Any]) -> Iterator[Slip]:
    for error in jsonschema.Draft7Validator(schema).iter_errors(value):
        path = tuple(error.absolute_path)
        rules: dict[str, Any] = error.schema if isinstance(error.schema, dict) else {}
        if error.validator == "additionalProperties":
            known = list(rules.get("properties", ()))
            for key in (key for key in error.instance if key not in known):
                near = nearest(key, known)
                hint = f"is {near} meant?" if near else f"known are {listed(known, 20)}"
                yield Slip(path, (*path, key), f"has an unknown key {_key(key)}", hint)
        elif error.validator == "required":
            missing = [name for name in rules["required"] if name not in error.instance]
            yield Slip(path, path, f"has no {missing[0]}", f"add it: {rules['properties'][missing[0]]['use']}")
        else:
            use = f"use {rules['use']}" if "use" in rules else ""
            yield Slip(path, path, _wrong(error, rules), use)


def _wrong(error: jsonschema.ValidationError, rules: dict[str, Any]) -> str:
    value: Any = error.instance
    if error.validator == "type":
        kinds = rules["type"] if isinstance(rules["type"], list) else [rules["type"]]
        quotes = ", so put it in quotes" if kinds[0] == "string" and isinstance(value, int | float) else ""
        return f"must be {TYPES[kinds[0]]}{quotes}"
    if isinstance(value, dict | list):
        return "is empty"
    if rules.get("needs") and isinstance(value, str) and rules["needs"] not in value:
        return f"has no {rules['needs']}"
    return "is not what is allowed" if rules.get("secret") else f"is {shown(str(value)) or 'empty'}"


def _key(key: str) -> str:
    found = KEY.match(key)
    return f"{found.group() or '?'}..." if found and found.group() != key else key


def _place(path: Sequence[str | int]) -> str:
    words = ""
    for step in path:
        words += f" entry {step + 1}" if isinstance(step, int) else f".{shown(step)}"
    return words.removeprefix(".") or "the file"
