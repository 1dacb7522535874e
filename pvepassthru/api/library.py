# SPDX-License-Identifier: Apache-2.0
"""What `from pvepassthru.api import ...` offers to those who automate; docs/api.md has an example."""

from pvepassthru.api.apply import Applied, Result
from pvepassthru.api.change import Change, KeyChange, Need, Write
from pvepassthru.api.client import Client
from pvepassthru.api.cluster import Node, Vm
from pvepassthru.api.judgement import Judgement
from pvepassthru.api.present import Present
from pvepassthru.api.profile import Endpoint, Profile
from pvepassthru.api.proposal import Proposal
from pvepassthru.api.pve import Pve
from pvepassthru.api.secret import Secret
from pvepassthru.api.wish import Device, Wish
from pvepassthru.model.errors import (
    ApiCertificateError,
    ApiConflictError,
    ApiDeniedError,
    ApiError,
    ApiMissingError,
    ApiPartialError,
    ApiUnreachableError,
    ApiUnsureError,
    BusyError,
    DeviceError,
    InputError,
    NotFoundError,
    PassthruError,
    UnsafeError,
    UsageError,
)
from pvepassthru.model.finding import Finding

__all__ = (
    "ApiCertificateError",
    "ApiConflictError",
    "ApiDeniedError",
    "ApiError",
    "ApiMissingError",
    "ApiPartialError",
    "ApiUnreachableError",
    "ApiUnsureError",
    "Applied",
    "BusyError",
    "Change",
    "Client",
    "Device",
    "DeviceError",
    "Endpoint",
    "Finding",
    "InputError",
    "Judgement",
    "KeyChange",
    "Need",
    "Node",
    "NotFoundError",
    "PassthruError",
    "Present",
    "Profile",
    "Proposal",
    "Pve",
    "Result",
    "Secret",
    "UnsafeError",
    "UsageError",
    "Vm",
    "Wish",
    "Write",
)
