# SPDX-License-Identifier: Apache-2.0
"""What a report holds as numbers over time: OpenMetrics text that node_exporter's textfile collector takes too.

The two formats differ, so only what both have is used. node_exporter reads the older text format: it refuses types that
are not in it (info, stateset, unknown), a whole file with a timestamp in it, and a series twice; of escapes it knows
no quote in a help text. So all is of type gauge, `_info` too, and help texts need no escapes. docs/metrics.md has all
names with what bounds the number of their series; no label holds what changes from one run to the next.

Sources: OpenMetrics 1.0; prometheus/common, expfmt/text_parse.go; node_exporter, collector/textfile.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pvepassthru.model.text import one_line, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pvepassthru.host.state import Run

    Series = dict[tuple[str, ...], float]
    """Values by those of the labels, so that no series is there twice."""

PREFIX = "pvepassthru_"
DEVICE_STATES = ("bridge", "taken", "host", "configured", "unused")
JOURNAL_STATES = ("prepared", "running", "stopped", "unreadable")
NO_DRIVER = "none"


class Family(NamedTuple):
    """A metric with its series."""

    name: str
    """Without PREFIX, and without the unit, which is appended."""
    help: str
    labels: tuple[str, ...]
    series: Series
    unit: str = ""


class Collection(NamedTuple):
    """One look at a host."""

    contents: dict[str, Any]
    """As `contents.gather` has it."""
    runs: list[Run]
    time: float
    """Seconds since the epoch."""
    duration: float
    """Seconds."""


def text(collection: Collection) -> str:
    """The metrics as text."""
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - only who wants metrics needs it
    from prometheus_client.openmetrics.exposition import generate_latest  # noqa: PLC0415 - likewise

    class Registry:
        """What the library asks for metrics; its own would add some on this process."""

        @staticmethod
        def collect() -> Iterator[Any]:
            for family in families(collection):
                made = GaugeMetricFamily(PREFIX + family.name, family.help, labels=family.labels, unit=family.unit)
                for values in sorted(family.series):
                    made.add_metric(values, family.series[values])
                yield made

    return str(generate_latest(Registry()).decode())


def families(collection: Collection) -> Iterator[Family]:
    """All metrics, in the order in which they are written; each is there whatever the host has, if without series."""
    contents = collection.contents
    about = contents["about"]
    yield Family("build_info", "The version of pvepassthru; always 1.", ("version",), {(about["version"],): 1})
    yield Family("collection_timestamp", "When these numbers were read.", (), {(): collection.time}, "seconds")
    yield Family("collection_duration", "How long it took to read them.", (), {(): collection.duration}, "seconds")
    missing = len(about["notes"]) + len(about["unreadable"])
    yield Family("collection_gaps", "Things that could not be read, so that numbers may be too low.", (), {(): missing})
    yield from _devices(contents)
    yield from _mdevs(contents)
    yield from _virtual_functions(contents)
    yield from _held(contents["held"])
    yield from _findings(contents["findings"])
    yield from _hooks(contents["vms"], collection.runs)


def _devices(contents: dict[str, Any]) -> Iterator[Family]:
    drivers = {row["driver"] or NO_DRIVER for row in contents["devices"]}
    rows = [(one_line(row["driver"] or NO_DRIVER), _state(row)) for row in contents["devices"]]
    every = [(one_line(driver), word) for driver in drivers for word in DEVICE_STATES]
    words = "PCI functions by driver and by what has them."
    yield Family("devices", words, ("driver", "state"), _counts(rows, every))


def _state(row: dict[str, Any]) -> str:
    """What has a function: a VM now, the host, the config of a VM, or nobody."""
    if row["bridge"]:
        return "bridge"
    if any(owner["has"] for owner in row["vms"]):
        return "taken"
    if row["uses"]:
        return "host"
    return "configured" if row["vms"] else "unused"


def _mdevs(contents: dict[str, Any]) -> Iterator[Family]:
    rows = [(gpu, kind) for gpu in contents["rooms"] for kind in gpu["types"]]

    def series(field: str) -> Series:
        return {_of(gpu, kind): kind[field] for gpu, kind in rows if kind[field] is not None}

    labels = ("parent", "type")
    names = _names(contents)
    infos: Series = {
        (*_of(gpu, kind), shown(kind["name"] or ""), names.get(gpu["address"], "")): 1.0 for gpu, kind in rows
    }
    yield Family("mdev_type_info", "An mdev or vGPU type that a GPU has; always 1.", (*labels, "name", "device"), infos)
    yield Family("mdev_available", "Instances of a type that can be made now.", labels, series("available"))
    yield Family("mdev_used", "Instances of a type that there are.", labels, series("used"))
    words = "Instances that an empty GPU would take, but that other types leave no room for."
    yield Family("mdev_blocked", words, labels, series("blocked"))


def _of(gpu: dict[str, Any], kind: dict[str, Any]) -> tuple[str, str]:
    return gpu["address"], one_line(kind["type"])


def _names(contents: dict[str, Any]) -> dict[str, str]:
    """The names of all functions, by address."""
    return {row["address"]: shown(row["name"] or "") for row in contents["devices"]}


def _virtual_functions(contents: dict[str, Any]) -> Iterator[Family]:
    rows = contents["physical_functions"]
    names = _names(contents)
    infos: Series = {
        (row["address"], one_line(row["driver"] or NO_DRIVER), names.get(row["address"], "")): 1.0 for row in rows
    }
    used: Series = {
        (row["address"],): float(
            sum(one["in_use"] is not None or any(vm["has"] for vm in one["vms"]) for one in row["functions"])
        )
        for row in rows
    }
    yield Family("sriov_info", "A physical function; always 1.", ("pf", "driver", "device"), infos)
    yield Family("sriov_vfs_limit", "Virtual functions that the card can have.", ("pf",), _by_pf(rows, "total"))
    yield Family("sriov_vfs_made", "Virtual functions that there are.", ("pf",), _by_pf(rows, "vfs"))
    yield Family("sriov_vfs_in_use", "Virtual functions that a VM or the host uses.", ("pf",), used)


def _by_pf(rows: list[dict[str, Any]], field: str) -> Series:
    return {(row["address"],): row[field] for row in rows if row[field] is not None}


def _held(held: dict[str, Any]) -> Iterator[Family]:
    journals = _counts([(row["state"],) for row in held["journals"]], [(word,) for word in JOURNAL_STATES])
    yield Family("journals", "Open journals by state, as status has them.", ("state",), journals)
    yield Family("orphans", "What hooks made and no journal has.", (), {(): len(held["orphans"])})
    yield Family("quarantined_devices", "Functions in quarantine.", (), {(): len(held["quarantines"])})


def _findings(rows: list[dict[str, Any]]) -> Iterator[Family]:
    labels = ("code", "severity")
    told = [(row["code"], row["severity"]) for row in rows if row["silenced"] is None]
    silenced = [(row["code"], row["severity"]) for row in rows if row["silenced"] is not None]
    yield Family("findings", "Findings of the host and of all VMs.", labels, _counts(told))
    yield Family("silenced_findings", "Findings that the policy silences.", labels, _counts(silenced))


def _hooks(guests: list[dict[str, Any]], found: list[Run]) -> Iterator[Family]:
    ran = {run.vmid for run in found}
    names: dict[int, str | None] = dict.fromkeys(ran)  # a VM of another node has no name here
    names |= {guest["vmid"]: guest["name"] for guest in guests if guest["entries"] or guest["vmid"] in ran}
    infos: Series = {(str(vmid), shown(name or "")): 1.0 for vmid, name in names.items()}
    yield Family("vm_info", "A VM that passes devices or whose hook ran here; always 1.", ("vmid", "name"), infos)

    def family(name: str, words: str, value: Callable[[Run], float], unit: str = "") -> Family:
        series: Series = {(str(run.vmid), run.phase): value(run) for run in found}
        return Family(f"hook_last_run_{name}", words, ("vmid", "phase"), series, unit)

    when = "When the last run of a hook phase ended that had something to do."
    yield family("timestamp", when, lambda run: run.ended / 1000, "seconds")
    took = "How long it took, without the start of the interpreter."
    yield family("duration", took, lambda run: run.took / 1000, "seconds")
    yield family("success", "Whether it ended without an error.", lambda run: run.code == 0)
    yield family("exit_code", "0, or the exit code of its error (docs/exit-codes.md).", lambda run: run.code)
    yield family("warnings", "How many warnings it said.", lambda run: run.warnings)


def _counts(found: Iterable[tuple[str, ...]], every: Iterable[tuple[str, ...]] = ()) -> Series:
    """How often each is there; what is in `every` and is not there is 0."""
    counts = dict.fromkeys(every, 0.0)
    for one in found:
        counts[one] = counts.get(one, 0.0) + 1
    return counts
