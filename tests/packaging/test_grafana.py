# SPDX-License-Identifier: Apache-2.0
"""The example dashboard, and the alerts of docs/metrics.md: what they ask Prometheus for is what `metrics` writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.host.host import open_host
from pvepassthru.report import metrics
from pvepassthru.report.contents import gather
from tests.report import hosts

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent.parent
DASHBOARD: dict[str, Any] = json.loads((ROOT / "packaging/grafana/pvepassthru.json").read_text("utf-8"))
NAME = re.compile(r"\bpvepassthru_\w+")
SELECTOR = re.compile(r"(pvepassthru_\w+)(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|on|group_left) \(([^)]*)\)")
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus adds to what it scrapes."""


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The metrics with their labels, of a host with one of everything."""
    root = str(tmp_path_factory.mktemp("host") / "root")
    hosts.rich(root)
    families = metrics.families(metrics.Collection(gather(open_host(root), 0), [], 0.0, 0.0))
    return {
        metrics.PREFIX + family.name + (f"_{family.unit}" if family.unit else ""): set(family.labels)
        for family in families
    }


def queries() -> Iterator[tuple[str, str]]:
    """Each panel's title with each of its queries."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def alerts() -> list[str]:
    """The queries of docs/metrics.md, under "What to be told of"."""
    page = (ROOT / "docs/metrics.md").read_text("utf-8").partition("## What to be told of")[2]
    found = re.search(r"^```\w*\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1].splitlines()


def of_kind(value: object, key: str) -> Iterator[Any]:
    """All values of a key, however deep."""
    if isinstance(value, dict):
        yield from (one for name, one in value.items() if name == key)
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from of_kind(one, key)


def test_metrics_exist_and_each_is_shown_or_meant_for_a_join(labels: dict[str, set[str]]) -> None:
    asked = {name for _, query in queries() for name in NAME.findall(query)}
    assert asked <= set(labels)
    assert set(labels) - asked == {"pvepassthru_collection_duration_seconds", "pvepassthru_build_info"}
    variables = [name for text in of_kind(DASHBOARD["templating"], "definition") for name in NAME.findall(text)]
    assert variables == ["pvepassthru_build_info"]


def test_labels_exist(labels: dict[str, set[str]]) -> None:
    for title, query in queries():
        for name, matchers in SELECTOR.findall(query):
            used = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", matchers))
            assert used <= labels[name] | OF_PROMETHEUS, f"{title}: {query}"
            assert "instance" in used, f"{title} heeds the variable"
        known = {label for name in NAME.findall(query) for label in labels[name]} | OF_PROMETHEUS
        grouped = {word.strip() for words in GROUPING.findall(query) for word in words.split(",")}
        assert grouped <= known, f"{title}: {query}"


def test_legends_have_labels_that_their_query_leaves(labels: dict[str, set[str]]) -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = re.findall(r"\bby \(([^)]*)\)", target["expr"])
            kept = {word.strip() for words in grouped for word in words.split(",")}
            if not grouped:
                kept = {label for name in NAME.findall(target["expr"]) for label in labels[name]} | OF_PROMETHEUS
            assert wanted <= kept, panel["title"]


def test_alerts_ask_for_what_there_is(labels: dict[str, set[str]]) -> None:
    assert len(alerts()) >= 5
    for query in alerts():
        assert NAME.findall(query), query
        for name, matchers in SELECTOR.findall(query):
            assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", matchers)) <= labels[name], query
        known = {label for name in NAME.findall(query) for label in labels[name]} | OF_PROMETHEUS
        assert {word.strip() for words in GROUPING.findall(query) for word in words.split(",")} <= known, query
        assert all(query.count(pair[0]) == query.count(pair[1]) for pair in ("()", "{}")), query


@pytest.mark.parametrize(
    "available, used, told",
    [
        ({"a": [1, 2], "b": [0, 0]}, {"a": [1, 0], "b": [0, 0]}, set()),  # all GPUs are of type a, with room
        ({"a": [0, 0], "b": [0, 0]}, {"a": [2, 2], "b": [0, 0]}, {"a"}),  # and without
        ({"a": [0, 0], "b": [0, 1]}, {"a": [2, 0], "b": [0, 1]}, {"a"}),  # b has what a lacks
        ({"a": [2, 2], "b": [1, 1]}, {"a": [0, 0], "b": [0, 0]}, set()),
    ],
)
def test_a_type_without_room_is_told_of(
    available: dict[str, list[int]], used: dict[str, list[int]], told: set[str]
) -> None:
    """As Prometheus does: both sums are by type, over the GPUs of a host."""
    (query,) = [one for one in alerts() if "mdev" in one]
    term = r"sum by \(instance, type\) \(pvepassthru_mdev_(\w+)\) (==|>) 0"
    found = re.fullmatch(f"{term} and {term}", query)
    assert found is not None, query
    values = {"available": available, "used": used}
    meant = {"==": lambda value: value == 0, ">": lambda value: value > 0}
    hits = [
        {kind for kind, counts in values[name].items() if meant[sign](sum(counts))}
        for name, sign in (found.groups()[:2], found.groups()[2:])
    ]
    assert hits[0] & hits[1] == told


def test_brackets_of_queries_match() -> None:
    for title, query in queries():
        for pair in ("()", "{}"):
            assert query.count(pair[0]) == query.count(pair[1]) > 0 or pair == "()", title
        assert query.count('"') % 2 == 0, title


def test_the_data_source_is_a_variable() -> None:
    sources = list(of_kind(DASHBOARD, "datasource"))
    assert sources
    assert all(source == SOURCE for source in sources)
    (variable,) = [one for one in DASHBOARD["templating"]["list"] if one["name"] == "datasource"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")


def test_grafana_can_import_it() -> None:
    """Grafana lifts older schemas; 36 is that of Grafana 9, the first with all that is used here."""
    assert 36 <= DASHBOARD["schemaVersion"] <= 41
    assert DASHBOARD["id"] is None, "an id is Grafana's own to give"
    assert re.fullmatch(r"[\w-]{1,40}", DASHBOARD["uid"])
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in DASHBOARD["panels"]:
        references = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(references)) == len(references)
        assert panel["type"] == "row" or (panel["description"] and references), panel["title"]


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_what_is_asked_for_has_a_panel() -> None:
    shown = " ".join(query for _, query in queries())
    wanted = "mdev_available mdev_used mdev_blocked sriov_vfs_limit sriov_vfs_made sriov_vfs_in_use devices findings"
    for metric in (*wanted.split(), "hook_last_run_duration_seconds", "hook_last_run_success", "journals"):
        assert re.search(rf"\bpvepassthru_{metric}\b", shown), metric
