# SPDX-License-Identifier: Apache-2.0
"""Our JSON is json's."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import example, given
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


@given(st.binary() | VALUES.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")))
@example(b" [1] \n")
@example(b"\xef\xbb\xbf[1]")
@example(b"[NaN, Infinity, -Infinity]")
@example(b"[1] 2")
@example(b'{"a": 1,}')
@example(b'"\t"')
@example('["\u1234"]'.encode("utf-16"))
def test_reads_as_json_does(data: bytes) -> None:
    try:
        wanted = json.loads(data)
    except (ValueError, RecursionError) as error:
        with pytest.raises(type(error)):
            jsontext.loads(data)
    else:
        assert repr(jsontext.loads(data)) == repr(wanted)


def test_other_values_are_refused() -> None:
    with pytest.raises(TypeError, match="no JSON for float"):
        jsontext.dumps([0.5])


def test_plain_values_need_no_json() -> None:
    code = """
import sys
from pvepassthru.model import jsontext
jsontext.dumps({"a": [1, None, True, 'b "c" \\n']})
jsontext.loads(b"{}")
jsontext.loads(b'{"a": [1, null, 1.5, true, "b \\\\"c\\\\" \\\\n"]}\\n')
sys.exit("json" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_no_json_is_told_without_json_loaded() -> None:
    """The part in C finds its own error class in json, which a hook has not loaded."""
    code = """
from pvepassthru.model import jsontext
for text in (b'{"100"', b'{"a": 1,}', b'[1', b'"', b'{1: 2}'):
    try:
        jsontext.loads(text)
    except ValueError:
        continue
    raise SystemExit(str(text))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
