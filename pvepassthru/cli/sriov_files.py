# SPDX-License-Identifier: Apache-2.0
"""`sriov files`: what the policy says of VFs as a file of sysfsutils, for hosts that want none of our units at boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.cli.words import print_error, print_json
from pvepassthru.host import backups, changes, filelocks, numvfs, sriov
from pvepassthru.host.persistence import SYSFS_FOLDER
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE, UsageError
from pvepassthru.model.text import one_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from pvepassthru.host.host import Host
    from pvepassthru.model.policy import SriovPolicy, VfSettings

FILE = f"{SYSFS_FOLDER}/pvepassthru-sriov.conf"
PATIENCE = 10.0
"""Seconds to wait for a doctor at work."""
_HEAD = "# VFs as the policy of pvepassthru had them when `pvepassthru sriov files --write` made this file\n"


def run(
    args: argparse.Namespace, host: Host, wanted: Mapping[str, SriovPolicy], slips: list[str], more: list[str]
) -> int:
    """Print the file, or write it with a backup; returns 0.

    With `slips` in the policy, or numbers that cannot be, nothing is written, and it returns 1. Raises as
    changes.apply, and BusyError.
    """
    text, notes = _content(host, wanted, slips)
    notes += more
    for slip in slips:
        print_error(f"error: {slip}")
    after = text.encode() if text else None
    change = backups.Change(FILE, changes.current(host, FILE), after, 0o644, "VFs at boot, by sysfsutils")
    differs = change.before != change.after
    if args.write and differs and not slips:
        with filelocks.hold(host, changes.LOCK, PATIENCE, "the host's configuration"):
            changes.apply(host, [change], ())
    if args.json:
        print_json(
            {
                "path": FILE,
                "text": text,
                "notes": notes,
                "errors": slips,
                "written": args.write and differs and not slips,
            }
        )
        return EXIT_FINDINGS if slips else EXIT_FINE
    if not args.write:
        print(
            f"# {FILE}\n{text}" if text else "the policy says nothing that this file could hold",
            end="" if text else "\n",
        )
    elif slips:
        print(f"{FILE}: nothing was written")
    elif differs:
        print(f"{FILE}: {'written' if text else 'removed'}; pvepassthru doctor --undo takes that back")
    else:
        print(f"{FILE}: nothing to change")
    for note in notes:
        print(f"note: {one_line(note)}")
    return EXIT_FINDINGS if slips else EXIT_FINE


def _content(host: Host, wanted: Mapping[str, SriovPolicy], slips: list[str]) -> tuple[str, list[str]]:
    """The file's text, empty if there is nothing to say, and what it cannot hold; numbers that cannot be to `slips`."""
    lines: list[str] = []
    notes: list[str] = []
    for address, policy in wanted.items():
        pf = sriov.read(host, address)
        try:
            numvfs.check_number(host, pf, numvfs.Wish(address, policy.vfs, policy.autoprobe, policy.manage))
        except UsageError as error:
            slips.append(str(error))
            continue
        if pf.known.manager:
            notes.append(f"{address}: only {policy.manage or pf.known.manager} makes VFs of the driver {pf.driver}")
            continue
        attribute = f"bus/pci/devices/{address}/sriov_"
        off = [] if policy.autoprobe else [f"{attribute}drivers_autoprobe = 0"]
        lines += [*off, f"{attribute}numvfs = {policy.vfs}", f"{attribute}drivers_autoprobe = 1"]
        if pf.known.must_be_up:
            notes.append(f"{address}: {pf.driver} makes VFs only while {' '.join(pf.nets) or 'its interface'} is up")
        if pf.known.parameter_creates and policy.vfs:
            other = f"options {pf.driver} {pf.known.parameter}={policy.vfs}"
            notes.append(
                f"{address}: in place of these lines modprobe.d can have `{other}`, for all PFs of that driver: "
                f"pvepassthru doctor --fix --max-vfs {pf.driver}={policy.vfs}"
            )
        elif pf.known.parameter and policy.vfs:
            notes.append(
                f"{address}: the driver needs `options {pf.driver} {pf.known.parameter}={policy.vfs}` as well: "
                f"pvepassthru doctor --fix --max-vfs {pf.driver}={policy.vfs}"
            )
        if any(_is_more(one) for one in (policy.all, *(own for _, own in policy.vf))):
            notes.append(
                f"{address}: drivers and network settings of its VFs are set by `pvepassthru sriov apply` only"
            )
    if lines and not host.exists("/var/lib/dpkg/info/sysfsutils.list"):
        notes.append("nothing reads this file until sysfsutils is installed: apt install sysfsutils")
    return (_HEAD + "\n".join(lines) + "\n" if lines else ""), notes


def _is_more(policy: VfSettings) -> bool:
    return any(value is not None for value in policy)
