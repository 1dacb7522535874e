# SPDX-License-Identifier: Apache-2.0
"""Where the PVE API is and who asks it: profiles from a file, or one from the environment.

The files are `~/.config/pvepassthru/api.yaml` and `/etc/pvepassthru/api.yaml`; a name in the first goes before the same
in the second. Since they hold secrets they must be their reader's or root's, and nobody else's to read.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import profile_file
from pvepassthru.api.secret import Secret
from pvepassthru.model.errors import InputError, NotFoundError, UnsafeError
from pvepassthru.model.text import listed, nearest, number, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

PORT = 8006
TIMEOUT = 30.0
RETRIES = 2
MAX_BYTES = 1024 * 1024
USER_FILE = ".config/pvepassthru/api.yaml"
"""Below the home folder."""
SYSTEM_FILE = "/etc/pvepassthru/api.yaml"
NODES = "/etc/pve/nodes"
"""Present on a node of PVE."""
ENVIRONMENT = {
    "PVE_PORT": "port",
    "PVE_USER": "user",
    "PVE_TOKEN_NAME": "token_name",
    "PVE_TOKEN_VALUE": "token_value",
    "PVE_TOKEN_FILE": "token_file",
    "PVE_PASSWORD": "password",
    "PVE_PASSWORD_FILE": "password_file",
    "PVE_OTP": "otp",
    "PVE_CA_FILE": "ca_file",
    "PVE_FINGERPRINT": "fingerprint",
    "PVE_TIMEOUT": "timeout",
    "PVE_RETRIES": "retries",
}
"""Variable to key of a profile, besides PVE_HOST, which has the hosts with commas between."""
NUMBERS = ("port", "timeout", "retries")
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*\.?")
HOST = re.compile(
    r"\[(?P<address>[^\[\]]+)\](?::(?P<its_port>[0-9]{1,5}))?|(?P<name>[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?"
    r"|(?P<bare>[0-9A-Fa-f.]*(?::[0-9A-Fa-f.]*){2,})"
)
"""`[address]:port`, `name:port` or a bare IPv6 address."""
SECRET = re.compile(r"[!-~]+")
"""What a token's value can be: it goes into a header."""


class Endpoint(NamedTuple):
    """One host's API."""

    host: str
    """A name, or an IP address without brackets."""
    port: int = PORT
    fingerprint: str | None = None
    """SHA-256 of the certificate, 64 hex digits in lower case; None: the certificate is verified by its CA."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Profile:
    """Where the API is, and who asks it."""

    source: str
    """Where it comes from, for messages: `profile lab in /etc/pvepassthru/api.yaml`."""
    endpoints: tuple[Endpoint, ...] = ()
    """Hosts of one cluster, in the order in which they are tried."""
    user: str = "root@pam"
    token_name: str | None = None
    token_value: Secret | None = None
    password: Secret | None = None
    otp: Secret | None = None
    """A one-time password, for a user with a second factor."""
    ca_file: str | None = None
    """The CA's certificate; None: those of the system."""
    timeout: float = TIMEOUT
    """Seconds to wait for a connection, and then for an answer."""
    retries: int = RETRIES
    """How often a read is repeated."""
    local: bool = False
    """Without network, by pvesh on this node, as root."""


def load(name: str | None = None, environ: Mapping[str, str] | None = None) -> Profile:
    """The profile of this name.

    Without a name: what the environment says if it has PVE_HOST; else the `default` of the first file, or its only
    profile; else, for root on a node of PVE, the node itself.

    Raises NotFoundError when there is none, UnsafeError when a file may be read by others, InputError for a mistake.
    """
    environ = os.environ if environ is None else environ
    if name is None and environ.get("PVE_HOST"):
        return _from_environment(environ)
    found = [(path, document) for path in files(environ) if (document := _document(path)) is not None]
    for path, document in found:
        known = document.value["profiles"]
        wanted = name or document.value.get("default") or (next(iter(known)) if len(known) == 1 else None)
        if wanted is None:
            raise InputError(
                f"{path} has {listed(known)} and no default, so it is not known which is meant",
                "name a profile, or add `default: NAME`",
            )
        if wanted in known:
            return _profile(path, wanted, known[wanted], document)
        if name is None:
            line = document.line(["default"])
            raise InputError(
                f"{path}:{line}: default is {shown(wanted)}, which is no profile of it", _known(wanted, known)
            )
    if name is not None:
        raise NotFoundError(
            f"there is no profile {shown(name)} in {' or '.join(files(environ))}",
            _known(name, [known for _, document in found for known in document.value["profiles"]]),
        )
    if os.geteuid() == 0 and os.path.isdir(NODES):
        return Profile("this node", local=True)
    raise NotFoundError(
        f"nothing says where the PVE API is: {' and '.join(files(environ))} are absent, and so is PVE_HOST",
        "write a profile with hosts, user, and a token or password (mode 0600), or set PVE_HOST, PVE_USER, "
        "PVE_TOKEN_NAME and PVE_TOKEN_VALUE, or PVE_PASSWORD_FILE",
    )


def files(environ: Mapping[str, str]) -> list[str]:
    """The paths of the files, the user's first."""
    home = environ.get("HOME")
    return [*([os.path.join(home, USER_FILE)] if home else []), SYSTEM_FILE]


def _known(wanted: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = nearest(wanted, known)
    if near:
        return f"is {near} meant?"
    return f"there are {listed(known)}" if known else "there is none at all"


# ---- one profile


def _from_environment(environ: Mapping[str, str]) -> Profile:
    said: dict[str, Any] = {"hosts": [host.strip() for host in environ["PVE_HOST"].split(",") if host.strip()]}
    for variable, key in ENVIRONMENT.items():
        text = environ.get(variable)
        if text:
            plain = number(text) if key in NUMBERS else None
            said[key] = text if plain is None else plain
    variables = {key: variable for variable, key in ENVIRONMENT.items()}
    for slip in profile_file.slips_of_profile(said):
        key = variables.get(str(slip.path[0]), "PVE_HOST") if slip.path else "PVE_HOST"
        raise InputError(f"{key} of the environment {slip.message}", slip.hint)
    try:
        return _built("the environment", os.getcwd(), said, "the environment")
    except InputError as error:  # it names keys of a file
        raise InputError(_as_variables(error.message), _as_variables(error.hint)) from None


def _as_variables(text: str) -> str:
    """A message with variables of the environment in the place of a profile's keys."""
    variables = {key: name for name, key in ENVIRONMENT.items() if "_" in key} | {"hosts": "PVE_HOST"}
    return re.sub(rf"\b({'|'.join(variables)})\b", lambda found: variables[found[0]], text)


def _document(path: str) -> profile_file.Checked | None:
    data = _read(path, "the API profiles")
    return None if data is None else profile_file.check(path, data)


def _profile(path: str, name: str, said: dict[str, Any], document: profile_file.Checked) -> Profile:
    where = f"{path}:{document.line(['profiles', name])}: profile {shown(name)}"
    return _built(f"profile {shown(name)} in {path}", os.path.dirname(path), said, where)


def _built(source: str, folder: str, said: dict[str, Any], where: str) -> Profile:
    """The profile that these keys, which keep to the schema, make; `where` is for messages."""
    if said.get("local"):
        more = sorted(set(said) - {"local", "timeout"})
        if more:
            raise InputError(f"{where} is local and has {listed(more)} too", "leave out one or the other")
        return Profile(source, timeout=float(said.get("timeout", TIMEOUT)), local=True)
    for key, use in (("hosts", "such as [pve1.example.org]"), ("user", "with its realm, such as root@pam")):
        if not said.get(key):
            raise InputError(f"{where} has no {key}", f"add it, {use}")
    token = _secret(said, "token_value", "token_file", folder, where)
    password = _secret(said, "password", "password_file", folder, where)
    if token is None and password is None:
        raise InputError(f"{where} has no secret", "add token_name and token_value, or a password")
    if token is not None and password is not None:
        raise InputError(f"{where} has a token and a password", "leave one of them: a token can do less")
    if (token is None) is not (said.get("token_name") is None):
        missing = "token_value" if token is None else "token_name"
        raise InputError(f"{where} has no {missing}", "a token has a name and a value")
    if token is not None and not SECRET.fullmatch(token.reveal()):
        raise InputError(f"{where} has a token_value that can be none", "it has no blanks and only ASCII characters")
    ca_file = said.get("ca_file")
    if ca_file is not None:
        ca_file = _path(ca_file, folder)
        _need_certificates(ca_file, where)
    return Profile(
        source,
        endpoints=tuple(_endpoint(host, said, where) for host in said["hosts"]),
        user=said["user"],
        token_name=said.get("token_name"),
        token_value=token,
        password=password,
        otp=Secret(said["otp"]) if said.get("otp") else None,
        ca_file=ca_file,
        timeout=float(said.get("timeout", TIMEOUT)),
        retries=said.get("retries", RETRIES),
    )


def _endpoint(said: str | dict[str, Any], profile: dict[str, Any], where: str) -> Endpoint:
    here = {"host": said} if isinstance(said, str) else said
    text = here["host"]
    host, port = _split(text)
    if host is None or ("port" in here and port is not None):
        raise InputError(
            f"{where} has the host {shown(text)}, which is none",
            "write a name or an IP address, with :PORT if need be, and without https://",
        )
    fingerprint = here.get("fingerprint") or profile.get("fingerprint")
    return Endpoint(
        host,
        port or int(here.get("port") or profile.get("port") or PORT),
        fingerprint.replace(":", "").lower() if fingerprint else None,
    )


def _split(text: str) -> tuple[str | None, int | None]:
    """The host and port of `host`, `host:port`, `[address]`, `[address]:port` or an address; (None, None) if none."""
    found = HOST.fullmatch(text)
    if found is None:
        return None, None
    address = found["address"] or found["bare"]
    if address:
        try:
            host = str(ipaddress.IPv6Address(address))
        except ValueError:
            return None, None
    else:
        host = found["name"] if HOST_NAME.fullmatch(found["name"]) else ""
    port = int(found["port"] or found["its_port"] or PORT)
    if not 0 < len(host) <= 253 or not 0 < port < 65536:
        return None, None
    return host, port if found["port"] or found["its_port"] else None


# ---- files


def _secret(said: dict[str, Any], key: str, file_key: str, folder: str, where: str) -> Secret | None:
    if said.get(key) and said.get(file_key):
        raise InputError(f"{where} has {key} and {file_key}", "leave one of them")
    if said.get(key):
        return Secret(said[key])
    if not said.get(file_key):
        return None
    path = _path(said[file_key], folder)
    data = _read(path, f"the {file_key} of {where}")
    if data is None:
        name = f" {path}" if "/" in said[file_key] else ""  # a word alone may be the secret itself
        raise InputError(f"{where} has a {file_key} that is not there{name}", "make that file, with mode 0600")
    try:
        text = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        text = ""
    if not text or "\n" in text:
        raise InputError(f"{path} does not hold one line of text", "write the secret into it, and nothing else")
    return Secret(text)


def _path(path: str, folder: str) -> str:
    return os.path.join(folder, os.path.expanduser(path))


def _read(path: str, what: str) -> bytes | None:
    """The bytes of a file that holds secrets; None if it is absent. Raises UnsafeError and InputError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {what} ({path}): {error.strerror}", "see whose file it is") from error
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise InputError(f"cannot read {what} ({path}): it is no plain file", "make it a file")
        mode = stat.S_IMODE(info.st_mode)
        foreign = info.st_uid not in {0, os.geteuid()}
        if foreign or mode & 0o177:
            way = f"run this as that user (sudo keeps HOME on some systems), or chown it: {path}" if foreign else ""
            raise UnsafeError(
                f"{path} (user {info.st_uid}, mode {mode:04o}) is not its reader's or root's alone, so it is "
                f"refused ({what})",
                way or f"chmod 600 {path}; if others could read it, make new secrets",
            )
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {what} ({path}): {error.strerror}", "see whether its disk works") from error
    finally:
        os.close(handle)
    if len(data) > MAX_BYTES:
        raise InputError(f"cannot read {what} ({path}): it is larger than 1 MiB", "is it the right file?")
    return data


def _need_certificates(path: str, where: str) -> None:
    """Raise InputError when a file holds no certificates."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise InputError(f"{where} has the ca_file {path}, which holds no certificate in PEM form") from error
    except OSError as error:
        raise InputError(f"{where} has the ca_file {path}, which cannot be read: {error.strerror}") from error
