# SPDX-License-Identifier: Apache-2.0
# pvepassthru shim 1
"""The hookscript of pvepassthru on a storage, put there by `pvepassthru attach`; what it does is in the package.

Without the package it lets VMs start all the same, and runs only the hookscript that a VM had before, if it had one.
"""

import os
import sys

_HOOKS = "/etc/pve/pvepassthru-hooks.json"


def main(argv: list[str]) -> int:
    """Run one hook phase (argv: script, VMID, phase) and return its exit code."""
    root = os.environ.get("PVEPASSTHRU_ROOT", "").rstrip("/")
    starts = argv[2:] == ["pre-start"]
    try:
        hooks = _read(root + _HOOKS)
    except OSError as error:
        words = f"cannot read {_HOOKS}, which may name a hookscript that is to run with this tool's: {error.strerror}"
        _say("error" if starts else "warning", words)
        if starts:
            return 4
        hooks = b""
    chained = len(argv) == 3 and f'"{argv[1]}"'.encode() in hooks
    try:
        if chained:
            from pvepassthru.lifecycle.chained import main as run  # noqa: PLC0415 - of few VMs
        else:
            from pvepassthru.lifecycle.quick import main as run  # noqa: PLC0415 - it may be absent
    except Exception as error:  # noqa: BLE001 - as below
        if isinstance(error, ModuleNotFoundError) and not _is_there():
            words = (
                f"pvepassthru is not installed on this node for {sys.executable} ({error}), so no device is prepared"
            )
            way = f"install it again, or: qm set {argv[1] if argv[1:] else 'VMID'} --delete hookscript"
            _say("error", f"{words} or given back; {way}")
        else:
            code = _damaged(error, argv)
            if starts:
                return code
        return _former(root, argv, hooks) if chained else 0
    try:
        return run(argv)
    except Exception as error:  # noqa: BLE001 - a part of the package is missing, or wrong; a task log gets no traceback
        return _damaged(error, argv)


def _read(path: str) -> bytes:
    """The bytes of a file, none if there is none. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    with open(fd, "rb") as file:
        return file.read()


def _is_there() -> bool:
    """Whether there is a package, whole or not; folders that were left behind are none."""
    return getattr(sys.modules.get("pvepassthru"), "__file__", None) is not None


def _damaged(error: Exception, argv: list[str]) -> int:
    why = " ".join(f"{type(error).__name__}: {error}".split())
    _say("error", f"pvepassthru of this node is damaged ({why}); install it again")
    return 5 if argv[2:] == ["pre-start"] else 0


def _former(root: str, argv: list[str], hooks: bytes) -> int:
    """All that can be done without the package: to run the VM's former hookscript."""
    import json  # noqa: PLC0415 - it is slow, and hardly ever needed
    import signal  # noqa: PLC0415 - as json

    try:
        path = root + json.loads(hooks)["chained"][argv[1]]["path"]
        if not os.path.samefile(path, __file__):
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is run would, too
                signal.signal(number, signal.SIG_DFL)
            _execute([path, *argv[1:]])
    except (OSError, ValueError, KeyError, TypeError) as why:
        _say("error", f"the hookscript that VM {argv[1]} had before cannot be run: {why}")
        return 1
    return 0


def _execute(command: list[str]) -> None:
    """Become a program as execvp(3) does it: one without a first line that names another is sh's."""
    try:
        os.execv(command[0], command)  # noqa: S606 - what PVE itself ran before
    except OSError as error:
        if error.errno != 8:  # ENOEXEC
            raise
        os.execv("/bin/sh", ["/bin/sh", *command])  # noqa: S606 - as above


def _say(level: str, sentence: str) -> None:
    """Say it to the task log, and to syslog, since a post-stop may have no log."""
    try:
        os.write(2, f"pvepassthru: {level}: {sentence}\n".encode("utf-8", "backslashreplace"))
        if not os.environ.get("PVEPASSTHRU_ROOT"):
            import syslog  # noqa: PLC0415 - only when there is something to tell

            syslog.openlog(f"pvepassthru[{sys.argv[1] if sys.argv[1:] else 0}]", 0, syslog.LOG_DAEMON)
            syslog.syslog(syslog.LOG_ERR if level == "error" else syslog.LOG_WARNING, sentence)
    except OSError:  # nobody listens
        pass


if __name__ == "__main__":
    os._exit(main(sys.argv))  # all output is written; taking the interpreter down would only take time
