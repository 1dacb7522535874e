# SPDX-License-Identifier: Apache-2.0
"""What the policy says of VFs, made so on a simulated kernel, with a program that stands for ip."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from pvepassthru.host import numvfs, programs, slow, sriov, state, vf_settings
from pvepassthru.host.deadline import Deadline
from pvepassthru.host.host import Host
from pvepassthru.model import sriov_drivers
from pvepassthru.model.errors import BusyError, DeviceError, UsageError
from pvepassthru.model.policy import SriovPolicy, VfSettings
from tests import tree
from tests.host.ip_recorder import MAC, NET, Ip
from tests.host.machine import PCI, PF, VFS, take

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pvepassthru.host.sim import SimHost
    from pvepassthru.host.vf_settings import Result

MACHINE = "0123456789abcdef0123456789abcdef"
NUMVFS = f"{PCI}/{PF}/sriov_numvfs"
AUTOPROBE = f"{PCI}/{PF}/sriov_drivers_autoprobe"


@pytest.fixture
def nic(plain: SimHost) -> SimHost:
    """The machine, its PF with a network interface."""
    give_interface(plain)
    tree.put(plain.root, "etc/machine-id", MACHINE + "\n")
    tree.folder(plain.root, "run")
    return plain


def give_interface(host: SimHost, *, up: bool = True, name: str = NET) -> None:
    tree.folder(host.root, f"{PCI}/{PF}/net/{name}")
    for file, text in {"flags": "0x1003" if up else "0x1002", "addr_assign_type": "0", "phys_port_name": "p0"}.items():
        tree.put(host.root, f"sys/class/net/{name}/{file}", f"{text}\n")


@pytest.fixture
def ip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ip:
    made = Ip(tmp_path, monkeypatch)
    made.vfs(4)
    return made


def apply(host: SimHost, vfs: int, usual: VfSettings | None = None, **more: object) -> Result:
    wanted = SriovPolicy(PF, vfs, all=usual or VfSettings())._replace(**more)  # type: ignore[arg-type]  # any field
    return vf_settings.apply(host, wanted, Deadline(60))


def words(result: Result) -> str:
    assert result.error is not None, result
    return str(result.error)


# ---- network settings


def test_network_settings(nic: SimHost, ip: Ip) -> None:
    own = ((1, VfSettings(mac="02:00:00:00:00:aa", vlan=7)), (2, VfSettings(mac="keep")))
    result = apply(nic, 3, VfSettings(mac="stable", spoofchk=True, trust=False), vf=own)
    assert result.error is None
    assert result.said[0] == f"made 3 VFs of {PF}"
    assert result.said[1].startswith(f"set of VF 0 ({VFS[0]}): mac 02:") or result.said[1].startswith("set of VF 0")
    assert (
        ip.of(0)["mac"] == vf_settings.wish_of(nic, PF, MAC, sriov.functions(nic, PF)[0], VfSettings(mac="stable")).mac
    )
    assert (ip.of(1)["mac"], ip.of(1)["vlan"], ip.of(2)["mac"]) == ("02:00:00:00:00:aa", 7, "00:00:00:00:00:00")
    assert len(ip.sets()) == 3
    assert apply(nic, 3, VfSettings(mac="stable", spoofchk=True, trust=False), vf=own).said == ()
    assert ip.sets() == []


def test_a_vf_in_use_keeps_its_network(nic: SimHost, ip: Ip) -> None:
    apply(nic, 2)
    take(nic, VFS[0], "vfio-pci")
    tree.hold(nic.root, 4711, f"/dev/vfio/{nic.link(f'{PCI}/{VFS[0]}/iommu_group')}")
    result = apply(nic, 2, VfSettings(vlan=9))
    assert result.error is None
    assert result.warnings == (f"VF 0 ({VFS[0]}) does not get vlan 9: process 4711 (holder) has it open",)
    assert (ip.of(0)["vlan"], ip.of(1)["vlan"]) == (0, 9)


@pytest.mark.usefixtures("ip")
def test_a_mac_that_counts_when_the_driver_binds(nic: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A free VF that the host's driver has is bound anew when its MAC changes; one that VFIO has is not."""
    late = sriov_drivers.SriovDriver("tbvgpu", mac_at_bind=True)
    monkeypatch.setitem(sriov_drivers.DRIVERS, "nvme", late)
    apply(nic, 2)
    take(nic, VFS[0], "tbvgpu")
    take(nic, VFS[1], "vfio-pci")
    tree.driver(nic.root, "tbvgpu")
    written: list[tuple[str, str]] = []
    write = slow.write

    def noted(host: Host, path: str, *more: Any) -> None:  # noqa: ANN401 - as slow.write
        written.append((path, more[0]))
        write(host, path, *more)

    monkeypatch.setattr(slow, "write", noted)
    result = apply(nic, 2, VfSettings(mac="stable"))
    assert result.error is None
    assert f"bound VF 0 ({VFS[0]}) to tbvgpu anew, for its MAC to count" in result.said
    assert [path for path, value in written if value == VFS[0]] == [f"{PCI}/{VFS[0]}/driver/unbind", vf_settings.PROBE]
    assert not any(VFS[1] in path + value for path, value in written)
    assert [vf.driver for vf in sriov.functions(nic, PF)] == ["tbvgpu", "vfio-pci"]
    assert apply(nic, 2, VfSettings(mac="stable")).said == ()


def test_a_driver_that_is_not_there(nic: SimHost) -> None:
    """The VF keeps the one that it has."""
    apply(nic, 1)
    take(nic, VFS[0], "vfio-pci")
    result = apply(nic, 1, VfSettings(driver="nosuch"))
    assert f"cannot bind {VFS[0]} to nosuch: " in words(result)
    assert sriov.functions(nic, PF)[0].driver == "vfio-pci"


def test_a_setting_that_fails(nic: SimHost, ip: Ip) -> None:
    """The others are set all the same, the failure is told, and until all is well a file in /run says that."""
    ip.vfs(4, refuse="trust")
    result = apply(nic, 2, VfSettings(trust=True), vf=((1, VfSettings(vlan=5)),))
    assert "vf 0 trust on failed" in words(result)
    assert ip.of(1)["vlan"] == 5
    assert nic.exists(state.unfinished_path(PF))
    ip.vfs(4)
    assert apply(nic, 2, VfSettings(trust=True)).error is None
    assert not nic.exists(state.unfinished_path(PF))


@pytest.mark.usefixtures("ip")
def test_a_mac_that_cannot_be(nic: SimHost) -> None:
    assert "multicast" in words(apply(nic, 1, VfSettings(mac="01:00:00:00:00:01")))


def test_no_interface(plain: SimHost) -> None:
    tree.folder(plain.root, "run")
    assert "has no network interface" in words(apply(plain, 1, VfSettings(vlan=1)))


# ---- interfaces


def test_the_uplink_is_not_a_representor(nic: SimHost) -> None:
    for index in range(2):
        name = f"{NET}r{index}"
        give_interface(nic, name=name)
        tree.put(nic.root, f"sys/class/net/{name}/phys_port_name", f"pf0vf{index}\n")
    tree.put(nic.root, f"sys/class/net/{NET}/phys_switch_id", "abcdef\n")
    pf = sriov.read(nic, PF)
    assert (pf.nets, pf.switch) == ((NET,), "abcdef")


def test_where_vfs_will_be() -> None:
    assert sriov.address_of("0000:03:00.0", 128, 2, 0) == "0000:03:10.0"
    assert sriov.address_of("0000:03:00.1", 128, 2, 7) == "0000:03:11.7"
    assert sriov.address_of("0000:81:00.0", 256, 1, 3) == "0000:82:00.3"
    assert sriov.address_of("10000:ff:1f.7", 1, 1, 0) is None


# ---- who uses a VF


def test_users(nic: SimHost) -> None:
    apply(nic, 4)
    tree.put(nic.root, "run/qemu-server/pci-id-reservations", f"{VFS[0]} 105 time:{int(nic.now()) + 40}\n")
    tree.put(nic.root, f"{PCI}/{VFS[1]}/nvidia/current_vgpu_type", "35\n")
    for vf, net in ((VFS[2], "eth2"), (VFS[3], None)):
        os.symlink("../../drivers/iavf", nic.path(f"{PCI}/{vf}/driver"))
        tree.put(nic.root, f"{PCI}/{vf}/class", "0x020000\n")
        if net:
            tree.folder(nic.root, f"{PCI}/{vf}/net/{net}")
            tree.put(nic.root, f"sys/class/net/{net}/flags", "0x1003\n")
    users = sriov.Users(nic)
    why = [users.why(vf) or "" for vf in sriov.functions(nic, PF)]
    assert sriov.Users(nic, 105).why(sriov.functions(nic, PF)[0]) is None
    assert why[0].startswith("VM 105 has reserved it for a start")
    assert why[1:3] == ["it has vGPU type 35", "it is the host's interface eth2, which is up"]
    assert "another network namespace" in why[3]
    error = words(apply(nic, 2))
    assert all(vf in error for vf in VFS)
    assert nic.text(NUMVFS) == "4"


# ---- what drivers do


def of_numvfs(instead: Callable[..., None]) -> Callable[..., None]:
    """A slow.write that has something else happen at sriov_numvfs."""
    real = slow.write

    def write(host: Host, path: str, *more: Any) -> None:  # noqa: ANN401 - as the real one
        (instead if path.endswith("/sriov_numvfs") else real)(host, path, *more)

    return write


@pytest.mark.parametrize(
    "number,expected",
    [
        (errno.ENOMEM, "there is no room for their memory or bus numbers; enable SR-IOV and Above 4G Decoding"),
        (errno.EBUSY, "somebody else has just given it VFs, or works on it"),
        (errno.ENOENT, "its driver nvme makes no VFs"),
        (errno.EPERM, "the driver nvme does not allow it"),
        (errno.EIO, "the card or its firmware reports an error"),
        (errno.EPROTO, "the kernel says Protocol error"),
    ],
)
def test_what_the_kernel_answers(nic: SimHost, monkeypatch: pytest.MonkeyPatch, number: int, expected: str) -> None:
    def answer(host: Host, path: str, value: str, *_: object) -> None:
        raise OSError(number, os.strerror(number), host.path(path) + value)

    before = nic.text(AUTOPROBE)
    monkeypatch.setattr(slow, "write", of_numvfs(answer))
    result = apply(nic, 2)
    assert isinstance(result.error, DeviceError)
    assert f"cannot give {PF} 2 VFs: {expected}" in words(result)
    assert nic.text(AUTOPROBE) == before == "1"


def test_a_write_that_never_returns(nic: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise slow.StillBlockedError

    monkeypatch.setattr(slow, "write", of_numvfs(never))
    result = apply(nic, 2)
    assert isinstance(result.error, BusyError)
    assert "the kernel has not finished within 60 s" in words(result)
    assert nic.text(AUTOPROBE) == "1"


@pytest.mark.parametrize("answer", [errno.EIO, None, slow.StillBlockedError()], ids=str)
def test_autoprobe_that_cannot_be_set(
    nic: SimHost, monkeypatch: pytest.MonkeyPatch, answer: int | Exception | None
) -> None:
    """It fails, is taken and changes nothing, or never returns: the policy is not as it says, and the next one is."""
    real = slow.write

    def write(host: Host, path: str, *more: Any) -> None:  # noqa: ANN401 - as the real one
        if not path.endswith("/sriov_drivers_autoprobe"):
            real(host, path, *more)
        elif isinstance(answer, int):
            raise OSError(answer, os.strerror(answer), path)
        elif answer:
            raise answer

    with monkeypatch.context() as patch:
        patch.setattr(slow, "write", write)
        result = apply(nic, 2)
    assert isinstance(result.error, BusyError if isinstance(answer, Exception) else DeviceError)
    assert AUTOPROBE in words(result)
    assert nic.exists(state.unfinished_path(PF))
    assert apply(nic, 2).error is None
    assert (nic.text(NUMVFS), nic.text(AUTOPROBE)) == ("2", "1")
    assert not nic.exists(state.unfinished_path(PF))


def test_an_override_that_stays(nic: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes the write that empties it, and it still says what it said."""
    real = slow.write

    def write(host: Host, path: str, value: str, *more: Any) -> None:  # noqa: ANN401 - as the real one
        if value != "\n":
            real(host, path, value, *more)

    with monkeypatch.context() as patch:
        patch.setattr(slow, "write", write)
        assert "cannot empty driver_override of" in words(apply(nic, 1, VfSettings(driver="vfio-pci")))
    assert apply(nic, 1, VfSettings(driver="vfio-pci")).error is None
    assert nic.text(f"{PCI}/{VFS[0]}/driver_override") == "(null)"


def test_a_driver_that_takes_the_write_and_makes_none(nic: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow, "write", of_numvfs(lambda *_: None))
    assert (
        f"the driver nvme took the write, but 0 VFs are there and sriov_numvfs says 0; ip link set {NET} up"
        in words(apply(nic, 2))
    )


def test_an_interface_that_must_be_up(plain: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.folder(plain.root, "run")
    give_interface(plain, up=False)
    monkeypatch.setitem(sriov_drivers.DRIVERS, "nvme", sriov_drivers.DRIVERS["bnxt_en"])
    assert f"its interface {NET} is down" in words(apply(plain, 2))
    give_interface(plain)
    assert apply(plain, 2).error is None


def test_a_driver_with_a_limit_of_its_own(nic: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sriov_drivers.DRIVERS, "nvme", sriov_drivers.SriovDriver(most=3))
    result = apply(nic, 4)
    assert isinstance(result.error, UsageError)
    assert "the driver nvme makes at most 3" in words(result)
    assert apply(nic, 3).error is None


def test_the_host_is_warned_of_its_own_link(nic: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sriov_drivers.DRIVERS, "nvme", sriov_drivers.DRIVERS["i40e"])
    assert apply(nic, 1).warnings == ()
    os.rmdir(nic.path(f"{PCI}/{PF}/net/{NET}"))
    tree.folder(nic.root, f"{PCI}/{PF}/net/{NET}")
    interface = f"sys/class/net/{NET}"
    real = f"{PCI}/{PF}/net/{NET}"
    for name in nic.names(f"/{interface}"):
        os.replace(nic.path(f"/{interface}/{name}"), nic.path(f"{real}/{name}"))
    os.rmdir(nic.path(f"/{interface}"))
    tree.link(nic.root, interface, real)
    tree.put(nic.root, "proc/net/route", f"{NET} 00000000 0100000A 3 0 0 0 00000000 0 0 0\n")
    (warning,) = apply(nic, 2).warnings
    assert f"resets {PF} for this, and the host uses it: {NET} carries the default route" in warning


# ---- kills


def test_a_command_that_was_killed_leaves_autoprobe_to_the_next(nic: SimHost) -> None:
    state.prepare(nic)
    tree.put(nic.root, state.unfinished_path(PF), "1")
    nic.write(AUTOPROBE, "0")
    nic.write(NUMVFS, "2")
    wanted = SriovPolicy(PF, 2)
    dry = vf_settings.apply(nic, wanted, Deadline(60), dry_run=True)
    assert dry.said == (f"would set sriov_drivers_autoprobe of {PF} back to 1",)
    assert nic.text(AUTOPROBE) == "0"
    result = apply(nic, 2)
    told = f"set sriov_drivers_autoprobe of {PF} back to 1, as it was before a kill"
    assert (result.said, result.error) == ((told,), None)
    assert nic.text(AUTOPROBE) == "1"
    assert not nic.exists(state.unfinished_path(PF))


def test_autoprobe_of_the_policy(nic: SimHost) -> None:
    nic.write(AUTOPROBE, "0")
    apply(nic, 1)
    assert nic.text(AUTOPROBE) == "0"
    apply(nic, 2, autoprobe=True)
    assert nic.text(AUTOPROBE) == "1"


# ---- NVIDIA


def manager(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, deed: Callable[[str], None], code: int = 0
) -> list[tuple[str, ...]]:
    """Make the PF an NVIDIA GPU whose sriov-manage does `deed` with its option; returns the calls."""
    tree.put(host.root, f"{PCI}/{PF}/vendor", "0x10de\n")
    monkeypatch.setitem(sriov_drivers.DRIVERS, "nvme", sriov_drivers.DRIVERS["nvidia"])
    monkeypatch.setattr(numvfs, "COUNT_WAIT", 0.3)
    calls: list[tuple[str, ...]] = []

    def run(_host: Host, command: tuple[str, ...], _seconds: float) -> programs.Output:
        calls.append(command)
        deed(command[1])
        return programs.Output(code, "Enabling VFs\nno luck\n", "said on stderr")

    monkeypatch.setattr(programs, "run", run)
    return calls


def test_sriov_manage(nic: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = manager(nic, monkeypatch, lambda option: nic.write(NUMVFS, "4" if option == "-e" else "0"), code=1)
    assert "sriov-manage makes all 4 at once" in words(apply(nic, 2))
    assert apply(nic, 4).said == (f"{sriov_drivers.NVIDIA_MANAGER} -e {PF}: 4 VFs are there",)
    assert apply(nic, 4).said == ()
    apply(nic, 0, manage="/opt/sriov-manage")
    assert calls == [(sriov_drivers.NVIDIA_MANAGER, "-e", PF), ("/opt/sriov-manage", "-d", PF)]
    assert nic.text(AUTOPROBE) == "1"


def test_sriov_manage_that_fails_with_success(nic: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    manager(nic, monkeypatch, lambda _: None)
    error = words(apply(nic, 4))
    assert "ended with 0, but 0 VFs are there; it said: Enabling VFs; no luck; said on stderr" in error


def test_sriov_manage_that_is_absent(nic: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.put(nic.root, f"{PCI}/{PF}/vendor", "0x10de\n")
    monkeypatch.setitem(sriov_drivers.DRIVERS, "nvme", sriov_drivers.DRIVERS["nvidia"])
    assert "is not run for another tree" in words(apply(nic, 4))


# ---- programs


def test_programs() -> None:
    host = Host("/")
    assert programs.find(host, "no-such-program") is None
    sh = programs.find(host, "sh")
    assert sh is not None
    assert programs.run(host, (sh, "-c", "echo out; echo err >&2; exit 3"), 10) == (3, "out\n", "err")
    assert programs.run(host, (sh, "-c", "sleep 60"), 0.2) == (None, "", f"{sh} did not end within 0 s")
    assert programs.run(host, ("/no/such",), 1).words == "/no/such cannot be run: No such file or directory"
