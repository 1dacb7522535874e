# SPDX-License-Identifier: Apache-2.0
"""What `validate` is compared with: read the configs of all VMs and the files of all PCI functions, and do nothing.

    python3 -I plain_reader.py DIR

Only the files that validate itself reads of a function count here, so that the comparison is not made easy; a test
holds FILES and LINKS to what it does read.
"""

from __future__ import annotations

import os
import sys

FILES = (
    *("vendor", "device", "irq", "class", "config", "reset_method", "resource", "aer_dev_fatal"),
    *("current_link_width", "iommu_group/reserved_regions"),
)
LINKS = ("iommu_group", "driver")


def main(root: str) -> None:
    """Read them all."""
    configs = root + "/etc/pve/qemu-server/"
    for name in os.listdir(configs):
        with open(configs + name, "rb") as file:
            file.read()
    functions = root + "/sys/bus/pci/devices/"
    for function in os.listdir(functions):
        for name in FILES:
            with open(f"{functions}{function}/{name}", "rb") as file:
                file.read()
        os.listdir(f"{functions}{function}/iommu_group/devices")
        for name in LINKS:
            os.readlink(f"{functions}{function}/{name}")


if __name__ == "__main__":
    main(sys.argv[1])
