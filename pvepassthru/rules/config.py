# SPDX-License-Identifier: Apache-2.0
"""Rules on the text of a VM config, PVP3xx."""

from __future__ import annotations

from pvepassthru.model.pci import MAX_INDEX
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import BLANKS, listed, shown
from pvepassthru.model.vmconfig import BOM, is_hostpci
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.model.vmconfig import Dropped, Ignored
    from pvepassthru.rules.subject import Subject


def unreadable(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the VM's config can be read.

    Why it matters: nothing of the VM could be checked, and PVE cannot start it.

    How to fix: see that it is a file, and that pmxcfs (the pve-cluster service) runs.
    """
    if subject.config_error:
        yield Hit(subject.config_path, subject.config_error, "see that it is a readable file and that pmxcfs runs")


def no_config(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether anything in the file is a line of a VM config.

    Why it matters: PVE passes over all other lines without an error, and starts a VM that has nothing.

    How to fix: see what the file is; take the config from a backup.
    """
    if subject.config.foreign:
        message = "no line of this file is a line of a VM config, and PVE takes it for a VM that has nothing"
        yield Hit(subject.config_path, message, "see what the file is; a backup of the VM holds its config")


def _dropped(subject: Subject, *reasons: str) -> Iterator[Hit]:
    """The hostpci lines that PVE drops for one of these reasons."""
    for dropped in subject.section.dropped:
        if not is_hostpci(dropped.key):
            continue
        faults = [fault for fault in dropped.faults if fault.reason in reasons]
        if faults:
            message = f"{_left_out(subject, dropped)}: {'; '.join(fault.message for fault in faults)}"
            yield Hit(subject.at(dropped.key, dropped.line), message, "; ".join(fault.hint for fault in faults))


def _left_out(subject: Subject, dropped: Dropped) -> str:
    line = subject.section.line(dropped.key)
    then = f"line {line} stays in force" if line else "the VM starts without the device"
    return f'PVE drops "{shown(dropped.value)}", and {then}'


def bad_pattern(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether each value in a hostpci entry has the form that PVE wants.

    A PCI address is lower-case hex (`0000:0a:00.0`, `0a:00`), several are joined by `;` without blanks; ids are `0x`
    and four hex digits; an mdev type has no `/`, `.` or `:`.

    Why it matters: PVE drops the whole entry with a warning, and the VM starts without its device.

    How to fix: write the value as the hint shows.
    """
    return _dropped(subject, "bad-pattern", "bad-length", "bad-number")


def bad_format(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether `mapping=` has a name that PVE allows, and no carriage return is in a hostpci entry.

    Why it matters: PVE drops the whole entry with a warning, and the VM starts without its device.

    How to fix: a mapping's name is a letter, then letters, digits, `-` and `_`.
    """
    return _dropped(subject, "bad-format")


def duplicate_key(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a key is given twice in a hostpci entry. A word without `=` counts as `host`.

    So `01:00,pcie` has two hosts: `01:00` and `pcie`.

    Why it matters: PVE drops the whole entry with a warning, and the VM starts without its device.

    How to fix: keep one value; write flags with `=1`, as in `01:00,pcie=1`.
    """
    return _dropped(subject, "duplicate-key")


def missing_key(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether each part of a hostpci entry that has `=` has a key and a value.

    Why it matters: PVE drops the whole entry with a warning, and the VM starts without its device.

    How to fix: give the value, or remove the key.
    """
    return _dropped(subject, "missing-key")


def unknown_key(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether PVE knows each key in a hostpci entry. A blank before or after a key belongs to it.

    Why it matters: PVE drops the whole entry with a warning, and the VM starts without its device.

    How to fix: use the key that the hint names (`x-vga`, not `x_vga`), and no blanks around `,` and `=`.
    """
    return _dropped(subject, "unknown-key")


def bad_boolean(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a flag in a hostpci entry (pcie, rombar, x-vga, legacy-igd) is a boolean.

    Why it matters: PVE drops the whole entry with a warning, and the VM starts without its device.

    How to fix: write 1 or 0 (on, off, yes, no, true and false are fine too).
    """
    return _dropped(subject, "bad-boolean")


def bad_enum(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether `driver=` in a hostpci entry is `vfio` or `keep`.

    Why it matters: PVE drops the whole entry with a warning, and the VM starts without its device.

    How to fix: write `driver=keep` to leave the device with its driver, or remove `driver=`.
    """
    return _dropped(subject, "bad-enum")


def no_such_key(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether each key that starts with hostpci is one of hostpci0 to hostpci15.

    Why it matters: PVE skips any other line with a warning, and the VM starts without the device.

    How to fix: use a free number from 0 to 15, without leading zeros.
    """
    for dropped in subject.section.dropped:
        if dropped.key.startswith("hostpci") and not is_hostpci(dropped.key):
            message = f"PVE knows no key {shown(dropped.key)}, and the VM starts without the device"
            yield Hit(
                subject.at(shown(dropped.key), dropped.line), message, "; ".join(fault.hint for fault in dropped.faults)
            )


def other_dropped(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether `machine`, `vga` and `template` have values that PVE accepts.

    Why it matters: PVE drops another value with a warning and starts with its default: `machine: Q35` means i440fx.

    How to fix: write the value as the hint shows.
    """
    for dropped in subject.section.dropped:
        if not dropped.key.startswith("hostpci"):
            line = subject.section.line(dropped.key)
            then = f"line {line} stays in force" if line else "its default counts"
            message = f'PVE drops "{shown(dropped.value)}", and {then}: {"; ".join(f.message for f in dropped.faults)}'
            hint = "; ".join(fault.hint for fault in dropped.faults)
            yield Hit(subject.at(dropped.key, dropped.line), message, hint)


def pending_dropped(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether PVE can read what [PENDING] sets for hostpci entries, machine and vga.

    Why it matters: PVE drops the value with a warning, and the change never comes into force.

    How to fix: set the option again with the value that the hint shows, or revert the change.
    """
    for dropped in subject.config.pending.dropped:
        message = f'PVE drops the pending "{shown(dropped.value)}": {"; ".join(f.message for f in dropped.faults)}'
        hint = "; ".join(fault.hint for fault in dropped.faults)
        yield Hit(subject.at(shown(dropped.key), dropped.line), message, hint)


def ignored_line(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a line looks like a hostpci entry and is none to PVE.

    An indented line, a byte order mark, capital letters, a blank before the colon, `=` instead of the colon, or nothing
    after it.

    Why it matters: PVE passes over the line without an error, and the VM starts without the device.

    How to fix: write `hostpciN: VALUE` at the start of the line; put `#` before it if it shall not count.
    """
    for ignored in subject.section.ignored:
        reasons, right = _slip(ignored)
        message = (
            f'PVE reads nothing in "{shown(ignored.text)}", though it looks like a hostpci entry: {listed(reasons)}'
        )
        hint = f"write {right}, or put # before it"
        yield Hit(subject.at(shown(ignored.key.strip()), ignored.line), message, hint)


def replaced_line(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether each hostpci key stands once in the config, or each time with the same value.

    Why it matters: PVE takes the last valid line of a key without a word, and the VM starts without the device of the
    others.

    How to fix: give the second device a free number, such as hostpci1, or remove the line that is not wanted.
    """
    for replaced in subject.section.replaced:
        message = (
            f'PVE passes over "{shown(replaced.value)}" without an error: line {replaced.by} has {replaced.key}, too'
        )
        free = next((index for index in range(MAX_INDEX + 1) if not subject.section.get(f"hostpci{index}")), None)
        other = f"write hostpci{free} if both devices are wanted, else " if free is not None else ""
        yield Hit(subject.at(replaced.key, replaced.line), message, f"{other}remove one of the two lines")


def _slip(ignored: Ignored) -> tuple[list[str], str]:
    """What makes PVE pass over a line, never nothing, and the line as it was meant."""
    bare = ignored.text.lstrip(BOM + BLANKS)
    lead = ignored.text[: len(ignored.text) - len(bare)]
    number_on = ignored.key[ignored.key.lower().index("pci") + len("pci") :].lstrip("-_ ")
    rest = number_on.lstrip("0123456789")
    number = number_on[: len(number_on) - len(rest)]
    written = ignored.key[: len(ignored.key) - len(rest)]
    key = f"hostpci{number}" if is_hostpci(f"hostpci{number}") else "hostpciN"
    sign = bare[len(ignored.key)]
    value = bare[len(ignored.key) + 1 :].strip(BLANKS)
    reasons = []
    if BOM in lead:
        reasons.append("a byte order mark stands before it, without which the file must be saved")
    elif lead:
        reasons.append("it starts with a blank")
    if written != written.lower():
        reasons.append("its key has capital letters")
    if rest.strip(BLANKS) and rest[0] in BLANKS:
        reasons.append("no colon follows its key")
        value = f"{rest}{sign}{value}".strip(BLANKS)
    elif written.lower() != key or rest.strip(BLANKS):
        reasons.append(f"its key is not {key}")
    elif sign == "=":
        reasons.append("it has = instead of the colon")
    elif rest:
        reasons.append("a blank stands before the colon")
    if not value:
        reasons.append("it has no value")
    return reasons, f"{key}: {shown(value)}" if value else f"a value, such as {key}: 01:00.0"


def pcie_needs_q35(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the machine is q35 when a hostpci entry has `pcie=1`.

    Why it matters: only q35 has PCIe; PVE refuses to start the VM.

    How to fix: set `machine: q35` (a guest may need its drivers anew), or remove `pcie=1`.
    """
    return subject.problems("pcie-needs-q35")


def machine_invalid(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the parts of the machine property go together (viommu, aw-bits, q35).

    Why it matters: PVE refuses to start the VM.

    How to fix: as the hint says; viommu=intel needs q35, and aw-bits 39 or 48.
    """
    return subject.problems("machine-invalid")


def host_or_mapping(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether each hostpci entry names its device, by PCI address or by mapping.

    Why it matters: PVE refuses to start the VM.

    How to fix: name a device, or delete the entry.
    """
    return subject.problems("host-or-mapping-required")


def host_and_mapping(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a hostpci entry names its device both by PCI address and by mapping.

    Why it matters: PVE refuses to start the VM.

    How to fix: keep one of the two; a mapping lets the VM move to another node.
    """
    return subject.problems("host-and-mapping")


def mdev_with_multifunction(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether a hostpci entry with `mdev=` names one function only.

    `41:00` names every function of the slot.

    Why it matters: PVE refuses to start the VM.

    How to fix: name the one function that has the mediated device types, such as `41:00.0`.
    """
    return subject.problems("mdev-with-multifunction")


def igd_twice(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether at most one hostpci entry has `legacy-igd=1`.

    Why it matters: PVE refuses to start the VM: there is one Intel GPU.

    How to fix: keep it on the entry of the GPU at 00:02.0.
    """
    return subject.problems("igd-twice")


def igd_vga(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the config has exactly `vga: none` when an entry has `legacy-igd=1`.

    Why it matters: PVE refuses to start the VM; the passed GPU takes the place of the first graphics card.

    How to fix: set `vga: none`; `vga: type=none` or more options do not count.
    """
    return subject.problems("igd-needs-vga-none")


def igd_rombar(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether an entry with `legacy-igd=1` hides its ROM with `rombar=0`.

    Why it matters: PVE refuses to start the VM: the GPU's ROM starts it.

    How to fix: remove `rombar=0`.
    """
    return subject.problems("igd-needs-rombar")


def igd_x_vga(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether an entry has both `legacy-igd=1` and `x-vga=1`.

    Why it matters: PVE refuses to start the VM.

    How to fix: remove `x-vga=1`.
    """
    return subject.problems("igd-with-x-vga")


def igd_mdev(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether an entry has both `legacy-igd=1` and `mdev=`.

    Why it matters: PVE refuses to start the VM: the GPU is passed whole or shared, not both.

    How to fix: keep one of the two.
    """
    return subject.problems("igd-with-mdev")


def igd_q35(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the machine is i440fx when an entry has `legacy-igd=1`.

    Why it matters: PVE refuses to start the VM: QEMU's legacy mode needs i440fx.

    How to fix: use i440fx, or pass the GPU without `legacy-igd=1`.
    """
    return subject.problems("igd-with-q35")


def igd_multifunction(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether an entry with `legacy-igd=1` names one function.

    Why it matters: PVE refuses to start the VM.

    How to fix: name the GPU alone, 00:02.0.
    """
    return subject.problems("igd-with-multifunction")


def igd_alternatives(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the mapping of an entry with `legacy-igd=1` has one device on this node.

    Why it matters: PVE refuses to start the VM.

    How to fix: use a mapping with the Intel GPU alone, or its PCI address.
    """
    return subject.problems("igd-with-alternatives")


def igd_address(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether an entry with `legacy-igd=1` names the Intel GPU, at 00:02.0.

    Why it matters: PVE refuses to start the VM.

    How to fix: pass 00:02.0, or remove `legacy-igd=1`.
    """
    return subject.problems("igd-wrong-address")
