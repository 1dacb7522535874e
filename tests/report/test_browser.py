# SPDX-License-Identifier: Apache-2.0
"""The page in Debian's Chromium: where things are (not their pixels), who can use it, and what it costs."""

from __future__ import annotations

import re
import struct
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.host.host import open_host
from pvepassthru.report.contents import gather
from pvepassthru.report.page import page as text_of
from pvepassthru.report.topology import STYLES
from tests.report import browser as browsers
from tests.report import hosts, picture
from tests.report.browser import axe, opened
from tests.report.made import MADE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.report.made import Made

LACKING = browsers.missing()
pytestmark = pytest.mark.skipif(LACKING is not None, reason=f"the report's page is not looked at: {LACKING}")

BOXES = """selector => [...document.querySelectorAll(selector)].map(element => {
  const box = element.getBoundingClientRect();
  return {left: box.left, right: box.right, top: box.top + scrollY, bottom: box.bottom + scrollY,
          name: element.dataset.a || element.id, group: element.dataset.g || null};
})"""
OUTSIDE = """() => [...document.querySelectorAll("body *")].filter(element => {
  if (element.closest(".scroll, nav ul, .topology, .sr, .skip, [hidden]")) return false;
  const box = element.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1);
}).map(element => element.outerHTML.slice(0, 120))"""
ALIKE = 0.2
"""By so much the ink of two pictures of one page may differ, by their fonts and by where words wrap."""
SHOWN = "[...document.querySelectorAll('.found > li')].filter(item => item.checkVisibility()).length"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with browsers.launched() as made:
        yield made


def boxes(page: Page, selector: str) -> list[dict[str, Any]]:
    return list(page.evaluate(BOXES, selector))


def status(page: Page) -> tuple[int, int]:
    """What the filter says: how many of how many are shown."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    words = re.fullmatch(r"(\d+) of (\d+) entries", page.locator("#count").inner_text())
    assert words
    return int(words[1]), int(words[2])


def entries(findings: list[dict[str, Any]]) -> int:
    """How many entries of the page these findings are."""
    return len({(row["code"], row["message"], row["hint"]) for row in findings})


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_nothing_is_outside_or_on_top_of_another(
    width: int, browser: Browser, rich: Made, many: Made, hostile: Made
) -> None:
    for made in (rich, many, hostile) if width == 320 else (rich,):
        with opened(browser, made.path, width) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert not page.evaluate(OUTSIDE)
            for picture in page.locator("figure > .topology").all()[:12]:
                name = picture.evaluate("picture => picture.parentElement.id")
                inside = f"figure[id='{name}'] > .topology"
                (frame,) = boxes(page, inside)
                nodes = boxes(page, f"{inside} [data-a]")
                rects = boxes(page, f"{inside} rect.n")
                regions = boxes(page, f"{inside} rect.r")
                assert nodes
                for one, after in pairwise(rects):
                    assert after["top"] >= one["bottom"]
                for one, after in pairwise(regions):
                    assert after["top"] >= one["bottom"]
                for node, rect in zip(nodes, rects, strict=True):
                    assert frame["left"] <= rect["left"] < rect["right"] <= frame["right"]
                    holding = [region for region in regions if region["top"] <= rect["top"] < region["bottom"]]
                    assert [region["group"] for region in holding] == ([node["group"]] if node["group"] else [])
                    for region in holding:
                        assert region["left"] <= rect["left"]
                        assert region["right"] >= rect["right"]
                        assert region["bottom"] >= rect["bottom"]
                labels = boxes(page, f"{inside} > text.g")
                assert not [label for label in labels if any(label["left"] < rect["right"] for rect in rects)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: Any, browser: Browser, rich: Made, hostile: Made) -> None:  # noqa: ANN401 - Playwright's literals
    for made in (rich, hostile) if scheme == "light" else (rich,):
        with opened(browser, made.path, color_scheme=scheme) as page:
            page.evaluate("for (const box of document.querySelectorAll('details')) box.open = true")
            assert axe(page) == {}


def luminance(colour: tuple[float, ...]) -> float:
    """The relative luminance of a colour, as WCAG 2 has it."""
    parts = [part / 255 for part in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def colour(page: Page, selector: str, name: str = "fill") -> tuple[float, ...]:
    script = "([selector, name]) => getComputedStyle(document.querySelector(selector))[name]"
    return tuple(map(int, re.findall(r"\d+", page.evaluate(script, [selector, name]))[:3]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_in_pictures_can_be_read(scheme: Any, browser: Browser, rich: Made, many: Made) -> None:  # noqa: ANN401 - Playwright's literals
    """axe-core does not look at text in an SVG."""
    with opened(browser, rich.path, color_scheme=scheme) as page:
        grounds = [colour(page, f".{kind} .n") for kind in ("bridge", "device", "folded")]
        for words in (".a", ".v", ".l-name", ".l-vm"):
            ink = colour(page, f".topology {words}")
            assert min(contrast(ink, ground) for ground in grounds) >= 4.5
        card, label = colour(page, ".topology", "backgroundColor"), colour(page, ".topology .g")
        assert contrast(label, card) >= 4.5
    with opened(browser, many.path, color_scheme=scheme) as page:
        for style in range(STYLES):
            strong = colour(page, f".topology .s{style}")
            opacity = float(
                page.evaluate(f"getComputedStyle(document.querySelector('.topology .s{style}')).fillOpacity")
            )
            ground = tuple(one * opacity + other * (1 - opacity) for one, other in zip(strong, card, strict=True))
            assert contrast(label, ground) >= 4.5
            assert contrast(strong, card) >= 3


def test_groups_differ_without_their_colour(browser: Browser, many: Made) -> None:
    with opened(browser, many.path) as page:
        lines = page.evaluate(
            """count => [...Array(count).keys()].map(number => {
              const style = getComputedStyle(document.querySelector(`.topology .s${number}`));
              return `${style.strokeDasharray} ${style.strokeWidth}`;
            })""",
            STYLES,
        )
        assert len(set(lines)) == STYLES
        labels = page.locator("figure > .topology > text.g").all_text_contents()
        assert len(labels) > STYLES
        assert all(re.fullmatch(r"group \d+|\+\d+ elsewhere", label) for label in labels)


def test_the_schemes_differ(browser: Browser, rich: Made) -> None:
    found = []
    for scheme in ("light", "dark"):
        with opened(browser, rich.path, color_scheme=scheme) as page:
            style = "const style = getComputedStyle(document.body); [style.backgroundColor, style.color]"
            found.append([sum(map(int, re.findall(r"\d+", value)[:3])) for value in page.evaluate(style)])
    (light_page, light_ink), (dark_page, dark_ink) = found
    assert light_ink + 300 < light_page
    assert dark_page + 300 < dark_ink


def test_filters_by_keyboard_alone(browser: Browser, rich: Made) -> None:
    findings = rich.contents["findings"]
    every = entries(findings)
    rest = entries([row for row in findings if row["severity"] != "error"])
    with opened(browser, rich.path) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert status(page) == (every, every)
        for _ in range(20):  # to the first control
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.name") == "kind":
                break
        assert page.evaluate("document.activeElement.value") == "error"
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        page.keyboard.press("Space")
        assert status(page)[0] == rest
        page.keyboard.press("Space")
        while page.evaluate("document.activeElement.name") != "vm":
            page.keyboard.press("Tab")
        page.keyboard.type("104")
        of_104 = entries([row for row in findings if 104 in row["vms"]])
        assert 0 < of_104 < every
        assert status(page)[0] == of_104 == page.evaluate(SHOWN)
        while page.evaluate("document.activeElement.name") != "text":
            page.keyboard.press("Tab")
        page.keyboard.type("no such word")
        assert status(page)[0] == 0
        assert page.locator("#none").is_visible()
        while page.evaluate("document.activeElement.type") != "reset":
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert status(page)[0] == every
        assert not page.locator("#none").is_visible()


def test_filters_agree_with_the_contents(browser: Browser, many: Made) -> None:
    findings = many.contents["findings"]
    device = next(row["devices"][0] for row in findings if row["devices"])
    vmid = next(row["vms"][0] for row in findings if row["vms"])
    code = findings[-1]["code"]
    expected = {
        "device": [row for row in findings if device in row["devices"]],
        "vm": [row for row in findings if vmid in row["vms"]],
        "text": [row for row in findings if row["code"] == code],
    }
    with opened(browser, many.path) as page:
        page.select_option("[name=device]", label=device)
        assert status(page)[0] == entries(expected["device"])
        page.click("[type=reset]")
        page.select_option("[name=vm]", str(vmid))
        assert status(page)[0] == entries(expected["vm"])
        page.click("[type=reset]")
        page.fill("[name=text]", code.lower())
        assert status(page)[0] >= entries(expected["text"]) > 0


def test_a_link_shows_what_a_filter_hides(browser: Browser, rich: Made) -> None:
    with opened(browser, rich.path) as page:
        page.fill("[name=text]", "no such word")
        assert status(page)[0] == 0
        page.locator("tbody#vm-104 a.code").first.press("Enter")
        target = page.evaluate("location.hash")
        assert page.locator(target).is_visible()
        assert status(page)[0] == entries(rich.contents["findings"])
        page.locator(f"{target} a[href^='#vm-']").first.click()
        assert page.evaluate("location.hash") == "#vm-104"


def test_more_of_a_vm_is_a_filter(browser: Browser, many: Made) -> None:
    with opened(browser, many.path) as page:
        more = page.locator(".devices a.more").first
        page.fill("[name=text]", "no such word")
        assert status(page)[0] == 0
        name = more.locator("xpath=ancestor::tr").locator("th .a").inner_text()
        more.press("Enter")
        assert status(page)[0] == entries([row for row in many.contents["findings"] if name in row["devices"]])
        assert page.evaluate("location.hash") == "#findings"


def test_more_of_a_check_is_a_filter(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(text_of(gather(open_host(hosts.chained(tmp_path / "root", 12)), MADE)), encoding="utf-8")
    with opened(browser, str(path)) as page:
        assert status(page)[0] > 12
        page.locator("#r-PVP417 a.more").press("Enter")
        assert status(page)[0] == 12 == page.locator("#c-PVP417 .found > li").count()


@pytest.mark.parametrize("words", ["%E0%A4%A", "%", "no-such-part"])
def test_an_address_that_names_no_part_breaks_nothing(words: str, browser: Browser, rich: Made) -> None:
    with opened(browser, rich.path) as page:
        page.evaluate("words => { location.hash = words; }", words)
        page.reload()
        assert page.evaluate("location.hash") == f"#{words}"
        page.locator("figure > .topology [data-a='0000:01:00.0'] text").first.click()
        assert page.evaluate("location.hash") == "#d-0000-01-00-0"
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert not page.locator("details:not([open])").count()


def test_virtual_functions_unfold(browser: Browser, rich: Made) -> None:
    with opened(browser, rich.path) as page:
        inside = page.locator("details.vfs .topology")
        assert not inside.is_visible()
        page.locator("details.vfs summary").focus()
        page.keyboard.press("Enter")
        assert inside.is_visible()
        assert len(boxes(page, "details.vfs [data-a]")) == 16
        page.keyboard.press("Enter")
        page.locator("g.folded text").first.click()
        assert inside.is_visible()
        page.locator("figure > .topology [data-a='0000:01:00.0'] text").first.click()
        assert page.evaluate("location.hash") == "#d-0000-01-00-0"


def test_pictures_have_names_and_words(browser: Browser, rich: Made) -> None:
    with opened(browser, rich.path) as page:
        port = page.get_by_role("img", name="root port 0000:00:01.0")
        assert port.count() == 1
        assert "3 functions in 1 IOMMU group" in str(port.locator("desc").text_content())
        assert page.get_by_role("navigation").count() == 1
        assert page.get_by_role("main").count() == 1
        assert page.get_by_role("table", name=re.compile("26 PCI functions")).count() == 1
        assert page.locator("#count").get_attribute("aria-live") == "polite"


def test_without_javascript_all_is_shown(browser: Browser, rich: Made) -> None:
    with opened(browser, rich.path, java_script_enabled=False) as page:
        assert not page.locator("#filter").is_visible()
        items = page.locator(".found > li")
        assert items.count() == entries(rich.contents["findings"])
        assert all(item.is_visible() for item in items.all())
        page.locator("details.vfs summary").click()
        assert page.locator("details.vfs .topology").is_visible()


def test_print(browser: Browser, rich: Made) -> None:
    with opened(browser, rich.path, color_scheme="dark") as page:
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert not page.locator("#filter").is_visible()
        assert not page.locator("nav").is_visible()
        assert all(box.evaluate("box => box.open") for box in page.locator("details").all())
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert colour == "rgb(255, 255, 255)"
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert not page.locator("details[open]").count()
        pdf = page.pdf(prefer_css_page_size=True, format="A4")
        assert pdf.startswith(b"%PDF-")
        pages = len(re.findall(rb"/Type /Page\b", pdf))
        assert 3 < pages < 40


def test_a_print_has_what_a_filter_hides(browser: Browser, rich: Made) -> None:
    every = entries(rich.contents["findings"])
    with opened(browser, rich.path) as page:
        for words in ("pvp201", "no such word"):
            page.fill("[name=text]", words)
            few = status(page)[0]
            assert few == page.evaluate(SHOWN) < every
            page.emulate_media(media="print")
            assert page.evaluate(SHOWN) == every
            assert not page.locator("#none").is_visible()
            page.emulate_media(media="screen")
            assert page.evaluate(SHOWN) == few


def test_the_picture_of_the_readme(browser: Browser, tmp_path: Path) -> None:
    """`./dev picture` draws it; where its ink is, is compared coarsely, since fonts differ."""
    kept = Path(picture.PATH).read_bytes()
    drawn = picture.draw(str(tmp_path), browser)
    for data in (drawn, kept):
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", data[16:24]) == (picture.WIDTH, picture.HEIGHT)
        assert len(data) < 300_000
    found, wanted = picture.ink(drawn, browser), picture.ink(kept, browser)
    assert picture.difference(found, wanted) < ALIKE, "the report looks otherwise by now: ./dev picture"
    blank = [[0.0] * picture.COLUMNS for _ in found]
    half = found[: picture.ROWS // 2] + blank[picture.ROWS // 2 :]
    moved = found[2:] + found[:2]
    for other in (blank, half, moved, [row[::-1] for row in found]):
        assert picture.difference(found, other) > 2 * ALIKE


def test_attacks_do_nothing(browser: Browser, hostile: Made) -> None:
    """`opened` sees dialogs, requests, errors and what the policy blocks."""
    with opened(browser, hostile.path) as page:
        page.evaluate("for (const box of document.querySelectorAll('details')) box.open = true")
        assert page.evaluate("document.scripts.length") == 1
        assert page.evaluate("document.images.length") == 0


def test_the_work_grows_with_the_findings_only(
    browser: Browser, many: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = entries(many.contents["findings"])
    with opened(browser, many.path) as page:
        nodes = page.evaluate("document.getElementsByTagName('*').length")
        page.evaluate(
            """() => {
              window.changed = 0; window.long = [];
              new MutationObserver(found => { changed += found.length; })
                .observe(document.body, {attributes: true, childList: true, characterData: true, subtree: true});
              new PerformanceObserver(list => long.push(...list.getEntries().map(entry => entry.duration)))
                .observe({type: "longtask"});
              window.measured = 0;
              for (const [owner, name] of [[Element, "getBoundingClientRect"], [Element, "getClientRects"]]) {
                const before = owner.prototype[name];
                owner.prototype[name] = function () { measured += 1; return before.call(this); };
              }
            }"""
        )
        page.fill("[name=text]", "no such word")
        assert status(page)[0] == 0
        page.click("[type=reset]")
        assert status(page)[0] == findings
        changed, measured, late = page.evaluate("[changed, measured, long]")
    with capsys.disabled():
        print(f"\nreport of 500 devices: {nodes} elements, {changed} changes by a filter, long tasks {late}")  # noqa: T201 - for people
    assert nodes < 40_000
    rules = len({row["code"] for row in many.contents["findings"]})
    assert changed <= 2 * (findings + rules) + 10
    assert measured == 0
