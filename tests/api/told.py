# SPDX-License-Identifier: Apache-2.0
"""What PVE's API would tell of a host in a folder, read from its tree as PVE reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvepassthru.api import hardware, mappings, mirror, present
from pvepassthru.api.mirror import Cluster
from pvepassthru.host import cluster, vms
from pvepassthru.host.inventory import Inventory
from pvepassthru.model import mapping, section_config
from pvepassthru.rules.subject import MAPPINGS, Surroundings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvepassthru.api.hardware import NodeHardware
    from pvepassthru.api.present import Present
    from pvepassthru.host.host import Host
    from pvepassthru.model.mapping import Mappings

KEYS = {cluster.RESOURCES: "sid", cluster.GROUPS: "group", cluster.RULES: "rule", cluster.JOBS: "id"}
"""What the API calls the name of a section of these files."""
NAMES = ("vendor", "device", "class", "subsystem_vendor", "subsystem_device")


def pci(inventory: Inventory) -> list[dict[str, Any]]:
    """nodes/N/hardware/pci, without the names."""
    found = []
    for address in inventory.addresses():
        texts = {name: inventory.attribute(address, name) for name in NAMES}
        group = inventory.group(address)
        entry: dict[str, Any] = {name: text for name, text in texts.items() if text is not None}
        entry |= {"id": address, "iommugroup": -1 if group is None else group}
        if inventory.has(address, "mdev_supported_types") or inventory.has(address, "nvidia"):
            entry["mdev"] = 1
        if parent := inventory.physical_function(address):
            entry["physfn"] = parent
        virtual = [other for other in inventory.addresses() if inventory.physical_function(other) == address]
        if virtual:  # also where the tree has them without the links of their PF
            entry["virtfns"] = {f"virtfn{number}": other for number, other in enumerate(virtual)}
        found.append(entry)
    return found


def mdev(inventory: Inventory, address: str) -> list[dict[str, Any]]:
    """nodes/N/hardware/pci/ADDRESS/mdev."""
    found: list[dict[str, Any]] = []
    for kind in inventory.mdev_types(address):
        texts = {"name": kind.name, "description": kind.description, "available": kind.available}
        found.append({"type": kind.id, **{name: text for name, text in texts.items() if text is not None}})
    for number, name in inventory.vgpu_creatable(address).items():
        found.append({"type": f"nvidia-{number}", "name": name, "available": 1})
    return found


def node_hardware(host: Host) -> NodeHardware:
    inventory = Inventory(host)
    answer = pci(inventory)
    asked = hardware.parents(hardware.of_api(host.node, answer, {}))
    return hardware.of_api(host.node, answer, {address: mdev(inventory, address) for address in asked})


def pending(one: Present) -> list[dict[str, Any]]:
    """nodes/N/qemu/V/pending."""
    now, later = {key: value.text for key, value in one.config.main.values.items()}, one.values
    rows: list[dict[str, Any]] = []
    for key in now | later:
        row = {"key": key} | ({"value": now[key]} if key in now else {})
        row |= {"pending": later[key]} if key in later and later[key] != now.get(key) else {}
        rows.append(row | ({} if key in later else {"delete": 1}))
    return rows


def mappings_of(answer: Iterable[dict[str, Any]]) -> Mappings:
    """The mappings by cluster/mapping/pci."""
    return mappings.plain(mappings.of_api(answer))


def mirrored(host: Host) -> Host:
    """The mirror of a host, by what the API would tell of it."""
    around = Surroundings(host)
    ids = vms.vmids(host)
    texts = {vmid: host.read(vms.config_path(vmid)) for vmid in ids}
    running = {vmid for vmid in ids if around.running(vmid) is not None}
    presents = []
    for vmid, data in texts.items():
        one = present.of_file(vmid, host.node, data)
        if vmid in running:
            presents.append(present.of_api(vmid, host.node, {}, pending(one)))
        else:
            presents.append(present.of_api(vmid, host.node, one.values))  # as PVE has parsed it, with what is pending
    found = node_hardware(host)
    try:
        cfg = mapping.parse(host.read(MAPPINGS))
    except OSError:
        cfg = mapping.EMPTY
    answers = [
        {
            "id": name,
            "map": [
                ",".join(
                    f"{key}={text}"
                    for key, text in (
                        ("node", entry.node),
                        ("path", ";".join(entry.paths)),
                        ("id", entry.id),
                        ("subsystem-id", entry.subsystem_id),
                        ("iommugroup", entry.iommugroup),
                    )
                    if text is not None
                )
                for entry in one.entries
            ],
            "mdev": int(one.mdev),
            "live-migration-capable": int(one.live_migration),
        }
        for name, one in cfg.by_name.items()
    ]
    return mirror.host(
        found,
        mappings_of(answers),
        presents,
        cluster=of_cluster(host),
        running=running,
        untold=found.functions.keys() - set(hardware.parents(found)),
    )


def of_cluster(host: Host) -> Cluster:
    """nodes, cluster/ha and cluster/backup."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for path in (cluster.RESOURCES, cluster.GROUPS, cluster.RULES, cluster.JOBS):
        try:
            sections = section_config.parse(host.read(path))
        except OSError:
            sections = ()
        key = KEYS[path]
        rows[path] = [
            {
                **{name: found.text or 1 for name, found in section.properties.items()},
                key: f"{section.type}:{section.id}" if key == "sid" else section.id,
                "type": section.type,
                "digest": "0",
            }
            for section in sections
        ]
    return Cluster(cluster.nodes(host), *rows.values())
