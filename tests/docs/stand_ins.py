# SPDX-License-Identifier: Apache-2.0
"""Programs of a PVE node that pages and the tool run, as stand-ins that check their words and work on the node's tree.

Each takes the machine and its words, prints as the program does, and returns its exit code. Words that the program does
not know are a BadWordsError, so that no page shows what would not work.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shlex
import sys
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from tests import tree
from tests.docs import cluster_programs, hosts, kernel_programs
from tests.docs.words import BadWordsError, options, say
from tests.kernel import guest
from tests.pve.config import Section

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.docs.machine import Machine
    from tests.pve.hook import Log

STORAGES = "/etc/pve/storage.cfg"
VM_KEYS = {
    "machine": r"q35|pc",
    "bios": r"ovmf|seabios",
    "vga": r"none|std|virtio|qxl|serial0",
    "efidisk0": r"[a-z-]+:1,efitype=4m(,pre-enrolled-keys=[01])?",
    "cpu": r"host(,hidden=1)?(,flags=\S+)?",
    "balloon": r"\d+",
    "memory": r"\d+",
    "onboot": r"[01]",
    "hookscript": r"[a-z-]+:snippets/[\w.-]+",
    "hostpci": r".+",
    "digest": r"[0-9a-f]{40}",
    "net": r"virtio(=[0-9A-F:]+)?,bridge=vmbr\d+",
}
"""Keys of `qm set` with what they may be here; `hostpci` stands for hostpci0 and the like."""
PVE_WORDS = {
    r"mediated device (\S+) is on \S+ already; used as it is": r"mdev instance '\1' already existed, using it.",
    r"cannot reset (\S+), going on: .*Errno 25.*": r"error writing '1' to '/sys/bus/pci/devices/\1/reset': "
    r"Inappropriate ioctl for device\nfailed to reset PCI device '\1', but trying to continue as not all devices need "
    r"a reset",
}
"""Warnings of the tests' PVE, as the real one words them."""
PACKAGES = frozenset({"pvepassthru", "pve-headers", "proxmox-default-headers", "dkms", "sysfsutils", "mstflint"})
UNITS = frozenset(os.listdir(f"{guest.PROJECT}/packaging/systemd"))


# ---- qm


def sh(machine: Machine, words: list[str]) -> int:
    """`sh FILE`: a file of commands, up to the first that fails."""
    (path,) = words
    with open(os.path.join(machine.root, path), encoding="utf-8") as file:
        lines = file.read().replace("\\\n", " ").splitlines()
    for line in lines:
        if line.strip() and not line.startswith("#"):
            program, *rest = shlex.split(line)
            if code := PROGRAMS[program](machine, rest):
                return code
    return 0


def qm(machine: Machine, words: list[str]) -> int:
    """`qm`: set, config, start, shutdown, stop, reboot, status, of VMs of this node."""
    action, vmid, *rest = words
    path = machine.pve.cluster.path(int(vmid))
    if not os.path.exists(machine.root + path):
        say(f"Configuration file 'nodes/{hosts.NODE}/qemu-server/{vmid}.conf' does not exist")
        return 2
    if action == "set":
        return _qm_set(machine, int(vmid), options(rest))
    if rest:
        raise BadWordsError(f"qm {action} has no {' '.join(rest)} here")
    if action == "config":
        for key, value in sorted(machine.pve.cluster.config(int(vmid)).effective().values.items()):
            say(f"{key}: {value}")
        return 0
    if action == "status":
        say(f"status: {'stopped' if machine.pve.running(int(vmid)) is None else 'running'}")
        return 0
    flows: dict[str, Callable[[int], Log]] = {
        "start": machine.pve.start,
        "shutdown": machine.pve.shutdown,
        "stop": machine.pve.stop,
    }
    return _flow(machine, int(vmid), flows[action])


def _flow(machine: Machine, vmid: int, flow: Callable[[int], Log]) -> int:
    volume = machine.pve.cluster.config(vmid).effective().values.get("hookscript")
    script = _script(machine, volume) if volume else ""
    machine.pve.hook = [machine.interpreter, "-I", script] if script else []
    log = flow(vmid)
    for run in log.hooks:
        sys.stdout.write(run.output)
        if run.code:
            shown = script.removeprefix(machine.root)
            command = f"'{shown} {vmid} {run.phase}'"
            say(f"hookscript error for {vmid} on {run.phase}: command {command} failed: exit code {run.code}")
    for warning in log.warnings:
        say(_as_pve_says(warning))
    if log.error is not None and not (log.hooks and log.hooks[-1].code):
        say(f"start failed: {log.error}")
    return 0 if log.ok else 255


def _as_pve_says(warning: str) -> str:
    """What PVE itself prints of this, where that is known."""
    for pattern, words in PVE_WORDS.items():
        if found := re.fullmatch(pattern, warning):
            return found.expand(words)
    return f"warning: {warning}"


def _script(machine: Machine, volume: str) -> str:
    storage, _, file = volume.partition(":")
    if storage != "local":
        raise BadWordsError(f"{volume} is on no storage of this host")
    path = f"{machine.root}/var/lib/vz/{file}"
    if not os.access(path, os.X_OK):
        raise BadWordsError(f"{volume} is not there, or not executable")
    return path


def _qm_set(machine: Machine, vmid: int, given: dict[str, str]) -> int:
    deleted = given.pop("delete", "").replace(",", " ").split()
    for key, value in given.items():
        _need_known(key, value)
    digest = given.pop("digest", None)
    if digest is not None and digest != _digest(machine, vmid):
        say("detected modified configuration - file changed by other user? Try again.")
        return 255
    if "hookscript" in given:
        _script(machine, given["hookscript"])
    for key in deleted:
        if key not in machine.pve.cluster.config(vmid).effective().values:
            raise BadWordsError(f"qm set --delete {key}: VM {vmid} has none")
    values = {key: _stored(vmid, key, value) for key, value in given.items()}
    changes: dict[str, str | None] = {**values, **dict.fromkeys(deleted)}
    running = machine.pve.running(vmid) is not None
    for key, new in changes.items():
        if running and key != "hookscript":
            machine.pve.set_pending(vmid, key, new)
        else:
            machine.pve.cluster.set(vmid, **{key: new})
    words = {**given, **({"delete": ",".join(deleted)} if deleted else {})}
    say(f"update VM {vmid}: {' '.join(f'-{key} {value}' for key, value in sorted(words.items()))}")
    return 0


def _need_known(key: str, value: str) -> None:
    kind = "hostpci" if re.fullmatch(r"hostpci\d+", key) else re.sub(r"^net\d$", "net", key)
    section = Section()
    section.read(key, value)
    if kind not in VM_KEYS or not re.fullmatch(VM_KEYS[kind], value) or key not in section.values:
        raise BadWordsError(f"qm set --{key} {value}: not a setting that PVE is known to take")


def _digest(machine: Machine, vmid: int) -> str:
    with open(machine.root + machine.pve.cluster.path(vmid), "rb") as file:
        return hashlib.sha1(file.read(), usedforsecurity=False).hexdigest()


def _stored(vmid: int, key: str, value: str) -> str:
    """A value as PVE keeps it: a disk that is to be made has its name then."""
    return re.sub(r"^([a-z-]+):1,", rf"\1:vm-{vmid}-disk-0,", value) if key == "efidisk0" else value


# ---- packages, units, storages


def apt(machine: Machine, words: list[str]) -> int:
    """`apt install`, `remove` and `purge`: of our package's file, and of packages that pages name."""
    action, *names = [word for word in words if not word.startswith("-")]
    if action == "update" and not names:
        return 0
    if action not in {"install", "remove", "purge"} or not names:
        raise BadWordsError(f"apt {' '.join(words)}")
    for name in names:
        built = fnmatch(f"pvepassthru_{machine.version}_all.deb", os.path.basename(name))
        if not (name in PACKAGES if "/" not in name else action == "install" and built):
            raise BadWordsError(f"apt {action} {name}: not a package that is known here")
    return 0


def pip(machine: Machine, words: list[str]) -> int:
    """`pip install` and `uninstall`, of this checkout or the package."""
    del machine
    action, *rest = words
    names = [word for word in rest if not word.startswith("-")]
    known = {"--break-system-packages", "--no-deps", "--no-build-isolation"}
    if names != {"install": ["."], "uninstall": ["pvepassthru"]}.get(action) or not known >= {*rest} - {*names}:
        raise BadWordsError(f"pip {' '.join(words)}")
    return 0


def pipx(machine: Machine, words: list[str]) -> int:
    """`pipx install .` and `pipx uninstall pvepassthru`."""
    return pip(machine, words)


def install(machine: Machine, words: list[str]) -> int:
    """`install -D -m MODE FILE... TARGET`: of files of this checkout."""
    del machine
    how = [word for word in words if word in {"-D", "-m", "755", "644"}]
    *sources, target = words[len(how) :]
    if words[: len(how)] != how or not sources or not target.startswith("/"):
        raise BadWordsError(f"install {' '.join(words)}")
    for source in sources:
        if not glob.glob(f"{guest.PROJECT}/{source}"):
            raise BadWordsError(f"install: there is no {source}")
    return 0


def systemctl(machine: Machine, words: list[str]) -> int:
    """`systemctl`: what pages say of our units, and what the tool says of the policy's services."""
    action, *rest = [word for word in words if not word.startswith("-")]
    if action == "daemon-reload" and not rest:
        return 0
    if action not in {"enable", "disable", "start", "stop", "restart"} or not rest:
        raise BadWordsError(f"systemctl {' '.join(words)}")
    for unit in rest:
        if unit not in UNITS:
            raise BadWordsError(f"systemctl {action} {unit}: not a unit that is known here")
        target = hosts.UNITS.get(unit)
        link = f"{machine.root}/etc/systemd/system/{target}.wants/{unit}"
        if action == "enable" and target and not os.path.islink(link):
            tree.link(machine.root, link.removeprefix(machine.root), f"usr/lib/systemd/system/{unit}")
        elif action == "disable" and os.path.islink(link):
            os.unlink(link)
    return 0


def pvesm(machine: Machine, words: list[str]) -> int:
    """`pvesm set STORAGE --content LIST`."""
    action, storage, *rest = words
    content = options(rest).get("content", "")
    kinds = {"images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import"}
    if action != "set" or not content or not kinds.issuperset(content.split(",")):
        raise BadWordsError(f"pvesm {' '.join(words)}")
    path = machine.root + STORAGES
    with open(path, encoding="utf-8") as file:
        parts = file.read().split("\n\n")
    for number, part in enumerate(parts):
        if part.splitlines()[0].endswith(f": {storage}"):
            parts[number] = re.sub(r"\tcontent .*", f"\tcontent {content}", part)
            break
    else:
        raise BadWordsError(f"there is no storage {storage}")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n\n".join(parts))
    return 0


# ---- the boot


def rm(machine: Machine, words: list[str]) -> int:
    """`rm FILE...`: our units in /etc, and our hookscript, which are there if this host has them."""
    for word in words:
        unit = word.startswith("/etc/systemd/system/") and os.path.basename(word) in UNITS
        if not unit and not os.path.exists(machine.root + word):
            raise BadWordsError(f"rm {word}: there is none")
        if os.path.isfile(machine.root + word):
            os.unlink(machine.root + word)
    return 0


def reboot(machine: Machine, words: list[str]) -> int:
    """`reboot`."""
    if words:
        raise BadWordsError("reboot has no words")
    machine.reboot()
    return 0


def update_grub(machine: Machine, words: list[str]) -> int:
    """`update-grub`."""
    if words:
        raise BadWordsError("update-grub has no words")
    hosts.update_grub(machine.root)
    return 0


def update_initramfs(machine: Machine, words: list[str]) -> int:
    """`update-initramfs -u -k all`."""
    if words != ["-u", "-k", "all"]:
        raise BadWordsError(f"update-initramfs {' '.join(words)}")
    hosts.update_initramfs(machine.root)
    return 0


# ---- files


def cat(machine: Machine, words: list[str]) -> int:
    """`cat FILE`."""
    (path,) = words
    say((machine.host.read(path)).decode().rstrip("\n"))
    return 0


def echo(machine: Machine, words: list[str]) -> int:
    """`echo WORDS`."""
    del machine
    say(" ".join(words))
    return 0


def python3(machine: Machine, words: list[str]) -> int:
    """`python3 -I -c ...`: whether Debian's Python finds the package."""
    del machine
    if words != ["-I", "-c", "import pvepassthru.lifecycle.quick"]:
        raise BadWordsError(f"python3 {' '.join(words)}")
    return 0


def dev(machine: Machine, words: list[str]) -> int:
    """`./dev COMMAND`: one that there is; the demo is run, the others run or make what tests here look at."""
    with open(f"{guest.PROJECT}/dev", encoding="utf-8") as file:
        known = re.findall(r'^    "(\w+)": \w+,$', file.read(), re.MULTILINE)
    if not words or words[0] not in known:
        raise BadWordsError(f"./dev {' '.join(words)}")
    return machine.pvepassthru(words) if words == ["demo"] else 0


PROGRAMS: dict[str, Callable[[Machine, list[str]], int]] = {
    "sh": sh,
    "qm": qm,
    "apt": apt,
    "pip": pip,
    "pipx": pipx,
    "install": install,
    "systemctl": systemctl,
    "pvesm": pvesm,
    "rm": rm,
    "reboot": reboot,
    "update-grub": update_grub,
    "update-initramfs": update_initramfs,
    "cat": cat,
    "echo": echo,
    "modprobe": kernel_programs.modprobe,
    "ip": kernel_programs.ip,
    "sriov-manage": kernel_programs.sriov_manage,
    "python3": python3,
    "pveum": cluster_programs.pveum,
    "ha-manager": cluster_programs.ha_manager,
    "ssh": cluster_programs.ssh,
    "./dev": dev,
}
