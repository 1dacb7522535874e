# SPDX-License-Identifier: Apache-2.0
"""What `validate` is compared with: read the configs of all VMs and the files of all PCI functions, and do nothing.

    python3 -I plain_reader.py DIR

These are the files that any check of a hostpci entry has to look at: the ids, the interrupt, the group and the driver.
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
    for name in ("vendor", "device", "class", "irq", "subsystem_vendor", "subsystem_device"):
        with open(f"{functions}{function}/{name}", "rb") as file:
            file.read()
    for name in ("iommu_group", "driver"):
        os.readlink(f"{functions}{function}/{name}")
