# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.model.cmdline import CommandLine, Parameter, parse

WORDS = st.text(st.sampled_from('ab=_-." \t'), max_size=30)
PARAMETERS = st.sampled_from(["intel_iommu=on", "iommu=pt", "quiet", "vfio-pci.ids=10de:2204,10de:1aef"])


def test_words_of_a_real_line() -> None:
    line = CommandLine("BOOT_IMAGE=/boot/vmlinuz-6.8.12-4-pve root=/dev/mapper/pve-root ro quiet intel_iommu=on\n")
    assert [word.name for word in line.parameters] == ["BOOT_IMAGE", "root", "ro", "quiet", "intel_iommu"]
    assert line.values("intel-iommu") == ("on",)
    assert line.values("quiet") == (None,)
    assert line.values("iommu") == ()


@pytest.mark.parametrize(
    "text, name, value",
    [
        ('dyndbg="file a.c +p"', "dyndbg", "file a.c +p"),
        ('"dyndbg=file a.c +p"', "dyndbg", "file a.c +p"),
        ('a="b', "a", "b"),
        ('a"b c"=d', 'a"b c"', "d"),
        ("=x", "=x", None),
        ("a=b=c", "a", "b=c"),
        ("a=", "a", ""),
        ('"', "", None),
    ],
)
def test_quotes_and_equals_as_the_kernel_takes_them(text: str, name: str, value: str | None) -> None:
    assert parse(text) == (Parameter(text, name, value, 0),)


def test_the_last_one_counts() -> None:
    assert CommandLine("intel_iommu=off intel_iommu=on").has("intel_iommu=on")
    assert not CommandLine("intel_iommu=on intel_iommu=off").has("intel_iommu=on")


def test_what_stands_behind_two_dashes_is_not_the_kernels() -> None:
    line = CommandLine("quiet -- intel_iommu=on")
    assert line.values("intel_iommu") == ()
    assert line.with_added("intel_iommu=on").text == "quiet intel_iommu=on -- intel_iommu=on"
    assert CommandLine("-- s").with_added("quiet").text == "quiet -- s"
    assert CommandLine("a=--").parameters[0].to_init is False


def test_wrong_case() -> None:
    line = CommandLine("Intel_iommu=on I915.enable-gvt=1 quiet")
    assert [word.text for word in line.miswritten("intel_iommu")] == ["Intel_iommu=on"]
    assert [word.text for word in line.miswritten("i915.enable_gvt")] == ["I915.enable-gvt=1"]
    assert line.miswritten("quiet") == ()
    assert line.with_replaced(line.miswritten("intel_iommu")[0], "intel_iommu=on").text == (
        "intel_iommu=on I915.enable-gvt=1 quiet"
    )


@given(WORDS, PARAMETERS)
def test_adding_keeps_all_else(text: str, parameter: str) -> None:
    line = CommandLine(text)
    if text.count('"') % 2:  # what follows an open quote belongs to that word
        return
    added = line.with_added(parameter)
    assert added.has(parameter)
    old = [word.text for word in line.parameters]
    new = [word.text for word in added.parameters]
    place = sum(not word.to_init for word in line.parameters)
    assert new == [*old[:place], parameter, *old[place:]]
    assert added.with_removed(added.parameters[place]).text.split() == text.split()


@given(WORDS)
def test_parameters_stand_where_they_say(text: str) -> None:
    words = parse(text)
    assert all(text[word.start : word.end] == word.text for word in words)
    between = [text[one.end : other.start] for one, other in itertools.pairwise(words)]
    assert all(gap and not gap.strip(" \t") for gap in between)


@given(WORDS, st.data())
def test_removing_keeps_all_else(text: str, data: st.DataObject) -> None:
    words = parse(text)
    if not words:
        return
    number = data.draw(st.integers(0, len(words) - 1))
    left = CommandLine(text).with_removed(words[number]).parameters
    assert [word.text for word in left] == [word.text for at, word in enumerate(words) if at != number]


@given(st.text())
def test_any_text_has_words(text: str) -> None:
    parse(text)
