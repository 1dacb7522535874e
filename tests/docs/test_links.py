# SPDX-License-Identifier: Apache-2.0
"""No link in a page of the project leads nowhere, and every page of the documentation is reached from README."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.docs import markdown

ROOT = markdown.ROOT
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
).stdout.splitlines()
PAGES = [name for name in TRACKED if name.endswith(".md")]
DOCUMENTATION = {name for name in PAGES if name == "README.md" or name.startswith("docs/")}


def target(page: str, link: str) -> tuple[str, str]:
    """The path below the project and the anchor that a link means."""
    path, _, anchor = link.partition("#")
    return (os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page), anchor


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    faults = []
    for line, link in markdown.read(page).links:
        if link.startswith(("https://", "http://")):
            continue
        path, anchor = target(page, link)
        if not os.path.exists(os.path.join(ROOT, path)):
            faults.append(f"{page}:{line}: there is no {path}")
        elif anchor and anchor not in markdown.read(path).anchors:
            faults.append(f"{page}:{line}: {path} has no heading #{anchor}")
    assert not faults, "\n".join(faults)


def test_every_page_is_reached_from_readme() -> None:
    reached, ahead = set(), ["README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or not page.endswith(".md"):
            continue
        reached.add(page)
        if os.path.exists(os.path.join(ROOT, page)):
            ahead += [target(page, link)[0] for _, link in markdown.read(page).links if "://" not in link]
    assert DOCUMENTATION - reached == set()


def test_anchors_are_those_of_the_web() -> None:
    text = "# A `b` c\n\n## A b c\n\n## X-Y, z & (q): *w*\n\n[to](#a-b-c-1) `[no](link)`\n"
    page = markdown.parse("x.md", text)
    assert page.anchors == ("a-b-c", "a-b-c-1", "x-y-z--q-w")
    assert [link.target for link in page.links] == ["#a-b-c-1"]
