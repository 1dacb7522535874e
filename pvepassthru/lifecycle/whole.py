# SPDX-License-Identifier: Apache-2.0
"""What undoes the steps of functions that a VM gets as a whole. Loaded for journals that have such steps only."""

from __future__ import annotations

from pvepassthru.lifecycle import console, drivers, services, settings
from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvepassthru.lifecycle.journal import Step
    from pvepassthru.lifecycle.work import Work

UNDO: dict[str, Callable[[Work, Step], str | None]] = {
    services.KIND: services.undo,
    console.KIND: console.undo_console,
    console.FRAMEBUFFER: console.undo_framebuffer,
    drivers.UNBIND_KIND: drivers.undo_unbind,
    drivers.OVERRIDE_KIND: drivers.undo_override,
    drivers.KIND: drivers.undo_bind,
    drivers.HEALTH_KIND: drivers.undo_note,
    settings.RESET: settings.undo_reset,
    settings.D3COLD: settings.undo_d3cold,
    settings.BAR: settings.undo_bar,
}
"""As undo.UNDO."""
