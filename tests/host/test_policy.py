# SPDX-License-Identifier: Apache-2.0
"""Policy files: root's alone, the node's wins over the cluster's, a VM's over the defaults."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvepassthru.host import policy
from pvepassthru.host.host import Host
from pvepassthru.model.errors import InputError, UnsafeError
from pvepassthru.model.pci import with_domain

if TYPE_CHECKING:
    from pathlib import Path

CLUSTER, NODE = policy.FILES


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "etc" / "pve").mkdir(parents=True)
    return Host(str(tmp_path))


def put(host: Host, path: str, text: str, mode: int = 0o640) -> None:
    with open(host.path(path), "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(host.path(path), mode)


def test_without_files_the_gate_is_enforced(host: Host) -> None:
    assert policy.of(host, 100) == ("enforce", 0)


@pytest.mark.parametrize(
    "cluster,node,expected",
    [
        ("defaults: {gate: warn}", "", "warn"),
        ("defaults: {gate: warn}", "defaults: {gate: off}", "off"),
        ("vms: {100: {gate: warn}}", "defaults: {gate: off}", "warn"),
        ("vms: {100: {gate: warn}}", "vms: {100: {gate: enforce}}", "enforce"),
        ("vms: {'100': {gate: warn}}", "", "warn"),
        ("vms: {101: {gate: warn}}", "", "enforce"),
        ("", "", "enforce"),
    ],
)
def test_who_wins(host: Host, cluster: str, node: str, expected: str) -> None:
    put(host, CLUSTER, cluster)
    put(host, NODE, node)
    assert policy.of(host, 100).gate == expected


def test_each_setting_by_itself(host: Host) -> None:
    put(host, CLUSTER, "defaults: {pre_start_seconds: 90}\nvms: {100: {pre_start_seconds: 300}, 102: }")
    put(host, NODE, "defaults: {gate: warn}")
    assert policy.of(host, 100) == ("warn", 300)
    assert policy.of(host, 101) == ("warn", 90)
    assert policy.of(host, 102) == ("warn", 90)


def test_settings_taken_over_by_yaml(host: Host) -> None:
    put(host, NODE, "defaults: &usual {gate: warn}\nvms: {100: {<<: *usual, pre_start_seconds: 90}}")
    assert policy.of(host, 100) == ("warn", 90)


def test_silence(host: Host) -> None:
    put(host, CLUSTER, "silence:\n- code: PVP310\n  reason: two\n    lines\n- {code: PVP104, vm: 101, reason: b}\n")
    put(host, NODE, "silence: [{code: PVP240, vm: 102, device: 0000:A1:00.3, reason: c}]")
    assert policy.read(host).silence == (
        ("PVP310", None, None, "two lines", CLUSTER),
        ("PVP104", 101, None, "b", CLUSTER),
        ("PVP240", 102, "0000:a1:00.3", "c", NODE),
    )
    put(host, NODE, "silence:")
    assert len(policy.read(host).silence) == 2


@pytest.mark.parametrize("address", ["0000:01:00.0", "01:00.0", "0000:12:34.5", "'0000:01:00.0'", "0000:00:00.0"])
def test_a_pci_address_is_text(host: Host, address: str) -> None:
    """YAML 1.1 would read 0000:01:00.0 as the number 60.0, in base 60."""
    put(host, NODE, f"silence: [{{code: PVP310, device: {address}, reason: x}}]")
    (entry,) = policy.read(host).silence
    assert entry.device == with_domain(address.strip("'"))


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    PLAIN | st.sampled_from(("PVP310", "PVP240", "01:00.0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from((*policy.SILENCE, "x")), inner),
    max_leaves=12,
)


@given(VALUES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_silenced(host: Host, value: object) -> None:
    """It is taken as it is meant, or refused with one sentence."""
    put(host, NODE, f"silence: {json.dumps(value)}\n")
    found: tuple[policy.Silence, ...] = ()
    words = NODE
    try:
        found = policy.read(host).silence
    except InputError as error:
        words = str(error)
    else:
        assert len(found) == (len(value) if isinstance(value, list) else 0)
    assert NODE in words
    assert all(entry.code in {"PVP310", "PVP240"} and entry.reason.strip() for entry in found)


def test_many_vms(host: Host) -> None:
    """A key that is there twice is found without comparing each with each."""
    put(host, NODE, "vms:\n" + "".join(f"  {vmid}: {{gate: warn}}\n" for vmid in range(1000, 3000)))
    assert policy.of(host, 2999).gate == "warn"


@pytest.mark.parametrize("mode", [0o660, 0o602])
def test_file_that_others_can_write_is_refused(host: Host, mode: int) -> None:
    put(host, CLUSTER, "defaults: {gate: off}", mode)
    with pytest.raises(UnsafeError, match=f"mode {mode:04o}.*refused.*chmod go-w {CLUSTER}"):
        policy.of(host, 100)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a file to another user")
def test_file_of_another_user_is_refused(host: Host) -> None:
    put(host, NODE, "defaults: {gate: off}")
    os.chown(host.path(NODE), 12345, 0)
    with pytest.raises(UnsafeError, match="user 12345"):
        policy.of(host, 100)


@pytest.mark.parametrize(
    "text,sentence",
    [
        ("gate: [", "is not valid YAML: line 1: .*expected the node content"),
        ("vms: {}\nsilence:\n- a: b: c", "is not valid YAML: line 3: mapping values are not allowed here"),
        ("- a list", "must be a mapping"),
        ("vms: 7", "vms must be a mapping"),
        ("defaults: {gate: perhaps}", "defaults has the gate 'perhaps'; use one of enforce, warn, off"),
        ("defaults: {gate: [off]}", r"has the gate \[False\]; use one of enforce, warn, off"),
        ("defaults: {pre_start_seconds: 0}", "defaults has pre_start_seconds 0; use a number from 1 to 3600"),
        ("defaults: {pre_start_seconds: 3601}", "has pre_start_seconds 3601; use a number"),
        ("vms: {100: {pre_start_seconds: true}}", "vms.100 has pre_start_seconds True; use a number"),
        ("vms: {100: {pre_start_seconds: 2m}}", "has pre_start_seconds '2m'; use a number"),
        ("a: \x00", "is not valid YAML"),
        ("{" * 5000, "is not valid YAML"),
        ('a: !!int ""', "is not valid YAML"),
        ('a: !!float ""', "is not valid YAML"),
        ("a: !!bool x", "is not valid YAML"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("defualts: {gate: off}", "the file has an unknown key defualts; is defaults meant"),
        ("gates: off", "the file has an unknown key gates; known are defaults, vms"),
        ("defaults: {Gate: off}", "defaults has an unknown key Gate; is gate meant"),
        ("vms: {101: {gat: off}}", "vms.101 has an unknown key gat; is gate meant"),
        ("vms: {1O0: {gate: off}}", "vms has 1O0, which is no VMID"),
        ("vms: {101: {gate: wran}}", "vms.101 has the gate 'wran'"),
        ("vms: {100: {gate: off}, '100': {gate: warn}}", "vms has 100 twice"),
        ("defaults: {gate: off}\nvms: {}\ndefaults: {gate: warn}", "line 3: defaults is there twice"),
        ("vms: {101: off}", "vms.101 must be a mapping"),
        ("silence: {code: PVP310, reason: x}", "silence must be a list, not dict; begin each entry with `-`"),
        ("silence: [PVP310]", "silence entry 1 must be a mapping"),
        (
            "silence: [{code: PVP310, reason: x}, {code: PVP310, resaon: x}]",
            "silence entry 2 has an unknown key resaon",
        ),
        ("silence: [{reason: x}]", "silence entry 1 has the code None; use one code such as PVP231"),
        ("silence: [{code: PVP3, reason: x}]", "has the code PVP3; use one code"),
        ("silence: [{code: pvp310, reason: x}]", "has the code pvp310; use one code"),
        ("silence: [{code: [PVP310], reason: x}]", "use one code such as"),
        ("silence: [{code: PVP310}]", "silence entry 1 has no reason; say in `reason` why"),
        ("silence: [{code: PVP310, reason: ' '}]", "silence entry 1 has no reason"),
        ("silence: [{code: PVP310, reason: no}]", "silence entry 1 has no reason"),
        ("silence: [{code: PVP310, vm: 99, reason: x}]", "has the vm 99, which is no VMID; use a number from 100"),
        ("silence: [{code: PVP310, device: 0000:01:00, reason: x}]", "has the device 0000:01:00, which is no PCI addr"),
        ("silence: [{code: PVP310, device: 7, reason: x}]", "has the device 7, which is no PCI address; write it in"),
        ("silence: [{code: PVP240, reason: x}]", "silences PVP240, which keeps .* too widely; add vm and device"),
        ("silence: [{code: PVP259, vm: 100, reason: x}]", "PVP259, which keeps .* too widely; add vm and device"),
        ("silence: [{code: PVP240, device: '0000:01:00.0', reason: x}]", "too widely; add vm and device"),
    ],
)
def test_malformed_file_is_one_sentence(host: Host, text: str, sentence: str) -> None:
    put(host, NODE, text)
    with pytest.raises(InputError, match=sentence) as caught:
        policy.of(host, 100)
    assert "\n" not in str(caught.value)
    assert NODE in str(caught.value)


def test_unreadable_file(host: Host) -> None:
    os.mkdir(host.path(NODE))
    with pytest.raises(InputError, match="cannot read the policy"):
        policy.of(host, 100)


def test_a_fifo_is_no_policy(host: Host) -> None:
    """One without a writer reads as an empty file, which would pass for no policy."""
    os.mkfifo(host.path(NODE), 0o600)
    with pytest.raises(InputError, match="it is no plain file"):
        policy.read(host)


def test_dangling_link_is_not_absent(host: Host) -> None:
    os.symlink("pvepassthru.yaml.disabled", host.path(NODE))
    with pytest.raises(InputError, match=f"cannot read the policy {NODE}: it is a link that leads nowhere"):
        policy.of(host, 100)


def test_without_yaml(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "pvepassthru.host.strict_yaml", raising=False)  # an earlier test has loaded it
    monkeypatch.delattr("pvepassthru.host.strict_yaml", raising=False)
    assert policy.of(host, 100) == ("enforce", 0)
    put(host, CLUSTER, "defaults: {gate: off}")
    with pytest.raises(InputError, match="install python3-yaml"):
        policy.of(host, 100)
