# SPDX-License-Identifier: Apache-2.0
"""The kernel's command line of the next boot, changed in a draft of the files that it is configured in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.host.boot import CMDLINE
from pvepassthru.model import grub, shell
from pvepassthru.model.cmdline import CommandLine

if TYPE_CHECKING:
    from pvepassthru.host.boot import Boot
    from pvepassthru.host.draft import Draft


class BootLine:
    """The configured command line; nothing of it can be changed where `boot.configured` is None."""

    def __init__(self, boot: Boot, draft: Draft) -> None:
        self.boot = boot
        self.draft = draft

    def line(self) -> CommandLine | None:
        """The command line with what was changed so far; None where it cannot be told."""
        if self.boot.configured is None:
            return None
        if self.boot.loader == "systemd-boot":
            return CommandLine(self._first()[0])
        configured = grub.evaluate(self._scripts())[0]
        return configured.line if configured else None

    def add(self, parameter: str, why: str) -> str:
        """Add a parameter; returns what the owner has to do where it cannot be added, else nothing."""
        if self.boot.configured and self.boot.loader == "systemd-boot":
            first, rest = self._first()
            self.draft.put(CMDLINE, CommandLine(first).with_added(parameter).text + rest, why)
            return ""
        if self._take(grub.with_added(self._scripts(), parameter), why):
            return ""
        return f"add {parameter} to the kernel command line by hand: {self.boot.trouble or 'no variable takes it'}"

    def exchange(self, parameter: str, other: str | None, why: str) -> str:
        """Write another parameter (None: nothing) for this one, wherever it stands; returns as `add`."""
        if self.boot.configured and self.boot.loader == "systemd-boot":
            first, rest = self._first()
            line = CommandLine(first)
            while word := next((word for word in line.parameters if word.text == parameter and not word.to_init), None):
                line = line.with_removed(word) if other is None else line.with_replaced(word, other)
            self.draft.put(CMDLINE, line.text + rest, why)
            return ""
        if self._take(grub.with_replaced(self._scripts(), parameter, other), why):
            return ""
        deed = f"remove {parameter} from" if other is None else f"write {other} for {parameter} in"
        return f"{deed} the files of the boot loader by hand: {why}"

    def _first(self) -> tuple[str, str]:
        """The first line of systemd-boot's file, and the rest with its newline."""
        first, newline, rest = self.draft.text(CMDLINE).partition("\n")
        return first, newline + rest

    def _scripts(self) -> tuple[shell.Script, ...]:
        return tuple(shell.parse(path, self.draft.text(path)) for path in self.boot.files)

    def _take(self, scripts: tuple[shell.Script, ...] | None, why: str) -> bool:
        for script in scripts or ():
            self.draft.put(script.path, script.text, why)
        return scripts is not None
