# SPDX-License-Identifier: Apache-2.0
"""What a snapshot keeps of commands in scripts, units and tables: the words that can be nobody's secret.

People write passwords beside the commands that make virtual functions, so only words of known forms stay.
"""

from __future__ import annotations

import re

MASKED = b"masked"
_SCRIPT = re.compile(rb"(?<![^\s\"'=@:+!|-])/(?!/)[^\s\"';]*")
"""A path in a unit's command; the path of a URL, which may be a key, is none."""
_MARKS = (b"sriov", b"SR-IOV", b"mdev", b"vfio")
_COMMANDS = re.compile(rb"(&&|\|\||;)")
_HARMLESS = re.compile(
    rb"[\"'(]*(?::|echo|printf|tee|sudo|true|false|modprobe|insmod|-|-[necd]|w\+?|>>?|\||&|ALL|do|then|"
    rb"/s?bin/(?:true|false|modprobe)|/usr/s?bin/(?:true|false|modprobe)|"
    rb"[0-9]{1,5}[^\s\w]{0,4}|[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])[\"'),]*"
)
"""Words beside those that are about virtual functions: what writes, how many, to which function."""
_ABOUT = re.compile(
    rb"[\"'(]*[0-9]*[\"']*[>|&]*[\"']*(?:/[\w./:${}()*+%\\-]*|[\w./${}()-]+|[\w-]+@[\w.:\\-]*)"
    rb"(?:\}?[\"']?=+[\"']?[0-9]{1,5})?[\"'),;&]*"
)
"""A path, a name, a unit with its instance, or what is set to a number."""


def about(command: bytes, *, paths: bool = False) -> bytes:
    """A command's words that are about virtual functions, mediated devices and modules; each other is masked.

    With `paths` those that are a path are kept, too.
    """
    kept = []
    for word in command.split():
        marked = any(mark in word for mark in _MARKS) or b"/sys/" in word
        fine = _HARMLESS.fullmatch(word) or (marked and not word.startswith(b"-") and _ABOUT.fullmatch(word))
        if fine or word == b"\\":
            kept.append(word)
        else:
            kept += (_SCRIPT.findall(word) if paths else []) or [MASKED]
    return b" ".join(kept)


def makers(line: bytes) -> bytes:
    """A line's commands that make virtual functions, and of a unit's what it starts; `#` when that is none."""
    text = line.strip()
    if not text or text[:1] in {b"#", b";"}:
        return b"#" if line else b""
    name, equals, rest = text.partition(b"=")
    unit = bool(equals) and name.strip().startswith(b"Exec")
    kept = []
    for part in _COMMANDS.split(re.split(rb"\s#", rest if unit else text, maxsplit=1)[0]):
        if _COMMANDS.fullmatch(part):
            kept.append(part)
        elif any(mark in part for mark in _MARKS):
            kept.append(about(part, paths=unit))
        elif unit:
            kept.append(b" ".join(_SCRIPT.findall(part)))
    told = b" ".join(part for part in kept if part)
    if unit:
        return b"%s=%s" % (name.strip(), told)
    return told if any(mark in told for mark in _MARKS) else b"#"
