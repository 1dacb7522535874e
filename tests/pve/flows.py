# SPDX-License-Identifier: Apache-2.0
"""PVE's part in a VM's life, with the hook phases of every flow.

    pve = Pve(tree, node="pve", hook=[python, "-I", script], write=host.write)
    pve.define(100, "hostpci0: 0000:03:00.0,mdev=tbmdev-1\\n")
    log = pve.start(100)
    assert log.ok, log
    assert log.phases == ["pre-start", "post-start"]
    pve.stop(100)

`root` is "/" (in the guest, as root) or a simulated tree; there `write` makes the sysfs writes, for instance those of
a SimHost on the same tree. Every flow returns a Log and never raises because PVE refuses something: look at `log.ok`
and `log.error`. A hook that does not end within `hook_limit` seconds, for which PVE would wait for ever, raises
HookHangsError. Sources of the flows: the hook tables in the project's docs.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.pve import mapping, qemu, qemu_server, reservations
from tests.pve.cluster import Cluster
from tests.pve.config import PveError, Section
from tests.pve.hook import Begin, Log, begin, environment_of
from tests.pve.hook import run as run_hook
from tests.pve.sysfs import MDEVS, Sysfs, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

START_TIMEOUT = 60
"""Seconds for which a start reserves ids before QEMU runs; PVE adds five."""
LOCK_WAIT = 10.0
"""Seconds for which a command waits for the VM's lock."""
CLEANUP_WAIT = 60.0
"""Seconds for which `qm cleanup` waits for the VM's lock."""


class Pve:
    """One node's PVE.

    root: where the host's files lie; node: its name; hook: the command to which VMID and phase are added (none: no
    hook); write: makes sysfs writes; now: the clock for reservations; patience: the seconds for which PVE waits for
    NVIDIA's driver, and after which a blocked remove is left behind (10 as in PVE, 0.2 on a simulated tree).
    """

    def __init__(  # noqa: PLR0913 - all but the root have defaults
        self,
        root: str = "/",
        *,
        node: str = "pve",
        hook: Sequence[str] = (),
        write: Write | None = None,
        now: Callable[[], float] = time.time,
        patience: float | None = None,
        hook_limit: float = 120.0,
    ) -> None:
        self.root = "" if root == "/" else root.rstrip("/")
        self.node = node
        self.hook = list(hook)
        self.cluster = Cluster(self.root, node)
        self.now = now
        self.patience = patience if patience is not None else (0.2 if self.root else 10.0)
        self.hook_limit = hook_limit
        self.begin: Begin = begin
        """Starts a hook; a test may have a quicker way."""
        self.environment: dict[str, str] = {}
        """Added to the hook's environment; PVE adds nothing, tests may."""
        self.qemus = qemu.SimulatedQemus(self.root) if self.root else qemu.RealQemus()
        self.lingering: dict[int, int] = {}
        """The pids of QEMU processes that outlived their kill, by VMID."""
        self.removers: list[int] = []
        """The pids of our children that still wait in an mdev's remove."""
        self.sysfs = Sysfs(self.root, write)
        self.log = Log("")
        self.cluster.make_folders()

    # ---- files

    def define(self, vmid: int, text: str, node: str | None = None) -> None:
        """Write a VM's config file, on this node or another."""
        self.cluster.define(vmid, text, node)

    def map(self, text: str) -> None:
        """Write the cluster's mapping/pci.cfg."""
        self.cluster.put(mapping.PATH, text)

    def set_pending(self, vmid: int, key: str, value: str | None) -> None:
        """Change a key of a VM that runs: it waits in [PENDING]; None deletes the key."""
        self.cluster.set_pending(vmid, key, value)

    def _remove_file(self, path: str) -> None:
        try:
            os.unlink(self.root + path)
        except FileNotFoundError:
            pass

    # ---- what runs

    def running(self, vmid: int) -> int | None:
        """The pid of a VM that runs."""
        return qemu.running_pid(self.root, vmid)

    def end_qemu(self, vmid: int) -> None:
        """Let a VM's QEMU process end, one that outlived its kill or one that PVE knows; nothing else happens."""
        pid = self.lingering.pop(vmid, None) or self.running(vmid)
        if pid is not None:
            self.qemus.end(vmid, pid)

    def close(self) -> None:
        """End what this object started: QEMU processes that outlived their kill, and blocked removes."""
        for vmid in list(self.lingering):
            self.end_qemu(vmid)
        while self.removers:
            os.waitpid(self.removers.pop(), 0)

    def reserved(self) -> reservations.File:
        """PVE's reservation file."""
        return reservations.File(self.root, lambda vmid: qemu.running_pid(self.root, vmid), self.now, self._warn)

    def _warn(self, text: str) -> None:
        self.log.warnings.append(text)

    def _machine(self) -> qemu_server.Machine:
        return qemu_server.Machine(
            self.sysfs, self.node, self.cluster.mappings(), self.reserved(), self._warn, self.patience
        )

    @contextmanager
    def _flow(self, name: str) -> Iterator[Log]:
        """Collect what happens in one flow; a PveError ends it and lands in the log."""
        log = self.log = Log(name)
        first = len(self.sysfs.writes)
        try:
            yield log
        except PveError as error:
            log.error = error
        finally:
            log.writes = self.sysfs.writes[first:]

    @contextmanager
    def _locked(self, vmid: int, seconds: float | None = None) -> Iterator[None]:
        """PVE's lock on a VM's config, held while its hooks run."""
        with reservations.flocked(
            f"{self.root}/var/lock/qemu-server/lock-{vmid}.conf", LOCK_WAIT if seconds is None else seconds
        ):
            yield

    # ---- hooks

    def _hook(self, vmid: int, phase: str, source: str = "") -> int:
        """Run one phase as PVE does; only the caller of pre-start looks at the exit code."""
        if not self.hook:
            return 0
        more = {"PVEPASSTHRU_ROOT": self.root} if self.root else {}
        environment = environment_of(source, more | self.environment)
        run = run_hook([*self.hook, str(vmid)], phase, environment, self.hook_limit, self.begin)
        self.log.hooks.append(run)
        if run.code and phase != "pre-start":
            self._warn(f"hook {phase} of VM {vmid} failed: exit code {run.code}")
        return run.code

    # ---- start

    def start(self, vmid: int, *, fail: str | None = None) -> Log:
        """Start a VM, or resume it when it was hibernated.

        `fail` makes the start fail after pre-start: "command" before any device is prepared, "prepare" between the
        first device and the second, "qemu" with all devices prepared.
        """
        with self._flow("start") as log, self._locked(vmid):
            self._start(vmid, fail=fail)
        return log

    def _start(self, vmid: int, *, fail: str | None = None, source: str | None = None, skip_lock: bool = False) -> None:
        """The start itself, under the VM's lock; `source` is the node that a migration comes from."""
        config = self.cluster.config(vmid, source)
        lock = config.main.values.get("lock")
        resumes = lock == "suspended" and "vmstate" in config.main.values
        if lock and not (skip_lock or resumes or source):
            raise PveError("locked", f"VM {vmid} is locked ({lock})")
        if config.main.template and not skip_lock:
            raise PveError("template", f"VM {vmid} is a template")
        if self.running(vmid) is not None:
            raise PveError("already-running", f"VM {vmid}")
        if not source and not resumes:
            self.cluster.apply_pending(vmid)
            config = self.cluster.config(vmid)
        if code := self._hook(vmid, "pre-start", source or ""):
            raise PveError("hook-failed", f"pre-start of VM {vmid}: exit code {code}")
        self._start_qemu(vmid, config.main, fail)
        if resumes:
            self.cluster.set(vmid, lock=None, vmstate=None)
        if not config.main.template:
            self._hook(vmid, "post-start", source or "")

    def _start_qemu(self, vmid: int, section: Section, fail: str | None) -> None:
        """From the config to a QEMU that runs; what fails while devices are prepared, or later, is cleaned up."""
        machine = self._machine()
        devices = qemu_server.parse_devices(machine, section)
        qemu_server.choose(machine, devices, vmid, START_TIMEOUT)
        if section.machine_invalid:
            raise PveError("machine-invalid", section.values["machine"])
        _fail_at("command", fail)
        try:
            ids = qemu_server.to_reserve(devices)
            machine.reserved.reserve(ids, vmid, timeout=START_TIMEOUT)
            for place, device in enumerate(qemu_server.by_name(devices)):
                if place == 1:
                    _fail_at("prepare", fail)
                qemu_server.prepare(machine, device, vmid)
            _fail_at("prepare", fail)
            _fail_at("qemu", fail)
            pid = self.qemus.start(vmid, qemu.openings(self.sysfs, devices, vmid))
            machine.reserved.reserve(ids, vmid, pid=pid)
        except PveError:
            self._clean_up_failed(vmid, section)
            raise
        self.cluster.put(f"/run/qemu-server/{vmid}.cleanup", "")

    def _clean_up_failed(self, vmid: int, section: Section) -> None:
        self._end(vmid, "ends")
        try:
            qemu_server.cleanup(self._machine(), section, vmid, self._remove_mdev)
        except PveError as error:
            self._warn(f"cleaning up after the failed start: {error}")

    # ---- stop

    def stop(self, vmid: int, *, qemu: str = "ends", post_stop: int = 1) -> Log:
        """Stop a VM: pre-stop, QEMU ends, PVE cleans up, post-stop.

        With qemu="lingers" the process outlives SIGKILL: PVE takes it for gone, and it lives on through post-stop
        until `end_qemu`. `post_stop` is how often that phase runs: older releases run it twice or not at all.
        """
        with self._flow("stop") as log, self._locked(vmid):
            self._stop(vmid, qemu=qemu, post_stop=post_stop)
        return log

    def _stop(self, vmid: int, *, qemu: str = "ends", post_stop: int = 1) -> None:
        if self.running(vmid) is None:
            return
        self._hook(vmid, "pre-stop")
        self._end(vmid, qemu)
        self._stopped(vmid, post_stop)

    def _end(self, vmid: int, how: str) -> None:
        pid = self.running(vmid)
        if pid is None:
            return
        if how == "lingers":
            self.lingering[vmid] = pid
        else:
            self.qemus.end(vmid, pid)
        self._remove_file(f"/run/qemu-server/{vmid}.pid")

    def _stopped(self, vmid: int, post_stop: int = 1) -> None:
        """What follows the end of QEMU: PVE's own cleanup by the old config, pending changes, post-stop."""
        self._own_cleanup(vmid, self.cluster.config(vmid).main)
        self.cluster.apply_pending(vmid)
        self._remove_file(f"/run/qemu-server/{vmid}.cleanup")
        for _ in range(post_stop):
            self._hook(vmid, "post-stop")

    def _own_cleanup(self, vmid: int, section: Section) -> None:
        try:
            qemu_server.cleanup(self._machine(), section, vmid, self._remove_mdev)
        except PveError as error:
            self._warn(f"the cleanup of VM {vmid} died half way: {error}")

    def _remove_mdev(self, uuid: str) -> None:
        """Remove an mdev. While a QEMU lingers this may block: PVE hangs in it, here a child does."""
        path = f"{MDEVS}/{uuid}/remove"
        if not self.lingering:
            self.sysfs.write(path, "1")
            return
        child = self.sysfs.write_in_child(path, "1", self.patience)
        if child is not None:
            self.removers.append(child)
            self._warn(f"the remove of {uuid} blocks: its QEMU still has it open")

    def shutdown(self, vmid: int, *, times_out: bool = False) -> Log:
        """Ask the guest to shut down: as stop, or, when it does not do so in time, pre-stop only."""
        with self._flow("shutdown") as log, self._locked(vmid):
            if times_out and self.running(vmid) is not None:
                self._hook(vmid, "pre-stop")
                raise PveError("shutdown-timeout", f"VM {vmid} runs on")
            self._stop(vmid)
        return log

    def power_off(self, vmid: int) -> Log:
        """The guest powers itself off: `qm cleanup` does the rest, and its output reaches no task log."""
        with self._flow("guest power-off") as log:
            self._end(vmid, "ends")
            self._qm_cleanup(vmid)
        return log

    def crash(self, vmid: int) -> Log:
        """QEMU dies by SIGKILL; to PVE that is the same as a guest's power-off, except that the pid file stays."""
        with self._flow("crash") as log:
            pid = self.running(vmid)
            if pid is not None:
                self.qemus.end(vmid, pid)
            self._qm_cleanup(vmid)
        return log

    def _qm_cleanup(self, vmid: int) -> None:
        with self._locked(vmid, CLEANUP_WAIT):
            if self.running(vmid) is None and os.path.exists(f"{self.root}/run/qemu-server/{vmid}.cleanup"):
                self._remove_file(f"/run/qemu-server/{vmid}.pid")
                self._stopped(vmid)

    def post_stop(self, vmid: int) -> Log:
        """The phase once more, as older releases may run it."""
        with self._flow("post-stop again") as log, self._locked(vmid, CLEANUP_WAIT):
            self._hook(vmid, "post-stop")
        return log

    def reboot(self, vmid: int) -> Log:
        """Reboot by API: the guest shuts down, and `qm cleanup` starts it again unless it waits too long."""
        with self._flow("reboot") as log:
            begin = time.monotonic()
            with self._locked(vmid):
                self._stop(vmid)
            if time.monotonic() - begin > CLEANUP_WAIT:
                raise PveError("restart-lost", f"`qm cleanup` did not get the lock of VM {vmid} in time")
            with self._locked(vmid, CLEANUP_WAIT):
                self._start(vmid)
        return log

    # ---- backup, snapshots, hibernation

    def backup(self, vmid: int, mode: str = "stop") -> Log:
        """Back up a VM. One that runs: stopped and started in mode "stop", else left alone. One that does not, and a
        template, is started with its devices under `lock: backup` and stopped again.
        """
        with self._flow("backup") as log, self._locked(vmid):
            runs = self.running(vmid) is not None
            self.cluster.set(vmid, lock="backup")
            try:
                if runs and mode == "stop":
                    self._stop(vmid)
                if not runs or mode == "stop":
                    self._start(vmid, skip_lock=True)
                if not runs:
                    self._stop(vmid)
            finally:
                self.cluster.set(vmid, lock=None)
        return log

    def rollback(self, vmid: int, snapshot: str, *, ram: bool = False) -> Log:
        """Roll back to a snapshot: a VM that runs is stopped, the snapshot's config takes over, and with `ram` it runs
        again.
        """
        with self._flow("rollback") as log, self._locked(vmid):
            if snapshot not in self.cluster.config(vmid).snapshots:
                raise PveError("no-snapshot", snapshot)
            self._stop(vmid)
            self.cluster.roll_back(vmid, snapshot)
            if ram:
                self._start(vmid)
        return log

    def hibernate(self, vmid: int, *, anyway: bool = False) -> Log:
        """Hibernate a VM: post-stop only. PVE refuses it with hostpci, unless `anyway`; `start` resumes it."""
        with self._flow("hibernate") as log, self._locked(vmid):
            if self.cluster.config(vmid).main.entries() and not anyway:
                raise PveError("hibernate-with-hostpci", f"VM {vmid}")
            self.cluster.set(vmid, lock="suspended", vmstate=f"local:vm-{vmid}-state")
            self._end(vmid, "ends")
            self._own_cleanup(vmid, self.cluster.config(vmid).main)
            self._remove_file(f"/run/qemu-server/{vmid}.cleanup")
            self._hook(vmid, "post-stop")
        return log

    # ---- migration and HA

    def migrate_in(self, vmid: int, source: str, *, fail: str | None = None) -> Log:
        """The target of a live migration: it starts from the config on the source node, which stays there."""
        with self._flow("migration target") as log, self._locked(vmid):
            self._start(vmid, source=source, fail=fail)
        return log

    def finish_migration(self, vmid: int, source: str) -> None:
        """The config arrives on this node; no hook runs."""
        self.cluster.move(vmid, source, self.node)

    def abort_migration(self, vmid: int, source: str, *, qemu: str = "ends") -> Log:
        """The migration fails: on the target QEMU gets SIGTERM and post-stop runs at once, without the config lock,
        without PVE_MIGRATED_FROM, and with the config still on the source node.
        """
        with self._flow("aborted migration") as log:
            self._end(vmid, qemu)
            self._own_cleanup(vmid, self.cluster.config(vmid, source).main)
            self._remove_file(f"/run/qemu-server/{vmid}.cleanup")
            self._hook(vmid, "post-stop")
        return log

    def migrate_out(self, vmid: int, target: str) -> Log:
        """The source of a migration: QEMU ends, PVE cleans up, the config moves away; no hook runs."""
        with self._flow("migration source") as log, self._locked(vmid):
            config = self.cluster.config(vmid)
            self._end(vmid, "ends")
            self._own_cleanup(vmid, config.main)
            self._remove_file(f"/run/qemu-server/{vmid}.cleanup")
            self.cluster.move(vmid, self.node, target)
        return log

    def ha_start(self, vmid: int, elsewhere: str) -> list[Log]:
        """HA starts a VM: a failure is tried once more, then the VM is relocated to the node `elsewhere`."""
        logs = [self.start(vmid)]
        if not logs[0].ok:
            logs.append(self.start(vmid))
            if not logs[1].ok:
                self.cluster.move(vmid, self.node, elsewhere)
        return logs

    def destroy(self, vmid: int) -> None:
        """Destroy a VM that does not run: its config goes; no hook runs."""
        if self.running(vmid) is not None:
            raise PveError("already-running", f"VM {vmid}")
        self._remove_file(self.cluster.path(vmid))


def _fail_at(place: str, fail: str | None) -> None:
    if fail == place:
        raise PveError(f"injected-{place}", "the test wants the start to fail here")
