# SPDX-License-Identifier: Apache-2.0
"""Profiles: which one counts, what is refused, and that no secret shows."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import string
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvepassthru.api import profile as profile_module
from pvepassthru.api import profile_file
from pvepassthru.api.profile import ENVIRONMENT, Endpoint, load
from pvepassthru.api.secret import Secret, without
from pvepassthru.model.errors import InputError, NotFoundError, PassthruError, UnsafeError
from tests.api.https import assert_no_secret, certificate, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[..., Path]

TOKEN = "7c0e1f6e-0000-4000-8000-5ec4e7000001"  # noqa: S105 - a test's
PRINT = "AB:" * 31 + "CD"
LAB = f"""\
profiles:
  lab:
    hosts: [pve1.example.org]
    user: auto@pve
    token_name: cfg
    token_value: {TOKEN}
"""


@pytest.fixture(autouse=True)
def system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of /etc, elsewhere; this host is no node of PVE."""
    monkeypatch.setattr(profile_module, "SYSTEM_FILE", str(tmp_path / "etc.yaml"))
    monkeypatch.setattr(profile_module, "NODES", str(tmp_path / "nodes"))
    return tmp_path / "etc.yaml"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment with a home folder."""
    (tmp_path / "home/.config/pvepassthru").mkdir(parents=True)
    return {"HOME": str(tmp_path / "home")}


@pytest.fixture
def user_file(home: dict[str, str]) -> Write:
    """Writes the user's file."""

    def write(text: str, mode: int = 0o600) -> Path:
        return private(home_path(home), text, mode)

    return write


def home_path(home: dict[str, str]) -> Path:
    from pathlib import Path  # noqa: PLC0415 - only for types elsewhere

    return Path(home["HOME"]) / ".config/pvepassthru/api.yaml"


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def profile_with(lines: str) -> str:
    return LAB + "".join(f"    {line}\n" for line in lines.splitlines())


# ---- which one


def test_profile_of_a_file(home: dict[str, str], user_file: Write) -> None:
    path = user_file(LAB)
    found = load(environ=home)
    assert found.source == f"profile lab in {path}"
    assert found.endpoints == (Endpoint("pve1.example.org", 8006, None),)
    assert (found.user, found.token_name, found.token_value) == ("auto@pve", "cfg", Secret(TOKEN))
    assert (found.password, found.otp, found.ca_file) == (None, None, None)
    assert (found.timeout, found.retries, found.local) == (30.0, 2, False)


def test_everything_that_a_profile_can_say(home: dict[str, str], user_file: Write, tmp_path: Path) -> None:
    ca = certificate(tmp_path, "ca").file
    user_file(
        f"""\
profiles:
  lab:
    hosts:
      - pve1.example.org:443
      - host: 2001:db8::1
        port: 8443
        fingerprint: {"ab" * 32}
      - "[2001:db8::2]:1234"
    port: 9006
    user: root@pam
    password: "12345678"
    otp: "123456"
    ca_file: {ca}
    fingerprint: {PRINT}
    timeout: 2.5
    retries: 0
"""
    )
    found = load("lab", home)
    pin = "ab" * 31 + "cd"
    assert found.endpoints == (
        Endpoint("pve1.example.org", 443, pin),
        Endpoint("2001:db8::1", 8443, "ab" * 32),
        Endpoint("2001:db8::2", 1234, pin),
    )
    assert [str(endpoint) for endpoint in found.endpoints][1:] == ["[2001:db8::1]:8443", "[2001:db8::2]:1234"]
    assert (found.password, found.otp) == (Secret("12345678"), Secret("123456"))
    assert (found.ca_file, found.timeout, found.retries) == (ca, 2.5, 0)


def test_users_file_goes_first(home: dict[str, str], user_file: Write, system_file: Path) -> None:
    user_file(LAB)
    private(system_file, LAB.replace("pve1", "pve9") + LAB.partition("\n")[2].replace("lab", "other"))
    assert load("lab", home).endpoints[0].host == "pve1.example.org"
    assert load("other", home).endpoints[0].host == "pve1.example.org"
    assert load("other", home).source.endswith("etc.yaml")
    assert load(environ=home).source.startswith("profile lab")


def test_default_of_a_file(home: dict[str, str], user_file: Write) -> None:
    two = LAB + LAB.partition("\n")[2].replace("lab", "other").replace("pve1", "pve2")
    user_file(f"default: other\n{two}")
    assert load(environ=home).endpoints[0].host == "pve2.example.org"
    user_file(two)
    with pytest.raises(InputError, match="has lab, other and no default"):
        load(environ=home)
    path = user_file(f"{two}default: othr\n")
    with pytest.raises(InputError, match=rf"{path}:12: default is othr, .*is other meant"):
        load(environ=home)


def test_environment_goes_first(home: dict[str, str], user_file: Write) -> None:
    user_file(LAB)
    said = {"PVE_HOST": "a.example, b.example:8007", "PVE_USER": "root@pam", "PVE_PASSWORD": "secret-1"}
    said |= {"PVE_PORT": "443", "PVE_OTP": "123456", "PVE_FINGERPRINT": PRINT, "PVE_TIMEOUT": "7", "PVE_RETRIES": "0"}
    found = load(environ={**home, **said})
    pin = PRINT.replace(":", "").lower()
    assert found.endpoints == (Endpoint("a.example", 443, pin), Endpoint("b.example", 8007, pin))
    assert (found.user, found.password, found.otp) == ("root@pam", Secret("secret-1"), Secret("123456"))
    assert (found.source, found.timeout, found.retries) == ("the environment", 7.0, 0)
    assert load("lab", {**home, **said}).user == "auto@pve"


def test_token_of_the_environment(home: dict[str, str]) -> None:
    said = {"PVE_HOST": "a", "PVE_USER": "u@pve", "PVE_TOKEN_NAME": "t", "PVE_TOKEN_VALUE": TOKEN}
    found = load(environ={**home, **said})
    assert (found.token_name, found.token_value) == ("t", Secret(TOKEN))


def test_root_on_a_node_needs_nothing(home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nodes").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load(environ=home).local
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotFoundError, match="nothing says where the PVE API is"):
        load(environ=home)


def test_local_profile(home: dict[str, str], user_file: Write) -> None:
    user_file("profiles: {node: {local: true, timeout: 5}}")
    assert (load(environ=home).local, load(environ=home).timeout) == (True, 5.0)
    user_file("profiles: {node: {local: true, hosts: [a]}}")
    with pytest.raises(InputError, match="is local and has hosts too"):
        load(environ=home)


@pytest.mark.parametrize("name, hint", [("lap", "is lab meant?"), ("something", "there are lab")])
def test_profile_that_is_not_there(home: dict[str, str], user_file: Write, name: str, hint: str) -> None:
    user_file(LAB)
    with pytest.raises(NotFoundError) as caught:
        load(name, home)
    assert hint in caught.value.hint


def test_nothing_at_all(home: dict[str, str]) -> None:
    with pytest.raises(NotFoundError, match="PVE_HOST"):
        load(environ=home)
    with pytest.raises(NotFoundError, match="there is none at all"):
        load("lab", home)
    with pytest.raises(NotFoundError):
        load(environ={})


# ---- files that are refused


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o700, 0o660, 0o644])
def test_file_that_others_can_use(home: dict[str, str], user_file: Write, mode: int) -> None:
    path = user_file(LAB, mode)
    with pytest.raises(UnsafeError, match=f"mode {mode:04o}") as caught:
        load(environ=home)
    assert f"chmod 600 {path}" in caught.value.hint
    user_file(LAB, 0o400)
    assert load(environ=home).user == "auto@pve"


def test_file_of_somebody_else(home: dict[str, str], user_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = user_file(LAB)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(UnsafeError, match="is not its reader's or root's alone") as caught:
        load(environ=home)
    assert "run this as that user" in caught.value.hint


def test_roots_file_is_trusted_by_others(
    home: dict[str, str], user_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_file(LAB)
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert load(environ=home).user == "auto@pve"


def test_file_that_is_none(home: dict[str, str]) -> None:
    home_path(home).mkdir()
    with pytest.raises(InputError, match="no plain file"):
        load(environ=home)
    home_path(home).rmdir()
    os.mkfifo(home_path(home), 0o600)
    with pytest.raises(InputError, match="no plain file"):
        load(environ=home)


def test_file_that_is_too_large(home: dict[str, str], user_file: Write) -> None:
    user_file(LAB + "#" * profile_module.MAX_BYTES)
    with pytest.raises(InputError, match="larger than 1 MiB"):
        load(environ=home)


# ---- files that hold a secret


@pytest.mark.parametrize("where", ["token.txt", "{folder}/token.txt"])
def test_token_in_a_file(home: dict[str, str], user_file: Write, where: str) -> None:
    folder = home_path(home).parent
    private(folder / "token.txt", f"{TOKEN}\n")
    user_file(LAB.replace(f"token_value: {TOKEN}", f"token_file: {where.format(folder=folder)}"))
    assert load(environ=home).token_value == Secret(TOKEN)


def test_secret_file_is_checked_as_the_profile(home: dict[str, str], user_file: Write) -> None:
    folder = home_path(home).parent
    user_file(LAB.replace(f"token_value: {TOKEN}", "token_file: ./token.txt"))
    with pytest.raises(InputError, match=r"has a token_file that is not there .*/token\.txt"):
        load(environ=home)
    path = private(folder / "token.txt", TOKEN, 0o644)
    with pytest.raises(UnsafeError, match=r"token\.txt .*mode 0644"):
        load(environ=home)
    for wrong in ("", "\n", "a\nb\n"):
        private(path, wrong)
        with pytest.raises(InputError, match="does not hold one line"):
            load(environ=home)
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="does not hold one line"):
        load(environ=home)


def test_secret_in_place_of_its_file(home: dict[str, str], user_file: Write) -> None:
    user_file(LAB.replace(f"token_value: {TOKEN}", f"token_file: {TOKEN}"))
    with pytest.raises(InputError) as caught:
        load(environ=home)
    assert_no_secret(told(caught.value))


# ---- mistakes


MISTAKES = [
    (profile_with("pasword: x"), "7: profiles.lab has an unknown key pasword; is password meant?"),
    (profile_with("verify: false"), "7: profiles.lab has an unknown key verify; known are hosts"),
    (
        LAB.replace("user: auto@pve", "user: auto"),
        "4: profiles.lab.user has no @; use a user with its realm",
    ),
    (LAB.replace("token_name: cfg", f"token_name: auto@pve!cfg={TOKEN}"), "5: profiles.lab.token_name is not"),
    (LAB.replace(TOKEN, "12345678"), "6: profiles.lab.token_value must be text, so put it in quotes"),
    (LAB.replace(TOKEN, "[a]"), "6: profiles.lab.token_value must be text"),
    (LAB.replace("[pve1.example.org]", "pve1.example.org"), "3: profiles.lab.hosts must be a list"),
    (LAB.replace("[pve1.example.org]", "[]"), "3: profiles.lab.hosts is empty"),
    (LAB.replace("[pve1.example.org]", "[{port: 1}]"), "3: profiles.lab.hosts entry 1 has no host"),
    (
        LAB.replace("[pve1.example.org]", "[{host: a, prot: 1}]"),
        "3: profiles.lab.hosts entry 1 has an unknown key prot; is port",
    ),
    (
        LAB.replace("[pve1.example.org]", "[{host: a, port: 0}]"),
        "3: profiles.lab.hosts entry 1.port is 0; use a number",
    ),
    (LAB.replace("[pve1.example.org]", "[7]"), "3: profiles.lab.hosts entry 1 must be text, so put it in quotes"),
    (profile_with("fingerprint: AB:CD"), "7: profiles.lab.fingerprint is AB:CD; use the SHA-256 fingerprint"),
    (profile_with("timeout: 0"), "7: profiles.lab.timeout is 0; use seconds from 1"),
    (profile_with("timeout: forever"), "7: profiles.lab.timeout must be a number"),
    (profile_with("retries: 1.5"), "7: profiles.lab.retries must be a whole number"),
    (profile_with("local: 1"), "7: profiles.lab.local must be true or false"),
    (profile_with("user: b@pve"), "7 is not valid YAML: user is there twice"),
    ("profiles: {}", "1: profiles is empty"),
    ("", "1: the file must be a mapping"),
    ("default: a", "1: the file has no profiles; add it: names"),
    ("profiles: [a]", "1: profiles must be a mapping"),
    ("profile: {}\nprofiles: {a: {}}", "1: the file has an unknown key profile; is profiles meant?"),
    (
        LAB.replace("pve1.example.org", "https://pve1:8006"),
        "2: profile lab has the host https://pve1:8006, which is none",
    ),
    (LAB.replace("    user: auto@pve\n", ""), "2: profile lab has no user"),
    (LAB.replace("    hosts: [pve1.example.org]\n", ""), "2: profile lab has no hosts"),
    (LAB.replace("    token_name: cfg\n", ""), "2: profile lab has no token_name"),
    (LAB.replace(f"    token_value: {TOKEN}\n", ""), "2: profile lab has no secret"),
    (LAB.replace(f"token_value: {TOKEN}", 'password: "x"'), "2: profile lab has no token_value"),
    (profile_with(f"password: {TOKEN}"), "2: profile lab has a token and a password"),
    (profile_with(f"token_file: {TOKEN}"), "2: profile lab has token_value and token_file"),
    (LAB.replace(TOKEN, f'"{TOKEN} x"'), "2: profile lab has a token_value that can be none"),
    (LAB.replace(TOKEN, f'"{TOKEN}\\r\\nX: y"'), "2: profile lab has a token_value that can be none"),
    (
        profile_with("ca_file: /nonexistent/ca.pem"),
        "2: profile lab has the ca_file /nonexistent/ca.pem, which cannot be read",
    ),
    (profile_with("ca_file: api.yaml"), "which holds no certificate in PEM form"),
]


@pytest.mark.parametrize(
    "text, words", MISTAKES, ids=[f"{number} {words[:40]}" for number, (_, words) in enumerate(MISTAKES)]
)
def test_mistake(home: dict[str, str], user_file: Write, text: str, words: str) -> None:
    path = user_file(text)
    with pytest.raises(InputError) as caught:
        load(environ=home)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert_no_secret(told(caught.value))


@pytest.mark.parametrize(
    "text",
    [
        f"*{TOKEN}",
        f"!{TOKEN} x",
        f"&a *{TOKEN}",
        f"!!int {TOKEN}",
        f'"{TOKEN}',
        f"@{TOKEN}",
        f"%{TOKEN}",
        f"x: {TOKEN}",
        f"[{TOKEN}",
        f"{{{TOKEN}: 1, {TOKEN}: 2}}",
        f"'{TOKEN}' x",
        f'"\\q{TOKEN}"',
    ],
    ids=[f"slip {number}" for number in range(12)],
)
def test_broken_yaml_shows_no_secret(home: dict[str, str], user_file: Write, text: str) -> None:
    user_file(LAB.replace(TOKEN, text))
    with pytest.raises(InputError) as caught:
        load(environ=home)
    assert_no_secret(told(caught.value))


def test_key_without_its_blank_shows_no_secret(home: dict[str, str], user_file: Write) -> None:
    user_file(f"profiles: {{lab: {{hosts: [a], user: a@pve, token_value:{TOKEN}}}}}")
    with pytest.raises(InputError, match=r"has an unknown key token_value\.\.\.; ") as caught:
        load(environ=home)
    assert_no_secret(told(caught.value))


@pytest.mark.parametrize(
    "said, words",
    [
        ({"PVE_USER": "root"}, "PVE_USER of the environment has no @; use a user with its realm"),
        ({"PVE_TIMEOUT": "soon"}, "PVE_TIMEOUT of the environment must be a number"),
        ({"PVE_PORT": "0"}, "PVE_PORT of the environment is 0"),
        ({"PVE_HOST": ","}, "PVE_HOST of the environment is empty"),
        ({"PVE_HOST": "a b"}, "the environment has the host a b, which is none"),
        ({"PVE_TOKEN_VALUE": ""}, "the environment has no secret; add PVE_TOKEN_NAME and PVE_TOKEN_VALUE"),
        ({"PVE_PASSWORD": "x"}, "the environment has a token and a password"),
        ({"PVE_TOKEN_NAME": f"a={TOKEN}"}, "PVE_TOKEN_NAME of the environment is not what is allowed"),
    ],
)
def test_mistake_in_the_environment(said: dict[str, str], words: str) -> None:
    good = {"PVE_HOST": "a", "PVE_USER": "u@pve", "PVE_TOKEN_NAME": "t", "PVE_TOKEN_VALUE": TOKEN}
    with pytest.raises(InputError) as caught:
        load(environ={**good, **said})
    assert words in str(caught.value)
    assert_no_secret(told(caught.value))


@pytest.mark.parametrize(
    "text, found",
    [
        ("pve1", ("pve1", 8006)),
        ("pve1.", ("pve1.", 8006)),
        ("192.0.2.1:443", ("192.0.2.1", 443)),
        ("::1", ("::1", 8006)),
        ("[::1]", ("::1", 8006)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_host(text: str, found: tuple[str, int]) -> None:
    said = {"PVE_HOST": text, "PVE_USER": "u@pve", "PVE_PASSWORD": "x"}
    assert load(environ=said).endpoints[0][:2] == found


@given(st.text(alphabet=string.ascii_letters + string.digits + ".:[]-/@ \n%é", max_size=20))
def test_any_host_makes_a_url_of_one_host_or_none(text: str) -> None:
    said = {"PVE_HOST": text, "PVE_USER": "u@pve", "PVE_PASSWORD": "x"}
    try:
        endpoints = load(environ=said).endpoints if text else ()
    except PassthruError:
        return
    for endpoint in endpoints:
        assert not set(str(endpoint)) & set("/@ \n%é")
        assert 0 < endpoint.port < 65536


# ---- secrets


def test_secret_does_not_show() -> None:
    secret = Secret(TOKEN)
    profile = load(environ={"PVE_HOST": "a", "PVE_USER": "u@pve", "PVE_TOKEN_NAME": "t", "PVE_TOKEN_VALUE": TOKEN})
    shown = [repr(secret), str(secret), f"{secret} {secret!r} {secret:>9}", repr(profile), str(profile)]
    shown += [str(dataclasses.asdict(profile)), str(copy.deepcopy(profile)), str(vars(profile))]
    for text in shown:
        assert_no_secret(text)
    with pytest.raises(TypeError):
        pickle.dumps(profile)
    assert secret.reveal() == TOKEN
    assert secret == Secret(TOKEN) != Secret("x")
    assert len({secret, Secret(TOKEN)}) == 1
    assert copy.copy(secret) == secret


def test_texts_without_secrets() -> None:
    assert without(f"a {TOKEN} b {TOKEN}", [Secret(TOKEN), Secret("a"), Secret("")]) == "a *** b ***"


def test_every_variable_is_a_key_of_the_schema() -> None:
    properties = profile_file._schema()["definitions"]["profile"]["properties"]
    assert set(ENVIRONMENT.values()) == set(properties) - {"hosts", "local"}
