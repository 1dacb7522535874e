# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a YAML file by its JSON schema, in words for people, each slip with its line.

Besides JSON schema's own keywords a schema may have `use` (words for what is allowed), `keys` (what the keys of a
mapping name), and for texts whatever forms a module adds. Imported only where there is such a file: jsonschema loads
slowly.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import jsonschema

from pvepassthru.model.text import listed, nearest, number, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from pvepassthru.host.strict_yaml import Document

TYPES = {"object": "a mapping of keys to values", "array": "a list", "string": "text", "integer": "a whole number"}
TYPES |= {"number": "a number", "boolean": "true or false"}
DEEPEST = 12
"""Our files have fewer levels; one that has more is a slip, such as an alias that holds itself."""


class Slip(NamedTuple):
    """Something in a file that means nothing, or not what its writer thinks."""

    line: int
    message: str
    """What is wrong, with the place by its keys: `vms.100.gate is perhaps`."""
    hint: str


class KeyForm(NamedTuple):
    """What the keys of a mapping can name."""

    normal: Callable[[str], str | None]
    """How a key is written the one way; None of what is none."""
    word: str
    """The word for such a key."""
    hint: str
    """What to do about one that is none."""


class Checker:
    """Checks documents against one schema.

    `keys` are the forms that its keyword `keys` names; `texts` are further keywords, true of a text that fits.
    """

    def __init__(
        self,
        schema: dict[str, Any],
        keys: Mapping[str, KeyForm],
        texts: Mapping[str, Callable[[str], bool]],
    ) -> None:
        validators = {"keys": _keyword(keys)} | {name: _text(form) for name, form in texts.items()}
        extended = jsonschema.validators.extend(jsonschema.Draft7Validator, validators)  # type: ignore[no-untyped-call] # its stubs have no types for it
        self._validator = extended(schema)

    def slips(self, document: Document) -> set[Slip]:
        """What is wrong with a document."""
        if _depth(document.value) > DEEPEST:
            hint = "see if an alias holds itself"
            return {Slip(1, f"the file is nested more than {DEEPEST} levels deep", hint)}
        errors = self._validator.iter_errors(document.value)
        return {slip for error in errors for slip in _slips(document, error)}


def load(path: str) -> dict[str, Any]:
    """A JSON schema that is shipped beside our modules."""
    with open(path, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def words(path: Sequence[object]) -> str:
    """Words for what lies at a path of keys and indices: `vms.100.devices entry 2`."""
    text = ""
    for step in path:
        text += f" entry {step + 1}" if isinstance(step, int) else f".{shown(str(step))}"
    return text.removeprefix(".") or "the file"


def _depth(value: object, level: int = 0) -> int:
    if level > DEEPEST or not isinstance(value, dict | list):
        return level
    inner = value.values() if isinstance(value, dict) else value
    return max((_depth(one, level + 1) for one in inner), default=level + 1)


# ---- keywords


def _keyword(forms: Mapping[str, KeyForm]) -> Callable[..., Iterator[jsonschema.ValidationError]]:
    def keyword(_: object, kind: str, instance: object, __: object) -> Iterator[jsonschema.ValidationError]:
        form = forms[kind]
        seen: dict[str, str] = {}
        for key in instance if isinstance(instance, dict) else ():
            written = form.normal(key)
            if written is None:
                message = f"has {shown(key)}, which is no {form.word}|{form.hint}"
                yield jsonschema.ValidationError(message, path=(), instance=key)
            elif written in seen:
                yield jsonschema.ValidationError(f"has {written} twice|leave one of them", path=(), instance=key)
            else:
                seen[written] = key

    return keyword


def _text(form: Callable[[str], bool]) -> Callable[..., Iterator[jsonschema.ValidationError]]:
    def keyword(_: object, wanted: bool, instance: object, __: object) -> Iterator[jsonschema.ValidationError]:  # noqa: FBT001 - as jsonschema calls it
        if wanted and isinstance(instance, str) and not form(instance):
            yield jsonschema.ValidationError("is not what is allowed")

    return keyword


# ---- words


def _slips(document: Document, error: Any) -> Iterator[Slip]:  # noqa: ANN401 - a ValidationError, whose fields have no types
    path = list(error.absolute_path)
    where = words(path)
    rules = error.schema if isinstance(error.schema, dict) else {}
    if error.validator == "additionalProperties":
        known = list(rules.get("properties", ()))
        for key in (key for key in error.instance if key not in known):
            near = nearest(key, known)
            hint = f"is {near} meant?" if near else f"known are {listed(known, 20)}"
            yield Slip(document.line([*path, key]), f"{where} has an unknown key {shown(key)}", hint)
    elif error.validator == "keys":
        message, _, hint = error.message.partition("|")
        yield Slip(document.line([*path, error.instance]), f"{where} {message}", hint)
    elif error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance and name in error.message)
        use = rules["properties"][missing].get("use") or rules["properties"][missing]["description"]
        yield Slip(document.line(path), f"{where} has no {missing}", f"add it: {use}")
    elif error.validator == "type" and "use" not in rules:
        kinds = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
        kind = next(kind for kind in kinds if kind != "null")
        hint = "begin each entry with `-`" if kind == "array" else ""
        yield Slip(document.line(path), f"{where} must be {TYPES[kind]}, not {_value(error.instance)}", hint)
    else:
        use = rules.get("use") or listed(rules.get("enum", ())) or rules.get("description", "")
        quoted = error.validator == "type" and isinstance(error.instance, str) and number(error.instance) is not None
        value = f'"{error.instance}", which is text' if quoted else _value(error.instance)
        yield Slip(document.line(path), f"{where} is {value}", f"use {use}{', without quotes' if quoted else ''}")


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "empty"
    return str(value).lower() if isinstance(value, bool) else shown(str(value))
