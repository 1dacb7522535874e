# SPDX-License-Identifier: Apache-2.0
"""Rules on what the installed PVE knows, PVP390 to PVP393."""

from __future__ import annotations

from pvepassthru.host import packages
from pvepassthru.model.debian_version import compare
from pvepassthru.model.pattern import ASCII, Pattern
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import shown
from pvepassthru.rules.rule import Unknown
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.packages import Package
    from pvepassthru.rules.subject import Subject, Surroundings

DRIVER_SINCE = "9.0.25"
"""The qemu-server that knows `driver=` in hostpci entries."""
MAPPING_SINCE = "8.0"
"""The qemu-server that knows `mapping=`."""

_MACHINE = Pattern(r"(?:pc|pc-i440fx|pc-q35|virt)-([0-9]+)\.([0-9]+).*", ASCII)
_QEMU = Pattern(r"(?:[0-9]+:)?([0-9]+)\.([0-9]+).*", ASCII)
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
