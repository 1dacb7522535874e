# SPDX-License-Identifier: Apache-2.0
"""Growth curves as SVG: the same numbers give the same file.

It has no script, names no other file, and suits a light page and a dark one. Lines differ by colour and by dashes, in
the legend too.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Comment

import pygal

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from bench.growth import Curve

sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]
"""The library puts one there for plugins, in a way that Python 3.11 warns of with each later import."""
COLOURS = ("#2f7de1", "#d0690b", "#2a9d4a", "#9a63e0")
"""Each has a contrast of 3 and more to LIGHT and to DARK (WCAG 2.1, 1.4.11)."""
DASHES = ("none", "9 4", "2 4", "12 4 2 4")
LIGHT, DARK = "#ffffff", "#0d1117"
"""Pages that it may stand on."""
INK = {LIGHT: "#24292f", DARK: "#e6edf3"}
GUIDES = {LIGHT: "#d0d7de", DARK: "#3d444d"}
LEGEND = 26
"""Length of a line in the legend."""
_CSS = """
text { fill: %s; font: 13px system-ui, sans-serif; text-anchor: middle }
.plot_title { font-size: 17px; font-weight: 600 }
.axis.y text { text-anchor: end }
.legend text { text-anchor: start }
.background { fill: none }
.axis path { stroke: %s; stroke-width: 1 }
.axis path.line:not(.guide) { stroke: %s }
.series .line, .legend .line { fill: none; stroke-width: 2 }
"""
_DARK = """@media (prefers-color-scheme: dark) {
text { fill: %s }
.axis path { stroke: %s }
.axis path.line:not(.guide) { stroke: %s }
}
"""


def draw(curve: Curve) -> str:
    """A curve as SVG text."""
    chart = pygal.XY(
        no_prefix=True,
        js=[],
        width=760,
        height=440,
        title=curve.title,
        x_title=curve.what,
        y_title="seconds",
        legend_at_bottom=True,
        legend_at_bottom_columns=len(curve.times),
        legend_box_size=LEGEND,
        truncate_legend=-1,
        dots_size=3.5,
        min_scale=4,
        max_scale=8,
        range=(0, max(max(times) for times in curve.times.values()) / 1000),
        xrange=(0, curve.sizes[-1]),
        x_labels=list(curve.sizes),
        disable_xml_declaration=True,
    )
    for command, times in curve.times.items():
        chart.add(command, [(size, round(time / 1000, 3)) for size, time in zip(curve.sizes, times, strict=True)])
    chart.add_xml_filter(lambda root: _own(root, curve))
    return str(chart.render(is_unicode=True)).rstrip() + "\n"


def _own(root: Element, curve: Curve) -> Element:
    """The drawing in our own style, without what only the library's script shows, its script and its comments."""
    for parent in list(root.iter()):
        for child in list(parent):
            kind: object = child.tag  # of a comment, against what its type says, a function
            if kind is Comment or _is_for_script(child):
                parent.remove(child)
    (style,) = [element for element in root.iter() if _kind(element) == "style"]
    style.text = css(len(curve.times))
    for legend in [element for element in root.iter() if "legend" in _classes(element)]:
        for box in [child for child in legend if _kind(child) == "rect"]:
            middle = float(box.attrib["y"]) + float(box.attrib["height"]) / 2
            box.tag = box.tag.replace("rect", "path")
            colour = next(word for word in _classes(box) if word.startswith("color-"))
            path = f"M{box.attrib['x']} {middle:g} h{LEGEND}"
            box.attrib.clear()
            box.attrib.update({"class": f"line {colour}", "d": path})
    root.attrib.pop("id", None)
    root.attrib.update({"role": "img", "aria-label": f"{curve.title}: {', '.join(curve.times)}"})
    return root


def css(lines: int) -> str:
    """The style of a drawing with so many lines."""
    inks = [(INK[page], GUIDES[page], INK[page]) for page in (LIGHT, DARK)]
    text = _CSS % inks[0]
    for place in range(lines):
        colour, dashes = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
        text += f".color-{place} .line, .line.color-{place} {{ stroke: {colour}; stroke-dasharray: {dashes} }}\n"
        text += f".color-{place} .dot {{ fill: {colour} }}\n"
    return text + _DARK % inks[1]


def _kind(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _classes(element: Element) -> list[str]:
    return element.attrib.get("class", "").split()


def _is_for_script(element: Element) -> bool:
    return _kind(element) in {"script", "desc"} or bool({"tooltip-overlay", "text-overlay"} & {*_classes(element)})
