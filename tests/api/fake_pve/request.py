# SPDX-License-Identifier: Apache-2.0
"""A call as an endpoint sees it, the checks of its parameters, and the ways to refuse it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from tests.api.fake_pve import marks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tests.api.fake_pve.state import State

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | None"
UNKNOWN = "no parameter of this call"
_ON = {"1", "on", "yes", "true"}
_OFF = {"0", "off", "no", "false"}


class Refusal(Exception):  # noqa: N818 - an answer that says no, not a failure of the fake
    """An answer that is not 200."""

    def __init__(
        self, status: int, reason: str, errors: Mapping[str, str] | None = None, *, empty: bool = False
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.errors = errors
        self.empty = empty
        """Whether there is no body at all."""


class Died(Exception):  # noqa: N818 - what the worker did, not what went wrong in the fake
    """The worker that served the call was killed in the middle; there is no answer."""


def invalid(errors: Mapping[str, str]) -> Refusal:
    """400 with a text per parameter."""
    return Refusal(400, "Some parameters were refused.", errors)


def failed(text: str) -> Refusal:
    """500, with which PVE says nearly everything."""
    return Refusal(500, text)


def denied(detail: str = "") -> Refusal:
    """403."""
    return Refusal(403, f"{marks.DENIED} ({detail})" if detail else marks.DENIED)


@dataclass(frozen=True)
class Param:
    """A parameter of a call."""

    check: Callable[[str], str | None] = field(default=lambda _: None)
    """What is wrong with a value, None if nothing is."""
    required: bool = False
    many: bool = False
    """A list, sent as repeated keys."""


@dataclass
class Call:
    """One request, after its sender is known."""

    state: State
    user: str
    """`USER@REALM` or `USER@REALM!TOKEN`."""
    method: str
    path: str
    node: str
    """The node that serves it."""
    uri: dict[str, str]
    """What stands in the path."""
    params: dict[str, list[str]]
    dies: bool = False
    """Whether the worker that serves it is killed in the middle of its work."""

    def get(self, name: str) -> str | None:
        """A parameter, the last one given, or None."""
        values = self.params.get(name)
        return values[-1] if values else None

    def flag(self, name: str) -> bool:
        """A boolean parameter."""
        return is_on(self.get(name) or "0")

    @property
    def vmid(self) -> int:
        """The VM of the path."""
        return int(self.uri["vmid"])

    @property
    def root(self) -> bool:
        """Whether this is root@pam with a password, which no token is."""
        return self.user == "root@pam"

    def may(self, path: str, *privileges: str) -> bool:
        """Whether the sender has one of these privileges on a path."""
        return bool(self.state.privileges(self.user, path).intersection(privileges))

    def need(self, path: str, *privileges: str) -> None:
        """Refuse unless the sender has one of these privileges on a path."""
        if not self.may(path, *privileges):
            raise denied(f"{path}, {'|'.join(privileges)}")


def is_on(text: str) -> bool:
    """Whether a text that PVE takes for a boolean is true."""
    return text.lower() in _ON


def boolean(text: str) -> str | None:
    """What is wrong with a boolean."""
    return None if text.lower() in _ON | _OFF else f"'{text}' is no boolean"


def integer(least: int = 0, most: int | None = None) -> Callable[[str], str | None]:
    """A check of an integer in a range."""

    def check(text: str) -> str | None:
        if not re.fullmatch(r"-?[0-9]+", text, re.ASCII):
            return f"'{text}' is no integer"
        if int(text) < least or (most is not None and int(text) > most):
            return f"{text} is out of range"
        return None

    return check


def enum(*words: str) -> Callable[[str], str | None]:
    """A check for one of some words."""
    return lambda text: None if text in words else f"'{text}' is none of {', '.join(words)}"


def like(pattern: str, most: int | None = None) -> Callable[[str], str | None]:
    """A check with a regular expression."""
    compiled = re.compile(pattern, re.ASCII)

    def check(text: str) -> str | None:
        if most is not None and len(text) > most:
            return f"more than {most} characters"
        return None if compiled.fullmatch(text) else f"'{text}' has the wrong form"

    return check


def vmid(text: str) -> str | None:
    """What is wrong with a VMID."""
    return integer(100, 999_999_999)(text)


DIGEST = Param(lambda text: "too long for a digest" if len(text) > 40 else None)
FLAG = Param(boolean)
TEXT = Param()


def verify(given: Mapping[str, list[str]], known: Mapping[str, Param]) -> dict[str, str]:
    """What is wrong with the parameters, by name: unknown ones, missing ones, bad values."""
    errors = missing(given, known)
    for name, values in given.items():
        if name not in known:
            errors[name] = UNKNOWN
        elif known[name].many:
            errors.update(_bad_items(name, values, known[name]))
        elif problem := known[name].check(values[-1]):
            errors[name] = problem
    return errors


def missing(given: Mapping[str, list[str]], known: Mapping[str, Param]) -> dict[str, str]:
    """What is not there and must be."""
    return {name: "required, and not given" for name, param in known.items() if param.required and name not in given}


def _bad_items(name: str, values: Iterable[str], param: Param) -> dict[str, str]:
    problems = ((f"{name}[{index}]", param.check(value)) for index, value in enumerate(values))
    return {key: problem for key, problem in problems if problem}
