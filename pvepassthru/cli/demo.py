# SPDX-License-Identifier: Apache-2.0
"""The life of some VMs on a simulated host: checks, starts, a refused start, a crash, and nothing left at the end.

Every line that starts with `$` is a command that you can run on a real host too.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from pvepassthru.cli.words import print_error, scratch
from pvepassthru.host import example, signals
from pvepassthru.model.errors import EXIT_FINDINGS, EXIT_FINE, PassthruError, UsageError

if TYPE_CHECKING:
    import argparse

    from pvepassthru.host.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    keep = "make the host's files in this folder, which is new or empty, and leave them there"
    parser.add_argument("--keep", metavar="DIR", help=keep)


def run(args: argparse.Namespace, host: Host) -> int:
    """Run the demo; returns 0 if every command ended as it must and nothing is left at the end, else 1.

    Raises UsageError when the folder to keep it in is not new or empty, PassthruError when it cannot be written.
    """
    del host  # the demo brings its own
    if args.keep is not None:
        _need_empty(args.keep)
        return _run(os.path.abspath(args.keep))
    with scratch("pvepassthru-demo-") as root:
        return _run(root)


def _need_empty(folder: str) -> None:
    """Raise UsageError unless `folder` is an empty folder, or there is nothing of that name yet."""
    hint = "give a new or an empty folder"
    try:
        if os.listdir(folder):
            raise UsageError(f"cannot make the demo's host in {folder}: it is not empty", hint)
    except FileNotFoundError:
        if not folder or os.path.islink(folder):
            raise UsageError(f"cannot make the demo's host in {folder!r}: that leads nowhere", hint) from None
    except OSError as error:
        raise UsageError(f"cannot make the demo's host in {folder}: {error.strerror}", hint) from error


def _run(root: str) -> int:
    try:
        example.build(root)
    except OSError as error:
        hint = "give a folder that you may write, on a disk with room"
        raise PassthruError(f"cannot make the demo's host in {root}: {error.strerror}", hint) from error
    stage = _Stage(root)
    stage.scene("What is there?")
    stage.command("devices", expect=0)
    stage.scene("Is the host ready? What would be changed? (With --yes it is done.)")
    stage.command("doctor --fix", expect=0)
    stage.scene("Which VMs would start as they are meant to? VM 103 has an old config, and VM 105 the host's own disk.")
    stage.command("validate --all", expect=1)
    stage.command("explain PVP310", expect=0)
    stage.scene("Each GPU has room for one nvidia-65. What would the start of VM 100 do? (Nothing is done.)")
    stage.command("plan 100", expect=0)
    stage.scene("VM 100 and VM 101 start: PVE runs the hookscript. The second one finds the first GPU full.")
    stage.command("hook 100 pre-start", expect=0)
    example.start_vm(root, 100)
    stage.command("hook 100 post-start", expect=0)
    stage.command("hook 101 pre-start", expect=0)
    stage.scene("VM 102 wants one too.")
    stage.command("hook 102 pre-start", expect=5)
    stage.scene("VM 101 never came up: its QEMU crashed, and PVE runs no post-stop then. Who holds what?")
    stage.command("mdev list", expect=0)
    stage.command("status", expect=0)
    stage.scene("recover undoes what dead VMs left behind, and leaves VM 100, which runs, alone.")
    stage.command("recover", expect=0)
    stage.scene("Now there is room for VM 102. Then both stop.")
    stage.command("hook 102 pre-start", expect=0)
    stage.command("hook 102 post-stop", expect=0)
    example.end_vm(root, 100)
    stage.command("hook 100 post-stop", expect=0)
    stage.scene(
        "VM 104 gets a whole network card: the hook takes it from its driver, and gives it back after the stop."
    )
    stage.command("hook 104 pre-start", expect=0)
    stage.command("devices 02:00.0", expect=0)
    stage.command("hook 104 post-stop", expect=0)
    stage.command("status", expect=0)
    stage.command("mdev list", expect=0)
    if stage.wrong:
        print_error(f"pvepassthru: the demo did not go as it must: {'; '.join(stage.wrong)}")
        return EXIT_FINDINGS
    print("\nNothing is left behind.")
    return EXIT_FINE


class _Stage:
    """Runs commands on the demo's host and shows them."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.wrong: list[str] = []

    def scene(self, words: str) -> None:
        print(f"\n# {words}")

    def command(self, words: str, *, expect: int) -> None:
        from pvepassthru.cli.main import run  # noqa: PLC0415 - main loads this module

        print(f"\n$ pvepassthru {words}", flush=True)
        handlers = {number: signal.getsignal(number) for number in signals.ENDING}
        try:
            code = run(["--root", self.root, "--node", example.NODE, *words.split()])
        finally:
            for number, handler in handlers.items():  # a hook that is done takes no notice of Ctrl-C any more
                signal.signal(number, handler)
        if code != expect:
            self.wrong.append(f"`{words}` ended with {code}, not {expect}")
        elif code:
            print(f"(exit code {code})")
