# SPDX-License-Identifier: Apache-2.0
"""A plugin of pytest that says, in JSON, from which files the modules came that tests loaded: `pytest -p whence`."""

from __future__ import annotations

import json
import os
import sys

ASKED = os.environ.get("WHENCE", "").split()


def pytest_unconfigure() -> None:
    """Print it, behind everything else."""
    found = {name: getattr(sys.modules[name], "__file__", None) for name in ASKED if name in sys.modules}
    print(f"\nwhence {json.dumps(found)}")  # noqa: T201 - for the test that runs pytest
