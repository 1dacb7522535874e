# SPDX-License-Identifier: Apache-2.0
"""The golden findings by code, each code with one example, to be checked by hand: `python3 -m tests.captured.report`.

With codes as arguments: every finding of these.
"""

from __future__ import annotations

import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))


def lines(variant: str) -> list[str]:
    """The golden lines of one of the two hosts."""
    with open(f"{FOLDER}/{variant}.txt", encoding="utf-8") as file:
        return file.read().splitlines()


def report(variant: str, codes: list[str]) -> str:
    """For each code how many findings of how many VMs it has, and the first; or all findings of these codes."""
    found: dict[str, list[str]] = {}
    for line in lines(variant):
        found.setdefault(line.split(" ")[2], []).append(line)
    if codes:
        return "".join(f"{line}\n" for code in codes for line in found.get(code, ()))
    text = ""
    for code, told in sorted(found.items()):
        vms = len({line.split(" ")[0] for line in told})
        text += f"{code}: {len(told)} of {vms} VMs\n  {told[0]}\n"
    return text


if __name__ == "__main__":
    for name in ("classic", "vendor"):
        sys.stdout.write(f"== {name}\n{report(name, sys.argv[1:])}")
