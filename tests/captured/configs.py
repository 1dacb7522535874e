# SPDX-License-Identifier: Apache-2.0
"""200 VM configs for the captured server, made of 50 kinds of entries and 4 kinds of machines; no chance in them.

VM 1000 + 4 * kind + machine. README.md says what each kind is for.
"""

from __future__ import annotations

_VFS = [f"0000:08:{slot:02x}.{function}" for slot in range(3) for function in range(8)][4:20]
"""08:00.4 to 08:02.3; their IOMMU groups are 90 to 105."""
VFS = {address: 90 + number for number, address in enumerate(_VFS)}
_OWN = [f"0000:{bus}:04.{function}" for bus in ("00", "80") for function in range(8)]
"""DMA engines: 16 functions, each in an IOMMU group of its own (11 to 18, 64 to 71), with a driver and no other use."""
GROUPS = dict(zip(_OWN, [*range(11, 19), *range(64, 72)], strict=True))

EFI = "bios: ovmf\nefidisk0: local:vm-disk-0,efitype=4m,pre-enrolled-keys=1,size=4M\n"
MACHINES = (
    f"{EFI}machine: q35\nmemory: 4096\nostype: l26\nballoon: 0\nscsi0: local:vm-disk-1,size=32G\n",
    "machine: q35\nmemory: 2048\nostype: l26\nscsi0: local:vm-disk-1,size=32G\nvga: none\nserial0: socket\n",
    f"{EFI}memory: 8192\nostype: win11\ncpu: host\nscsi0: local:vm-disk-1,size=64G\n",
    "memory: 1024\nostype: other\nonboot: 1\nvga: std\nscsi0: local:vm-disk-1,size=8G\n",
)


def _map(path: str, ids: str, group: int | None, subsystem: str | None, node: str = "pve") -> str:
    parts = [f"id={ids}", *([f"iommugroup={group}"] if group is not None else []), f"node={node}", f"path={path}"]
    return f"\tmap {','.join([*parts, *([f'subsystem-id={subsystem}'] if subsystem else [])])}\n"


def _dma(number: int) -> str:
    """The right entry of a DMA engine."""
    address = _OWN[number]
    return _map(address, f"8086:2f2{number % 8}", GROUPS[address], "103c:21ea")


MAPPING = "\n".join(
    [
        "dma\n" + _dma(8),
        "dma-pool\n" + _dma(9) + _dma(10) + _dma(11),
        "dma-again\n" + _dma(9),
        "vfs\n\tmdev 1\n" + "".join(_map(vf, "10de:25b6", group, "10de:0000") for vf, group in list(VFS.items())[4:8]),
        "vfs-plain\n" + "".join(_map(vf, "10de:25b6", group, "10de:0000") for vf, group in list(VFS.items())[8:10]),
        "drift-id\n" + _map(_OWN[12], "8086:1234", GROUPS[_OWN[12]], "103c:21ea"),
        "drift-subsystem\n" + _map(_OWN[12], "8086:2f24", GROUPS[_OWN[12]], "103c:ffff"),
        "drift-group\n" + _map(_OWN[12], "8086:2f24", 12, "103c:21ea"),
        "drift-gone\n" + _map("0000:0a:00.0", "8086:2f24", 12, "103c:21ea"),
        "no-group\n" + _map(_OWN[12], "8086:2f24", None, "103c:21ea"),
        "no-subsystem\n" + _map(_OWN[12], "8086:2f24", GROUPS[_OWN[12]], None),
        "elsewhere\n" + _map("0000:01:00.0", "8086:2f24", 1, None, "pve2"),
        "damaged\n" + _dma(13) + "\tmap node=pve,pth=0000:80:04.6\n",
    ]
)

_LAST = b"PCIR\xde\x10\xb6\x25\0\0\x18\0\0\0\0\x03\x04\0\1\0\0\x80\0\0"
_BODY = (b"\x55\xaa\x04" + bytes(21) + b"\x1c\0\0\0" + _LAST).ljust(2047, b"\0")
_IMAGE = _BODY + bytes([-sum(_BODY) % 256])
ROMS = {
    "a2.rom": _IMAGE,
    "empty.rom": b"",
    "junk.rom": b"\x7fELF" + bytes(4092),
    "cut.rom": _IMAGE[:512],
}
"""A legacy image of the GPU, and what is none."""

KINDS: tuple[tuple[str, ...], ...] = (
    # a whole function
    *((f"hostpci0: {address[5:]},pcie=1",) for address in _OWN[:3]),  # 0 to 2
    ("hostpci0: 0000:00:04.3", "hostpci1: 0000:80:04.7"),  # 3
    ("hostpci0: 80:04",),  # 4: all eight of a slot
    ("hostpci0: 00:04.4;00:04.5",),  # 5
    ("hostpci0: 0000:00:04.6,driver=keep",),  # 6
    ("hostpci0: 05:00.0,pcie=1",),  # 7: the NVMe, which nothing uses
    ("hostpci0: 03:00.0",),  # 8: the RAID controller with the root disk
    ("hostpci0: 04:00.0,rombar=0",),  # 9: a network port without use
    ("hostpci0: 04:00.1",),  # 10: the port of the bond in the bridge
    ("hostpci0: 08:00.5",),  # 11: a virtual function, whole
    ("hostpci0: 08:00.0,pcie=1,x-vga=1",),  # 12: the PF of 16 VFs
    ("hostpci0: 01:00.1,x-vga=1",),  # 13: the BMC's display, in a group of four
    ("hostpci0: 01:00.0",),  # 14: its watchdog
    ("hostpci0: 00:14.0",),  # 15: a USB controller
    ("hostpci0: 00:1f.3",),  # 16: SMBus, in the group of the LPC bridge
    ("hostpci0: 7f:0b.1",),  # 17: one of three in a group
    ("hostpci0: 00:01.0",),  # 18: a root port
    ("hostpci0: 0a:00.0",),  # 19: not there
    # mediated devices and vGPUs
    ("hostpci0: 08:01.0,mdev=nvidia-746,pcie=1",),  # 20
    ("hostpci0: 08:00.4,mdev=nvidia-754",),  # 21: it has its one instance
    ("hostpci0: 08:01.1,mdev=nvidia-747",),  # 22: no room for that type
    ("hostpci0: 08:01.2,mdev=nvidia-999",),  # 23: no such type
    ("hostpci0: 08:00.0,mdev=nvidia-746",),  # 24: the PF has none
    ("hostpci0: 00:04.0,mdev=nvidia-746",),  # 25: nor has this
    ("hostpci0: 08:01.3,mdev=nvidia-744", "hostpci1: 08:01.3,mdev=nvidia-744"),  # 26: twice on a VF
    ("hostpci0: 08:01.3,mdev=nvidia-744", "hostpci1: 08:01.4,mdev=nvidia-745"),  # 27: two sizes
    ("hostpci0: 08:00.6,mdev=nvidia-746,driver=keep",),  # 28: a VF with another mdev, or vGPU type set
    # mappings
    ("hostpci0: mapping=dma,pcie=1",),  # 29
    ("hostpci0: mapping=dma-pool", "hostpci1: mapping=dma-pool"),  # 30
    ("hostpci0: mapping=vfs,mdev=nvidia-746",),  # 31
    ("hostpci0: mapping=vfs-plain",),  # 32: virtual functions whole, without `mdev 1`
    ("hostpci0: mapping=drift-id", "hostpci1: mapping=drift-subsystem"),  # 33
    ("hostpci0: mapping=drift-group", "hostpci1: mapping=drift-gone"),  # 34
    ("hostpci0: mapping=no-group", "hostpci1: mapping=no-subsystem"),  # 35
    ("hostpci0: mapping=elsewhere", "hostpci1: mapping=nowhere"),  # 36
    ("hostpci0: mapping=damaged",),  # 37
    # words
    ("hostpci0: 00:04.7,pcie=yes,rombar=off", "hostpci1: 00:04.7,pci=1"),  # 38
    ("hostpci0: 00:04.7,rombar=maybe", "hostpci1: 0:4.7", "hostpci16: 00:04.7"),  # 39
    ("hostpci0: host=00:04.7,mapping=dma", "hostpci1: pcie=1", "hostpci2: 00:04.7,pcie=1,pcie=0"),  # 40
    ("hostpci0: 00:04.7,legacy-igd=1",),  # 41
    ("hostpci0: 08:02.1,romfile=a2.rom", "hostpci1: 80:04.6,romfile=none.rom"),  # 42
    ("hostpci0: 00:04.7,romfile=empty.rom", "hostpci1: 80:04.6,romfile=../../../etc/hostname"),  # 43
    ("hostpci0: 08:02.3,romfile=junk.rom", "hostpci1: 08:02.2,romfile=cut.rom"),  # 44
    # other lines
    ("template: 1", "hostpci0: 03:00.0,pcie=1"),  # 45
    ("hostpci0: 00:04.7", "[PENDING]", "hostpci0: 0a:00.0", "delete: machine"),  # 46
    ("hostpci0: 80:04.6", "lock: backup", "[before]", "hostpci0: 0a:00.0", "snaptime: 1700000000"),  # 47
    ("hookscript: local:snippets/pvepassthru", "hostpci0: 80:04.6", "parent: no"),  # 48
    (),  # 49: no device
)


def configs() -> dict[int, str]:
    """The config of each VM. Words of a section stand after those of the machine."""
    found = {}
    for kind, lines in enumerate(KINDS):
        cut = next((at for at, line in enumerate(lines) if line.startswith("[")), len(lines))
        for number, machine in enumerate(MACHINES):
            vmid = 1000 + 4 * kind + number
            head = f"name: kind{kind}\n{machine}" + "".join(f"{line}\n" for line in lines[:cut])
            found[vmid] = head + "".join(f"{line}\n" for line in lines[cut:])
    return found
