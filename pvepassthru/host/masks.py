# SPDX-License-Identifier: Apache-2.0
"""What a snapshot does not tell: secrets, and what names one person's machine, replaced or left out.

MAC addresses, serial numbers and UUIDs become pseudonyms (host/pseudonyms.py). Of formats that can hold anything only
what is known to be harmless is kept, so that a secret under an unknown key is left out too. Lines are kept as lines, so
that findings name the same ones. Node names, VM names and interface names stay.
"""

from __future__ import annotations

import re
from itertools import pairwise

from pvepassthru.host import commands
from pvepassthru.host.commands import MASKED
from pvepassthru.host.pseudonyms import UUID, Pseudonyms

_IPV4 = re.compile(rb"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9.])")
_IPV6 = re.compile(
    rb"(?<![0-9A-Za-z:.])(?=[0-9A-Fa-f:]*::|(?:[0-9A-Fa-f]+:){7})(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:])"
)
_SECRET = re.compile(
    rb"(?i)(?<![\w.-])((?=[\w.-]*?(?:pass|secret|token|key|credential|serial|wwn|ticket|user|psk))[\w.-]++)[ \t]*+="
    rb"(?:\"[^\"\n]*\"|'[^'\n]*'|\S*?(?=[\"']?(?:\s|$)))"
)
"""An assignment whose name says that its value is nobody's business; a quote that ends a longer text stays."""
_SECRET_PROPERTY = re.compile(rb"(?i)\b(serial|wwn|password|secret|token|username|credential)=[^,\n]*")
"""Likewise, in a property string of PVE."""
_GIVEN = re.compile(rb"(?i)\b(data|string|value)=(?!(?:[0-9]+|on|off)(?:[\s,]|$))[^\s,]+")
"""What QEMU's arguments give a guest or an object as text: `-object secret,data=`, `-fw_cfg string=`, `-smbios
type=11,value=`; no numbers or flags."""
_IN_URL = re.compile(rb"(?<=://)[^\s/@]+(?=@)")
"""Who somebody is, in a URL: `https://USER:PASSWORD@HOST`."""
_MDEVCTL = re.compile(rb'\s*(?:[{}\[\]],?|"(?:mdev_type|start)"\s*:\s*"[\w.-]*",?|"attrs"\s*:\s*\[\s*\]?,?)?\s*')
"""The lines of mdevctl's JSON that say of what type a device is, and when it is made."""
_REASON = re.compile(rb"(?<![\w])([\"']?reason[\"']?[ \t]*:[ \t]+)(\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\n]*)")
_PARAMETER = re.compile(rb"(?<=\0)parm(?:type)?=[^\0]{1,300}|(?:(?<= )|\A)parmtype=[^\0]{1,300}")
SIGNATURE = len(b"~Module signature appended~\n")

VM_KEYS = frozenset(
    (
        *(b"acpi affinity agent allow-ksm amd-sev arch args audio autostart balloon bios boot bootdisk cores").split(),
        *(b"cpu cpulimit cpuunits delete efidisk freeze hookscript hostpci hotplug hugepages ide intel-tdx").split(),
        *(b"ivshmem keephugepages keyboard kvm localtime lock machine memory meta migrate_downtime").split(),
        *(
            b"migrate_speed name net numa onboot ostype parallel parent protection reboot rng running-nets-host-mtu"
        ).split(),
        *(b"runningcpu runningmachine sata scsi scsihw serial shares smp snaptime sockets spice_enhancements").split(),
        *(
            b"startdate startup tablet tdf template tpmstate unused usb vcpus vga virtio virtiofs vmstatestorage"
        ).split(),
        *(b"watchdog").split(),
    )
)
"""Keys of a VM config, without their numbers, whose values are kept. Source: PVE's documentation, qm.conf(5)."""
STORAGE_KEYS = frozenset(
    b"content disable is_mountpoint mkdir nodes path pool shared sparse thinpool vgname mountpoint base".split()
)
CLUSTER_KEYS = frozenset(
    (
        *(b"all enabled exclude group max_relocate max_restart mode node nodes nofailback pool prune-backups").split(),
        *(
            b"repeat-missed resources restricted schedule starttime state storage type vmid affinity strict disable"
        ).split(),
        *(b"dow remove map mdev live-migration-capable ha crm migration failback").split(),
    )
)
"""Keys of the cluster's section files (HA, jobs, mappings, datacenter.cfg) whose values are kept."""
_KEY = re.compile(rb"([a-z][a-z_-]*)[0-9]*\Z")
_LIKE_HOSTPCI = re.compile(rb"(?i)[\xef\xbb\xbf\s]*host[-_ ]?pci")
_OPTION_TEXT = re.compile(rb"(?i)\b(description|comment)=[^,\n]*")


class Masks:
    """What is kept of each file of one snapshot; with `full` nothing is masked."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.pseudonyms = Pseudonyms(full=full)

    def plain(self, data: bytes) -> bytes:
        """Any text as `Pseudonyms.plain` leaves it."""
        return self.pseudonyms.plain(data)

    # ---- texts

    def words(self, data: bytes) -> bytes:
        """A command line of a kernel or of QEMU: without IP addresses and the values of what is named as secret."""
        if self.full:
            return data
        data = _IN_URL.sub(MASKED, _SECRET.sub(rb"\1=" + MASKED, data))
        return _IPV6.sub(MASKED, _IPV4.sub(MASKED, data))

    def settings(self, data: bytes) -> bytes:
        """A configuration file with `#` comments, without these, and else as `words`."""
        if self.full:
            return data
        return b"\n".join(b"#" if line.lstrip().startswith(b"#") else self.words(line) for line in data.split(b"\n"))

    def yaml(self, data: bytes) -> bytes:
        """The policy, without comments on lines of their own and without what its `reason:` texts say.

        A reason in flow style, `{code: ..., reason: ...}`, takes the rest of its line but the braces with it.
        """
        if self.full:
            return data
        lines, column = [], -1
        for line in data.split(b"\n"):
            if column >= 0 and (not line.strip() or len(line) - len(line.lstrip()) > column):
                lines.append(b"#" if line else b"")  # a reason's next line
                continue
            found = _REASON.search(line)
            column = found.start() if found else -1
            if found:
                tail = line[found.end() :] if found[2][:1] in {b'"', b"'"} else b""
                ends = (b"}" if b"{" in line[: found.start()] else b"") + (
                    b"]" if b"[" in line[: found.start()] and line.rstrip().endswith(b"]") else b""
                )
                line = line[: found.start()] + found[1] + MASKED + (tail or ends)  # noqa: PLW2901 - what is kept of it
            lines.append(line)
        return self.settings(b"\n".join(lines))

    def modprobe(self, data: bytes) -> bytes:
        """A file of modprobe.d: of the commands of `install` and `remove` only what is about modules."""
        if self.full:
            return data
        lines, running = [], False
        for line in self.settings(data).split(b"\n"):
            words = line.split()
            goes_on = line.endswith(b"\\")
            if running:
                lines.append(commands.about(self.words(line)))
            elif words[:1] in ([b"install"], [b"remove"]):
                lines.append(b" ".join([*words[:2], commands.about(b" ".join(words[2:]))]))
                running = True
            else:
                lines.append(line)
            running = running and goes_on
        return b"\n".join(lines)

    def mdevctl(self, data: bytes) -> bytes:
        """A device that mdevctl makes: its type, and when it is made; no attributes, and nothing of scripts."""
        if self.full:
            return data
        return b"\n".join(line if _MDEVCTL.fullmatch(line) else b"" for line in data.split(b"\n"))

    def vm_config(self, data: bytes) -> bytes:
        """A VM config: without descriptions, snapshots, cloud-init's values, and what VM_KEYS does not have."""
        if self.full:
            return data
        lines, kept = [], True
        for line in data.split(b"\n"):
            if line[:1] == b"[" and line.rstrip().endswith(b"]"):
                kept = line.rstrip().lower() == b"[pending]"
                lines.append(line if kept else b"[masked]")
            elif not kept:
                lines.append(b"#" if line else b"")
            else:
                lines.append(self._vm_line(line))
        return b"\n".join(lines)

    def _vm_line(self, line: bytes) -> bytes:
        key, colon, value = line.partition(b":")
        known = _KEY.match(key) if colon else None
        word = known[1] if known else b""
        if not line.strip() or _LIKE_HOSTPCI.match(line):
            return line
        if line.startswith(b"#") or not word:
            return line[:1] if line.startswith(b"#") else b"?"
        if word in VM_KEYS:
            if word == b"args":
                return _GIVEN.sub(rb"\1=" + MASKED, self.words(line))
            return _SECRET_PROPERTY.sub(rb"\1=" + MASKED, line)
        if word in {b"smbios", b"vmgenid"}:
            ids = b",".join(UUID.findall(value))
            return self.pseudonyms.uuids(b"%s: %s%s" % (key, b"uuid=" if word == b"smbios" else b"", ids or MASKED))
        return key + b": " + MASKED

    def _sections(self, data: bytes, keys: frozenset[bytes]) -> bytes:
        """A file of PVE's sections (a header, then indented `key value` lines) with the values of known keys only."""
        if self.full:
            return data
        lines = []
        for line in data.split(b"\n"):
            words = line.split(None, 1)
            if not words or line[:1] not in b" \t":
                lines.append(b"#" if line.startswith(b"#") else self.words(line))
            elif words[0] in keys:
                lines.append(self.words(_OPTION_TEXT.sub(rb"\1=" + MASKED, line)))
            else:
                indent = line[: len(line) - len(line.lstrip())]
                lines.append(indent + words[0] + (b" " + MASKED if len(words) > 1 else b""))
        return b"\n".join(lines)

    def storage(self, data: bytes) -> bytes:
        """storage.cfg: what storages there are, not where they are or how one gets in."""
        return self._sections(data, STORAGE_KEYS)

    def sections(self, data: bytes) -> bytes:
        """The cluster's other section files: HA, jobs, mappings."""
        return self._sections(data, CLUSTER_KEYS)

    def pools(self, data: bytes) -> bytes:
        """user.cfg: the pools with their VMs and storages; no users, tokens or rights."""
        if self.full:
            return data
        lines = []
        for line in data.split(b"\n"):
            fields = line.split(b":")
            pool = fields[0] == b"pool" and len(fields) >= 4
            lines.append(b":".join([*fields[:2], b"", *fields[3:]]) if pool else b"#" if line else b"")
        return b"\n".join(lines)

    def corosync(self, data: bytes) -> bytes:
        """corosync.conf: nodes by name and number."""
        kept = (b"name:", b"nodeid:", b"node {", b"nodelist {", b"}")
        return self._lines(data, kept)

    def datacenter(self, data: bytes) -> bytes:
        """datacenter.cfg: what decides where VMs run."""
        return self._lines(data, (b"ha:", b"crs:", b"migration:"))

    def qemu(self, data: bytes) -> bytes:
        """The command line of a process: the program, and by what PVE knows a VM's."""
        if self.full:
            return data
        arguments = data.split(b"\0")
        kept = arguments[:1]
        for name, value in pairwise(arguments):
            if name in {b"-id", b"-pidfile"}:
                kept += [name, value]
        return b"".join(argument + b"\0" for argument in kept) if arguments[0] else data[:0]

    def grub_menu(self, data: bytes) -> bytes:
        """grub.cfg: what can be booted; no passwords."""
        kept = (b"menuentry ", b"submenu ", b"linux", b"initrd", b"}", b"set default", b"set timeout")
        return self._lines(data, kept)

    def parameters(self, data: bytes) -> bytes:
        """A module's file: which parameters it has, and whether it is signed."""
        end = data[-SIGNATURE:] if data.endswith(b"~Module signature appended~\n") else b""
        return b"\0".join([*_PARAMETER.findall(data), end])

    def makers(self, data: bytes) -> bytes:
        """A script, unit or table of any kind: the commands that make virtual functions, and what a unit starts.

        Of these commands only the words that are about that; no comments, and nothing else of their lines.
        """
        if self.full:
            return data
        return b"\n".join(commands.makers(self.words(line)) for line in data.split(b"\n"))

    def boot_time(self, data: bytes) -> bytes:
        """When the kernel booted, of /proc/stat."""
        return b"".join(line + b"\n" for line in data.split(b"\n") if line.startswith(b"btime"))

    def udev(self, data: bytes) -> bytes:
        """An entry of udev's database: what file system or member of what a disk is; of a ZFS pool its guid."""
        kinds = (b"TYPE", b"USAGE", b"LABEL", b"VERSION", b"AMBIVALENT")
        kept = [b"E:ID_FS_%s=" % kind for kind in kinds]
        if b"E:ID_FS_TYPE=zfs_member" in data:
            kept.append(b"E:ID_FS_UUID=")
        return self._only(data, tuple(kept))

    def gpu(self, data: bytes) -> bytes:
        """NVIDIA's page of a GPU, without its UUID."""
        return self._only(data, (b"Model:", b"IRQ:", b"Video BIOS:", b"Bus Type:", b"Bus Location:", b"Device Minor:"))

    def dm_uuid(self, data: bytes) -> bytes:
        """A device mapper's UUID: whose it is (LVM, CRYPT, mpath, part), not which."""
        if self.full:
            return data
        owner, dash, rest = data.partition(b"-")
        return b"%s-%d\n" % (owner, self.pseudonyms.number("dm", rest)) if dash else data

    def mounts(self, data: bytes) -> bytes:
        """A table of mounts, without options that have a value; of others' servers only that it is one."""
        if self.full:
            return data
        lines = []
        for line in data.split(b"\n"):
            words = [self._mount_word(word) for word in line.split(b" ")]
            lines.append(b" ".join(words))
        return b"\n".join(lines)

    @staticmethod
    def _mount_word(word: bytes) -> bytes:
        if b"," in word and b"/" not in word.partition(b",")[0]:
            return b",".join(option for option in word.split(b",") if b"=" not in option) or b"rw"
        network = word.startswith(b"//") or (b":/" in word and not word.startswith(b"/"))
        return MASKED if network else b"rw" if _SECRET.match(word) else word

    def route(self, data: bytes) -> bytes:
        """/proc/net/route: destinations other than the default one, and gateways, are replaced."""
        return self._routes(data, {1: b"00000000", 2: b"00000000"}, b"010200C0", first=1)

    def route6(self, data: bytes) -> bytes:
        """/proc/net/ipv6_route, likewise; link-local and multicast destinations stay what they are."""
        zero = b"0" * 32
        return self._routes(data, {0: zero, 2: zero, 4: zero}, b"20010db8" + b"0" * 23 + b"1", first=0)

    def _routes(self, data: bytes, columns: dict[int, bytes], other: bytes, *, first: int) -> bytes:
        if self.full:
            return data
        lines = data.split(b"\n")
        for number, line in enumerate(lines):
            words = line.split()
            if number >= first:
                for column, none in columns.items():
                    if column < len(words) and words[column] != none:
                        local = len(none) == 32 and words[column][:2] in {b"fe", b"ff"}
                        words[column] = words[column][:4] + none[4:] if local else other
                lines[number] = b"\t".join(words)
        return b"\n".join(lines)

    def nothing(self, data: bytes) -> bytes:
        """An empty file: that it is there is what counts."""
        return data if self.full and len(data) == 0 else b""

    def serial(self, data: bytes) -> bytes:
        """A serial number: equal ones stay equal."""
        return (
            data if self.full or not data.strip() else b"serial-%d\n" % self.pseudonyms.number("serial", data.strip())
        )

    def _lines(self, data: bytes, kept: tuple[bytes, ...]) -> bytes:
        """The lines that start so, the others as comments."""
        if self.full:
            return data
        lines = (self.words(line) if line.lstrip().startswith(kept) else b"#" for line in data.split(b"\n"))
        return b"\n".join(lines)

    def _only(self, data: bytes, kept: tuple[bytes, ...]) -> bytes:
        """The lines that start so."""
        if self.full:
            return data
        return b"".join(line + b"\n" for line in data.split(b"\n") if line.startswith(kept))


def packages(data: bytes, names: frozenset[bytes], *, full: bool = False) -> bytes:
    """The dpkg status of some packages: of each its name, status, version and architecture."""
    kept = (b"Package:", b"Status:", b"Version:", b"Architecture:")
    stanzas = []
    for stanza in data.split(b"\n\n"):
        name = stanza.lstrip(b"\n").partition(b"\n")[0].removeprefix(b"Package:").strip()
        if full or name in names or name.startswith((b"proxmox-kernel-", b"pve-kernel-", b"nvidia-")):
            stanzas.append(b"\n".join(line for line in stanza.split(b"\n") if line.startswith(kept)))
    return b"\n\n".join(stanzas) + b"\n"
