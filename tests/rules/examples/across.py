# SPDX-License-Identifier: Apache-2.0
"""Examples of the rules across VMs (rules/competition.py) and on the cluster's files (rules/mappings.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests import tree
from tests.rules.example import GPU, OFFERS, SSD, VF, VFS, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

BOOT = "onboot: 1\n"
FIRST = "onboot: 1\nstartup: order=1\n"
PLAIN = "hostpci0: 02:00.0\n"
POOL = "hostpci0: mapping=ssd\n"
SSDS = (
    "ssd\n\tmap id=144d:a80a,iommugroup=4,node=pve,path=0000:02:00.0\n"
    "\tmap id=144d:a80a,iommugroup=5,node=pve,path=0000:03:00.0\n"
)
SECOND_SSD: dict[str, dict[str, Any]] = {
    "0000:03:00.0": {
        "vendor": "0x144d",
        "device": "0xa80a",
        "class": "0x010802",
        "iommu_group": 5,
        "driver": "nvme",
    }
}
TWO_SIZES: dict[str, dict[str, Any]] = {
    address: {"nvidia": {"creatable": [{"id": "35", "name": "A16-1Q"}, {"id": "36", "name": "A16-2Q"}], "current": "0"}}
    for address in ("0000:a1:00.4", "0000:a1:00.5")
}
ONE_OFFERS: dict[str, dict[str, Any]] = {"0000:a1:00.5": {"nvidia": {**OFFERS, "creatable": []}}}
MDEV = "hostpci0: 41:00.0,mdev=nvidia-65\n"
VGPU = "hostpci0: mapping=vgpu,mdev=nvidia-35\n"
MIXED: dict[str, dict[str, Any]] = {
    **TWO_SIZES,
    "0000:a1:00.5": {"nvidia": {"creatable": [{"id": "36", "name": "A16-2Q"}], "current": "35"}},
}
JOB = "vzdump: nightly\n\tschedule 21:00\n\tmode stop\n\tvmid 100,101\n\tenabled 1\n"


def _nodes(*names: str) -> Callable[[str], object]:
    """Make the folders of further nodes."""
    return lambda root: [tree.folder(root, f"etc/pve/nodes/{name}/qemu-server") for name in names]


def _nvme(address: str) -> Callable[[str], object]:
    """Make an NVMe disk with a partition below a function."""

    def change(root: str) -> None:
        below = f"sys/bus/pci/devices/{address}/nvme/nvme0/nvme0n1"
        tree.put(root, f"{below}/nvme0n1p1/partition", "1\n")
        tree.link(root, "sys/class/block/nvme0n1", below)
        tree.link(root, "sys/class/block/nvme0n1p1", f"{below}/nvme0n1p1")
        tree.put(root, "dev/nvme0n1p1", "")

    return change


def _ha(rules: str = "", group: str = "", **files: str) -> dict[str, str | bytes]:
    resource = "vm: 100\n\tstate started\n" + (f"\tgroup {group}\n" if group else "")
    found = {"etc/pve/ha/resources.cfg": resource, **{f"etc/pve/ha/{name}.cfg": text for name, text in files.items()}}
    return {**found, **({"etc/pve/ha/rules.cfg": rules} if rules else {})}


def _on(*nodes: str, flags: str = "\tlive-migration-capable 1\n") -> str:
    """A mapping with the NVMe on these nodes."""
    entries = (f"\tmap id=144d:a80a,iommugroup=4,node={node},path=0000:02:00.0\n" for node in nodes)
    return "ssd\n" + flags + "".join(entries)


KEPT: dict[str, dict[str, Any]] = {"0000:02:00.0": {"driver": "nvme-vfio-pci"}}
_SECOND = "0000:c1:00"
TWO_GPUS = {
    f"{_SECOND}.0": {**GPU, "iommu_group": 70, "driver": "nvidia", "nvidia": {}},
    f"{_SECOND}.4": {**VF, "iommu_group": 71, "nvidia": OFFERS, "physfn": f"{_SECOND}.0"},
    f"{_SECOND}.5": {**VF, "iommu_group": 72, "nvidia": OFFERS, "physfn": f"{_SECOND}.0"},
}
_ENTRIES = (61, "0000:a1:00.4"), (71, f"{_SECOND}.4"), (62, "0000:a1:00.5"), (72, f"{_SECOND}.5")
TURNS = "vgpu\n\tmdev 1\n" + "".join(
    f"\tmap id=10de:25b6,iommugroup={group},node=pve,path={path}\n" for group, path in _ENTRIES
)
"""A mapping with the VFs of two GPUs by turns."""
KEEPS = "hostpci0: mapping=ssd,driver=keep\n"
AFFINITY = "node-affinity: gpu\n\tnodes pve:2,pve2\n\tresources vm:100\n"
GROUP = "group: gpu\n\tnodes pve,pve2:1\n\trestricted 1\n"

EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    "PVP425": (Tree(BOOT + PLAIN, others={200: BOOT + PLAIN}), Tree(BOOT + PLAIN, others={200: BOOT})),
    "PVP426": (
        Tree(BOOT + PLAIN, others={200: PLAIN}),
        Tree(BOOT + PLAIN, others={200: PLAIN + "template: 1\n"}),
    ),
    "PVP427": (
        Tree(BOOT + "hostpci0: 01:00.1\n", others={200: BOOT + "hostpci0: 01:00.0\n"}),
        Tree(BOOT + "hostpci0: 01:00.1\n", others={200: BOOT + PLAIN}),
    ),
    "PVP428": (
        Tree("hostpci0: 01:00.1\n", others={200: BOOT + "hostpci3: 01:00.0\n"}),
        Tree("hostpci0: 01:00.1\n", others={200: BOOT + "hostpci3: 0000:02:00\n"}),
    ),
    "PVP429": (
        Tree(BOOT + MDEV, others={200: FIRST + MDEV}),
        Tree(FIRST + MDEV, others={200: BOOT + MDEV}),
    ),
    "PVP430": (
        Tree(BOOT + VGPU, ONE_OFFERS, mapping=VFS, others={99_999: FIRST + VGPU}),
        Tree(BOOT + VGPU, mapping=VFS, others={99_999: FIRST + VGPU}),
    ),
    "PVP431": (
        Tree(BOOT + VGPU, TWO_SIZES, mapping=VFS, others={200: FIRST + VGPU.replace("35", "36")}),
        Tree(BOOT + VGPU, MIXED, mapping=VFS, others={200: FIRST + VGPU.replace("35", "36")}),
    ),
    "PVP432": (
        Tree(
            BOOT + POOL,
            SECOND_SSD,
            mapping=SSDS,
            others={200: FIRST + POOL, 201: FIRST + POOL},
        ),
        Tree(BOOT + POOL, SECOND_SSD, mapping=SSDS, others={200: FIRST + POOL, 201: POOL}),
    ),
    "PVP433": (
        Tree("hostpci0: a1:00.4,mdev=nvidia-35\n", others={200: "hostpci0: a1:00.0\n"}),
        Tree("hostpci0: a1:00.4,mdev=nvidia-35\n", others={200: "hostpci0: a1:00.5,mdev=nvidia-35\n"}),
    ),
    "PVP434": (
        Tree(MDEV, others={200: "hostpci0: 41:00.0\n"}),
        Tree(MDEV, others={200: "hostpci0: 41:00.0,mdev=nvidia-63\n"}),
    ),
    "PVP435": (
        Tree(
            "hostpci0: a1:00.4,mdev=nvidia-35\n",
            files={"etc/pve/jobs.cfg": JOB},
            others={200: BOOT + "hostpci0: a1:00.4,mdev=nvidia-35\n"},
        ),
        Tree("hostpci0: a1:00.4,mdev=nvidia-35\n", files={"etc/pve/jobs.cfg": JOB}, others={200: BOOT + PLAIN}),
    ),
    "PVP436": (
        Tree(PLAIN, others={200: "scsi0: /dev/nvme0n1p1,size=1T\n"}, change=_nvme("0000:02:00.0")),
        Tree(PLAIN, others={200: "scsi0: /dev/nvme0n1p1,size=1T\n"}, change=_nvme("0000:04:00.0")),
    ),
    "PVP450": (
        Tree(KEEPS, KEPT, mapping=_on("pve"), files=_ha(group="gpu", groups=GROUP), change=_nodes("pve2", "pve3")),
        Tree(KEEPS, KEPT, mapping=_on("pve", "pve2"), files=_ha(group="gpu", groups=GROUP), change=_nodes("pve2")),
    ),
    "PVP451": (
        Tree(KEEPS, KEPT, mapping=_on("pve", "pve2"), files=_ha(AFFINITY), change=_nodes("pve2", "pve3")),
        Tree(
            KEEPS,
            KEPT,
            mapping=_on("pve", "pve2"),
            files=_ha(AFFINITY + "\tstrict 1\n"),
            change=_nodes("pve2", "pve3"),
        ),
    ),
    "PVP452": (
        Tree(PLAIN, files=_ha(), change=_nodes("pve2")),
        Tree(PLAIN, files=_ha("node-affinity: one\n\tnodes pve\n\tstrict 1\n\tresources ct:7,vm:100\n")),
    ),
    "PVP453": (
        Tree(POOL, mapping=_on("pve", "pve2", flags=""), files=_ha(), change=_nodes("pve2")),
        Tree(POOL, mapping=_on("pve", "pve2", flags=""), files=_ha()),
    ),
    "PVP335": (
        Tree(VGPU, TWO_GPUS, mapping=TURNS, files={"/etc/pvepassthru.yaml": "placement: pack\n"}),
        Tree(VGPU, TWO_GPUS, mapping=TURNS, files={"/etc/pvepassthru.yaml": "placement: spread\n"}),
    ),
    "PVP454": (Tree(POOL, mapping=_on("pve")), Tree(KEEPS, KEPT, mapping=_on("pve"))),
}

OTHER = SSD.replace("ssd", "disk", 1).replace("02:00.0", "02:00")
HOST_EXAMPLES: dict[str, tuple[Tree, Tree]] = {
    "PVP410": (Tree(mapping=SSD + "\tmap zz\n"), Tree(mapping=SSD)),
    "PVP412": (Tree(mapping=SSD.replace("iommugroup=4", "iommugroup=5")), Tree(mapping=SSD)),
    "PVP413": (
        Tree(mapping=f"{SSD}\n{OTHER}"),
        Tree(mapping=f"{SSD}\n{OTHER}".replace("node=pve", "node=pve2", 1), change=_nodes("pve2")),
    ),
    "PVP414": (Tree(mapping=SSD + SSD.partition("\n")[2]), Tree(mapping=SSD)),
    "PVP415": (
        Tree(mapping=SSD + "\tmap id=144d:a808,node=pve2,path=0000:02:00.0\n", change=_nodes("pve2")),
        Tree(mapping=SSD + "\tmap id=144d:A80A,node=pve2,path=0000:02:00.0\n", change=_nodes("pve2")),
    ),
    "PVP416": (
        Tree(mapping=SSD + "\tmap id=144d:a80a,node=pve2,path=0000:02:00.0\n"),
        Tree(mapping=SSD + "\tmap id=144d:a80a,node=pve2,path=0000:02:00.0\n", change=_nodes("pve2")),
    ),
}
