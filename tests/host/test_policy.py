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

from pvepassthru.host import policy, state
from pvepassthru.host.host import Host
from pvepassthru.model.errors import InputError, UnsafeError
from pvepassthru.model.pci import with_domain
from pvepassthru.model.policy import Policy, Silence

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
    assert policy.of(host, 100) == Policy()


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
    assert policy.of(host, 100) == Policy("warn", 300)
    assert policy.of(host, 101) == Policy("warn", 90)
    assert policy.of(host, 102) == Policy("warn", 90)


def test_settings_taken_over_by_yaml(host: Host) -> None:
    put(host, NODE, "defaults: &usual {gate: warn}\nvms: {100: {<<: *usual, pre_start_seconds: 90}}")
    assert policy.of(host, 100) == Policy("warn", 90)


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
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("code", "vm", "device", "reason", "x")), inner)
    ),
    max_leaves=12,
)


@given(VALUES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_silenced(host: Host, value: object) -> None:
    """It is taken as it is meant, or refused with one sentence."""
    put(host, NODE, f"silence: {json.dumps(value)}\n")
    found: tuple[Silence, ...] = ()
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
        ("gate: [", ":1 is not valid YAML: .*expected the node content"),
        ("vms: {}\nsilence:\n- a: b: c", ":3 is not valid YAML: mapping values are not allowed here"),
        ("- a list", ":1: the file must be a mapping of keys to values, not a list"),
        ("\nvms: 7", ":2: vms must be a mapping of keys to values, not 7"),
        ("defaults: {gate: perhaps}", ":1: defaults.gate is perhaps; use enforce, warn, off"),
        ("defaults: {gate: [off]}", "defaults.gate is a list; use enforce, warn, off"),
        (
            "defaults:\n  gate: off\n  pre_start_seconds: 0",
            ":3: defaults.pre_start_seconds is 0; use a whole number from 1 to 3600",
        ),
        ("defaults: {pre_start_seconds: 3601}", "pre_start_seconds is 3601; use a whole number"),
        ("vms: {100: {pre_start_seconds: true}}", "vms.100.pre_start_seconds is true; use a whole number"),
        ("vms: {100: {pre_start_seconds: 2m}}", "pre_start_seconds is 2m; use a whole number"),
        ("vms: {100: {pre_start_seconds: }}", "pre_start_seconds is empty; use a whole number"),
        ("a: \x00", "is not valid YAML"),
        ("{" * 5000, "is not valid YAML"),
        ('a: !!int ""', "is not valid YAML"),
        ('a: !!float ""', "is not valid YAML"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("{a: b}: c", ":1 is not valid YAML: a key must be text"),
        ("a: &a\n  b: *a", "nested more than 12 levels deep; see if an alias holds itself"),
        ("a: &a [*a]", "nested more than 12 levels deep"),
        ("a: b\n---\na: c", ":2 is not valid YAML: but found another document"),
        ("\n\ndefualts: {gate: off}", ":3: the file has an unknown key defualts; is defaults meant"),
        ("gates: off", "the file has an unknown key gates; known are defaults, devices, vms"),
        ("defaults: {Gate: off}", "defaults has an unknown key Gate; is gate meant"),
        ("vms:\n  101:\n    gat: off", ":3: vms.101 has an unknown key gat; is gate meant"),
        ("vms: {1O0: {gate: off}}", "vms has 1O0, which is no VMID"),
        ("vms: {101: {gate: wran}}", "vms.101.gate is wran; use enforce"),
        ("vms: {100: {gate: off}, '100': {gate: warn}}", "100 is there twice"),
        ("defaults: {gate: off}\nvms: {}\ndefaults: {gate: warn}", ":3 is not valid YAML: defaults is there twice"),
        ("vms: {101: off}", "vms.101 must be a mapping of keys to values, not off"),
        ("devices: {0000:01:00.8: {}}", "devices has 0000:01:00.8, which is no device; use an address, a slot"),
        ("devices: {01:00.0: {}, 0000:01:00.0: {}}", "devices has 0000:01:00.0 twice; leave one of them"),
        ("devices: {'mapping:': {}}", "devices has mapping:, which is no device"),
        ("devices:\n  10DE:2204: {}\n  10de:2204: {}\n", ":3: devices has 10de:2204 twice"),
        ("devices: {01:00.0: {ids: 10de}}", "devices.01:00.0.ids is 10de; use vendor:device such as 10de:2204"),
        ("devices: {01:00.0: {ids: [10de:2204, x]}}", "devices.01:00.0.ids entry 2 is x; use vendor:device"),
        ("devices: {10de:2204: {ids: 10de:2204}}", "has ids, which only a rule by address or slot can expect"),
        ("devices: {01:00.0: {driver: nvidia}}", "driver is nvidia; use vfio-pci, the name of a variant driver"),
        ("devices: {01:00.0: {console: yes}}", "console is yes; use keep, release"),
        ("devices: {01:00.0: {rescan: yes}}", "rescan must be true or false, not yes"),
        ("devices: {01:00.0: {bars: {6: 1G}}}", "bars has 6, which is no number of a BAR; use numbers from 0 to 5"),
        ("devices: {01:00.0: {bars: {1: 1T}}}", "bars.1 is 1T; use a size such as 256M or 16G"),
        ("devices:\n  01:00.0:\n    bars:\n      1: 3G", ":4: devices.01:00.0.bars.1 is 3G; use a power of two"),
        ("devices: {01:00.0: {reset_method: FLR}}", "reset_method is FLR; use auto, or methods such as"),
        ("mappings: {gpu: {placement: full}}", "mappings.gpu.placement is full; use order, pack, spread"),
        ("sriov: {01:00.0: {}}", "sriov.01:00.0 has no vfs; add it: a whole number from 0 to 65535"),
        ("sriov: {mapping:x: {vfs: 1}}", "sriov has mapping:x, which is no device"),
        ("sriov: {01:00.0: {vfs: 1, mac: 01:00:00:00:00:01}}", "mac is 01:00:00:00:00:01; use stable, keep, or an"),
        ("sriov: {01:00.0: {vfs: 1, vf: {a: {}}}}", "sriov.01:00.0.vf has a, which is no number of a VF"),
        ("sriov: {01:00.0: {vfs: 2, vf: {2: {}}}}", "sriov.01:00.0.vf.2 is for a VF that is not there: vfs is 2"),
        ("sriov: {01:00.0: {vfs: 2, max_tx_rate: 5, vf: {1: {min_tx_rate: 9}}}}", "vf.1 has a min_tx_rate of 9 and"),
        ("sriov: {01:00.0: {vfs: 2, qos: 3}}", "sriov.01:00.0 has qos without a vlan"),
        ("sriov: {01:00.0: {vfs: 2, mac: 02:00:00:00:00:01}}", "sriov.01:00.0 gives one MAC to several VFs"),
        (
            "sriov: {01:00.0: {vfs: 2, vf: {0: {mac: 02:00:00:00:00:01}, 1: {mac: 02:00:00:00:00:01}}}}",
            "sriov.01:00.0.vf.1 has the MAC of sriov.01:00.0.vf.0; give each VF its own",
        ),
        ("devices: {01:00.0: {give_back: keep}}", "give_back is keep; use auto, former, stay or a driver's name"),
        ("silence: [{code: PVP310, vm: '100', reason: x}]", 'vm is "100", which is text; use .*, without quotes'),
        ("sriov: {01:00.0: {vfs: 1, vlan: 4095}}", "vlan is 4095; use a whole number from 0 to 4094"),
        ("services: {lightdm: {devices: ['*']}}", "services has lightdm, which is no systemd unit; write it in full"),
        ("services: {a.service: {}}", "services.a.service has no devices; add it: a list of devices"),
        ("services: {a.service: {devices: [x]}}", "services.a.service.devices entry 1 is x; use an address, a slot"),
        ("orphans: keep", "orphans is keep; use report, remove"),
        ("placement: [pack]", "placement is a list; use order, pack, spread"),
        ("silence: {code: PVP310, reason: x}", "silence must be a list, not a mapping; begin each entry with `-`"),
        ("silence: [PVP310]", "silence entry 1 must be a mapping"),
        (
            "silence: [{code: PVP310, reason: x}, {code: PVP310, resaon: x}]",
            "silence entry 2 has an unknown key resaon",
        ),
        ("silence: [{reason: x}]", "silence entry 1 has no code; add it: one code such as PVP231"),
        ("silence: [{code: PVP3, reason: x}]", "silence entry 1.code is PVP3; use one code"),
        ("silence: [{code: pvp310, reason: x}]", "code is pvp310; use one code"),
        ("silence: [{code: [PVP310], reason: x}]", "use one code such as"),
        ("silence: [{code: PVP310}]", "silence entry 1 has no reason; add it: a sentence that says why"),
        ("silence: [{code: PVP310, reason: ' '}]", "silence entry 1.reason is  ; use a sentence"),
        ("silence: [{code: PVP310, reason: false}]", "silence entry 1.reason is false; use a sentence"),
        ("silence: [{code: PVP310, vm: 99, reason: x}]", "silence entry 1.vm is 99; use a whole number from 100"),
        ("silence: [{code: PVP310, device: 0000:01:00, reason: x}]", "device is 0000:01:00; use an address in full"),
        ("silence: [{code: PVP310, device: 7, reason: x}]", "device is 7; use an address in full"),
        ("silence: [{code: PVP240, reason: x}]", "silences PVP240, which keeps .* too widely; add vm and device"),
        ("silence: [{code: PVP252, vm: 100, reason: x}]", "PVP252, which keeps .* too widely; add vm and device"),
        ("silence: [{code: PVP240, device: '0000:01:00.0', reason: x}]", "too widely; add vm and device"),
    ],
)
def test_malformed_file_is_one_sentence(host: Host, text: str, sentence: str) -> None:
    put(host, NODE, text)
    with pytest.raises(InputError, match=sentence) as caught:
        policy.of(host, 100)
    assert "\n" not in str(caught.value)
    assert NODE in str(caught.value)


def test_bytes_that_are_no_text(host: Host) -> None:
    with open(host.path(NODE), "wb") as file:
        file.write(b"defaults:\n  gate: caf\xe9\n")
    os.chmod(host.path(NODE), 0o600)
    with pytest.raises(
        InputError, match=f"{NODE}:2 is not valid YAML: it has bytes that are no text; save it as UTF-8"
    ):
        policy.of(host, 100)


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
    for name in ("policy_file", "strict_yaml"):  # an earlier test has loaded them
        monkeypatch.delitem(sys.modules, f"pvepassthru.host.{name}", raising=False)
        monkeypatch.delattr(f"pvepassthru.host.{name}", raising=False)
    assert policy.of(host, 100) == Policy()
    put(host, CLUSTER, "defaults: {gate: off}")
    with pytest.raises(InputError, match="install python3-yaml"):
        policy.of(host, 100)


# ---- the cache


def test_the_hook_reads_what_was_checked(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    os.makedirs(host.path(state.FOLDER), 0o700)
    put(host, CLUSTER, "silence: [{code: PVP310, reason: x}]")
    put(host, NODE, "vms: {100: {gate: off}}")
    first = policy.read(host, cached=True)
    assert os.stat(host.path(policy.CACHE)).st_mode & 0o777 == 0o600
    with monkeypatch.context() as patch:
        patch.setattr(policy, "check", None)  # whoever reads a file now fails
        assert policy.read(host, cached=True) == first
        with pytest.raises(TypeError):
            policy.read(host)
    put(host, NODE, "vms: {100: {gate: warn}}")
    assert policy.read(host, cached=True).of(100).gate == "warn"
    os.unlink(host.path(NODE))
    assert policy.read(host, cached=True).of(100).gate == "enforce"


@pytest.mark.parametrize("data", [b"", b"x", b"[]", b"\xe9\x02\x00\x00\x00", b"N", bytes(100)])
def test_a_cache_of_another_kind_is_none(host: Host, data: bytes) -> None:
    os.makedirs(host.path(state.FOLDER), 0o700)
    put(host, NODE, "vms: {100: {gate: off}}")
    host.replace(policy.CACHE, data)
    assert policy.read(host, cached=True).of(100).gate == "off"
    assert host.read(policy.CACHE) != data


def test_a_slip_is_never_kept(host: Host) -> None:
    os.makedirs(host.path(state.FOLDER), 0o700)
    put(host, NODE, "vms: {100: {gate: of}}")
    with pytest.raises(InputError, match="gate is of"):
        policy.read(host, cached=True)
    assert not host.exists(policy.CACHE)
