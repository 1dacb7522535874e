# SPDX-License-Identifier: Apache-2.0
"""docs/report.png: the report of the demo's host while some of its VMs run. `./dev picture` draws it.

Of the page's parts only those are drawn that tell of devices, as they all together are too long for a picture.
"""

from __future__ import annotations

import base64
import itertools
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from pvepassthru.host import example
from pvepassthru.host.host import open_host
from pvepassthru.report.contents import gather
from pvepassthru.report.page import page
from tests import tree
from tests.report.browser import ROOT, launched
from tests.report.made import MADE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PATH = os.path.join(ROOT, "docs", "report.png")
WIDTH, HEIGHT = 1200, 1640
NAMES = """10de  NVIDIA Corporation
\t1aef  GA102 High Definition Audio Controller
\t1bb3  GP104GL [Tesla P4]
\t2204  GA102 [GeForce RTX 3090]
144d  Samsung Electronics Co Ltd
\ta808  NVMe SSD Controller SM981/PM981/PM983
8086  Intel Corporation
\t1521  I350 Gigabit Network Connection
"""
"""What the list of PCI ids has of this host, since the machine that draws may have none."""
MANAGER = "Package: pve-manager\nStatus: install ok installed\nVersion: 8.1.4\n\n"
COLUMNS, ROWS = 6, 20
INK = """async ([address, columns, rows]) => {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const {data, width, height} = context.getImageData(0, 0, picture.width, picture.height);
  const cells = Array.from({length: rows}, () => Array(columns).fill(0));
  for (let y = 0; y < height; y += 1) for (let x = 0; x < width; x += 1) {
    const at = 4 * (y * width + x);
    const far = [0, 1, 2].some(part => Math.abs(data[at + part] - data[part]) > 24);
    cells[Math.floor(y * rows / height)][Math.floor(x * columns / width)] += far;
  }
  return cells.map(row => row.map(count => count * rows * columns / (width * height)));
}"""
LEAVE_OUT = "main > section:not([aria-labelledby='topology'], [aria-labelledby='capacity'])"


def draw(folder: str, browser: Browser) -> bytes:
    """The picture, as PNG; the host is made in a folder."""
    root = os.path.join(folder, "demo")
    example.build(root)
    tree.put(root, "usr/share/misc/pci.ids", NAMES)
    tree.put(root, "var/lib/dpkg/status", MANAGER)
    for vmid in (100, 104):
        words = [sys.executable, "-m", "pvepassthru", "--root", root, "--node", example.NODE, "hook", str(vmid)]
        subprocess.run([*words, "pre-start"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        example.start_vm(root, vmid)
        subprocess.run([*words, "post-start"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    contents = gather(open_host(root, example.NODE), MADE)
    contents["about"]["file"] = "demo"  # and no temporary folder
    path = os.path.join(folder, "report.html")
    with open(path, "w", encoding="utf-8") as file:
        file.write(page(contents))
    view = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
    try:
        view.goto(f"file://{path}")
        view.evaluate(f'for (const part of document.querySelectorAll("{LEAVE_OUT}")) part.hidden = true')
        return view.screenshot(animations="disabled", caret="hide")
    finally:
        view.close()


def ink(data: bytes, browser: Browser) -> list[list[float]]:
    """How much of each cell of a coarse grid (ROWS, COLUMNS) of a PNG is not the colour of its first pixel: 0 to 1."""
    view = browser.new_page()
    try:
        address = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        return list(view.evaluate(INK, [address, COLUMNS, ROWS]))
    finally:
        view.close()


def difference(one: list[list[float]], other: list[list[float]]) -> float:
    """How much ink one of two pictures has where the other has none, as a share of all: 0 is the same, 1 nothing."""
    pairs = list(zip(itertools.chain(*one), itertools.chain(*other), strict=True))
    return sum(abs(first - second) for first, second in pairs) / sum(max(pair) for pair in pairs)


def _main() -> None:
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        data = draw(folder, browser)
    with open(PATH, "wb") as file:
        file.write(data)


if __name__ == "__main__":
    _main()
