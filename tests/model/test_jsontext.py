# SPDX-License-Identifier: Apache-2.0
"""Our JSON is json's."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.model import jsontext

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.text(alphabet='ab "\\\n\t\x7f\r'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_as_json_does(value: object) -> None:
    assert jsontext.dumps(value) == json.dumps(value)
    assert jsontext.loads(jsontext.dumps(value).encode()) == value


def test_other_values_are_refused() -> None:
    with pytest.raises(TypeError, match="no JSON for float"):
        jsontext.dumps([0.5])


def test_plain_values_need_no_json() -> None:
    code = """
import sys
from pvepassthru.model import jsontext
jsontext.dumps({"a": [1, None, True, 'b "c" \\n']})
jsontext.loads(b"{}")
sys.exit("json" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
