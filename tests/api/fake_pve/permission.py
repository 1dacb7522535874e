# SPDX-License-Identifier: Apache-2.0
"""Who may set which key of a VM config: the table in facts/api.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.model import hostpci
from pvepassthru.model.property_string import PropertyError
from tests.api.fake_pve import marks
from tests.api.fake_pve.options import option
from tests.api.fake_pve.request import denied, failed, invalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.api.fake_pve.request import Call


def check_romfile(call: Call, values: Mapping[str, str]) -> None:
    """Refuse a romfile by anybody but root@pam; this comes before everything else."""
    if call.root:
        return
    for key, value in values.items():
        if key.startswith("hostpci") and (entry := _entry(value)) and entry.romfile is not None:
            raise invalid({key: f"{marks.ROOT_ONLY_PART} romfile"})


def check_keys(call: Call, vmid: int, keys: Iterable[str]) -> None:
    """Refuse keys that the sender may not set or delete. hostpci entries are judged later, one by one."""
    if call.root:
        return
    for key in sorted(keys):
        known = option(key)
        if known is None or known.privilege == "":
            continue
        if known.privilege is None:
            raise failed(f"{marks.ROOT_ONLY} '{key}'")
        call.need(f"/vms/{vmid}", known.privilege)
        if key == "startup":  # the order of starts is the host's
            call.need("/", "Sys.Modify")


def check_hostpci(call: Call, vmid: int, key: str, *values: str | None) -> None:
    """Refuse a hostpci entry that the sender may not set, replace or delete: each value that PVE looks at for that."""
    if call.root:
        return
    for value in values:
        if value is None:
            continue
        entry = _entry(value)
        if entry and entry.host is not None:
            raise failed(f"{marks.ROOT_ONLY} '{key}' unless it is a mapping")
        if entry is None or entry.mapping is None:
            raise failed(f"'{key}' names neither a device nor a mapping")
        if not call.may(f"/mapping/pci/{entry.mapping}", "Mapping.Use"):
            raise denied(f"/mapping/pci/{entry.mapping}, Mapping.Use")
        call.need(f"/vms/{vmid}", "VM.Config.HWType")


def _entry(value: str) -> hostpci.HostpciEntry | None:
    try:
        return hostpci.parse(0, value)
    except PropertyError:
        return None
