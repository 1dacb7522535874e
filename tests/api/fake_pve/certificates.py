# SPDX-License-Identifier: Apache-2.0
"""Real certificates, made by the openssl program once per run: a CA as a PVE cluster has it, and what it signs."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import ssl
import subprocess
import tempfile
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["good", "name", "stranger", "expired"]
"""What is wrong with a certificate: nothing; it is another host's; an unknown CA signed it; its time is over."""

_FOLDER = tempfile.TemporaryDirectory(prefix="fake-pve-")  # it goes when the interpreter ends


class Certificate(NamedTuple):
    """A certificate with its key, both files."""

    file: str
    key: str

    @property
    def fingerprint(self) -> str:
        """Its SHA-256, as PVE writes it: pairs of upper-case hex digits with colons."""
        with open(self.file, encoding="ascii") as file:
            digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(file.read())).hexdigest().upper()
        return ":".join(digest[place : place + 2] for place in range(0, len(digest), 2))


def _openssl(*arguments: str) -> None:
    if shutil.which("openssl") is None:
        raise RuntimeError("the fake PVE makes its certificates with openssl: install the Debian package openssl")
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _past() -> tuple[str, ...]:
    """The options for a certificate that has expired; from OpenSSL 3.4 on it takes dates, and no negative days."""
    if ssl.OPENSSL_VERSION_INFO >= (3, 4):
        return "-not_before", "20200101000000Z", "-not_after", "20200102000000Z"
    return "-days", "-1"


@functools.cache
def authority(name: str = "PVE Cluster Manager CA") -> Certificate:
    """A CA."""
    made = _files(f"ca-{len(os.listdir(_FOLDER.name))}")
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"),
        *("-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        *("-keyout", made.key, "-out", made.file),
    )
    return made


@functools.cache
def server(node: str, kind: Kind = "good") -> Certificate:
    """The certificate of a node, good for 127.0.0.1, localhost and its name, or wrong in one way."""
    made = _files(f"{node}-{kind}")
    signer = authority("Another CA") if kind == "stranger" else authority()
    names = "DNS:elsewhere.example" if kind == "name" else f"IP:127.0.0.1,DNS:localhost,DNS:{node}"
    request, settings = f"{made.file}.csr", f"{made.file}.ext"
    with open(settings, "w", encoding="ascii") as file:
        file.write(
            f"subjectAltName={names}\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
            "extendedKeyUsage=serverAuth\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
    _openssl(
        *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={node}"),
        *("-keyout", made.key, "-out", request),
    )
    _openssl(
        *("x509", "-req", "-in", request, "-CA", signer.file, "-CAkey", signer.key, "-CAcreateserial"),
        *(_past() if kind == "expired" else ("-days", "7")),
        *("-extfile", settings, "-out", made.file),
    )
    return made


def _files(name: str) -> Certificate:
    return Certificate(os.path.join(_FOLDER.name, f"{name}.pem"), os.path.join(_FOLDER.name, f"{name}.key"))
