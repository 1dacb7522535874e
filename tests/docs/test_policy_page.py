# SPDX-License-Identifier: Apache-2.0
"""docs/policy.md says what the policy's schema says, and all of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.docs.policy_page import PATH, SCHEMA, page

if TYPE_CHECKING:
    from collections.abc import Iterator


def settings(value: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    """Every setting that the schema has anywhere, with its description if it has one."""
    if isinstance(value, dict):
        for name, setting in value.get("properties", {}).items():
            yield name, setting.get("description", "")
        for inner in value.values():
            yield from settings(inner)


def test_the_page_is_that_of_the_schema() -> None:
    with open(PATH, encoding="utf-8") as file:
        assert file.read() == page(), "run ./dev docs"


def test_every_setting_is_there_with_its_words() -> None:
    with open(SCHEMA, encoding="utf-8") as file:
        schema = json.load(file)
    text = page()
    found = list(settings(schema))
    assert len({name for name, _ in found}) > 35
    for name, description in found:
        assert f"`{name}`" in text, name
        assert description.replace("|", "\\|") in text, name
    for name, definition in schema["definitions"].items():
        assert definition["description"] in text, name
