# SPDX-License-Identifier: Apache-2.0
"""A host's numbers: what strict OpenMetrics parsers take and node_exporter's does too, and what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import parser as prometheus
from prometheus_client.openmetrics import parser as openmetrics

from pvepassthru.host import state
from pvepassthru.model.text import shown
from pvepassthru.report import metrics

if TYPE_CHECKING:
    from tests.report.made import Made

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "metrics.md"
RUNS = [
    state.Run(100, "pre-start", 1_795_000_000_250, 45, 0, 2),
    state.Run(100, "post-stop", 1_795_000_001_000, 9, 6, 0),
]
VALUE = r'"(?:[^"\\\n]|\\[\\n"])*"'
SAMPLE = re.compile(rf"([a-z_]+)(?:\{{([a-z_]+={VALUE}(?:,[a-z_]+={VALUE})*)\}})? [-+0-9.einfNa]+")
GO_TYPES = {"counter", "gauge", "histogram", "summary", "untyped"}
HOSTS = ("rich", "many", "hostile")


def text(contents: dict[str, Any], runs: list[state.Run] | None = None) -> str:
    return metrics.text(metrics.Collection(contents, RUNS if runs is None else runs, 1_795_000_002.5, 0.125))


def values(said: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Metric to its series, by the values of the labels in the order of their names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in openmetrics.text_string_to_metric_families(said):
        series = found.setdefault(family.name, {})
        for sample in family.samples:
            series[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


def node_exporter(said: str) -> list[str]:
    """What node_exporter's textfile collector would refuse a file for.

    Sources: prometheus/common, expfmt/text_parse.go: types, escapes, the value; node_exporter, collector/textfile.go:
    timestamps; client_golang, which gathers: a series that is there twice.
    """
    wrong: list[str] = []
    seen: set[str] = set()
    for line in said.removesuffix("\n").split("\n"):
        if line.startswith("# TYPE "):
            wrong += [line] if line.split(" ")[3] not in GO_TYPES else []
        elif line.startswith("# HELP "):
            wrong += [line] if re.search(r"\\[^\\n]", line) else []
        elif not line.startswith("#"):
            series = line.rpartition(" ")[0]
            wrong += [line] if not SAMPLE.fullmatch(line) or series in seen else []
            seen.add(series)
    return wrong


def made(request: pytest.FixtureRequest, name: str) -> Made:
    found: Made = request.getfixturevalue(name)
    return found


# ---- the format


@pytest.mark.parametrize("name", HOSTS)
def test_all_parsers_take_it_and_see_the_same(name: str, request: pytest.FixtureRequest) -> None:
    said = text(made(request, name).contents)
    assert said.endswith("\n# EOF\n")
    assert not node_exporter(said)
    strict = list(openmetrics.text_string_to_metric_families(said))
    older = list(prometheus.text_string_to_metric_families(said))
    assert {family.type for family in strict} == {family.type for family in older} == {"gauge"}
    assert [(s.name, s.labels, s.value) for family in strict for s in family.samples] == [
        (s.name, s.labels, s.value) for family in older for s in family.samples
    ]
    assert not [s for family in older for s in family.samples if s.timestamp is not None]


@pytest.mark.parametrize(
    "line",
    [
        "# TYPE a info",
        '# HELP a of \\"them\\"',
        "a 1.0 1795000000",
        'a{b="c\\d"} 1.0',
        'a{b="c"d"} 1.0',
        'a{b="c",} 1.0',
        "pvepassthru_orphans 0.0",
    ],
)
def test_node_exporter_would_complain(line: str, rich: Made) -> None:
    """Else the test above could not fail."""
    assert node_exporter(f"{text(rich.contents)}{line}\n")


@pytest.mark.parametrize("name", HOSTS)
def test_names_follow_the_conventions(name: str, request: pytest.FixtureRequest) -> None:
    for family in openmetrics.text_string_to_metric_families(text(made(request, name).contents)):
        assert family.name.startswith("pvepassthru_")
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_created"))
        assert family.documentation.endswith(".")
        assert family.unit == ("seconds" if family.name.endswith("_seconds") else "")
        if family.name.endswith("_info"):
            assert {sample.value for sample in family.samples} <= {1.0}


@pytest.mark.parametrize("name", HOSTS)
def test_each_metric_is_in_the_page_with_its_labels_and_always_there(name: str, request: pytest.FixtureRequest) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    documented = {metric: sorted(re.findall(r"`(\w+)`", labels)) for metric, labels in rows}
    found = {
        family.name: family for family in openmetrics.text_string_to_metric_families(text(made(request, name).contents))
    }
    assert list(found) == list(documented)
    for metric, family in found.items():
        assert all(sorted(sample.labels) == documented[metric] for sample in family.samples), metric


@pytest.mark.parametrize(
    "word", ['say "hi"', "C:\\new\\table", "two\nlines", "\r\x1b[31m\u202e", "ünïcode 🎮", "\udcff", "w" * 5000, ""]
)
def test_names_arrive_as_they_are(word: str, rich: Made) -> None:
    gpu = {**rich.contents["rooms"][0]}
    gpu["types"] = [{**gpu["types"][0], "name": word}]
    guest = {**rich.contents["vms"][0], "name": word}
    devices = [{**row, "driver": word or None, "name": word} for row in rich.contents["devices"]]
    said = text({**rich.contents, "rooms": [gpu], "vms": [guest], "devices": devices})
    assert not node_exporter(said)
    for parse in (openmetrics.text_string_to_metric_families, prometheus.text_string_to_metric_families):
        families = {family.name: family for family in parse(said)}
        (sample,) = families["pvepassthru_vm_info"].samples
        assert sample.labels == {"vmid": "100", "name": shown(word)}
        (sample,) = families["pvepassthru_mdev_type_info"].samples
        assert (sample.labels["name"], sample.labels["device"]) == (shown(word), shown(word))


def test_what_is_there_twice_is_one_series(rich: Made) -> None:
    """Of values that print alike, too."""
    gpus = [
        {**rich.contents["rooms"][0], "types": [{**rich.contents["rooms"][0]["types"][0], "type": kind}]}
        for kind in ("a\n", "a\\n")
    ]
    assert not node_exporter(text({**rich.contents, "rooms": gpus}))


def test_the_number_of_series_is_bounded(many: Made) -> None:
    """500 functions, 300 VMs: by far the most are hook runs, five a phase."""
    runs = [state.Run(1000 + at, "pre-start", 1, 1, 0, 0) for at in range(300)]
    found = values(text(many.contents, runs))
    hooks = sum(len(series) for name, series in found.items() if "_hook_" in name)
    assert hooks == 5 * 300
    assert len(found["pvepassthru_vm_info"]) == 300
    assert sum(map(len, found.values())) - hooks - 300 < 250


# ---- what it says


def test_a_host_with_one_of_everything(rich: Made) -> None:
    found = values(text(rich.contents))
    assert found["pvepassthru_devices"]["pcieport", "bridge"] == 3
    assert found["pvepassthru_devices"]["iavf", "taken"] == 1
    assert found["pvepassthru_devices"]["iavf", "unused"] == 15
    assert found["pvepassthru_devices"]["nvidia", "taken"] == 1
    assert found["pvepassthru_devices"]["none", "bridge"] == 1
    assert sum(found["pvepassthru_devices"].values()) == len(rich.contents["devices"])
    gpu = "0000:41:00.0"
    assert found["pvepassthru_mdev_available"] == {(gpu, "nvidia-63"): 0, (gpu, "nvidia-64"): 3, (gpu, "nvidia-65"): 0}
    assert found["pvepassthru_mdev_used"] == {(gpu, "nvidia-63"): 0, (gpu, "nvidia-64"): 1, (gpu, "nvidia-65"): 0}
    assert found["pvepassthru_mdev_blocked"][gpu, "nvidia-65"] == 2
    assert ("NVIDIA GP104GL [Tesla P4]", "GRID P4-2Q", gpu, "nvidia-64") in found["pvepassthru_mdev_type_info"]
    assert found["pvepassthru_sriov_vfs_limit"] == {("0000:21:00.0",): 64}
    assert found["pvepassthru_sriov_vfs_made"] == {("0000:21:00.0",): 16}
    assert found["pvepassthru_sriov_vfs_in_use"]["0000:21:00.0",] >= 1
    assert set(found["pvepassthru_vm_info"]) == {("game", "100"), ("cad", "101"), ("router", "102"), ("lost", "104")}
    told = [row for row in rich.contents["findings"] if row["silenced"] is None]
    assert sum(found["pvepassthru_findings"].values()) == len(told) > 0
    assert found["pvepassthru_findings"]["PVP201", "error"] == 1
    assert found["pvepassthru_journals"] == {(word,): 0 for word in metrics.JOURNAL_STATES}
    assert found["pvepassthru_collection_timestamp_seconds"] == {(): 1_795_000_002.5}
    assert found["pvepassthru_collection_duration_seconds"] == {(): 0.125}


def test_what_the_host_uses_and_what_a_config_names(rich: Made) -> None:
    nvme = "0000:02:00.0"
    rows = [{**row, "uses": [{"kind": "mount"}]} if row["address"] == nvme else row for row in rich.contents["devices"]]
    before, after = (values(text({**rich.contents, "devices": one})) for one in (rich.contents["devices"], rows))
    assert before["pvepassthru_devices"]["nvme", "configured"] == after["pvepassthru_devices"]["nvme", "host"] == 1
    assert after["pvepassthru_devices"]["nvme", "configured"] == 0


def test_silenced_findings_do_not_count(rich: Made) -> None:
    rows = [{**row, "silenced": "known"} if row["code"] == "PVP201" else row for row in rich.contents["findings"]]
    found = values(text({**rich.contents, "findings": rows}))
    assert ("PVP201", "error") not in found["pvepassthru_findings"]
    assert found["pvepassthru_silenced_findings"] == {("PVP201", "error"): 1}


def test_held(rich: Made) -> None:
    held = {
        "journals": [{"state": "running"}, {"state": "running"}, {"state": "stopped"}],
        "orphans": [{}],
        "quarantines": [{}, {}],
    }
    found = values(text({**rich.contents, "held": held}))
    assert found["pvepassthru_journals"] == {("prepared",): 0, ("running",): 2, ("stopped",): 1, ("unreadable",): 0}
    assert (found["pvepassthru_orphans"], found["pvepassthru_quarantined_devices"]) == ({(): 1}, {(): 2})


def test_states_of_journals_are_those_of_status() -> None:
    source = (Path(metrics.__file__).parent / "held.py").read_text("utf-8")
    assert set(re.findall(r'token, words = "(\w+)"|"state": "(\w+)"', source)) == {
        *(("", word) for word in ("unreadable",)),
        *((word, "") for word in metrics.JOURNAL_STATES if word != "unreadable"),
    }


def test_hook_runs(rich: Made) -> None:
    found = values(text(rich.contents))
    prefix = "pvepassthru_hook_last_run"
    assert found[f"{prefix}_timestamp_seconds"]["pre-start", "100"] == 1_795_000_000.25
    assert found[f"{prefix}_duration_seconds"] == {("pre-start", "100"): 0.045, ("post-stop", "100"): 0.009}
    assert found[f"{prefix}_success"] == {("pre-start", "100"): 1, ("post-stop", "100"): 0}
    assert found[f"{prefix}_exit_code"] == {("pre-start", "100"): 0, ("post-stop", "100"): 6}
    assert found[f"{prefix}_warnings"] == {("pre-start", "100"): 2, ("post-stop", "100"): 0}


def test_a_vm_without_devices_is_named_once_its_hook_ran(rich: Made) -> None:
    assert ("plain", "103") not in values(text(rich.contents))["pvepassthru_vm_info"]
    runs = [state.Run(vmid, "pre-start", 1, 1, 0, 0) for vmid in (103, 200)]
    found = values(text(rich.contents, runs))["pvepassthru_vm_info"]
    assert {("plain", "103"), ("", "200")} < set(found)


def test_gaps(hostile: Made, rich: Made) -> None:
    assert values(text(hostile.contents))["pvepassthru_collection_gaps"][()] > 0
    notes = {**rich.contents["about"], "notes": ["a", "b"], "unreadable": ["c"]}
    assert values(text({**rich.contents, "about": notes}))["pvepassthru_collection_gaps"] == {(): 3}
