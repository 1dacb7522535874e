# SPDX-License-Identifier: Apache-2.0
"""What PVE's refusals mean: the only place that looks at the words of an answer, in one table.

PVE says most things with status 500 and a sentence, which stands in the HTTP reason; of status 400 it tells parameter
by parameter. Only a few words of such sentences have stayed the same over the years.
Source: PVE 8 and 9 as they answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.model.errors import (
    ApiConflictError,
    ApiDeniedError,
    ApiError,
    ApiMissingError,
    ApiUnreachableError,
    ApiUnsureError,
)
from pvepassthru.model.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST = 500
"""Characters of PVE's words in a message."""
LOGIN = "access/ticket"
"""The path of the login, which changes nothing."""
UNSURE_HINT = "read the present state before you repeat it"


class Mark(NamedTuple):
    """A sign in an answer of PVE, and what it means."""

    statuses: tuple[int, ...]
    """HTTP statuses with which it counts; none: all from 400 on."""
    words: str
    """Part of PVE's words, in lower case."""
    kind: type[ApiError]
    hint: str


PROXY_FAILED = (595, 596, 597, 598, 599)
"""PVE's own: the node that was asked could not ask another one. Source: perl's AnyEvent::HTTP."""

MARKS = (
    Mark(
        (401,),
        "csrf",
        ApiDeniedError,
        "the login has run out or is another one's: connect again",
    ),
    Mark(
        (401,),
        "",
        ApiDeniedError,
        "look at the user (with its realm, such as root@pam), at the token or password, and whether it has expired",
    ),
    Mark(
        (403,),
        "",
        ApiDeniedError,
        "an administrator can grant it (Datacenter, Permissions); a token with privilege separation needs it too",
    ),
    Mark(
        (),
        "only root",
        ApiDeniedError,
        "no API token and no other user may: log in as root@pam with its password, run the qm command as root on the "
        "node, or use mapping= in place of host=",
    ),
    Mark((), "checksum mismatch", ApiConflictError, "somebody else has changed it: read it again and repeat"),
    Mark(
        (),
        "detected modified configuration",
        ApiConflictError,
        "somebody else has changed it: read it again and repeat",
    ),
    Mark(
        (),
        "is locked",
        ApiConflictError,
        "wait until what holds the lock has ended; if it is left over from a crash: qm unlock VMID, on the node",
    ),
    Mark((), "can't lock file", ApiConflictError, "another task is at work on it: repeat when that has ended"),
    Mark((500,), "already defined", ApiConflictError, "it is there by now: read it again"),
    Mark((500,), "already exists", ApiConflictError, "it is there by now: read it again"),
    Mark(
        (500,), "quorum", ApiError, "the cluster can change nothing until most of its nodes are there: see pvecm status"
    ),
    Mark((500,), "hostname lookup", ApiMissingError, "see the node's name: pvesh get /nodes"),
    Mark((500,), "does not exist", ApiMissingError, "see its name or number, and on which node it is"),
    Mark((500,), "not found", ApiMissingError, "see its name"),
    Mark((501,), "", ApiError, "this PVE does not know such a call: is it too old for that?"),
    Mark(
        (595,),
        "",
        ApiUnreachableError,
        "see whether the node named in the path is up, and whether its pveproxy runs",
    ),
    Mark(
        (596,),
        "certificate",
        ApiUnreachableError,
        "the nodes do not trust each other's certificates: pvecm updatecerts, on the node named in the path",
    ),
    Mark(
        PROXY_FAILED,
        "",
        ApiUnsureError,
        "see whether the node named in the path is up, and whether its pveproxy runs",
    ),
    Mark((502, 503, 504), "", ApiUnsureError, "see whether pveproxy and pvedaemon run on the host"),
)
"""The first that fits counts; what none fits is an ApiError without a hint.

ApiUnsureError stands for an answer after which a change may have been done; of a read it is an ApiUnreachableError.
"""

CERTIFICATE_MARKS = ("certificate", "fingerprint", "hostname")
"""Words in the errors of TLS that tell of a certificate that is not the one to expect. Source: OpenSSL, urllib3."""


def refusal(method: str, path: str, status: int, reason: str, fields: Mapping[str, str] | None = None) -> ApiError:
    """The error that stands for an answer with a status from 400 on.

    `reason` is the HTTP reason, `fields` what PVE says of single parameters; both come without secrets.
    """
    told = {one_line(name): _words(text) for name, text in (fields or {}).items()}
    words = "; ".join(f"{name}: {text}" for name, text in told.items()) or _words(reason) or f"HTTP status {status}"
    mark = _mark(status, words)
    kind, hint = (mark.kind, mark.hint) if mark else (ApiError, "")
    reading = method == "GET" or path == LOGIN
    if kind is ApiUnsureError:
        kind = ApiUnreachableError if reading else ApiUnsureError
        hint = hint if reading else UNSURE_HINT
    verb = "could not pass on" if status in PROXY_FAILED else "refused"
    doubt = ", so it may have been done or not" if kind is ApiUnsureError else ""
    message = f"PVE {verb} {method} {path}: {words}{doubt}"
    return kind(message, hint, status=status, words=words, fields=told)


def is_certificate(text: str) -> bool:
    """Whether the words of a TLS error tell of the certificate, not of another mishap."""
    return any(word in text.lower() for word in CERTIFICATE_MARKS)


def _mark(status: int, words: str) -> Mark | None:
    low = words.lower()
    return next((mark for mark in MARKS if status in (mark.statuses or (status,)) and mark.words in low), None)


def _words(text: str) -> str:
    words = one_line(" ".join(text.split()))
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}... ({len(words)} characters)"
