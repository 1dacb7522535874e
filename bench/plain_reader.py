# SPDX-License-Identifier: Apache-2.0
"""What `validate` is compared with: read the configs of all VMs and the files of all PCI functions, and do nothing.

    python3 -I plain_reader.py DIR

Only the files that validate itself reads of a function count here, so that the comparison is not made easy: vendor,
device, irq, and the link to its IOMMU group.
"""

import os
import sys

root = sys.argv[1]
configs = root + "/etc/pve/qemu-server/"
for name in os.listdir(configs):
    with open(configs + name, "rb") as file:
        file.read()
functions = root + "/sys/bus/pci/devices/"
for function in os.listdir(functions):
    for name in ("vendor", "device", "irq"):
        with open(f"{functions}{function}/{name}", "rb") as file:
            file.read()
    os.readlink(f"{functions}{function}/iommu_group")
