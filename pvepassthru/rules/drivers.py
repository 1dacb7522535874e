# SPDX-License-Identifier: Apache-2.0
"""Rules on the modules of VFIO, and on what vfio-pci's ids= and blacklists hit, PVP125 to PVP135."""

from __future__ import annotations

from pvepassthru.host import modules as kernel_modules
from pvepassthru.host.uses import CRITICAL
from pvepassthru.model import vfio_ids
from pvepassthru.model.modprobe import plain
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import listed, nearest, shown
from pvepassthru.rules import sources
from pvepassthru.rules.rule import NotApplicable, Unknown
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.modules import Setting
    from pvepassthru.model.vfio_ids import VfioId
    from pvepassthru.rules.subject import Surroundings

VFIO = ("vfio", "vfio_iommu_type1")
"""What PVE needs beside vfio-pci, of which another rule tells."""
OURS = (*VFIO, "vfio_pci", "kvmgt", "mdev", "vfio_mdev", "vendor_reset", "nvidia_vgpu_vfio")
"""Modules for passthrough that people list."""
GONE = {"vfio_virqfd": (6, 2), "vfio_mdev": (5, 19)}
"""Modules that a kernel of this version or newer has no more."""
APPLY = "update-initramfs -u -k all, then reboot"


def no_vfio_pci(around: Surroundings) -> Iterator[Hit]:
    """Whether the driver vfio-pci is there, or can be loaded into the running kernel."""
    if not around.host.exists("/sys/bus/pci/drivers"):
        raise Unknown("there is no /sys/bus/pci/drivers")
    there = around.host.exists("/sys/bus/pci/drivers/vfio-pci") or around.once(sources.modules).available("vfio_pci")
    if there is None:
        raise Unknown("the modules of the running kernel are not listed (modules.dep, modules.builtin)")
    if not there:
        message = "the driver vfio-pci is not there, and cannot be loaded into the running kernel"
        yield Hit("/sys/bus/pci/drivers", message, "modprobe vfio-pci; reboot if the running kernel's modules are gone")


def no_vfio(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the modules vfio and vfio_iommu_type1 are loaded, or there to be loaded.

    Why it matters: QEMU cannot open a device without them, and the VM does not start.

    How to fix: reboot into a kernel whose modules are installed; `modprobe vfio_iommu_type1` shows what is wrong.
    """
    modules = around.once(sources.modules)
    states = {name: modules.available(name) for name in VFIO}
    if modules.available("iommufd") and states["vfio"]:  # which can stand in for vfio_iommu_type1
        return
    missing = [name for name, state in states.items() if state is False]
    if not missing and None in states.values():
        raise Unknown("the modules of the running kernel are not listed (modules.dep, modules.builtin)")
    if missing:
        message = f"the running kernel {modules.release} has no module {listed(missing)}"
        yield Hit(modules.folder, message, "reboot into a kernel whose modules are installed")


def vfio_disabled(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the configuration keeps a module of VFIO from being loaded at all.

    `install MODULE /bin/false` in modprobe.d does, and `module_blacklist=` on the kernel's command line; a plain
    `blacklist` does not.

    Why it matters: PVE cannot load vfio-pci, or QEMU not open the device, and no VM with a device starts.

    How to fix: remove that line, then `update-initramfs -u -k all` and reboot.
    """
    modules = sources.configuration(around)
    for name in (*VFIO, "vfio_pci"):
        where = modules.disabled(name)
        if where and not modules.is_loaded(name):
            yield Hit(where, f"the module {name} cannot be loaded: this line forbids it", f"remove it, then: {APPLY}")


# ---- lists of modules


def gone_module(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a list asks for a module that this kernel has no more: vfio_virqfd is part of vfio.

    Why it matters: the boot complains that it cannot find the module; passthrough works all the same.

    How to fix: remove the line from /etc/modules or modules-load.d.
    """
    modules = around.once(sources.modules)
    kernel = around.once(sources.firmware).kernel
    if kernel is None:
        raise Unknown("the kernel's version cannot be told")
    for one in (*modules.boot, *modules.initramfs):
        since = GONE.get(plain(one.name))
        if since and kernel >= since and not modules.available(one.name):
            message = f"{one.name} is listed, which kernels from {since[0]}.{since[1]} on have no more"
            yield Hit(one.where, message, f"remove it: sed -i '/^[[:space:]]*{one.name}\\b/d' {one.path}")


def unknown_module(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether every module for passthrough that a list names is one that the running kernel has.

    Why it matters: the module is not loaded at boot, and the boot complains only in its log.

    How to fix: correct the name, or install the package that brings the module for this kernel.
    """
    modules = around.once(sources.modules)
    listed_here = [one for one in (*modules.boot, *modules.initramfs) if plain(one.name) not in GONE]
    states = {one: modules.available(one.name) for one in listed_here}
    if not states:
        raise NotApplicable("no module is listed in /etc/modules, modules-load.d or initramfs-tools")
    if None in states.values():
        raise Unknown("the modules of the running kernel are not listed (modules.dep, modules.builtin)")
    for one, there in states.items():
        near = nearest(plain(one.name), OURS)
        if there is False and near and (near == plain(one.name) or len(one.name) > 3):
            known = near == plain(one.name)
            hint = (
                f"install what brings {near} for kernel {modules.release}"
                if known
                else f"write {near} if that is meant"
            )
            yield Hit(one.where, f"the running kernel has no module {shown(one.name)}", hint)


# ---- vfio-pci ids=


class Taken(NamedTuple):
    """An entry of vfio-pci's ids= in force, where it stands, and the functions that it takes."""

    id: VfioId
    where: str
    functions: tuple[str, ...]


def taken(around: Surroundings) -> tuple[Taken, ...]:
    """The entries of vfio-pci's ids= that counts, in their order."""
    option = around.once(sources.modules).option("vfio_pci", "ids")
    return (
        tuple(Taken(one, option.where, _fitting(around, one)) for one in vfio_ids.parse(option.value)) if option else ()
    )


def _fitting(around: Surroundings, wanted: VfioId) -> tuple[str, ...]:
    return tuple(
        address
        for address in around.inventory.addresses()
        if not around.inventory.has(address, "pci_bus")
        and wanted.fits(*sources.ids(around, address), around.inventory.pci_class(address))
    )


def _option(around: Surroundings) -> Setting:
    """vfio-pci's ids= that counts. Raises NotApplicable without one."""
    option = sources.configuration(around).option("vfio_pci", "ids")
    if option is None:
        raise NotApplicable("vfio-pci is given no ids=")
    return option


def ids_malformed(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether vfio-pci's ids= can be read: `1234:5678,4321:8765`, in hex, parted by commas alone.

    Why it matters: the kernel passes over an entry that it cannot read, and what follows a blank is no part of the
    list; these devices keep their driver.

    How to fix: write it as the message says; `lspci -nn` shows the ids. Then `update-initramfs -u -k all`, and reboot.
    """
    option = _option(around)
    for one in vfio_ids.parse(option.value):
        if one.values is None:
            message = f"{shown(one.text)} in vfio-pci's ids= is no id"
            yield Hit(option.where, message, f"write VENDOR:DEVICE in hex, as `lspci -nn` shows it, then: {APPLY}")
    if len(option.value) > vfio_ids.LONGEST:
        yield Hit(option.where, f"vfio-pci's ids= is longer than {vfio_ids.LONGEST} characters", "leave out some ids")
    for line in around.once(sources.modules).of("options", "vfio_pci"):
        for name, _ in line.settings:
            if vfio_ids.parse(name)[:1] and vfio_ids.parse(name)[0].values:
                message = f"{shown(name)} stands behind a blank, so it is no part of ids="
                yield Hit(line.where, message, f"write ids=A:B,C:D without blanks, then: {APPLY}")


def ids_without_device(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether every id in vfio-pci's ids= is that of a device of this host.

    Why it matters: the id is wrong, or the device gone or off its bus; the device that was meant keeps its driver.

    How to fix: compare with `lspci -nn`; correct or remove the id.
    """
    option = _option(around)
    if not around.inventory.addresses():
        raise Unknown("there is no PCI device in sysfs")
    for one in around.once(taken):
        if one.id.values and not one.functions:
            message = f"no device of this host has the id {shown(one.id.text)} of vfio-pci's ids="
            yield Hit(option.where, message, f"correct it (lspci -nn), or remove it; then: {APPLY}")


def ids_hit_host(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether vfio-pci's ids= spare what the host itself needs: its disks and its network.

    An id means every device of that model: two identical cards, of which one carries the host, have the same.

    Why it matters: at the next boot vfio-pci takes that device before its driver does, and the host does not boot, or
    has no network.

    How to fix: take the id out of ids=, and tell the device to be passed by its address: `pvepassthru doctor --fix
    --for ADDRESS --method override`.
    """
    option = _option(around)
    for one in around.once(taken):
        for address in one.functions:
            needs = _needs(around, address)
            if needs:
                what = sources.named(around, address)
                message = f"vfio-pci's ids= has {one.id.text}, which is also {what}: {needs}"
                free = [f"--for {other}" for other in one.functions if not _uses(around, other)]
                way = f"; then pvepassthru doctor --fix {free[0]} --method override" if free else ""
                yield Hit(option.where, message, f"take the id out, then: update-initramfs -u -k all{way}")


def _needs(around: Surroundings, address: str) -> str:
    """What the host itself needs a function for, in words; empty where nothing says that it does."""
    return next((use.detail for use in around.uses.critical(address) if use.kind != "doubt"), "")


def _uses(around: Surroundings, address: str) -> bool:
    """Whether the host uses a function, or that cannot be told, so that it is none to pass."""
    return any(use.kind in {*CRITICAL, "network"} for use in around.uses.of(address))


def ids_not_taken(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the devices in vfio-pci's ids= are on vfio-pci, or without a driver.

    Why it matters: their own driver came first at boot: PVE then has to take them from it while it uses them, which
    can hang with a GPU or leave it in a state that the guest cannot use.

    How to fix: `pvepassthru doctor --fix --for ADDRESS` has vfio-pci come first, and refuses what would cost the host
    its disk or network. Where PVP131 finds an id of the host's own, mend that first: once vfio-pci comes before the
    driver it takes that device, too.
    """
    option = _option(around)
    if not around.host.exists("/sys/bus/pci/drivers"):
        raise Unknown("there is no /sys/bus/pci/drivers")
    modules = around.once(sources.modules)
    if _since_boot(around, option.where):
        raise NotApplicable("ids= was changed after the boot, so it is not in force yet")
    wanted = around.once(sources.wanted).whole
    lost = {one.id.text for one in around.once(taken) if any(_needs(around, address) for address in one.functions)}
    for one in around.once(taken):
        if one.id.text in lost:  # vfio-pci must not come first there; ids_hit_host tells
            continue
        for address in one.functions:
            driver = around.inventory.driver(address)
            if driver is None or driver == "pci-stub" or "vfio" in driver:
                continue
            if address not in wanted and any(other in wanted for other in one.functions):  # ids_take_more tells
                continue
            message = f"{address} is in vfio-pci's ids=, but {driver} has it"
            yield Hit(option.where, message, _come_first(modules, address, modules.of_driver(driver), lost))


def _come_first(modules: kernel_modules.Modules, address: str, module: str, lost: set[str]) -> str:
    """What has vfio-pci come before a function's driver; `lost` are ids of what the host needs."""
    if modules.is_builtin(module):
        return f"{module} is built into the kernel and always comes first; PVE takes the device at the VM's start"
    if lost:
        return f"first take {listed(sorted(lost))} out of ids= (PVP131): vfio-pci would take the host's own"
    if modules.loads_before("vfio_pci", module):
        return f"the softdep is there: {APPLY}"
    return f"pvepassthru doctor --fix --for {address}"


def _since_boot(around: Surroundings, where: str) -> bool:
    """Whether the file of a line was changed after the boot."""
    path = where.rpartition(":")[0] or where
    boot, changed = around.once(sources.booted), kernel_modules.changed(around.host, path)
    return bool(boot and changed and changed > boot and path != kernel_modules.CMDLINE)


def ids_take_more(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether vfio-pci's ids= take identical devices of which the VMs are given only some.

    Why it matters: an id means every device of that model; the others are lost to the host, too.

    How to fix: tell devices by their addresses: `pvepassthru doctor --fix --for ADDRESS --method override`.
    """
    option = _option(around)
    wanted = sources.given(around).whole
    for one in around.once(taken):
        given = [address for address in one.functions if address in wanted]
        others = [
            address
            for address in one.functions
            if address not in wanted and not around.uses.critical(address) and _is_apart(around, address, given)
        ]
        if given and others:
            message = f"vfio-pci's ids= has {one.id.text}, which is also {listed(others)}, that no VM is given"
            hint = f"if the host is to have it: pvepassthru doctor --fix --for {given[0]} --method override"
            yield Hit(option.where, message, hint)


def _is_apart(around: Surroundings, address: str, given: list[str]) -> bool:
    """Whether a function is in no IOMMU group with one of the others, which PVE would bind with them anyway."""
    group = around.inventory.group(address)
    return group is None or group not in {around.inventory.group(other) for other in given}


# ---- blacklists


def blacklist_hits_host(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a blacklisted driver is one that the host needs for its own disks or network.

    Why it matters: at the next boot nothing loads the driver, and the host does not boot, or has no network.

    How to fix: remove the `blacklist` line; tell the device to be passed by its id or address instead.
    """
    modules = sources.configuration(around)
    told = set()
    for address in around.inventory.addresses():
        driver = around.inventory.driver(address)
        module = modules.of_driver(driver) if driver else ""
        where = modules.blacklisted(module) if driver else None
        if not where or module in told or modules.is_builtin(module) or modules.listed(module):
            continue
        needs = _needs(around, address)
        if needs:
            told.add(module)
            message = f"the driver {module} is blacklisted, but the host needs it for {address}: {needs}"
            yield Hit(where, message, f"remove it; pass devices by id or address instead; then: {APPLY}")


def blacklist_without_effect(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a driver that /etc/modprobe.d blacklists has a device all the same.

    Why it matters: the device was to be free for a VM. As a rule the initramfs does not know of the blacklist, or
    another module loads the driver.

    How to fix: `update-initramfs -u -k all`, then reboot; if that does not help, give the device's id to vfio-pci with
    a softdep.
    """
    modules = sources.configuration(around)
    used: dict[str, list[str]] = {}
    for address in around.inventory.addresses():
        driver = around.inventory.driver(address)
        if driver:
            used.setdefault(modules.of_driver(driver), []).append(address)
    for line in modules.of("blacklist"):
        has = used.get(line.module, [])
        own = line.path.startswith(kernel_modules.OWN_FOLDER) and not _since_boot(around, line.where)
        if has and own and not modules.listed(line.module) and not any(map(around.uses.critical, has)):
            message = f"{line.module} is blacklisted, but has {listed(has)}"
            yield Hit(line.where, message, f"{APPLY}; else give the device's id to vfio-pci with a softdep")
