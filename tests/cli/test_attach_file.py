# SPDX-License-Identifier: Apache-2.0
"""Where `attach` puts the hookscript: what lies there already, on which storage, and whether other nodes have it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pvepassthru.lifecycle import shim_file
from tests import tree
from tests.kernel import guest
from tests.scenarios import attached
from tests.scenarios.attached import NIC, OTHER_VOLUME, VOLUME, give, run

if TYPE_CHECKING:
    from pathlib import Path

STORAGES = "dir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl\n\nlvmthin: thin\n\tcontent images\n\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A node with VM 100, which has a device, and 101, which has none."""
    return attached.node(tmp_path / "root", monkeypatch)


# ---- the shim


def test_the_shim_only(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "attach", "--shim-only") == 0
    assert run(root, "attach", "--shim-only") == 0
    place = "/var/lib/vz/snippets/pvepassthru"
    assert capsys.readouterr().out == f"{place}: put\n{place}: there already\n"
    assert attached.log(root) == []


def test_a_foreign_file_stays(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.put(root, attached.OURS, "#!/bin/sh\necho mine\n")
    assert run(root, "attach", "100") == 5
    assert "/var/lib/vz/snippets/pvepassthru is there and not this tool's, so it stays" in capsys.readouterr().err
    with open(root + attached.OURS, encoding="ascii") as file:
        assert file.read() == "#!/bin/sh\necho mine\n"


@pytest.mark.parametrize(
    "text, mode, said",
    [
        ("#!/usr/bin/python3 -I\n# pvepassthru shim 0\nold\n", 0o755, "renewed"),
        (None, 0o644, "renewed"),
        ("#!/usr/bin/python3 -I\n# pvepassthru shim 99\nnew\n", 0o755, None),
        ("#!/usr/bin/python3 -I\nfrom pvepassthru.lifecycle.quick import main\n", 0o755, "renewed"),
    ],
    ids=["older", "not executable", "newer", "by hand"],
)
def test_a_file_of_ours_that_is_there(
    text: str | None, mode: int, said: str | None, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = shim_file.text().decode()
    os.chmod(tree.put(root, attached.OURS, text or ours), mode)
    give(root, f"hookscript: {VOLUME}\n")
    assert run(root, "attach", "100") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"/var/lib/vz/snippets/pvepassthru: {said}\n") == (said is not None)
    assert out.endswith("VM 100: has hookscript local:snippets/pvepassthru already\n")
    with open(root + attached.OURS, encoding="utf-8") as file:
        assert file.read() == (ours if said else text)
    assert os.access(root + attached.OURS, os.X_OK)


def test_a_link_is_replaced_not_followed(root: str) -> None:
    """As packaging/README.md had it: a link to the installed hookscript."""
    source = tree.put(
        root, "usr/share/pvepassthru/hookscripts/pvepassthru", "from pvepassthru.lifecycle.quick import main\n"
    )
    tree.link(root, attached.OURS, "usr/share/pvepassthru/hookscripts/pvepassthru")
    assert run(root, "attach", "--shim-only") == 0
    assert not os.path.islink(root + attached.OURS)
    with open(source, encoding="ascii") as file:
        assert file.read() == "from pvepassthru.lifecycle.quick import main\n"


COPY = "#!/usr/bin/python3 -I\nfrom pvepassthru.lifecycle.quick import main\n"


def by_hand(kind: str) -> str:
    """A copy of the hookscript: what counts of it, the present one, or the first one, which ended otherwise."""
    if kind == "short":
        return COPY
    with open(f"{guest.PROJECT}/hookscripts/pvepassthru", encoding="utf-8") as file:
        text = file.read()
    return text if kind == "whole" else text.partition("os._exit")[0] + "sys.exit(main(sys.argv))\n"


@pytest.mark.parametrize("kind", ["short", "whole", "first"])
def test_a_copy_by_hand_elsewhere_is_not_chained(kind: str, root: str) -> None:
    os.chmod(tree.put(root, attached.OTHER, by_hand(kind)), 0o755)
    give(root, f"hookscript: {OTHER_VOLUME}\n")
    assert run(root, "attach", "100") == 0
    assert attached.hooks(root) == {}
    assert attached.config(root) == f"hookscript: {VOLUME}\n"


@pytest.mark.parametrize(
    "script",
    [
        "#!/bin/sh\n# wraps pvepassthru.lifecycle.quick\n/opt/x $@\n",
        f"{COPY}import subprocess\nsubprocess.run(['/usr/local/sbin/hugepages'])\nsys.exit(main(sys.argv))\n",
        f'{COPY}"""x"""; import subprocess\n',
    ],
)
def test_a_script_that_does_more_is_chained(script: str, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And it is said that our hook may run twice with it."""
    os.chmod(tree.put(root, attached.OTHER, script), 0o755)
    give(root, f"hookscript: {OTHER_VOLUME}\n")
    assert run(root, "attach", "100") == 0
    assert list(attached.hooks(root)) == ["100"]
    assert capsys.readouterr().err == (
        "pvepassthru: warning: hookscript local:snippets/other, chained to ours, speaks of pvepassthru: where it runs "
        "our hook itself take that out of it, since ours runs with it now\n"
    )
    assert run(root, "detach", "100") == 0
    assert attached.config(root) == f"hookscript: {OTHER_VOLUME}\n"


def test_a_foreign_script_of_our_name(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is what it is, and not what it is called."""
    os.chmod(tree.put(root, attached.OURS, "#!/bin/sh\necho mine\n"), 0o755)
    tree.put(root, "etc/pve/storage.cfg", "dir: big\n\tpath /big\n\tcontent snippets\n")
    tree.folder(root, "big")
    give(root, f"hookscript: {VOLUME}\n")
    assert run(root, "attach", "100", "--storage", "big") == 0
    assert attached.hooks(root) == {"100": {"volume": VOLUME, "path": attached.OURS}}
    assert attached.config(root) == "hookscript: big:snippets/pvepassthru\n"
    assert run(root, "detach", "100") == 0
    assert attached.config(root) == f"hookscript: {VOLUME}\n"
    capsys.readouterr()
    assert run(root, "detach", "--all") == 0
    assert capsys.readouterr().out == "no VM of this node has the hookscript\n"
    assert run(root, "detach", "100") == 0
    assert capsys.readouterr().err.endswith(f"has hookscript {VOLUME}, which is not this tool's: it stays\n")
    assert attached.config(root) == f"hookscript: {VOLUME}\n"


def test_a_file_that_cannot_be_read_stays(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.link(root, attached.OURS, attached.OURS)
    assert run(root, "attach", "100") == 5
    assert "pvepassthru is there and cannot be read, so it stays" in capsys.readouterr().err


def test_the_storage_of_ours_is_gone(root: str) -> None:
    """The chained script stays chained to the one on another storage."""
    tree.put(root, "etc/pve/storage.cfg", "dir: big\n\tpath /big\n\tcontent snippets\n")
    tree.folder(root, "big")
    give(root, f"hookscript: {OTHER_VOLUME}\n")
    assert run(root, "attach", "100", "--storage", "big") == 0
    os.unlink(f"{root}/etc/pve/storage.cfg")
    assert run(root, "attach", "100") == 0
    assert attached.config(root) == f"hookscript: {VOLUME}\n"
    assert attached.hooks(root) == {"100": {"volume": OTHER_VOLUME, "path": attached.OTHER}}
    give(root, "hookscript: big:snippets/pvepassthru\n")
    assert run(root, "detach", "100") == 0
    assert attached.config(root) == f"hookscript: {OTHER_VOLUME}\n"


# ---- storages


@pytest.mark.parametrize(
    "storages, words, why",
    [
        (
            STORAGES,
            (),
            "no storage of node pve is for snippets; make one so: pvesm set local --content iso,vztmpl,snippets",
        ),
        (
            STORAGES,
            ("local",),
            "storage local is not for snippets; make it so: pvesm set local --content iso,vztmpl,snip",
        ),
        (STORAGES, ("thin",), "storage thin (lvmthin) holds no files; make one so: pvesm set local --content iso,vz"),
        (STORAGES, ("nas",), "there is no storage nas; /etc/pve/storage.cfg has local, thin"),
        (
            f"{STORAGES}nfs: nas\n\tcontent snippets\n",
            (),
            "storage nas is not there on node pve: no /mnt/pve/nas; see whe",
        ),
        (
            f"{STORAGES}nfs: nas\n\tcontent snippets\n\tnodes b\n",
            ("nas",),
            "storage nas is disabled, or not for node pve",
        ),
        (
            "dir: local\n\tpath /var/lib/vz\n\tdisable 1\n",
            (),
            "no storage of node pve is for snippets; add a storage of",
        ),
        ("dir: local\n\tpath /var/lib/vz\n", (), "pvesm set local --content images,rootdir,snippets"),
    ],
)
def test_no_storage(
    storages: str, words: tuple[str, ...], why: str, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.put(root, "etc/pve/storage.cfg", storages)
    code = run(root, "attach", "100", *(("--storage", *words) if words else ()))
    assert code in {3, 5}
    assert why in capsys.readouterr().err
    assert attached.log(root) == []


@pytest.mark.parametrize(
    "storage, mounts, why",
    [
        ("nfs: nas\n\tserver s\n", "", "nas is not mounted on node pve: nothing of it is on /mnt/pve/nas, and"),
        (
            "dir: nas\n\tpath /mnt/pve/nas\n\tis_mountpoint 1\n",
            "",
            "storage nas is not mounted on node pve: nothing of it",
        ),
        ("nfs: nas\n\tserver s\n", "s:/x /mnt/pve/nas nfs4 rw,noexec 0 0\n", "storage nas is mounted with noexec, so"),
    ],
)
def test_a_storage_that_is_not_mounted_for_it(
    storage: str, mounts: str, why: str, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder is there all the same."""
    tree.put(root, "etc/pve/storage.cfg", f"{STORAGES}{storage}\tcontent snippets\n")
    tree.put(root, "proc/mounts", f"/dev/sda1 / ext4 rw 0 0\n{mounts}")
    tree.folder(root, "mnt/pve/nas")
    for words in (("--dry-run",), (), ("--storage", "nas"), ("--shim-only",)):
        vmids = () if words == ("--shim-only",) else ("100",)
        assert run(root, "attach", *vmids, *words) == 5
        assert why in capsys.readouterr().err
    assert os.listdir(f"{root}/mnt/pve/nas") == []
    assert attached.log(root) == []


def test_a_folder_of_its_storage_where_nothing_can_be_run(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.put(root, "proc/mounts", "x / ext4 rw 0 0\ny /var/lib/vz/snippets ext4 rw,noexec 0 0\n")
    assert run(root, "attach", "100") == 5
    assert capsys.readouterr().err == (
        "pvepassthru: /var/lib/vz/snippets/pvepassthru lies on a file system that is mounted with noexec, so PVE would "
        "not run it; is the storage mounted so that nothing is executable?\n"
    )
    assert attached.log(root) == []


def test_which_storage(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The first one; in a cluster the first that all nodes share."""
    more = "dir: one\n\tpath /one\n\tcontent snippets\n\ndir: two\n\tpath /two\n\tcontent snippets\n\tshared 1\n\n"
    tree.put(root, "etc/pve/storage.cfg", STORAGES + more)
    for folder in ("one", "two"):
        tree.folder(root, folder)
    assert run(root, "attach", "100", "--dry-run") == 0
    tree.folder(root, "etc/pve/nodes/other")
    assert run(root, "attach", "100", "--dry-run") == 0
    assert run(root, "attach", "100", "--dry-run", "--storage", "one", "--this-node-only") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("VM")]
    assert lines == [f"VM 100: would have hookscript {name}:snippets/pvepassthru" for name in ("one", "two", "one")]


def test_to_another_storage(root: str) -> None:
    """The chained script stays chained."""
    give(root, f"hookscript: {OTHER_VOLUME}\n")
    assert run(root, "attach", "100") == 0
    tree.put(
        root, "etc/pve/storage.cfg", "dir: one\n\tpath /one\n\tcontent snippets\n\tcontent-dirs snippets=snippets\n"
    )
    tree.folder(root, "one")
    assert run(root, "attach", "100") == 0
    assert attached.config(root) == f"hookscript: {VOLUME}\n", "it has one, and no other is named"
    assert run(root, "attach", "100", "--storage", "one") == 0
    assert attached.config(root) == "hookscript: one:snippets/pvepassthru\n"
    assert attached.hooks(root) == {"100": {"volume": OTHER_VOLUME, "path": attached.OTHER}}


# ---- other nodes


@pytest.fixture
def two(root: str) -> str:
    """A cluster of two nodes, on both of which VM 101 may run; VM 100 has a device by its address."""
    tree.folder(root, "etc/pve/nodes/other/qemu-server")
    return root


def answer(root: str, text: str) -> None:
    tree.put(root, "answers/nodes/other/storage/local/content", text)


def test_the_other_node_has_it(two: str) -> None:
    answer(two, '[{"volid":"local:snippets/pvepassthru","size":944}]')
    assert run(two, "attach", "100", "101") == 0
    words = "get /nodes/other/storage/local/content --content snippets --output-format json"
    assert attached.log(two, "pvesh") == [words], "it is asked once"


@pytest.mark.parametrize(
    "said, why",
    [
        ('[{"volid":"local:snippets/x"}]', "other: it has no local:snippets/pvepassthru"),
        ("[]", "other: it has no local:snippets/pvepassthru"),
        ("Wide character", "other: it cannot be asked: pvesh printed no JSON"),
        (None, "other: it cannot be asked: ssh: connect to host: No route to host"),
    ],
)
def test_the_other_node_lacks_it(said: str | None, why: str, two: str, capsys: pytest.CaptureFixture[str]) -> None:
    if said is not None:
        answer(two, said)
    assert run(two, "attach", "100", "101") == 5
    assert capsys.readouterr().err == (
        f"pvepassthru: VM 101 may be started on other too, where PVE refuses that without its hookscript ({why}); "
        "there: pvepassthru attach --shim-only --storage local; or leave it at that with --this-node-only\n"
    )
    assert attached.log(two) == [f"set 100 --hookscript {VOLUME}"], "a device by its address keeps VM 100 here"
    assert run(two, "attach", "101", "--this-node-only") == 0
    assert run(two, "attach", "101") == 0, "it has it already"
    assert f"warning: VM 101 may be started on other too, where PVE refuses that without its hookscript ({why})" in (
        capsys.readouterr().err
    )


def test_a_shared_storage_is_seen_there_too(two: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It may not be mounted there, or be shared in name only. In a dry run nobody can see what is not put yet."""
    tree.put(two, "etc/pve/storage.cfg", "dir: nas\n\tpath /nas\n\tcontent snippets\n\tshared 1\n")
    tree.folder(two, "nas")
    assert run(two, "attach", "101", "--dry-run") == 0
    assert attached.log(two, "pvesh") == []
    path = "answers/nodes/other/storage/nas/content"
    tree.put(two, path, "[]")
    assert run(two, "attach", "101") == 5
    assert "(other: it has no nas:snippets/pvepassthru)" in capsys.readouterr().err
    assert run(two, "attach", "101", "--dry-run") == 5, "it is put by now"
    tree.put(two, path, '[{"volid":"nas:snippets/pvepassthru"}]')
    assert run(two, "attach", "101") == 0


def test_a_shared_storage_that_is_not_for_all(two: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = "dir: nas\n\tpath /nas\n\tcontent snippets\n\tshared 1\n\tnodes pve\n"
    tree.put(two, "etc/pve/storage.cfg", text)
    tree.folder(two, "nas")
    assert run(two, "attach", "101", "--storage", "nas") == 5
    assert "other: storage nas is not for that node" in capsys.readouterr().err


def test_a_device_that_is_pending_counts(two: str) -> None:
    """Where a VM may go is a matter of its next start."""
    give(two, f"memory: 512\n\n[PENDING]\n{NIC}", 101)
    assert run(two, "attach", "101", "--dry-run", "--with-pending") == 0
    give(two, f"{NIC}\n[PENDING]\ndelete: hostpci0\n", 101)
    assert run(two, "attach", "101", "--dry-run", "--with-pending") == 5


def test_ha_starts_a_vm_elsewhere_whatever_it_has(two: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree.put(two, "etc/pve/ha/resources.cfg", "vm: 100\n\tstate started\n")
    assert run(two, "attach", "100") == 5
    assert "VM 100 may be started on other too" in capsys.readouterr().err
    rules = "node-affinity: here\n\tresources vm:100\n\tnodes pve\n\tstrict 1\n"
    tree.put(two, "etc/pve/ha/rules.cfg", rules)
    assert run(two, "attach", "100") == 0
