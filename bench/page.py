# SPDX-License-Identifier: Apache-2.0
"""The numbers of docs/performance.md and its plots: written by `./dev bench --write`, never by hand."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from typing import TYPE_CHECKING

from bench.measure import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.growth import Curve
    from bench.measure import Row

PAGE = "docs/performance.md"
BEGIN = "<!-- What follows is written by ./dev bench --write. -->"
END = "<!-- What ./dev bench --write has written ends here. -->"


def about(pythons: Sequence[tuple[str, str]], rounds: int, *, fast: bool) -> list[str]:
    """What the numbers were measured on and how: lines of a list."""
    versions = [_version(python) for _, python in pythons]
    guest = "; without the guest with a real kernel (--fast)" if fast else ""
    return [
        f"measured on {dt.datetime.now(dt.UTC).date().isoformat()}",
        f"Python {', '.join(versions)}",
        f"Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} processors",
        f"{rounds} rounds of each hook phase, fewer of what takes longer{guest}",
    ]


def _version(python: str) -> str:
    code = "import platform; print(platform.python_version())"
    return subprocess.run([python, "-I", "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def block(lines: Sequence[str], rows: Sequence[Row], curves: Sequence[Curve]) -> str:
    """The generated part of the page."""
    text = "".join(f"- {line}\n" for line in lines)
    text += "\n| what | Python | ms | against | ms | ratio | limit |\n|---|---|---|---|---|---|---|\n"
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:.1f}" if row.ok else f"{row.limit:.1f}, **broken**"
        numbers = f"{row.baseline_ms:.1f} | **{row.ratio:.2f}** | {limit}"
        text += f"| {row.what} | {row.interpreter} | {row.ours_ms:.1f} | {row.baseline} | {numbers} |\n"
    for curve in curves:
        text += f"\n![{curve.title}]({_name(curve)})\n\n"
        text += (
            f"| milliseconds | {' | '.join(f'{size} {curve.what}' for size in curve.sizes)} | ratio of the last two |\n"
        )
        text += f"|---|{'---|' * len(curve.sizes)}---|\n"
        for command, times in curve.times.items():
            numbers = " | ".join(f"{time:.0f}" for time in times)
            text += f"| `{command}` | {numbers} | {curve.doubling(command):.2f} |\n"
    return text


def write(root: str, lines: Sequence[str], rows: Sequence[Row], curves: Sequence[Curve]) -> None:
    """Renew the page's generated part and the plots. Raises BenchError for a page without its marks."""
    from bench import plot  # noqa: PLC0415 - its library is in .venv, and whoever only measures needs none

    path = os.path.join(root, PAGE)
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise BenchError(f"{PAGE} has not the two marks between which the numbers go")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    drawn = {_name(curve): plot.draw(curve) for curve in curves}
    for name, drawing in drawn.items():
        with open(os.path.join(os.path.dirname(path), name), "w", encoding="utf-8") as file:
            file.write(drawing)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{BEGIN}\n\n{block(lines, rows, curves)}\n{END}{after}")


def _name(curve: Curve) -> str:
    return f"performance-{curve.name}.svg"
