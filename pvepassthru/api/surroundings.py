# SPDX-License-Identifier: Apache-2.0
"""What a VM needs around its passed devices: machine, firmware, display, memory, CPU, NUMA node, hookscript.

Each is a function that adds to a draft what has to change; none touches what need not. Sources: behaviour of
qemu-server; QEMU's q35 (one drive an IDE channel) and its legacy mode for Intel GPUs (docs/igd-assign.txt).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api.wish import FIRMWARE
from pvepassthru.model import machine, property_string
from pvepassthru.model.errors import DeviceError, UsageError
from pvepassthru.model.property_string import Key, PropertyError
from pvepassthru.model.text import listed, number, shown

if TYPE_CHECKING:
    from pvepassthru.api.chosen import Choice
    from pvepassthru.api.draft import Draft
    from pvepassthru.api.wish import Wish

CPU_KEYS = {
    name: Key(default=name == "cputype")
    for name in ("cputype", "flags", "guest-phys-bits", "hidden", "hv-vendor-id", "phys-bits", "reported-model")
}
_BUSES = ("scsi", "virtio", "sata", "ide")
_WINDOW = 32 << 30
"""Bytes; where OVMF cannot trust the CPU's address width, all 64-bit BARs share a window of this size."""
_MOVES = (
    "the guest's devices move to other PCI addresses with it: network interfaces of Linux may get other names, "
    "and Windows may ask for its drivers or its activation again; try it on a copy first"
)


# ---- the machine


def machine_type(draft: Draft) -> None:
    """Make the machine q35 where an entry needs PCIe, and i440fx where one is in legacy mode. Raises UsageError."""
    pcie = [entry.key for entry in draft.entries() if entry.pcie]
    legacy = [entry.key for entry in draft.entries() if entry.legacy_igd]
    if pcie and legacy:
        message = f"{listed(legacy)} in legacy mode needs an i440fx machine, and pcie=1 of {listed(pcie)} needs q35"
        raise UsageError(message, "pass the Intel GPU without igd, or the other device with pcie: false")
    now = draft.before.section.machine
    if pcie and not now.q35:
        _set_machine(draft, "q35", "pc-q35-", f"pcie=1 of {listed(pcie)} needs a q35 machine, the only one with PCIe")
        _say_drives(draft)
    elif legacy and now.q35:
        why = f"QEMU's legacy mode for the Intel GPU ({listed(legacy)}) needs an i440fx machine"
        _set_machine(draft, "pc", "pc-i440fx-", why)


def _set_machine(draft: Draft, plain: str, versioned: str, why: str) -> None:
    """Change the machine's type and keep its version and its other options."""
    present = draft.before.get("machine")
    try:
        values = property_string.parse(present, machine.KEYS) if present is not None else {}
    except PropertyError:  # PVE has dropped it, and so has our reader
        values = {}
    kind = values.get("type", "")
    version = kind.removeprefix("pc-").removeprefix("i440fx-").removeprefix("q35-")
    values["type"] = f"{versioned}{version}" if version[:1].isdecimal() else plain
    dropped = next((one.value for one in draft.before.section.dropped if one.key == "machine"), None)
    if dropped is not None:
        why += f'; PVE drops the present "{shown(dropped)}"'
    text = property_string.write(values, machine.KEYS)
    if text == "pc":
        draft.set("machine", None, why)  # PVE's default
    else:
        draft.set("machine", text, why)
    if _disks(draft):
        draft.note(f"the machine becomes {values['type']}: {_MOVES}")


def _say_drives(draft: Draft) -> None:
    second = [key for key in ("ide1", "ide3") if draft.before.get(key) is not None]
    if second:
        draft.note(f"on q35 an IDE channel has one drive: move {listed(second)} to ide0, ide2, sata or scsi")


# ---- firmware


def firmware(draft: Draft, wish: Wish, display: Choice | None) -> None:
    """Set the firmware that is wished, or OVMF for a VM that is new and whose display is a GPU."""
    now = draft.before.get("bios") or FIRMWARE[1]
    if wish.bios:
        if wish.bios != now:
            draft.set("bios", None if wish.bios == FIRMWARE[1] else wish.bios, f"{wish.bios} is required")
            if wish.bios == FIRMWARE[1] and draft.value("efidisk0") is not None:
                draft.note("efidisk0 stays, and SeaBIOS makes no use of it: OVMF has its boot entries there")
            if _disks(draft):
                draft.note(f"a guest that was installed under {now} may not boot under {wish.bios}")
    elif display and not display.device.igd and now != FIRMWARE[0]:
        if _disks(draft):
            draft.remark(
                "SeaBIOS stays, since a guest that was installed with it does not boot under OVMF: the GPU's ROM needs "
                "a legacy image then; OVMF has to be asked for (--bios ovmf, in a file bios: ovmf)"
            )
        else:
            draft.set("bios", FIRMWARE[0], "the GPUs of today are started by UEFI, and the VM has no disk yet")
    if draft.value("bios") == FIRMWARE[0] and (display or wish.bios) and draft.value("efidisk0") is None:
        _efidisk(draft, wish)
    if display and display.device.igd and draft.value("bios") == FIRMWARE[0]:
        draft.remark("QEMU's legacy mode for the Intel GPU is made for SeaBIOS; under OVMF there may be no picture")


def _efidisk(draft: Draft, wish: Wish) -> None:
    storage = wish.storage or _storage(draft)
    keys = int(draft.before.get("ostype") == "win11")
    text = f"{storage}:1,efitype=4m,pre-enrolled-keys={keys}"
    secure = "with the keys of Secure Boot, which Windows 11 wants" if keys else "without the keys of Secure Boot"
    draft.set("efidisk0", text, f"OVMF keeps its settings in an EFI disk; it is made {secure}")


def _disks(draft: Draft) -> dict[str, str]:
    """The volumes of the VM's disks by key; not CD-ROMs, nor cloud-init's drive."""
    found = {}
    for key, text in draft.before.values.items():
        if key.rstrip("0123456789") in _BUSES and key[-1].isdecimal():
            parts = text.split(",")
            volume = next((part for part in parts if "=" not in part or part.startswith(("file=", "volume="))), "none")
            volume = volume.rpartition("=")[2]
            if "media=cdrom" not in parts and "cloudinit" not in volume and volume != "none":
                found[key] = volume
    return found


def _storage(draft: Draft) -> str:
    """The storage of the boot disk, or of all disks if they have one. Raises UsageError."""
    disks = {key: volume for key, volume in _disks(draft).items() if ":" in volume and not volume.startswith("/")}
    order = (draft.before.get("boot") or "").removeprefix("order=").split(";")
    boot = next((disks[key] for key in (*order, draft.before.get("bootdisk") or "") if key in disks), None)
    storages = {volume.partition(":")[0] for volume in ([boot] if boot else disks.values())}
    if len(storages) == 1:
        return storages.pop()
    where = f"its disks are on {listed(sorted(storages))}" if storages else "it has no disk that would tell"
    raise UsageError(
        f"VM {draft.before.vmid} needs an EFI disk, and {where}",
        "say the storage for it (--efi-storage, in a file storage:)",
    )


# ---- display and memory


def display(draft: Draft, choice: Choice | None) -> None:
    """Take the emulated display away where a GPU is the display."""
    if choice is None:
        return
    now = draft.before.get("vga")
    if choice.device.igd:
        if now != "none":
            draft.set("vga", "none", "the Intel GPU in legacy mode takes the place of the first graphics card")
    elif now != "none" and not (now or "").removeprefix("type=").startswith("serial"):
        draft.set("vga", "none", "the GPU is the VM's display; with an emulated one the firmware would use that")
    else:
        return
    draft.note("noVNC and SPICE show nothing of a passed GPU: it needs a monitor, or remote desktop in the guest")


def balloon(draft: Draft) -> None:
    """Switch the balloon off where it has a minimum, which does nothing for a VM with passed devices."""
    least = number(draft.before.get("balloon"))
    memory = _memory(draft)
    if least and memory and least < memory:
        draft.set("balloon", "0", f"a passed device keeps all {memory} MiB of the VM in use, whatever the balloon says")


def _memory(draft: Draft) -> int | None:
    """The VM's memory in MiB, or None if it cannot be told."""
    text = draft.before.get("memory")
    if text is None:
        return 512
    try:
        return number(property_string.parse(text, {"current": Key("integer", least=16, default=True)}).get("current"))
    except PropertyError:
        return None


# ---- CPU and NUMA


def cpu(draft: Draft, wish: Wish, choices: list[Choice]) -> None:
    """Give the guest the CPU's address width where large BARs need it, and hide that it is a VM if that is wished."""
    try:
        values = property_string.parse(draft.before.get("cpu") or "kvm64", CPU_KEYS)
    except PropertyError:
        values = {"cputype": "kvm64"}
    whys = []
    gpus = [choice for choice in choices if not choice.mdev and draft.is_gpu(choice)]
    if draft.value("bios") == FIRMWARE[0] and not _has_width(draft, values):
        functions = [draft.hardware.functions[one] for choice in choices if not choice.mdev for one in choice.functions]
        bars = sum(function.bars or 0 for function in functions)
        if bars >= _WINDOW and draft.hardware.intel is not False:
            values = {"cputype": "host"} | {
                key: text for key, text in values.items() if key in {"flags", "hidden", "hv-vendor-id"}
            }
            whys.append(f"BARs take {bars >> 30} GiB, and OVMF has 32 GiB of addresses for other CPU types than host")
        elif gpus and any(function.bars is None for function in functions):
            draft.remark(
                "a GPU whose BARs take 32 GiB or more needs cpu: host under OVMF on Intel; their size is not known here"
            )
    if wish.hidden and property_string.boolean(values.get("hidden", "0")) is not True:
        values["hidden"] = "1"
        whys.append("the guest is not to see that it is a VM")
    if whys:
        draft.set("cpu", property_string.write(values, CPU_KEYS), "; ".join(whys))


def _has_width(draft: Draft, values: dict[str, str]) -> bool:
    """Whether the guest may know the CPU's real address width, or has a window that was set by hand."""
    arguments = draft.before.get("args") or ""
    if "phys-bits" in arguments or "X-PciMmio64Mb" in arguments or "-cpu" in arguments:
        return True
    kind, bits = values.get("cputype", "kvm64"), values.get("phys-bits")
    return kind in {"host", "max"} or kind.startswith("custom-") or bits == "host" or (number(bits) or 0) > 40


def numa(draft: Draft, wish: Wish, choices: list[Choice]) -> None:
    """Keep the VM to the CPUs of its devices' NUMA node where that is wished. Raises DeviceError if it cannot be."""
    hardware = draft.hardware
    kept = next((key for key in ("affinity", *(f"numa{at}" for at in range(8))) if draft.before.get(key)), None)
    functions = {one for choice in choices for one in choice.functions}
    nodes = {hardware.functions[one].numa_node for one in functions if one in hardware.functions}
    node = nodes.pop() if len(nodes) == 1 else None
    if not wish.numa:
        if node is not None and len(hardware.numa) > 1 and not kept:
            draft.remark(
                f"the devices are at NUMA node {node}; numa: true keeps the VM to its CPUs {hardware.numa.get(node)}"
            )
        return
    if kept:
        draft.note(f"{kept} keeps the VM to CPUs or nodes already, and stays as it is")
    elif node is None or not hardware.numa.get(node):
        why = "it is not known here"
        hint = "set affinity by hand"
        if len(nodes) > 1:
            why = f"they are at nodes {listed(map(str, nodes))}"
        elif hardware.unknown:
            why = "the API does not tell which it is"
            hint = f"run this on node {hardware.node} itself, or {hint}"
        raise DeviceError(f"VM {draft.before.vmid} cannot be kept to its devices' NUMA node: {why}", hint)
    elif len(hardware.numa) > 1:
        draft.set("affinity", hardware.numa[node], f"the devices are at NUMA node {node}, which has these CPUs")


# ---- the hookscript


def hookscript(draft: Draft, wish: Wish) -> None:
    """Set the hookscript that is wished. Raises UsageError when the VM has another one."""
    now = draft.before.get("hookscript")
    if not wish.hookscript or now == wish.hookscript:
        return
    if now is not None:
        hint = f"see what it is for; qm set {draft.before.vmid} --delete hookscript removes it"
        raise UsageError(f"VM {draft.before.vmid} has the hookscript {shown(now)} already", hint)
    draft.set("hookscript", wish.hookscript, "it prepares the devices before a start, and gives them back after a stop")
