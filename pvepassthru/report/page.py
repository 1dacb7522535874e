# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML page that needs nothing else: what the templates print, arranged from a report's contents.

Everything that a host says is escaped by Jinja2, always, and its control characters and marks of direction are made
visible. The page's policy (Content-Security-Policy) allows its own style and script by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pvepassthru.model.text import one_line
from pvepassthru.report.arrangement import FEW, arranged
from pvepassthru.report.contents import GENERATOR
from pvepassthru.report.topology import BORDER, DEEPEST, GUTTER, LEFT, LINE, STEP, word

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")
LONGEST = 700
"""Characters of one text; what is longer is cut, with a word of it."""
MARKS = {
    "error": "✕",
    "warning": "!",
    "info": "i",
    "fine": "✓",
    "silenced": "\N{EN DASH}",
    "unknown": "?",
    "not applicable": "\N{EN DASH}",
}
"""State to the sign before it, so that nobody needs its colour."""
SECTIONS = (
    ("readiness", "Readiness"),
    ("findings", "Findings"),
    ("topology", "Topology"),
    ("devices", "Devices"),
    ("vms", "VMs"),
    ("capacity", "Mediated devices"),
    ("sriov", "Virtual functions"),
    ("held", "Held"),
)


def page(contents: dict[str, Any]) -> str:
    """The page of a report's contents (report/contents.py)."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {"ticks": _ticks, "cut": _cut, "word": word, "time": _time}
    style, script = _read("report.css") + _widths(), _read("report.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("report.html").render(
        **arranged(contents),
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        policy=policy,
        generator=GENERATOR,
        marks=MARKS,
        sections=SECTIONS,
        few=FEW,
        left=LEFT,
        step=STEP,
        gutter=GUTTER,
        border=BORDER,
        line_height=LINE,
    )


def _read(name: str) -> str:
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        return file.read()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _widths() -> str:
    """How wide what is drawn is: as wide as the picture, less what is on its left and right."""
    rules = []
    for depth in range(DEEPEST + 1):
        here = LEFT + STEP * depth
        rules.append(f".n{depth} {{ width: calc(100% - {here + GUTTER + 1}px); }}")
        rules.append(f".r{depth} {{ width: calc(100% - {here - BORDER + LEFT - BORDER}px); }}")
    return "\n".join(rules) + "\n"


def _visible(value: object) -> object:
    """What goes into the page: text with its control characters, marks of direction and broken bytes made visible."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _cut(text: str | None, most: int = LONGEST) -> str:
    """Text of a host, no longer than this."""
    if text is None or len(text) <= most:
        return text or ""
    return f"{text[:most]}…"


def _ticks(text: str) -> Markup:
    """Text of ours, with what stands between backticks as code."""
    parts = [str(Markup.escape(one_line(part))) for part in text.split("`")]
    marked = [f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts)]
    return Markup("".join(marked))  # noqa: S704 - each part is escaped


def _time(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
