# SPDX-License-Identifier: Apache-2.0
"""What a hook phase would do, without doing it.

The same code runs against a simulated kernel over a copy of this host's files; nothing on the host is written. For
post-stop the VM's QEMU counts as ended. Exit code: 0, or the class of what goes wrong, as pre-start itself ends with.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pvepassthru.cli.words import print_json, scratch, vmid
from pvepassthru.host import state, vms
from pvepassthru.host.capture import capture
from pvepassthru.host.host import open_host
from pvepassthru.lifecycle import hook, quick
from pvepassthru.lifecycle.phases import Start, config_path
from pvepassthru.lifecycle.work import Voice
from pvepassthru.model.errors import EXIT_FINE, PassthruError
from pvepassthru.model.text import one_line
from pvepassthru.rules.subject import read_config

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("vmid", metavar="VMID", type=vmid, help="a VM of this node")
    phase = "one of %(choices)s (default: pre-start)"
    parser.add_argument("phase", metavar="PHASE", nargs="?", choices=quick.PHASES, default="pre-start", help=phase)
    parser.add_argument("--json", action="store_true", help="as JSON (docs/json.md)")


def _teller(said: list[tuple[str, str]], kind: str) -> Callable[[str], None]:
    return lambda words: said.append((kind, words))


def run(args: argparse.Namespace, host: Host) -> int:
    """Run the phase on a copy and print what it said; returns 0, or the code of what went wrong.

    Raises NotFoundError when there is no such VM, InputError when its config cannot be read, PassthruError when the
    journals cannot, or when there is no place for the copy.
    """
    vms.need_pve(host)
    state.journals(host)  # a plan that knows nothing of them would be wrong
    if args.phase == "pre-start":
        read_config(host, args.vmid, config_path(args.vmid, os.environ))
    said: list[tuple[str, str]] = []
    failure: PassthruError | None = None
    with scratch("pvepassthru-plan-") as copy:
        try:
            os.makedirs(f"{copy}/run")
            # PVE runs post-stop when QEMU has ended
            capture(host, copy, [args.vmid], ended=args.vmid if args.phase == "post-stop" else None)
        except OSError as error:
            raise PassthruError(
                f"cannot copy the host's files to {copy}: {error.strerror}", "see that its file system has room"
            ) from error
        copied = open_host(copy, host.node)
        copied.copy_of = host
        try:
            hook.run_phase(
                copied,
                args.vmid,
                args.phase,
                Start(os.environ, pending=True),
                Voice(*(_teller(said, kind) for kind in ("step", "warning", "error"))),
                patience=0,  # nobody in the copy lets go of anything
            )
        except PassthruError as error:
            failure = error
            said.append(("error", str(error)))
    code = EXIT_FINE if failure is None else failure.exit_code
    if args.json:
        lines = [{"kind": kind, "text": text} for kind, text in said]
        print_json({"vmid": args.vmid, "phase": args.phase, "ok": failure is None, "lines": lines})
        return code
    print(f"{args.phase} of VM {args.vmid} would say, on node {host.node} (it ran on a copy; nothing is changed):")
    for kind, text in said:
        print(f"  {'' if kind == 'step' else kind + ': '}{one_line(text)}")
    if not said:
        print("  nothing to do")
    return code
