# SPDX-License-Identifier: Apache-2.0
"""A finding: what a rule has to say of a VM, a device or the host."""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Literal

    Severity = Literal["error", "warning", "info"]
    Origin = Literal["pve", "own"]
    """`pve`: Proxmox VE itself refuses the start or drops the option; `own`: this tool's own judgement."""


class Finding(NamedTuple):
    """One finding. Its JSON shape is these fields by name (docs/json.md)."""

    code: str
    """Stable, PVPnnn; `pvepassthru explain CODE` prints the rule behind it."""
    severity: Severity
    origin: Origin
    where: str
    """File and key, such as `/etc/pve/qemu-server/100.conf:3 hostpci0`."""
    message: str
    """One sentence: what is wrong, on which device, and the cause."""
    hint: str
    """What to do; may be empty."""
    silenced: str | None = None
    """The owner's reason to put up with it (`silence` of the policy); such a finding counts for no exit code."""
