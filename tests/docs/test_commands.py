# SPDX-License-Identifier: Apache-2.0
"""Every command of README and of the guide is run on a simulated host, and prints what the page shows.

`pytest tests/docs --regenerate` writes what came into the pages; look at the difference, and shorten it by `…`.
"""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING

import pytest

from tests.docs import markdown
from tests.docs.page import Runner, rewritten

if TYPE_CHECKING:
    from pathlib import Path

GUIDE = sorted(os.path.relpath(path, markdown.ROOT) for path in glob.glob(f"{markdown.ROOT}/docs/guide/*.md"))
PAGES = ["README.md", *GUIDE]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_says_what_comes(
    path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    regenerate: bool,  # noqa: FBT001 - a fixture
) -> None:
    runner = Runner(markdown.read(path), tmp_path, monkeypatch)
    faults = list(runner.run())
    if regenerate:
        real = os.path.join(markdown.ROOT, path)
        with open(real, encoding="utf-8") as file:
            text = file.read()
        with open(real, "w", encoding="utf-8") as file:
            file.write(rewritten(text, runner.ran))
    assert not faults, "\n".join(faults)
