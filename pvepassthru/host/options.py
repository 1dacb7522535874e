# SPDX-License-Identifier: Apache-2.0
"""A parameter of a module gets a value, in the place that counts: a file of modprobe.d, or the kernel's command line.

Source: modprobe.d(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.host import modules as moduless
from pvepassthru.host.draft import HEAD
from pvepassthru.model import modprobe
from pvepassthru.model.cmdline import same_name
from pvepassthru.model.errors import DeviceError
from pvepassthru.model.modprobe import plain

if TYPE_CHECKING:
    from pvepassthru.host.bootline import BootLine
    from pvepassthru.host.draft import Draft
    from pvepassthru.host.modules import Modules

MODPROBE = "/etc/modprobe.d/pvepassthru.conf"


class Options:
    """Those of one plan, whose notes are added to."""

    def __init__(self, modules: Modules, draft: Draft, bootline: BootLine, notes: list[str]) -> None:
        self.modules = modules
        self.draft = draft
        self.bootline = bootline
        self.notes = notes

    def note(self, words: str) -> None:
        """Say what the owner should know, once."""
        if words and words not in self.notes:
            self.notes.append(words)

    def set(self, module: str, name: str, value: str, why: str) -> None:
        """Give a module's parameter a value, in the place that counts."""
        present = self.modules.option(module, name)
        if present and present.value == value:
            return
        if present is None:
            self.draft.add_line(MODPROBE, f"options {module} {name}={value}", why, HEAD)
            return
        if present.where == moduless.CMDLINE:
            line = self.bootline.line()
            for word in line.parameters if line else ():
                if same_name(word.name, f"{module}.{name}"):
                    self.note(self.bootline.exchange(word.text, f"{word.name}={value}", why))
            return
        path, _, number = present.where.rpartition(":")
        lines = self.draft.text(path).split("\n")
        place = int(number) - 1
        words = lines[place].split()
        old = next((word for word in words if modprobe.setting(word) == (plain(name), present.value)), None)
        if old is None or not path.startswith("/etc/"):
            raise DeviceError(
                f"cannot set {name} of {module}: {present.where} sets it, and is not edited",
                f"set {name}={value} there",
            )
        head, _, tail = lines[place].rpartition(old)
        lines[place] = f"{head}{name}={value}{tail}"
        self.draft.put(path, "\n".join(lines), why)
