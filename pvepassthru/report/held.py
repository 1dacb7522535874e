# SPDX-License-Identifier: Apache-2.0
"""What this tool holds on a host, as `status` says it: journals, what is in none, quarantines, the last hook runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pvepassthru.host import cluster, quarantine, state, vms
from pvepassthru.lifecycle.journal import Journal
from pvepassthru.lifecycle.orphans import orphans
from pvepassthru.lifecycle.quick import PHASES
from pvepassthru.lifecycle.undo import describe
from pvepassthru.model.errors import PassthruError

if TYPE_CHECKING:
    from pvepassthru.host.host import Host
    from pvepassthru.host.state import Run


def held(host: Host) -> dict[str, Any]:
    """Every journal, orphan and quarantine in the shape of docs/json.md, the journals with `words` besides.

    Raises PassthruError when they cannot be listed.
    """
    return {
        "journals": [row for vmid in state.journals(host) if (row := _row(host, vmid)) is not None],
        "orphans": [orphan._asdict() for orphan in orphans(host)],
        "quarantines": [quarantined._asdict() for quarantined in quarantine.listed(host)],
    }


def runs(host: Host) -> list[Run]:
    """How the hook's last runs went on this node, of VMs that the cluster has; none where they cannot be read.

    A VM of another node counts: its migration may have failed here. Of what cannot be read `held` speaks, since the
    journals lie there too.
    """
    try:
        found = state.runs(host)
    except PassthruError:
        return []
    known = {*vms.vmids(host), *cluster.homes(host)}
    return [run for run in found if run.phase in PHASES and run.vmid in known]


def _row(host: Host, vmid: int) -> dict[str, Any] | None:
    """One journal in the shape of docs/json.md, or None if it has gone since it was listed."""
    pid = vms.running_pid(host, vmid)
    age = _age(host, vmid)
    row: dict[str, Any] = {"vmid": vmid, "pid": pid, "age": age, "damaged_lines": [], "steps": []}
    try:
        journal = Journal(host, vmid)
    except PassthruError as error:
        return {**row, "state": "unreadable", "words": str(error)}
    if not journal.exists:
        return None
    if pid is not None:
        token, words = "running", f"running (process {pid})"
    elif journal.state == "running":
        token, words = "stopped", "has run and stopped without being cleaned up; pvepassthru recover"
    else:
        token, words = "prepared", "prepared: starting now, or its start failed; pvepassthru recover tells"
    steps = [{**step._asdict(), "what": describe(step)} for step in journal.steps]
    return {**row, "state": token, "words": words, "damaged_lines": journal.damaged, "steps": steps}


def _age(host: Host, vmid: int) -> int | None:
    """Seconds since something was written to a journal, or None if it cannot be told."""
    try:
        return max(0, int(host.now() - os.lstat(host.path(state.journal_path(vmid))).st_mtime))
    except OSError:
        return None
