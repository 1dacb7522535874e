# SPDX-License-Identifier: Apache-2.0
"""A report arranged as its page shows it: findings by rule, devices with their findings, VMs with their devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.model.text import counted
from pvepassthru.report import topology
from pvepassthru.report.contents import SEVERITIES
from pvepassthru.report.topology import Topology

if TYPE_CHECKING:
    from pvepassthru.report.topology import Picture

FEW = 6
"""So many links are in one place; then how many more there are."""
CALM = ("fine", "silenced", "unknown", "not applicable")
"""States of a check that nobody has to look at."""
BETWEEN = 48
"""CSS pixels from one picture to the next."""
NOTHING = "\N{EN DASH}"
"""In a cell of which there is nothing to say."""


def arranged(contents: dict[str, Any]) -> dict[str, Any]:
    """What the template prints of a report's contents, by name."""
    return _Arrangement(contents).values()


class _Arrangement:
    """A report's contents as the template has them."""

    def __init__(self, contents: dict[str, Any]) -> None:
        self._contents = contents
        self._devices = {row["address"]: row for row in contents["devices"]}
        self._names = {vm["vmid"]: vm["name"] or "" for vm in contents["vms"]}
        self._by_device: dict[str, list[dict[str, Any]]] = {}
        self._numbers = {address: number for number, address in enumerate(self._devices, 1)}
        """Of each function, since its address would stand in the page too often."""
        self._by_vm: dict[int, list[dict[str, Any]]] = {}
        self._found = _merged(contents["findings"])
        for row in self._found:
            for address in row["devices"]:
                self._by_device.setdefault(address, []).append(row)
            for vmid in row["vms"]:
                self._by_vm.setdefault(vmid, []).append(row)

    def values(self) -> dict[str, Any]:
        """What the template prints, by name."""
        contents = self._contents
        shown = self._vms()
        rooms = [{**gpu, **self._gpu(gpu)} for gpu in contents["rooms"]]
        pictures, unfolded = self._pictures()
        return {
            "about": contents["about"],
            "tiles": self._tiles(shown),
            "steps": self._steps(),
            "readiness_words": self._readiness_words(),
            "codes": self._codes(),
            "kinds": self._kinds(entries=True),
            "total": len(self._found),
            "found_words": counted(len(contents["findings"]), "finding"),
            "found_vms": [{"vmid": vmid, "name": self._names.get(vmid, "")} for vmid in sorted(self._by_vm)],
            "found_devices": sorted(self._by_device),
            "numbers": self._numbers,
            "pictures": pictures,
            "unfolded": unfolded,
            "devices": self._device_rows(),
            "known": self._devices,
            "vms": shown,
            "known_vms": {vm["vmid"] for vm in shown},
            "vms_words": self._vms_words(shown),
            "rooms": rooms,
            "instances": contents["instances"],
            "physical_functions": [self._pf(row) for row in contents["physical_functions"]],
            "held": contents["held"],
        }

    # ---- the host

    def _tiles(self, shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
        counts = dict(self._kinds())
        vfs = sum(row["physical_function"] is not None for row in self._devices.values())
        running = sum(vm["running"] for vm in shown if vm["devices"])
        groups = {row["group"] for row in self._devices.values()} - {None}
        tiles = [
            (counts.get("error", 0), "error" if counts.get("error") == 1 else "errors", "findings", "error"),
            (counts.get("warning", 0), "warning" if counts.get("warning") == 1 else "warnings", "findings", "warning"),
            (counts.get("info", 0), "info", "findings", "info"),
            (len(self._devices), "PCI functions", "devices", "plain"),
            (len(groups), "IOMMU groups", "topology", "plain"),
            (vfs, "virtual functions", "sriov", "plain"),
            (sum(bool(vm["devices"]) for vm in shown), "VMs with devices", "vms", "plain"),
            (running, "of them running", "vms", "plain"),
        ]
        return [{"count": count, "word": word, "to": to, "style": style} for count, word, to, style in tiles]

    def _steps(self) -> list[dict[str, Any]]:
        """The steps of the chapter, each check with its explanation, and its findings as those of the whole report."""
        by_code: dict[str, list[dict[str, Any]]] = {}
        for row in self._found:
            by_code.setdefault(row["code"], []).append(row)
        found = []
        for step in self._contents["readiness"]["steps"]:
            checks = []
            for rule in step["rules"]:
                own = {one["message"] for one in rule["findings"]}
                rows = [row for row in by_code.get(rule["code"], ()) if row["message"] in own]
                explanation = self._contents["explanations"][rule["code"]]
                checks.append({**rule, "findings": rows, "explanation": explanation})
            calm = [check for check in checks if check["state"] not in SEVERITIES]
            counts = [(sum(check["state"] == state for check in calm), state) for state in CALM]
            words = ", ".join(f"{count} {state}" for count, state in counts if count)
            told = [check for check in checks if check["state"] in SEVERITIES]
            if checks:
                found.append({"name": step["step"], "checks": told, "calm": calm, "words": words})
        return found

    def _readiness_words(self) -> str:
        states = [rule["state"] for step in self._contents["readiness"]["steps"] for rule in step["rules"]]
        wrong, open_ones = states.count("error"), states.count("unknown")
        words = (
            f"{counted(wrong, 'check')} {'finds' if wrong == 1 else 'find'} errors"
            if wrong
            else "No check finds an error"
        )
        unknown = f"; of {open_ones} what they look at is not there" if open_ones else ""
        return f"{words}. {states.count('fine')} of {counted(len(states), 'check')} are fine{unknown}."

    # ---- findings

    def _kinds(self, *, entries: bool = False) -> list[tuple[str, int]]:
        """How many findings, or entries of the page, are of each severity."""
        kinds = [_kind(row) for row in (self._found if entries else self._contents["findings"])]
        return [(kind, kinds.count(kind)) for kind in (*SEVERITIES, "silenced") if kind in kinds]

    def _codes(self) -> list[dict[str, Any]]:
        """The findings by rule; what the policy silences of a rule stands apart."""
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in self._found:
            kind = _kind(row)
            numbers = " ".join(str(self._numbers[address]) for address in row["devices"])
            groups.setdefault(("silenced" if kind == "silenced" else "", row["code"]), []).append(
                {**row, "kind": kind, "numbers": numbers}
            )
        return [
            {
                "id": f"{code}{silenced and '-silenced'}",
                "code": code,
                "state": rows[0]["kind"],
                "title": f"checks whether {self._contents['explanations'][code]['title']}",
                "explanation": self._contents["explanations"][code],
                "findings": rows,
            }
            for (silenced, code), rows in groups.items()
        ]

    # ---- devices

    def _pictures(self) -> tuple[list[list[Picture]], dict[str, Picture]]:
        """The pictures in two columns of about the same height, and those of virtual functions by their PF."""
        drawn = Topology(self._contents["devices"], self._names)
        found = list(drawn.pictures(self._contents["buses"]))
        folded = {address for picture in found for address in picture.folded}
        unfolded = {}
        for branch in topology.branches(self._contents["buses"]):
            if branch["address"] in folded:
                vfs = [one for one in branch["children"] if self._devices[one["address"]]["physical_function"]]
                unfolded[branch["address"]] = drawn.unfolded(branch["address"], vfs)
        half = sum(picture.height + BETWEEN for picture in found) / 2
        columns: list[list[Picture]] = [[], []]
        height = 0
        for picture in found:
            columns[height + picture.height / 2 > half and bool(columns[0])].append(picture)
            height += picture.height + BETWEEN
        return [column for column in columns if column], unfolded

    def _device_rows(self) -> list[dict[str, Any]]:
        behind = {
            child["address"]: branch["address"]
            for branch in topology.branches(self._contents["buses"])
            for child in branch["children"]
        }
        size: dict[int, int] = {}
        for row in self._devices.values():
            size[row["group"]] = size.get(row["group"], 0) + 1
        return [
            {
                **row,
                "mates": size[row["group"]] - 1,
                "behind": behind.get(address),
                "link_words": _link(row),
                "owners": sorted(row["vms"], key=lambda owner: not owner["has"]),
                "virtual": _virtual(row),
                "findings": self._by_device.get(address, []),
            }
            for address, row in self._devices.items()
        ]

    def _gpu(self, gpu: dict[str, Any]) -> dict[str, Any]:
        row = self._devices[gpu["address"]]
        where = f"on {counted(gpu['functions'], 'function')}, rule: {gpu['rule']}"
        types = []
        for one in gpu["types"]:
            total = one["total"] or max(gpu["functions"], one["used"] + one["available"])
            used, available, blocked = (100 * (one[name] or 0) / total for name in ("used", "available", "blocked"))
            bars = [round(part, 2) for part in (used, available, used + available, blocked)]
            types.append({**one, "bars": bars})
        return {"name": row["name"], "words": where, "types": types}

    def _pf(self, row: dict[str, Any]) -> dict[str, Any]:
        used = [vf for vf in row["functions"] if vf["in_use"] is not None]
        total = row["total"] or 1
        parts = [round(100 * part / total, 2) for part in (row["vfs"] or 0, len(used))]
        owners: dict[int, bool] = {}
        for vf in row["functions"]:
            for owner in vf["vms"]:
                owners[owner["vmid"]] = owners.get(owner["vmid"], False) or owner["has"]
        ranked = sorted(owners.items(), key=lambda item: (not item[1], item[0]))
        rows = [{"vmid": vmid, "has": has} for vmid, has in ranked]
        return {**row, "in_use": len(used), "bars": parts, "owners": rows}

    # ---- VMs

    def _vms(self) -> list[dict[str, Any]]:
        """The VMs that have to do with devices, or of which something was found."""
        has: dict[int, list[str]] = {}
        for address, row in self._devices.items():
            for owner in row["vms"]:
                if owner["has"]:
                    has.setdefault(owner["vmid"], []).append(address)
        known = {vm["vmid"]: vm for vm in self._contents["vms"]}
        rows = []
        for vmid in sorted({*known, *has, *self._by_vm}):
            vm = known.get(vmid, {"vmid": vmid, "name": None, "running": False, "entries": [], "devices": []})
            entries = self._entries(vm, has.get(vmid, []))
            if entries or vmid in self._by_vm:
                nothing: list[dict[str, Any]] = [{"key": NOTHING, "value": None, "what": "no device", "devices": []}]
                findings = self._by_vm.get(vmid, [])
                rows.append({**vm, "name": vm["name"] or "", "entries": entries or nothing, "findings": findings})
        return rows

    def _entries(self, vm: dict[str, Any], has: list[str]) -> list[dict[str, Any]]:
        passed = {f"hostpci{device['index']}": device for device in vm["devices"]}
        entries = []
        left = dict.fromkeys(has)
        for entry in vm["entries"]:
            device = passed.get(entry["key"])
            addresses: list[str] = []
            if device:
                chosen = device.get("alternatives") or [device["addresses"]]
                addresses = [address for one in chosen for address in one if address in self._devices]
            for address in addresses:
                left.pop(address, None)
            rows = [{"address": address, "has": address in has} for address in addresses]
            rows.sort(key=lambda row: not row["has"])
            entries.append({**entry, "what": _what(device), "devices": rows})
        if left:
            rest = [{"address": address, "has": True} for address in left]
            entries.append({"key": NOTHING, "value": None, "what": "has it, and no entry means it", "devices": rest})
        return entries

    def _vms_words(self, shown: list[dict[str, Any]]) -> str:
        every = len(self._contents["vms"])
        others = every - len({vm["vmid"] for vm in self._contents["vms"]} & {vm["vmid"] for vm in shown})
        if not every:
            return "No VM of this node is known."
        words = f"{counted(every, 'VM')} on this node"
        return (
            f"{words}; {others} without devices and findings {'is' if others == 1 else 'are'} left out."
            if others
            else f"{words}."
        )


def _merged(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Findings as entries of the page: those that say the same of several VMs are one, with the first one's number.

    A slip in a mapping is found of each VM that uses it, once for each of its devices.
    """
    entries: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in findings:
        key = tuple(row[name] for name in ("code", "message", "hint", "silenced"))
        entry = entries.setdefault(key, {**row, "vms": {}, "devices": {}, "places": {}})
        entry["vms"] |= dict.fromkeys(row["vms"])
        entry["devices"] |= dict.fromkeys(row["devices"])
        entry["places"] |= {row["where"]: None}
    return [{**one, **{name: list(one[name]) for name in ("vms", "devices", "places")}} for one in entries.values()]


def _kind(row: dict[str, Any]) -> str:
    return row["severity"] if row["silenced"] is None else "silenced"


def _what(device: dict[str, Any] | None) -> str:
    if device is None:
        return "nothing that PVE would pass"
    if device.get("mdev"):
        what = f"mdev {device['mdev']}"
    elif device.get("nvidia"):
        what = f"vGPU nvidia-{device['nvidia']}"
    else:
        what = "whole"
    if device.get("mapping"):
        several = device.get("alternatives")
        what += f", {f'one of {len(several)} of' if several else 'by'} mapping {device['mapping']}"
    return what


def _link(row: dict[str, Any]) -> str:
    link = row["link"]
    if not link:
        return "asleep" if row["power_state"] == "D3cold" else NOTHING
    now = f"{link['speed'] or '?'} x{link['width']}" if link["width"] else NOTHING
    most = f"{link['max_speed'] or '?'} x{link['max_width'] or '?'}"
    return now if now == most else f"{now} / {most}"


def _virtual(row: dict[str, Any]) -> str:
    words = []
    if row["total_vfs"] is not None:
        words.append(f"{row['vfs'] or 0} of {row['total_vfs']} VFs")
    if row["physical_function"]:
        words.append(f"VF of {row['physical_function']}")
    if row["vgpu"]:
        words.append(f"vGPU {row['vgpu']}")
    elif row["mdevs"]:
        words.append(f"{counted(len(row['mdevs']), 'mdev')}")
    elif row["mdev_types"]:
        words.append(f"{counted(row['mdev_types'], 'type')}")
    return ", ".join(words) or NOTHING
