# SPDX-License-Identifier: Apache-2.0
"""The PVE API as the commands reach it: which profile, and a second factor from whoever sits at the terminal."""

from __future__ import annotations

import getpass
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from pvepassthru.api.client import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says which API is meant. No secret is ever one: others see a process's arguments.

    It may stand before the command just as well (cli/main.py), which puts both together.
    """
    parser.set_defaults(asks_api=True)
    parser.add_argument(
        "--profile",
        dest="own_profile",
        metavar="NAME",
        help="a profile of api.yaml (default: PVE_HOST and its like of the environment, the files' default profile, or "
        "this node itself)",
    )


def connect(args: argparse.Namespace) -> Client:
    """The API of the profile that the arguments name, logged in. Raises as profile.load and client.connect."""
    from pvepassthru.api import client, profile  # noqa: PLC0415 - proxmoxer is slow to load, and a node may do without

    return client.connect(profile.load(args.profile, os.environ), otp=_ask_otp)


def _ask_otp() -> str:
    """A one-time password from the terminal, empty without one."""
    if not sys.stdin or not sys.stdin.isatty():
        return ""
    return getpass.getpass("One-time password: ").strip()
