# SPDX-License-Identifier: Apache-2.0
"""Rules on what the installed PVE knows, and on the VM's hookscript, PVP390 to PVP399."""

from __future__ import annotations

import stat

from pvepassthru.host import cluster, packages
from pvepassthru.model.debian_version import compare
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import shown
from pvepassthru.rules.demand import ha_resources
from pvepassthru.rules.rule import Unknown
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.packages import Package
    from pvepassthru.model.section_config import Section
    from pvepassthru.rules.subject import Subject, Surroundings

DRIVER_SINCE = "9.0.25"
"""The qemu-server that knows `driver=` in hostpci entries."""
MAPPING_SINCE = "8.0"
"""The qemu-server that knows `mapping=`."""

_MACHINE = Pattern(r"(?:pc|pc-i440fx|pc-q35|virt)-([0-9]+)\.([0-9]+).*", ASCII)
_QEMU = Pattern(r"(?:[0-9]+:)?([0-9]+)\.([0-9]+).*", ASCII)
_SNIPPET = Pattern(r"snippets/([^/]+)", ASCII)
_STORAGE = Pattern(r"[a-z][a-z0-9._-]*[a-z0-9]", ASCII | 2)
_HINT = "upgrade the node (apt update; apt full-upgrade)"


def driver_unknown(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the installed qemu-server knows `driver=` in hostpci entries; it does from 9.0.25 on.

    Why it matters: an older one drops the whole entry with a warning, and the VM starts without its device.

    How to fix: upgrade the node, or remove `driver=`.
    """
    return _unknown_option(subject, "driver", DRIVER_SINCE)


def mapping_unknown(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the installed qemu-server knows `mapping=` in hostpci entries; it does from 8.0 on.

    Why it matters: an older one drops the whole entry with a warning, and the VM starts without its device.

    How to fix: upgrade the node, or name the device by its address.
    """
    return _unknown_option(subject, "mapping", MAPPING_SINCE)


def _unknown_option(subject: Subject, name: str, since: str) -> Iterator[Hit]:
    entries = [
        entry
        for _, entry in sorted(subject.section.entries.items())
        if (entry.driver if name == "driver" else entry.mapping) is not None
    ]
    if not entries or subject.config.template:
        return
    has = subject.around.once(installed).get("qemu-server")
    if has and has.installed and has.version and compare(has.version, since) < 0:
        for entry in entries:
            message = f"qemu-server {shown(has.version)} of this node does not know {name}=, only {since} and newer"
            yield Hit(subject.at(entry.key, entry.line), message, f"{_HINT}, or remove {name}=")


def machine_too_new(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the installed QEMU has the machine version that the VM asks for.

    Why it matters: PVE refuses to start the VM on a node with an older QEMU.

    How to fix: upgrade the node, or set an older machine version.
    """
    wants = _MACHINE.fullmatch(subject.section.machine.type or "")
    if not wants or not subject.section.entries or subject.config.template:
        return
    package = subject.around.once(installed).get("pve-qemu-kvm")
    has = _QEMU.fullmatch(package.version) if package and package.installed else None
    if has and package and (int(has[1]), int(has[2])) < (int(wants[1]), int(wants[2])):
        kind = shown(subject.section.machine.type or "")
        message = f"the QEMU of this node, {shown(package.version)}, has no machine {kind}"
        hint = f"{_HINT}, or set an older machine version"
        yield Hit(subject.at("machine", subject.section.line("machine")), message, hint)


def half_installed(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether PVE's packages for VMs are installed to their end.

    Why it matters: after an upgrade that was cut off, parts of PVE fit each other no more; VMs may not start.

    How to fix: `dpkg --configure -a`, then `apt -f install`.
    """
    found = around.once(installed)
    if not found:
        raise Unknown(f"{packages.STATUS} names no package of PVE")
    for name, package in sorted(found.items()):
        if package.state not in {"installed", "config-files", "not-installed"}:
            message = f"{name} {shown(package.version)} is {shown(package.state) or 'in no known state'}"
            yield Hit(packages.STATUS, f"{message}: its installation was cut off", "dpkg --configure -a")


def installed(around: Surroundings) -> dict[str, Package]:
    """The packages of PVE by name; ask through `around.once`."""
    return packages.read(around.host)


# ---- the hookscript


def hookscript_unusable(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the VM's hookscript is an executable file in the snippets of a storage.

    Why it matters: PVE looks before each phase, and refuses to start a VM whose hookscript it cannot run.

    How to fix: put the script there and make it executable (`chmod +x`), or `qm set VMID --delete hookscript`.
    """
    found = _hookscript(subject)
    if found is None:
        return
    volume, storage, name = found
    remove = f"or: qm set {subject.vmid} --delete hookscript"
    where = subject.at("hookscript", subject.section.line("hookscript"))
    if isinstance(storage, str):
        yield Hit(where, f"hookscript {shown(volume)}: {storage}", f"write STORAGE:snippets/FILE, {remove}")
        return
    folder = cluster.snippets(storage)
    if folder is None:
        why = f"storage {storage.id} ({storage.type}) holds no files"
        yield Hit(where, f"hookscript {shown(volume)}: {why}", f"put it on a storage with snippets, {remove}")
        return
    path = f"{folder}/{name}"
    mode = subject.host.mode(path)
    if mode is None:
        base = cluster.storage_path(storage) or folder
        if path not in subject.host.unreadable and subject.host.names(
            base
        ):  # else this is no such host, or not mounted
            yield Hit(
                where, f"hookscript {shown(volume)}: there is no {shown(path)}", f"put the script there, {remove}"
            )
    elif not stat.S_ISREG(mode):
        yield Hit(where, f"hookscript {shown(volume)}: {shown(path)} is no file", f"put the script there, {remove}")
    elif not mode & 0o111:
        yield Hit(where, f"hookscript {shown(volume)}: {shown(path)} is not executable", f"chmod +x {shown(path)}")


def hookscript_on_one_node(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a hookscript of a VM that HA manages lies on a storage that all nodes share.

    Why it matters: on a node that does not have the file PVE refuses to start the VM. Whether others have it cannot be
    told from here.

    How to fix: put the same file on every node, or use a shared storage.
    """
    resource = subject.around.once(ha_resources).get(subject.vmid) if subject.section.get("hookscript") else None
    others = tuple(name for name in cluster.nodes(subject.host) if name != subject.node) if resource else ()
    elsewhere = [name for name in others if resource and (not resource.strict or name in resource.nodes)]
    found = _hookscript(subject) if elsewhere else None
    if found and not isinstance(found[1], str) and not cluster.is_shared(found[1]):
        message = f"HA may start the VM on other nodes, and its hookscript lies on {found[1].id}, which is not shared"
        where = subject.at("hookscript", subject.section.line("hookscript"))
        yield Hit(where, message, "see that every node has the same file there")


def _hookscript(subject: Subject) -> tuple[str, Section | str, str] | None:
    """The VM's hookscript, its storage, or why it has none, and the file's name; None without one, or if untellable."""
    volume = subject.section.get("hookscript")
    if volume is None or subject.config.template:
        return None
    storages = subject.around.once(_storages)
    if storages is None:
        return None
    name, colon, rest = volume.partition(":")
    if not colon or not _STORAGE.fullmatch(name):
        return volume, "it is no volume", ""
    file = _SNIPPET.fullmatch(rest)
    if name not in storages:
        return volume, f"there is no storage {shown(name)}", ""
    if file is None:
        return volume, "it is not in the snippets of its storage", ""
    return volume, storages[name], file[1]


def _storages(around: Surroundings) -> dict[str, Section] | None:
    if around.host.partial and not around.host.exists(cluster.STORAGES):
        return None
    return cluster.storages(around.host)
