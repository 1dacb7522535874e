# SPDX-License-Identifier: Apache-2.0
"""What the owner's policy says of a PF's virtual functions, made so: their number, drivers and network settings.

Doing it again changes nothing. What a VF that somebody uses would need stays undone, and is told.
"""

from __future__ import annotations

from pvepassthru.host import numvfs, slow, sriov, state
from pvepassthru.host.inventory import DEVICES, Inventory
from pvepassthru.host.numvfs import Wish
from pvepassthru.model import sriov_drivers
from pvepassthru.model.errors import BusyError, DeviceError, PassthruError
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pvepassthru.host.deadline import Deadline
    from pvepassthru.host.host import Host
    from pvepassthru.host.locks import Lock
    from pvepassthru.host.sriov import Users, Vf
    from pvepassthru.model.policy import SriovPolicy, VfSettings

BIND_LIMIT = 15.0
"""Seconds for each write about a VF's driver."""
PROBE = "/sys/bus/pci/drivers_probe"


class Result(NamedTuple):
    """What came of one PF's policy."""

    address: str
    vfs: int
    """How many the policy wants."""
    said: tuple[str, ...]
    """What was done, or in a dry run would be, in sentences; empty: all was as the policy says."""
    warnings: tuple[str, ...] = ()
    error: PassthruError | None = None
    """Why it is not as the policy says."""


def apply(host: Host, wanted: SriovPolicy, deadline: Deadline, *, dry_run: bool = False) -> Result:
    """Make one PF what its policy says, or with `dry_run` only say what that would be; a failure is in the result."""
    said: list[str] = []
    warnings: list[str] = []
    failure: PassthruError | None = None
    try:
        if dry_run:
            _say(host, wanted, deadline, said, warnings)
        else:
            with numvfs.take_lock(host, wanted.address, deadline) as lock:
                under_lock(host, wanted, lock, deadline, said, warnings)
    except PassthruError as error:
        failure = error
    return Result(wanted.address, wanted.vfs, tuple(said), tuple(warnings), failure)


def under_lock(  # noqa: PLR0913, PLR0917 - as _each
    host: Host,
    wanted: SriovPolicy,
    lock: Lock,
    deadline: Deadline,
    said: list[str],
    warnings: list[str],
    vmid: int | None = None,
) -> None:
    """Make one PF, whose lock is held, what its policy says. Raises as numvfs.look and set_number, and as `_each`.

    `vmid` is the VM that is about to start, if a start asks. From before its VFs are made until all are set up a file
    in /run tells that they are not.
    """
    wish = _wish(wanted)
    pf = numvfs.look(host, wish)
    before = host.text(state.unfinished_path(wanted.address))  # whoever was killed has left what autoprobe was
    if pf:
        before = before or ("0" if pf.autoprobe is False else "1")
        _mark(host, wanted.address, before)
        try:
            change = numvfs.set_number(host, pf, wish, lock, deadline)
        finally:
            _restore(host, wanted, before, lock)
        said += change.said
        warnings += change.warnings
    elif before:
        if _restore(host, wanted, before, lock):
            said.append(f"set sriov_drivers_autoprobe of {wanted.address} back to {before}, as it was before a kill")
        _clear_overrides(host, wanted, lock, deadline)
    _each(host, wanted, lock, deadline, said, warnings, vmid)
    try:
        host.remove(state.unfinished_path(wanted.address))
    except OSError as error:
        raise PassthruError(f"cannot remove {state.unfinished_path(wanted.address)}: {error.strerror}") from error


def _mark(host: Host, address: str, autoprobe: str) -> None:
    """Note that a PF's VFs are not all set up, and what its autoprobe was."""
    path = state.unfinished_path(address)
    try:
        host.replace(path, autoprobe.encode())
    except OSError as error:
        raise PassthruError(f"cannot write {path}: {error.strerror}", "check that /run is not full") from error


def _clear_overrides(host: Host, wanted: SriovPolicy, lock: Lock, deadline: Deadline) -> None:
    """Empty the overrides of whoever was killed between binding a VF and that."""
    for vf in sriov.functions(host, wanted.address):
        path = f"{DEVICES}/{vf.address}/driver_override"
        if vf.driver is not None and host.text(path) == vf.driver == wanted.of(vf.number).driver:
            try:
                _write(host, path, "\n", lock, deadline)
            except OSError as error:
                raise DeviceError(f"cannot write {path}: {error.strerror}", "see the kernel log") from error


def _restore(host: Host, wanted: SriovPolicy, before: str, lock: Lock) -> bool:
    """Have autoprobe as it was before the VFs were made; with `autoprobe: true` it stays on. Returns if it was not."""
    if not _autoprobe_differs(host, wanted, before):
        return False
    numvfs.set_autoprobe(host, wanted.address, lock, on=before != "0")
    return True


def _autoprobe_differs(host: Host, wanted: SriovPolicy, before: str) -> bool:
    present = host.text(f"{DEVICES}/{wanted.address}/sriov_drivers_autoprobe")
    return not wanted.autoprobe and present not in {None, before}


def _say(host: Host, wanted: SriovPolicy, deadline: Deadline, said: list[str], warnings: list[str]) -> None:
    wish = _wish(wanted)
    pf = numvfs.look(host, wish)
    if pf is None:
        before = host.text(state.unfinished_path(wanted.address))
        if before and _autoprobe_differs(host, wanted, before):
            said.append(f"would set sriov_drivers_autoprobe of {wanted.address} back to {before}")
        _each(host, wanted, None, deadline, said, warnings)
        return
    change = numvfs.plan(host, pf, wish)
    said += change.said
    warnings += change.warnings
    if wanted.vfs and (wanted.vf or any(value is not None for value in wanted.all)):
        _foresee(host, wanted)
        said.append(f"would then set up the VFs of {wanted.address} as the policy says")


def _foresee(host: Host, wanted: SriovPolicy) -> None:
    """Raise what setting up VFs that are not there yet would raise, as far as that shows now."""
    from pvepassthru.host import iplink  # noqa: PLC0415 - as _network

    policies = [wanted.of(index) for index in range(wanted.vfs)]
    if any(policy.network for policy in policies):
        net = _interface(host, wanted)
        link = iplink.NetLink(None, {}) if host.copy_of is not None else iplink.show(host, net)
        for index, policy in enumerate(policies):
            wish_of(host, wanted.address, link.permanent, sriov.Vf(index, "", None, None), policy)
    inventory = Inventory(host)
    for driver in sorted({policy.driver for policy in policies if policy.driver is not None}):
        if inventory.driver_available(driver) is False:
            raise DeviceError(
                f"cannot bind VFs of {wanted.address} to {driver}: there is no such driver, and no such module",
                "install it, or correct driver in the policy",
            )


def _wish(wanted: SriovPolicy) -> Wish:
    return Wish(wanted.address, wanted.vfs, wanted.autoprobe, wanted.manage)


def _each(  # noqa: PLR0913, PLR0917 - what both kinds of settings need
    host: Host,
    wanted: SriovPolicy,
    lock: Lock | None,
    deadline: Deadline,
    said: list[str],
    warnings: list[str],
    vmid: int | None = None,
) -> None:
    """Set what each VF is to have; without the PF's lock only say so. Raises PassthruError with the first failure."""
    functions = sriov.functions(host, wanted.address)
    users = sriov.Users(host, vmid)
    failures: list[PassthruError] = []
    if any(wanted.of(vf.number).network for vf in functions):
        failures += _network(host, wanted, users, lock, deadline, said, warnings)
    for vf in functions:
        driver = wanted.of(vf.number).driver
        if driver is None or driver == vf.driver:
            continue
        why = users.why(vf)
        if why:
            warnings.append(f"VF {vf.number} ({vf.address}) stays with the driver {vf.driver}: {why}")
        elif lock is None:
            said.append(f"would bind VF {vf.number} ({vf.address}) to {driver}")
        else:
            try:
                if not host.exists(state.unfinished_path(wanted.address)):
                    _mark(host, wanted.address, host.text(f"{DEVICES}/{wanted.address}/sriov_drivers_autoprobe") or "1")
                bind(host, vf.address, driver, lock, deadline)
                said.append(f"bound VF {vf.number} ({vf.address}) to {driver}")
            except PassthruError as error:
                failures.append(error)
    if failures:
        warnings += [str(error) for error in failures[1:]]
        raise failures[0]


# ---- drivers


def bind(host: Host, address: str, driver: str, lock: Lock, deadline: Deadline) -> None:
    """Bind a VF that nobody uses to a driver, by driver_override, which is empty again afterwards.

    A VF that the driver has already is bound to it anew. Raises DeviceError when the driver is not there, and then the
    VF keeps its own, or when it has another one afterwards; BusyError when a write does not end in time.
    """
    from pvepassthru.host import programs  # noqa: PLC0415 - only policies with drivers pay for it

    folder = f"{DEVICES}/{address}"
    why = programs.load_driver(host, driver)
    if why is not None:
        raise DeviceError(f"cannot bind {address} to {driver}: {why}", f"modprobe {driver}")
    try:
        _write(host, f"{folder}/driver_override", driver, lock, deadline)
        try:
            if Inventory(host).driver(address) is not None:
                _write(host, f"{folder}/driver/unbind", address, lock, deadline)
            _write(host, PROBE, address, lock, deadline)
        finally:
            _write(host, f"{folder}/driver_override", "\n", lock, deadline)
    except OSError as error:
        raise DeviceError(
            f"cannot bind {address} to {driver}: the kernel says {error.strerror}", "see the kernel log"
        ) from error
    present = Inventory(host).driver(address)
    if present != driver:
        what = f"cannot bind {address} to {driver}: it has {present or 'no driver'} afterwards"
        raise DeviceError(what, "see the kernel log")
    left = host.text(f"{folder}/driver_override")
    if left not in {"", "(null)", None}:
        raise DeviceError(f"cannot empty driver_override of {address}: it still reads {left}", "see the kernel log")


def _write(host: Host, path: str, value: str, lock: Lock, deadline: Deadline) -> None:
    try:
        slow.write(host, path, value, deadline.left(BIND_LIMIT), lock)
    except slow.StillBlockedError:
        words = f"cannot write {value.strip() or 'nothing'} to {path}: the kernel has not finished in time"
        raise BusyError(words, "see the kernel log") from None


# ---- network settings


def _network(  # noqa: PLR0913, PLR0917 - as _each
    host: Host,
    wanted: SriovPolicy,
    users: Users,
    lock: Lock | None,
    deadline: Deadline,
    said: list[str],
    warnings: list[str],
) -> list[PassthruError]:
    """Set the network settings of a PF's VFs, or say what would be set; returns what failed, VF by VF.

    Raises DeviceError when ip cannot be asked, or the PF has no interface.
    """
    from pvepassthru.host import iplink  # noqa: PLC0415 - only policies with network settings pay for it

    net = _interface(host, wanted)
    if host.copy_of is not None:  # of a plan: no program is run for it
        said.append(f"would set the network settings of the VFs of {wanted.address}")
        return []
    link = iplink.show(host, net)
    failures: list[PassthruError] = []
    for vf in sriov.functions(host, wanted.address):
        policy = wanted.of(vf.number)
        present = link.vfs.get(vf.number)
        if not policy.network:
            continue
        try:
            if present is None:
                raise DeviceError(f"ip knows no VF {vf.number} of {net}", "see: ip link show " + net)
            wish = wish_of(host, wanted.address, link.permanent, vf, policy)
            todo = iplink.differences(wish, present)
            why = users.why(vf) if todo else None
            words = ", ".join(iplink.described(todo))
            if why:
                warnings.append(f"VF {vf.number} ({vf.address}) does not get {words}: {why}")
            elif todo and lock is None:
                said.append(f"would set of VF {vf.number} ({vf.address}): {words}")
            elif todo and lock is not None:
                iplink.set_vf(host, net, vf.number, wish, present)
                said.append(f"set of VF {vf.number} ({vf.address}): {words}")
                said += _bind_anew(host, wanted.address, vf, lock, deadline) if "mac" in todo else ()
        except PassthruError as error:
            failures.append(error)
    return failures


def _interface(host: Host, wanted: SriovPolicy) -> str:
    """The interface through which the VFs of a PF get their network settings. Raises DeviceError without one."""
    nets = sriov.interfaces(host, wanted.address)
    if not nets:
        raise DeviceError(
            f"cannot set the network of the VFs of {wanted.address}: it has no network interface here",
            "see that its driver is loaded and no container has its interface, or take such settings out of its policy",
        )
    return nets[0]


def _bind_anew(host: Host, pf: str, vf: Vf, lock: Lock, deadline: Deadline) -> tuple[str, ...]:
    """Bind a free VF anew where its driver takes a MAC only then; one that VFIO has is reset when its VM starts."""
    known = sriov_drivers.of(Inventory(host).driver(pf))
    if not known.mac_at_bind or vf.driver is None or vf.driver != known.vf_driver:
        return ()
    bind(host, vf.address, vf.driver, lock, deadline)
    return (f"bound VF {vf.number} ({vf.address}) to {vf.driver} anew, for its MAC to count",)


def wish_of(host: Host, pf: str, permanent: str | None, vf: Vf, policy: VfSettings) -> VfSettings:
    """The network settings that a policy wants of a VF. Raises InputError for a MAC that cannot be."""
    from pvepassthru.host import iplink  # noqa: PLC0415 - as _network

    mac = policy.mac
    if mac == "keep":
        mac = None
    elif mac == "stable":
        mac = iplink.stable_mac(host, pf, permanent, vf.number)
    elif mac is not None:
        mac = iplink.check_mac(mac)
    return policy._replace(driver=None, mac=mac)
