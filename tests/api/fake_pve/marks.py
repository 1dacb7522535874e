# SPDX-License-Identifier: Apache-2.0
"""The few words of PVE by which a client must tell errors apart where their status alone does not: one table.

PVE answers nearly everything with 500. These fragments are what its answers have had in common for years (recorded in
facts/api-transcripts.jsonl); everything else that the fake says is its own wording, and no client may depend on it.
tests/api/test_transcripts.py holds that the fake's answer to each recorded call has exactly the marks of PVE's.
"""

from __future__ import annotations

STALE_VM = "checksum mismatch"
"""500: a VM config's digest is not the present one."""
STALE_MAPPING = "detected modified configuration"
"""500: the digest of the mappings is not the present one."""
ROOT_ONLY = "only root can set"
"""500: the value may be set by root@pam with a password only: host=, args, hookscript."""
ROOT_ONLY_PART = "only root@pam can set"
"""400, in the text of one parameter: the same for a sub-key of it, romfile."""
LOCKED = "VM is locked"
"""500: with the lock in parentheses behind it."""
DENIED = "Permission check failed"
"""403: often with `(PATH, PRIVILEGE|PRIVILEGE)` behind it."""
ABSENT = "does not exist"
"""500: the VM's config, the snapshot, the storage, the mapping of a PUT."""
NOT_FOUND = "not found"
"""500: the mapping of a GET."""
NO_HOST = "hostname lookup"
"""500: there is no such node."""
EXISTS = "already exists"
"""500: the VMID is taken."""
DEFINED = "already defined"
"""500: the name of the mapping is taken."""
BAD_CSRF = "invalid csrf token"
"""401: a ticket without its CSRF token, where all other 401 mean that one must log in anew."""

ALL = (
    *(STALE_VM, STALE_MAPPING, ROOT_ONLY, ROOT_ONLY_PART, LOCKED, DENIED, ABSENT, NOT_FOUND, NO_HOST, EXISTS, DEFINED),
    BAD_CSRF,
)
"""All of them, for the tests."""
