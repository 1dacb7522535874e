# SPDX-License-Identifier: Apache-2.0
"""The errors that reach people, one class an exit code.

An error says what was tried, on which device, the cause, and the way out. The message is one sentence; the hint,
where there is one, is what to do. Exit codes are the same for every command (docs/exit-codes.md).
"""

from __future__ import annotations

EXIT_FINE = 0
EXIT_FINDINGS = 1


class PassthruError(Exception):
    """Something that the user has to know of: `message` says what failed and why, `hint` what to do."""

    exit_code = 5

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(PassthruError):
    """The command was called wrongly: an unknown phase, a VMID that is none."""

    exit_code = 2


class NotFoundError(PassthruError):
    """What was named does not exist: the VM, the device, the code, PVE itself."""

    exit_code = 3


class InputError(PassthruError):
    """A file is unreadable or malformed: a VM config, a policy, a journal."""

    exit_code = 4


class DeviceError(PassthruError):
    """The host could not do it: the kernel refused, there is no room, or a device is in use."""

    exit_code = 5


class BusyError(PassthruError):
    """A wait reached its limit: a lock, or a write that the kernel does not finish."""

    exit_code = 6


class EndedError(PassthruError):
    """The program was told to end by a signal; a pre-start undoes itself first."""

    exit_code = 8


class UnsafeError(PassthruError):
    """A file or folder that must be root's alone is not; nothing in it is trusted."""

    exit_code = 7
