# SPDX-License-Identifier: Apache-2.0
"""Open a VFIO device as QEMU does: container, group, device.

Source: the kernel's include/uapi/linux/vfio.h and Documentation/driver-api/vfio.rst. Needs vfio_iommu_type1 loaded.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from typing import NamedTuple


def _request(number: int) -> int:
    return (ord(";") << 8) | (100 + number)  # _IO(VFIO_TYPE, VFIO_BASE + number)


SET_IOMMU = _request(2)
GROUP_GET_STATUS = _request(3)
GROUP_SET_CONTAINER = _request(4)
GROUP_GET_DEVICE_FD = _request(6)
GROUP_VIABLE = 1
TYPE1_IOMMU = 1
PATIENCE = 20.0
"""Seconds in which the lock of a device must become free."""


class Opened(NamedTuple):
    """The open files of a device; the device is in use until all are closed."""

    container: int
    group: int
    device: int

    def close(self) -> None:
        for fd in reversed(self):
            os.close(fd)


def open_device(name: str, group: str) -> Opened:
    """Open device `name` (a PCI address or an mdev's uuid) of IOMMU group `group`.

    Raises OSError: EPERM when the group is not viable (a member is bound to a host driver), ENODEV when the device is
    not bound to a vfio driver, EBUSY when the group is open already, EAGAIN when others keep the device's lock.
    """
    fds: list[int] = []
    try:
        container = os.open("/dev/vfio/vfio", os.O_RDWR | os.O_CLOEXEC)
        fds.append(container)
        group_fd = os.open(f"/dev/vfio/{group}", os.O_RDWR | os.O_CLOEXEC)
        fds.append(group_fd)
        status = bytearray(struct.pack("=II", 8, 0))
        fcntl.ioctl(group_fd, GROUP_GET_STATUS, status)
        if not struct.unpack("=II", status)[1] & GROUP_VIABLE:
            raise OSError(errno.EPERM, "the group is not viable")
        fcntl.ioctl(group_fd, GROUP_SET_CONTAINER, struct.pack("=i", container))
        fcntl.ioctl(container, SET_IOMMU, TYPE1_IOMMU)
        device = _device(group_fd, name)
    except OSError:
        for fd in reversed(fds):
            os.close(fd)
        raise
    return Opened(container, group_fd, device)


def _device(group: int, name: str) -> int:
    """Get the device of an open group.

    vfio-pci resets it, for which it only tries the device's lock (pci_try_reset_function): whoever has that at this
    moment, such as power management, makes it EAGAIN. Nothing waits for it in the kernel, so we do.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return int(fcntl.ioctl(group, GROUP_GET_DEVICE_FD, bytearray(name.encode() + b"\0"), True))  # noqa: FBT003 - the call's own third argument, "mutate", without a name
        except BlockingIOError:
            if time.monotonic() > end:
                raise
        time.sleep(0.01)
