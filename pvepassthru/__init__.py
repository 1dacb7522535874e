# SPDX-License-Identifier: Apache-2.0
"""PCI passthrough on Proxmox VE that works the first time and cleans up every time."""

__version__ = "0.1.0"
