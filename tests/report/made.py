# SPDX-License-Identifier: Apache-2.0
"""A report that was made for the tests, and what a parser sees in it."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any, NamedTuple

MADE = 1_795_000_000
"""When the tests' reports were made, in seconds since the epoch."""


class Made(NamedTuple):
    """A host's report in all its forms."""

    root: str
    contents: dict[str, Any]
    text: str
    path: str
    """Of the page."""


class Seen(HTMLParser):
    """The elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in {"script", "style"}:
            self.scripts.append(data)
        else:
            self.words.append(data)

    @property
    def kinds(self) -> set[tuple[str, str]]:
        """Each element with each of its attributes."""
        return {(tag, name) for tag, attributes in self.elements for name in attributes or ("",)}

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]

    @property
    def links(self) -> set[str]:
        return {attributes["href"] or "" for tag, attributes in self.elements if tag == "a"}
