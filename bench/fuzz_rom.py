# SPDX-License-Identifier: Apache-2.0
"""Feeds the ROM parser with a million inputs: random bytes, valid ROMs that were altered, and parts of them.

    ./dev fuzz [--count N] [--seed N]

The same seed gives the same inputs. Prints one line. An input that makes the parser raise, or that it reads as what
cannot be, is written to build/fuzz-rom.bin, and the run fails.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from typing import TYPE_CHECKING

from pvepassthru.model import rom
from tests import rom_images

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COUNT = 1_000_000
FAILED = os.path.join(ROOT, "build", "fuzz-rom.bin")
_WORDS = (b"\x55\xaa", b"PCIR", b"NVGI", b"\xf1\x0e\0\0", b"\xff\xff", b"\0\0", b"\x80", b"\1\0")
"""What firmware looks for, and numbers at their limits."""


def valid(rng: random.Random) -> bytes:
    """A ROM of one to four images."""
    images = [
        rom_images.image(
            rng.choice((0, 3, 0xE0)),
            ids=(rng.getrandbits(16), rng.getrandbits(16)),
            devices=tuple(rng.randrange(1, 1 << 16) for _ in range(rng.randrange(4))),
            blocks=rng.randrange(1, 4),
            last=rng.random() < 0.3,
            machine=rng.choice(sorted(rom.MACHINES)),
            revision=rng.choice((0, 3)),
        )
        for _ in range(rng.randrange(1, 5))
    ]
    return rng.choice((b"", b"", b"NVGI" + bytes(508))) + b"".join(images)


def altered(rng: random.Random) -> bytes:
    """A valid ROM with some bytes replaced, most of them in the headers."""
    data = bytearray(valid(rng))
    for _ in range(rng.randrange(1, 9)):
        block = rng.randrange(len(data) // rom_images.BLOCK) * rom_images.BLOCK
        place = block + rng.randrange(0x40) if rng.random() < 0.8 else rng.randrange(len(data))
        junk = rng.choice(_WORDS) if rng.random() < 0.5 else rng.randbytes(rng.randrange(1, 5))
        data[place : place + len(junk)] = junk
    return bytes(data)


def cut(rng: random.Random) -> bytes:
    """The start or the end of a ROM that may be altered."""
    data = altered(rng) if rng.random() < 0.5 else valid(rng)
    place = rng.randrange(len(data) + 1)
    return data[:place] if rng.random() < 0.7 else data[place:]


def junk(rng: random.Random) -> bytes:
    """Random bytes, some with a signature at the start."""
    return rng.choice((b"", b"\x55\xaa", b"NVGI\x55\xaa")) + rng.randbytes(rng.randrange(600))


KINDS: tuple[Callable[[random.Random], bytes], ...] = (altered, cut, junk)


def check(data: bytes) -> rom.Rom:
    """Parse an input. Raises AssertionError when the result cannot be, and whatever the parser raises."""
    found = rom.parse(data)
    places = [image.offset for image in found.images]
    if places != sorted(set(places)) or any(not 0 <= place < len(data) for place in places):
        raise AssertionError(f"images at {places} in {len(data)} bytes")
    if not found.images and not found.faults:
        raise AssertionError("neither an image nor a fault")
    if any(stray.offset in places for stray in found.strays):
        raise AssertionError("an image is both in the chain and beside it")
    whole = bool(found.images) and found.images[-1].last and found.images[-1].length > 0
    broken = {fault.reason for fault in found.faults} & {"no-signature", "no-pcir", "no-length", "no-last", "truncated"}
    if not whole and not broken:
        raise AssertionError("the chain ends without its last image, and no fault says so")
    return found


def run(count: int, seed: int) -> tuple[int, int, int]:
    """Parse so many inputs; returns how many had an image, how many a fault, and the longest in microseconds.

    Raises what `check` raises, after the input was written to FAILED.
    """
    rng = random.Random(seed)  # noqa: S311 - for tests
    images = faults = slowest = 0
    for number in range(count):
        data = KINDS[number % len(KINDS)](rng)
        started = time.perf_counter_ns()
        try:
            found = check(data)
        except Exception:
            os.makedirs(os.path.dirname(FAILED), exist_ok=True)
            with open(FAILED, "wb") as file:
                file.write(data)
            print(f"input {number} of seed {seed} fails; it is in {FAILED}", file=sys.stderr)
            raise
        slowest = max(slowest, time.perf_counter_ns() - started)
        images += bool(found.images)
        faults += bool(found.faults)
    return images, faults, slowest // 1000


def main(arguments: list[str]) -> int:
    """Fuzz as the command line says, and print the one line."""
    parser = argparse.ArgumentParser(prog="./dev fuzz", description="Feed the ROM parser with random inputs.")
    parser.add_argument("--count", type=int, default=COUNT, help=f"inputs, {COUNT} unless told")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers, 1 unless told")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    images, faults, slowest = run(options.count, options.seed)
    took = time.monotonic() - started
    print(
        f"{options.count} ROMs of seed {options.seed}: none made the parser fail; {images} had an image, {faults} a "
        f"fault; {took:.0f} s, the slowest {slowest} us"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
