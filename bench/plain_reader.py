# SPDX-License-Identifier: Apache-2.0
"""What `validate` is compared with: read the configs of all VMs and the files of all PCI functions, and do nothing.

    python3 -I plain_reader.py DIR

Only the files that validate itself reads of a function count here, so that the comparison is not made easy; a test
holds FILES and LINKS to what it does read.
"""

import os
import sys

FILES = (
    *("vendor", "device", "irq", "class", "config", "reset_method", "resource", "aer_dev_fatal", "driver_override"),
    "current_link_width",
)
LINKS = ("iommu_group", "driver")

root = sys.argv[1]
configs = root + "/etc/pve/qemu-server/"
for name in os.listdir(configs):
    with open(configs + name, "rb") as file:
        file.read()
functions = root + "/sys/bus/pci/devices/"
for function in os.listdir(functions):
    for name in FILES:
        with open(f"{functions}{function}/{name}", "rb") as file:
            file.read()
    for name in LINKS:
        os.readlink(f"{functions}{function}/{name}")
