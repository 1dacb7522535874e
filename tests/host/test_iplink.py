# SPDX-License-Identifier: Apache-2.0
"""Network settings of VFs through a program that stands for ip, and stable MACs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvepassthru.host import iplink
from pvepassthru.host.host import Host
from pvepassthru.model.errors import DeviceError, InputError
from pvepassthru.model.policy import VfSettings
from tests.host.ip_recorder import MAC, NET, Ip

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = "0123456789abcdef0123456789abcdef"
ALL = VfSettings(
    mac="02:00:00:00:00:07",
    vlan=100,
    qos=3,
    spoofchk=False,
    trust=True,
    state="enable",
    max_tx_rate=900,
    min_tx_rate=10,
)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    folder = tmp_path / "root/sys/class/net" / NET
    folder.mkdir(parents=True)
    (folder / "addr_assign_type").write_text("0\n")
    (tmp_path / "root/etc").mkdir()
    (tmp_path / "root/etc/machine-id").write_text(MACHINE + "\n")
    return Host(str(tmp_path / "root"))


@pytest.fixture
def ip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ip:
    made = Ip(tmp_path, monkeypatch)
    made.vfs(4)
    return made


def test_what_is_shown(host: Host, ip: Ip) -> None:
    link = iplink.show(host, NET)
    assert (link.permanent, sorted(link.vfs)) == (MAC, [0, 1, 2, 3])
    assert link.vfs[3] == VfSettings(
        mac=iplink.NO_MAC, vlan=0, qos=0, spoofchk=True, trust=False, state="auto", max_tx_rate=0, min_tx_rate=0
    )
    assert ip.sets() == []


def test_only_what_differs_is_set(host: Host, ip: Ip) -> None:
    present = iplink.show(host, NET).vfs[2]
    said = iplink.set_vf(host, NET, 2, ALL, present)
    assert said == [
        *("mac 02:00:00:00:00:07", "vlan 100", "qos 3", "spoofchk off", "trust on", "state enable"),
        *("max_tx_rate 900", "min_tx_rate 10"),
    ]
    begin = f"link set dev {NET} vf 2"
    assert ip.sets() == [
        f"{begin} mac 02:00:00:00:00:07",
        f"{begin} vlan 100 qos 3",
        f"{begin} spoofchk off",
        f"{begin} trust on",
        f"{begin} state enable",
        f"{begin} max_tx_rate 900 min_tx_rate 10",
    ]
    assert iplink.show(host, NET).vfs[2] == ALL
    assert iplink.set_vf(host, NET, 2, ALL, ALL) == []
    assert ip.sets() == []
    assert iplink.set_vf(host, NET, 2, VfSettings(qos=5), ALL) == ["qos 5"]
    assert ip.sets() == [f"{begin} vlan 100 qos 5"]
    assert iplink.show(host, NET).vfs[2] == ALL._replace(qos=5)
    assert iplink.show(host, NET).vfs[1].vlan == 0


def test_a_refusal_says_what_was_refused(host: Host, ip: Ip) -> None:
    ip.vfs(1, refuse="trust")
    with pytest.raises(DeviceError, match=r"vf 0 trust on failed: RTNETLINK answers: Operation not supported"):
        iplink.set_vf(host, NET, 0, ALL, iplink.show(host, NET).vfs[0])


def test_what_is_taken_and_not_kept_is_an_error(host: Host, ip: Ip) -> None:
    ip.vfs(1, forget="spoofchk")
    with pytest.raises(DeviceError, match=f"cannot set spoofchk of VF 0 of {NET} to off: ip took it, but it reads on"):
        iplink.set_vf(host, NET, 0, VfSettings(spoofchk=False), iplink.show(host, NET).vfs[0])


@pytest.mark.usefixtures("ip")
def test_an_interface_that_is_absent(host: Host) -> None:
    with pytest.raises(DeviceError, match="Cannot find device"):
        iplink.show(host, "eth9")


def test_no_program_of_another_tree_is_run(host: Host) -> None:
    with pytest.raises(DeviceError, match="programs of another tree are not run"):
        iplink.show(host, NET)


def test_older_json() -> None:
    entry = {"vf": 0, "mac": "x", "vlan": 5, "qos": 2, "spoofchk": "on", "trust": "off"}
    assert iplink.parse(entry) == VfSettings(vlan=5, qos=2, spoofchk=True, trust=False)
    assert iplink.parse({"vf": 0}) == VfSettings(vlan=0, qos=0)


@pytest.mark.parametrize(
    "kind,permaddr,expected",
    [("0", None, MAC), ("3", None, MAC), ("3", "00:1B:21:aa:bb:cc", "00:1b:21:aa:bb:cc"), ("1", None, None)],
)
def test_permanent_mac(
    host: Host, monkeypatch: pytest.MonkeyPatch, kind: str, permaddr: str | None, expected: str | None
) -> None:
    with open(host.path(f"/sys/class/net/{NET}/addr_assign_type"), "w", encoding="ascii") as file:
        file.write(kind)
    more = f', "permaddr": "{permaddr}"' if permaddr else ""
    monkeypatch.setattr(iplink, "_ip", lambda *_: f'[{{"address": "{MAC}"{more}}}]')
    assert iplink.show(host, NET) == (expected, {})


# ---- stable MACs


def test_stable_macs_are_unicast_local_and_all_different() -> None:
    macs = {
        iplink.derive(f"{machine:032x}", f"00:1b:21:00:00:{pf:02x}", index)
        for machine in range(10)
        for pf in range(16)
        for index in range(64)
    }
    assert len(macs) == 10 * 16 * 64 > 10_000
    assert {int(mac[:2], 16) & 3 for mac in macs} == {2}
    assert all(iplink.check_mac(mac) == mac for mac in macs)


def test_a_stable_mac_never_changes(host: Host) -> None:
    """Guests know their card by it: another formula would be another card."""
    assert iplink.stable_mac(host, "0000:03:00.0", MAC, 0) == iplink.derive(MACHINE, MAC, 0) == "82:04:3c:47:c9:cb"
    assert (
        iplink.stable_mac(host, "0000:03:00.0", None, 5)
        == iplink.derive(MACHINE, "0000:03:00.0", 5)
        == "2a:4d:c0:52:ef:43"
    )


@pytest.mark.parametrize("text", ["", "uninitialized", MACHINE[:-1], MACHINE.replace("0", "g")])
def test_no_machine_id(host: Host, text: str) -> None:
    with open(host.path(iplink.MACHINE_ID), "w", encoding="ascii") as file:
        file.write(text)
    with pytest.raises(InputError, match="cannot derive stable MACs"):
        iplink.stable_mac(host, "0000:03:00.0", None, 0)


@pytest.mark.parametrize(
    "mac,words",
    [
        ("00:00:00:00:00:00", "no MAC that a VF can have"),
        ("01:00:5e:00:00:01", "multicast"),
        ("ff:ff:ff:ff:ff:ff", "multicast"),
        ("02:00:00:00:00", "no MAC address"),
        ("02:00:00:00:00:0g", "no MAC address"),
        ("02-00-00-00-00-01", "no MAC address"),
    ],
)
def test_macs_that_cannot_be(mac: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        iplink.check_mac(mac)
    assert iplink.check_mac("0A:00:00:00:00:01") == "0a:00:00:00:00:01"
