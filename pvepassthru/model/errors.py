# SPDX-License-Identifier: Apache-2.0
"""The errors that reach people, one class an exit code.

An error says what was tried, on which device, the cause, and the way out. The message is one sentence; the hint,
where there is one, is what to do. Exit codes are the same for every command (docs/exit-codes.md).
"""

from __future__ import annotations

from pvepassthru.model.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    """A file or folder that must be root's alone, or its reader's, is not; nothing in it is trusted."""

    exit_code = 7


class ApiError(PassthruError):
    """The PVE API refused a request, or its answer means nothing; the other errors of the API are derived from it."""

    exit_code = 9

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        status: int | None = None,
        words: str = "",
        fields: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        """The HTTP status; None where there was no answer."""
        self.words = words
        """What PVE said, on one line."""
        self.fields = dict(fields or {})
        """What PVE said of single parameters (status 400)."""


class ApiMissingError(ApiError, NotFoundError):
    """What was asked of the API does not exist: the VM, the node, the mapping, the storage, the snapshot."""

    exit_code = 3


class ApiUnreachableError(ApiError):
    """No host of the profile answered, or one could not reach another node; no change was sent, or it is undone."""

    exit_code = 10


class ApiCertificateError(ApiError):
    """The host's certificate is not the one to expect, so nothing was sent."""

    exit_code = 11


class ApiDeniedError(ApiError):
    """The login was refused, or the user may not do this."""

    exit_code = 12


class ApiConflictError(ApiError):
    """Somebody else holds it or was first: it changed since it was read, is locked, or is there already."""

    exit_code = 13


class ApiUnsureError(ApiError):
    """A change was sent and no answer came, so it may have been done or not."""

    exit_code = 14


class ApiPartialError(ApiError):
    """A change was made in part, and could be neither finished nor undone."""

    exit_code = 15
