# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.model import grub, shell

DEFAULT = "GRUB_CMDLINE_LINUX_DEFAULT"


def scripts(*texts: str) -> tuple[shell.Script, ...]:
    names = (grub.FILE, "/etc/default/grub.d/a.cfg", "/etc/default/grub.d/b.cfg")
    return tuple(shell.parse(name, text) for name, text in zip(names, texts, strict=False))


def texts(found: tuple[shell.Script, ...] | None) -> list[str] | None:
    return None if found is None else [script.text for script in found]


@pytest.mark.parametrize(
    "before, after",
    [
        ([f'# x\n{DEFAULT}="quiet"\nY=1\n'], [f'# x\n{DEFAULT}="quiet intel_iommu=on"\nY=1\n']),
        ([f"{DEFAULT}='quiet' # why\n"], [f"{DEFAULT}='quiet intel_iommu=on' # why\n"]),
        ([f"{DEFAULT}=quiet"], [f'{DEFAULT}="quiet intel_iommu=on"']),
        ([f"{DEFAULT}="], [f'{DEFAULT}="intel_iommu=on"']),
        ([f'{DEFAULT}=""\n'], [f'{DEFAULT}="intel_iommu=on"\n']),
        ([f'{DEFAULT}="quiet "\n'], [f'{DEFAULT}="quiet intel_iommu=on"\n']),
        ([f'{DEFAULT}="quiet -- s"\n'], [f'{DEFAULT}="intel_iommu=on quiet -- s"\n']),
        (["X=1"], [f'X=1\n{DEFAULT}="intel_iommu=on"\n']),
        (['GRUB_CMDLINE_LINUX="a"\n'], ['GRUB_CMDLINE_LINUX="a intel_iommu=on"\n']),
        # a part that overrides the file, and one that builds on it
        (
            [f'{DEFAULT}="quiet"\n', f'{DEFAULT}="splash"\n'],
            [f'{DEFAULT}="quiet"\n', f'{DEFAULT}="splash intel_iommu=on"\n'],
        ),
        (
            [f'{DEFAULT}="quiet"\n', f'{DEFAULT}="${DEFAULT} x"\n'],
            [f'{DEFAULT}="quiet intel_iommu=on"\n', f'{DEFAULT}="${DEFAULT} x"\n'],
        ),
        ([f'{DEFAULT}="quiet"\n{DEFAULT}+=" x"\n'], [f'{DEFAULT}="quiet intel_iommu=on"\n{DEFAULT}+=" x"\n']),
    ],
)
def test_a_parameter_is_added_where_it_counts(before: list[str], after: list[str]) -> None:
    assert texts(grub.with_added(scripts(*before), "intel_iommu=on")) == after


@pytest.mark.parametrize(
    "before",
    [
        [f'{DEFAULT}="$(cat /etc/x)"\n'],
        [f'{DEFAULT}="quiet"\nif true; then {DEFAULT}=x; fi\n'],
        [f'{DEFAULT}="quiet"\n', ". /etc/other\n"],
    ],
)
def test_what_cannot_be_told_is_not_touched(before: list[str]) -> None:
    assert grub.with_added(scripts(*before), "intel_iommu=on") is None
    assert grub.with_replaced(scripts(*before), "quiet", None) is None


@pytest.mark.parametrize(
    "before, other, after",
    [
        (f'{DEFAULT}="quiet Intel_iommu=on x"', "intel_iommu=on", f'{DEFAULT}="quiet intel_iommu=on x"'),
        (f'{DEFAULT}="Intel_iommu=on"', "intel_iommu=on", f'{DEFAULT}="intel_iommu=on"'),
        (f"{DEFAULT}=Intel_iommu=on", "intel_iommu=on", f"{DEFAULT}=intel_iommu=on"),
        (f'{DEFAULT}="quiet Intel_iommu=on x"', None, f'{DEFAULT}="quiet x"'),
        (f'{DEFAULT}="Intel_iommu=on x"', None, f'{DEFAULT}="x"'),
        (f'{DEFAULT}="x=Intel_iommu=on Intel_iommu=on"', None, f'{DEFAULT}="x=Intel_iommu=on"'),
        (
            f'GRUB_CMDLINE_LINUX="Intel_iommu=on"\n{DEFAULT}="Intel_iommu=on x"',
            "a=b",
            f'GRUB_CMDLINE_LINUX="a=b"\n{DEFAULT}="a=b x"',
        ),
    ],
)
def test_a_parameter_is_replaced(before: str, other: str | None, after: str) -> None:
    assert texts(grub.with_replaced(scripts(before), "Intel_iommu=on", other)) == [after]


def test_a_parameter_out_of_a_variable_is_not_replaced() -> None:
    assert grub.with_replaced(scripts(f'A="a=b"\n{DEFAULT}="$A x"\n'), "a=b", "c=d") is None


WORDS = st.lists(st.sampled_from(["quiet", "ro", "a=b", "--", "x.y=1,2", "#no"]), max_size=5).map(" ".join)


@given(WORDS, WORDS, st.sampled_from(['"{}"', "'{}'", '"{} "', '" {}"']))
def test_nothing_but_the_parameter_is_added(one: str, two: str, shape: str) -> None:
    text = f"# c\nGRUB_CMDLINE_LINUX={shape.format(one)}\n{DEFAULT}={shape.format(two)} # d\n"
    changed = grub.with_added(scripts(text), "intel_iommu=on")
    if changed is None:
        assert "--" in one.split(), text  # what comes behind it is not the kernel's
        return
    before, after = grub.evaluate(scripts(text))[0], grub.evaluate(changed)[0]
    assert before
    assert after
    old, new = ([word.text for word in line.line.parameters] for line in (before, after))
    assert after.line.has("intel_iommu=on")
    new.remove("intel_iommu=on")
    assert new == old
    assert len(changed[0].text.split("\n")) == len(text.split("\n"))
