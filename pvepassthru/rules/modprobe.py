# SPDX-License-Identifier: Apache-2.0
"""Rules on modprobe.d: lines and files that do not mean what they seem to, PVP136 to PVP141."""

from __future__ import annotations

from pvepassthru.host import boot as boots
from pvepassthru.host.modules import LOAD_FOLDERS, OWN_FOLDER
from pvepassthru.model import modprobe
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import nearest, shown
from pvepassthru.rules import sources
from pvepassthru.rules.drivers import APPLY
from pvepassthru.rules.kernel import is_yes
from pvepassthru.rules.rule import NotApplicable, Unknown
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.modules import Setting
    from pvepassthru.rules.subject import Surroundings

PARAMETERS = {
    "vfio": frozenset(("enable_unsafe_noiommu_mode",)),
    "vfio_iommu_type1": frozenset(("allow_unsafe_interrupts", "disable_hugepages", "dma_entry_limit")),
    "vfio_pci": frozenset(
        ("ids", "nointxmask", "disable_vga", "disable_idle_d3", "enable_sriov", "disable_denylist", "disable_blacklist")
    ),
}
"""The parameters of VFIO's modules, of all kernels. Source: Linux drivers/vfio."""
MEANT = frozenset(("txt", "cfg", "cnf", "config", "modprobe", "con"))
"""Endings, in lower case, of files that look as if they were meant; any other is how people put a file aside."""


def ids_overridden(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a parameter of VFIO's modules is set only once, or to the same value each time.

    Why it matters: the last one counts. Two lines `options vfio-pci ids=` do not add up: the devices of the first keep
    their own driver.

    How to fix: write one line with all ids: `options vfio-pci ids=1234:5678,4321:8765`.
    """
    modules = sources.configuration(around)
    for module in PARAMETERS:
        for name, settings in sorted(modules.options(module).items()):
            lost = _lost(settings, adds=name == "ids")
            if lost:
                last = settings[-1]
                message = (
                    f"{module} is given {name}={shown(lost.value)} here, but {shown(last.value)} later ({last.where})"
                )
                yield Hit(lost.where, f"{message}, and only the last counts", f"write it in one line; then: {APPLY}")


def _lost(settings: list[Setting], *, adds: bool) -> Setting | None:
    """The first setting of which the last one leaves something out, or that it gainsays."""
    last = settings[-1].value
    kept = set(last.lower().split(","))
    for one in settings[:-1]:
        if not set(one.value.lower().split(",")) <= kept if adds else one.value != last:
            return one
    return None


def no_conf_suffix(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether files in /etc/modprobe.d and /etc/modules-load.d that seem to be meant end in .conf.

    Why it matters: modprobe and systemd pass over any other name without a word, so nothing in it is in force.

    How to fix: rename the file, then `update-initramfs -u -k all`, and reboot.
    """
    folders = [folder for folder in (OWN_FOLDER, LOAD_FOLDERS[0]) if around.host.exists(folder)]
    if not folders:
        raise Unknown(f"there is no {OWN_FOLDER}")
    for folder in folders:
        for name in around.host.names(folder):
            path = f"{folder}/{name}"
            stem, dot, ending = name.rpartition(".")
            if name.endswith((".conf", "~")) or name.startswith((".", "README")):
                continue
            if dot and ending.lower() not in {*MEANT, "conf"}:
                continue
            text = boots.whole(around.host, path) or ""
            meant = modprobe.parse(text, path)[0] if folder == OWN_FOLDER else modprobe.listed(text)
            if meant:
                message = f"{shown(path)} is not read, since its name does not end in .conf"
                yield Hit(path, message, f"mv -n {shown(path)} {folder}/{shown(stem or name)}.conf; then: {APPLY}")


def bad_line(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether modprobe understands each line of the files in /etc/modprobe.d.

    Why it matters: modprobe passes over a line that it does not understand; commands are in lower case.

    How to fix: correct the line, as the message says.
    """
    modules = sources.configuration(around)
    for bad in modules.bad:
        if bad.path.startswith(OWN_FOLDER):
            word = bad.text.split(None, 1)[0]
            near = nearest(word, modprobe.COMMANDS)
            hint = f"write {near}" if near and near != word else "write: options MODULE PARAMETER=VALUE"
            yield Hit(bad.where, f"modprobe passes over {shown(bad.text)}: {shown(bad.why)}", hint)


def unknown_parameter(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the parameters that VFIO's modules are given are ones that they have.

    Why it matters: the kernel passes over an unknown one with a line in its log: the ids or the permission that was
    meant are not in force.

    How to fix: write it as the message says; `modinfo -p vfio-pci` lists what there is.
    """
    modules = sources.configuration(around)
    given = {name: modules.options(name) for name in PARAMETERS}
    if not any(given.values()):
        raise NotApplicable("no module of VFIO is given options")
    for module, settings in given.items():
        for name, values in sorted(settings.items()):
            if name in PARAMETERS[module] or ":" in name:  # an id behind a blank: drivers.ids_malformed tells
                continue
            near = nearest(name, PARAMETERS[module])
            elsewhere = next((other for other, known in PARAMETERS.items() if name in known), None)
            hint = f"write it for {elsewhere}" if elsewhere else f"write {near}" if near else f"modinfo -p {module}"
            yield Hit(values[-1].where, f"{module} has no parameter {shown(name)}", f"{hint}; then: {APPLY}")


def no_iommu_mode(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether VFIO may give devices away with no IOMMU at all (enable_unsafe_noiommu_mode).

    Why it matters: such a device can write to all of the host's memory. PVE does not use this mode.

    How to fix: remove `options vfio enable_unsafe_noiommu_mode=1`, then `update-initramfs -u -k all`, and reboot.
    """
    modules = around.once(sources.modules)
    value = modules.parameter("vfio", "enable_unsafe_noiommu_mode")
    option = modules.option("vfio", "enable_unsafe_noiommu_mode")
    if value is None and option is None and modules.loaded is None:
        raise Unknown("there is no /sys/module")
    if (value is not None and is_yes(value)) or (option and is_yes(option.value)):
        where = option.where if option else "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
        message = "VFIO may give devices away without any IOMMU (enable_unsafe_noiommu_mode)"
        yield Hit(where, message, f"remove it; then: {APPLY}")


# ---- ids that nothing loads


def nothing_loads(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether something loads vfio-pci at boot, when it is given ids= in modprobe.d.

    Why it matters: ids= is read when the module is loaded. PVE loads it only at the first start of a VM, and until then
    the devices' own drivers have them.

    How to fix: list vfio_pci in /etc/modules-load.d/pvepassthru.conf (or /etc/modules), or write `softdep DRIVER pre:
    vfio-pci` for the driver of the device. Then `update-initramfs -u -k all`, and reboot.
    """
    modules = sources.configuration(around)
    option = modules.option("vfio_pci", "ids")
    if option is None:
        raise NotApplicable("vfio-pci is given no ids=")
    softdeps = any("vfio_pci" in map(modprobe.plain, line.rest.split()) for line in modules.of("softdep"))
    named = modules.running.values("modules_load") if modules.running else ()
    named_there = any("vfio_pci" in map(modprobe.plain, (value or "").split(",")) for value in named)
    if not (named_there or softdeps or modules.listed("vfio_pci") or modules.is_builtin("vfio_pci")):
        message = "vfio-pci is given ids= here, but nothing loads it at boot"
        hint = "echo vfio_pci >> /etc/modules-load.d/pvepassthru.conf"
        yield Hit(option.where, message, f"{hint}; {APPLY}")
