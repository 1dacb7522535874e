# SPDX-License-Identifier: Apache-2.0
"""A change in the making: new values by key with their reasons, and what is to be said besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api.change import Change, KeyChange
from pvepassthru.model import hostpci
from pvepassthru.model.errors import UsageError
from pvepassthru.model.property_string import PropertyError
from pvepassthru.model.text import shown
from pvepassthru.model.vmconfig import is_hostpci

if TYPE_CHECKING:
    from pvepassthru.api.chosen import Choice
    from pvepassthru.api.hardware import Function, NodeHardware
    from pvepassthru.api.present import Present
    from pvepassthru.model.hostpci import HostpciEntry


class Draft:
    """What is to become of one VM's config on a node."""

    def __init__(self, before: Present, hardware: NodeHardware) -> None:
        self.before = before
        self.hardware = hardware
        self._new: dict[str, tuple[str | None, str]] = {}
        self._notes: dict[str, None] = {}
        self.barred: frozenset[str] = frozenset()
        """Keys that no new entry is to have, so that what is removed stays so when the same is asked for again."""

    def set(self, key: str, text: str | None, reason: str) -> None:
        """Let a key have a value, or with None be deleted; nothing changes where it is so already.

        Raises UsageError for a hostpci entry that PVE would drop.
        """
        if text is not None and is_hostpci(key):
            try:
                hostpci.parse(0, text)
            except PropertyError as error:
                fault = error.faults[0]
                raise UsageError(f"PVE would drop {key}: {shown(text)}, since {fault.message}", fault.hint) from error
        if text == self.before.get(key):
            self._new.pop(key, None)
        else:
            self._new[key] = (text, reason)

    def note(self, text: str) -> None:
        """Say something besides, once."""
        self._notes[text] = None

    def remark(self, text: str) -> None:
        """Say once what follows from a change; nothing where nothing has changed so far."""
        if not self.empty:
            self.note(text)

    def value(self, key: str) -> str | None:
        """The value that a key is to have."""
        return self._new[key][0] if key in self._new else self.before.get(key)

    @property
    def kept(self) -> dict[int, HostpciEntry]:
        """The entries that the VM has and is not to lose, as they are now, by index."""
        return {index: entry for index, entry in self.before.section.entries.items() if self.value(entry.key)}

    def entries(self) -> list[HostpciEntry]:
        """The hostpci entries as they are to be, by index."""
        entries = self.kept
        for key, (text, _) in self._new.items():
            if is_hostpci(key) and text is not None:
                index = int(key.removeprefix("hostpci"))
                entries[index] = hostpci.parse(index, text)
        return [entry for _, entry in sorted(entries.items())]

    def gpu(self, choice: Choice) -> Function | None:
        """The GPU among what serves a device, or None; one without outputs (class 0302) is one too."""
        functions = (self.hardware.functions.get(address) for address in choice.functions)
        return next((one for one in functions if one and one.pci_class.startswith("03")), None)

    def is_gpu(self, choice: Choice) -> bool:
        """Whether a GPU is among what serves a device."""
        return self.gpu(choice) is not None

    @property
    def empty(self) -> bool:
        """Whether nothing is to change."""
        return not self._new

    def change(self, functions: tuple[str, ...]) -> Change:
        """The change: hostpci entries by index, then the other keys as they were set."""
        ordered = sorted(
            self._new, key=lambda key: (not is_hostpci(key), int(key.removeprefix("hostpci")) if is_hostpci(key) else 0)
        )
        keys = tuple(
            KeyChange(key, self.before.get(key), *self._new[key], self.before.config.main.get(key)) for key in ordered
        )
        after = self.before.changed({change.key: change.new for change in keys})
        return Change(self.before, after, keys, tuple(self._notes), functions)
