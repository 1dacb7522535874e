# SPDX-License-Identifier: Apache-2.0
"""The page as text: what it may load, what is escaped, what leads where. Browsers look at it in test_browser.py."""

from __future__ import annotations

import base64
import hashlib
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pvepassthru.host.host import open_host
from pvepassthru.report.arrangement import FEW
from pvepassthru.report.contents import gather
from pvepassthru.report.page import page
from tests.report import hosts
from tests.report.made import MADE, Seen

if TYPE_CHECKING:
    from pathlib import Path

    from tests.report.made import Made


def test_it_may_run_its_own_style_and_script_and_load_nothing(rich: Made) -> None:
    seen = Seen(rich.text)
    (policy,) = [
        attributes["content"]
        for tag, attributes in seen.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in seen.scripts]
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "style-src": hashes[0],
        "script-src": hashes[1],
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert all(link.startswith("#") for link in seen.links)
    assert not {name for _, name in seen.kinds} & {"src", "srcset", "style", "action", "background", "data", "poster"}
    assert not [name for _, name in seen.kinds if name.startswith("on")]
    assert "url(" not in rich.text
    assert "@import" not in rich.text


def test_every_link_leads_somewhere(rich: Made, many: Made, hostile: Made) -> None:
    for made in (rich, many, hostile):
        seen = Seen(made.text)
        assert len(set(seen.ids)) == len(seen.ids)
        assert {link.removeprefix("#") for link in seen.links} <= set(seen.ids)
        named = " ".join(
            attributes.get(name) or ""
            for _, attributes in seen.elements
            for name in ("aria-labelledby", "aria-describedby", "for")
        )
        assert set(named.split()) <= set(seen.ids)


def entry_of(row: dict[str, Any], made: Made) -> int:
    """The number of the entry that a finding is in: that of the first that says the same."""
    same = (
        one["id"] for one in made.contents["findings"] if (one["code"], one["message"]) == (row["code"], row["message"])
    )
    return int(next(same))


def test_findings_lead_to_their_devices_and_vms_and_back(rich: Made) -> None:
    for row in rich.contents["findings"]:
        item = re.search(rf'<li id="f{entry_of(row, rich)}" .*?</li>', rich.text, re.DOTALL)
        assert item
        for vmid in row["vms"]:
            assert f'href="#vm-{vmid}"' in item[0]
            body = re.search(rf'<tbody id="vm-{vmid}">.*?</tbody>', rich.text, re.DOTALL)
            assert body
            assert f'href="#f{entry_of(row, rich)}"' in body[0]
        for address in row["devices"]:
            name = address.replace(":", "-").replace(".", "-")
            assert f'href="#d-{name}"' in item[0]
            line = re.search(rf'<tr id="d-{name}">.*?</tr>', rich.text, re.DOTALL)
            assert line
            assert f'href="#f{entry_of(row, rich)}"' in line[0]


def test_headings_go_down_by_one(rich: Made) -> None:
    levels = [int(tag[1]) for tag, _ in Seen(rich.text).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_nothing_that_a_host_says_is_markup(rich: Made, many: Made, hostile: Made) -> None:
    usual = Seen(rich.text).kinds | Seen(many.text).kinds
    seen = Seen(hostile.text)
    extra = {(tag, name) for tag, name in seen.kinds - usual if tag not in {"section", "ul", "h2", "p"}}
    assert not extra
    assert len(seen.scripts) == 2
    assert seen.scripts == Seen(rich.text).scripts
    assert "&lt;script&gt;alert(1)" in hostile.text
    assert "49" not in [word.strip() for word in seen.words]  # of {{ 7*7 }}


def test_what_cannot_be_seen_is_made_visible(hostile: Made) -> None:
    odd = {char for char in hostile.text if not char.isprintable() and char != "\n"}
    assert not odd
    assert "\\u202egnp.\\u2066exe\\x07\\x1b[31m" in hostile.text
    assert "\\udcff" in hostile.text
    assert hostile.text.encode()
    assert "w" * 1001 not in hostile.text


def test_what_is_accepted_is_told_with_its_reason(rich: Made) -> None:
    findings = [{**row, "silenced": "<b>known</b>" if row["vms"] else None} for row in rich.contents["findings"]]
    text = page({**rich.contents, "findings": findings})
    assert text.count("<b>Accepted:</b> &lt;b&gt;known&lt;/b&gt;") == sum(bool(row["vms"]) for row in findings)
    assert 'data-s="silenced"' in text


def test_many_devices_stay_small(many: Made) -> None:
    assert len(many.contents["devices"]) == 500
    assert len(many.contents["vms"]) == 300
    assert sum("pool" in str(vm["entries"]) for vm in many.contents["vms"]) == 50  # VMs that may get any of 256 VFs
    assert len(many.text.encode()) < 3_000_000
    assert len(Seen(many.text).elements) < 40_000


def test_what_is_found_of_many_vms_is_one_entry(tmp_path: Path) -> None:
    contents = gather(open_host(hosts.many(tmp_path, broken=True)), MADE)
    assert len(contents["findings"]) > 10_000
    text = page(contents)
    assert len(text.encode()) < 3_000_000
    (entry,) = re.findall(
        r'<li id="f\d+"[^>]*><p class="message">mapping vgpu \(line 100 of pci.cfg\).*?no mediated devices</p>', text
    )
    users = [vm["vmid"] for vm in contents["vms"] if "mapping=vgpu" in str(vm["entries"])]
    assert f'data-v="{" ".join(map(str, users))}"' in entry


def test_what_is_left_out_of_readiness_is_counted_and_led_to(tmp_path: Path) -> None:
    contents = gather(open_host(hosts.chained(tmp_path, 12)), MADE)
    assert [row["code"] for row in contents["findings"]].count("PVP417") == 12
    text = page(contents)
    (check,) = re.findall(r'<li id="r-PVP417".*?</li>', text, re.DOTALL)
    assert check.count('<a href="#f') == FEW
    assert f'<a class="more" href="#findings" data-filter="text=PVP417">and {12 - FEW} more</a>' in check
    assert "more</a>" not in text.replace(check, "").partition('id="findings"')[0]


def test_what_a_rule_checks_is_not_said_as_what_is_found(rich: Made) -> None:
    """The rule's heading is a question, and the sentences below it are the answer."""
    headings = re.findall(r'<h3><span class="b .*?<span class="what">(.*?)</span>', rich.text)
    assert len(headings) == len({row["code"] for row in rich.contents["findings"]})
    assert all(heading.startswith("checks whether ") for heading in headings)
    assert rich.text.count('<p class="message">') == len(re.findall(r'<li id="f\d+"', rich.text))


def test_names_of_types_are_cut(hostile: Made) -> None:
    (name,) = re.findall(r'<span class="a">long-1</span> <span class="name">(.*?)</span>', hostile.text)
    assert name == "w" * 60 + "…"


def test_what_is_unknown_is_not_called_ready(rich: Made) -> None:
    states = [rule["state"] for step in rich.contents["readiness"]["steps"] for rule in step["rules"]]
    assert "error" not in states
    fine, unknown = states.count("fine"), states.count("unknown")
    assert f"No check finds an error. {fine} of {len(states)} checks are fine; of {unknown} " in rich.text


def test_what_is_missing_is_said(rich: Made) -> None:
    about = {**rich.contents["about"], "notes": ["it was not made by root"], "unreadable": ["/proc/x: No"]}
    text = page({**rich.contents, "about": about})
    assert "Not all could be read" in text
    assert "it was not made by root" in text
    assert "Not all could be read" not in rich.text


def test_no_name_of_an_attack_is_in_an_attribute_unquoted(hostile: Made) -> None:
    assert hosts.EVIL not in hostile.text
    for _, attributes in Seen(hostile.text).elements:
        assert all((value or "").isprintable() for value in attributes.values())
