# SPDX-License-Identifier: Apache-2.0
"""What a snapshot holds: one table. A rule that reads a new file adds its row here (tests/host/test_snapshot.py tells).

A row has a folder, in whose path `*` stands for any part of one name, the names in it that are copied, and how. Links
are copied as links; what they lead to is copied too, where that is a file. Folders on the way that are links, as those
of a bus's devices are, are followed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.host.masks import Masks, packages

if TYPE_CHECKING:
    from collections.abc import Callable


class Row(NamedTuple):
    """Some files of a host."""

    folder: str
    names: str
    """Patterns with `*` and `?`, separated by blanks; `**` is all that is in the folder and below."""
    how: Callable[[Masks, bytes], bytes]
    """What becomes of their text; `nothing` keeps their names only, and does not read them."""
    why: str = ""


plain, nothing, words, settings = Masks.plain, Masks.nothing, Masks.words, Masks.settings

PACKAGES = frozenset(
    (
        *(
            b"grub-common grub-efi-amd64 grub-pc initramfs-tools intel-microcode amd64-microcode libpve-common-perl"
        ).split(),
        *(b"libpve-guest-common-perl libqemuserver-perl proxmox-boot-tool proxmox-kernel-helper proxmox-ve").split(),
        *(b"pve-cluster pve-edk2-firmware pve-edk2-firmware-ovmf pve-firmware pve-ha-manager pve-manager").split(),
        *(
            b"pve-nvidia-vgpu-helper pve-qemu-kvm qemu-server sysfsutils systemd-boot vendor-reset-dkms zfsutils-linux"
        ).split(),
    )
)
"""Debian packages whose versions are kept, besides kernels and NVIDIA's."""

PCI = "/sys/bus/pci/devices/*"

ROWS = (
    # ---- PCI functions
    Row(
        PCI,
        "vendor device class revision subsystem_vendor subsystem_device irq boot_vga driver_override reset_method "
        "sriov_* numa_node current_link_* max_link_* power_state d3cold_allowed msi_bus enable resource "
        "resource*_resize aer_dev_* ari_enabled broken_parity_status local_cpulist",
        plain,
        "what it is, and what it can",
    ),
    Row(PCI, "driver iommu_group iommu physfn virtfn* firmware_node", plain, "links to what belongs to it"),
    Row(PCI, "reset rom remove rescan create vfio-dev pci_bus label acpi_index", nothing, "whether it has these"),
    Row(f"{PCI}/power", "control runtime_status runtime_enabled", plain),
    Row(f"{PCI}/mdev_supported_types/*", "name description device_api available_instances", plain, "mdev types"),
    Row(f"{PCI}/mdev_supported_types/*", "create devices", nothing),
    Row(f"{PCI}/mdev_supported_types/*/devices", "*", plain, "links to their instances"),
    Row(f"{PCI}/nvidia", "*", plain, "NVIDIA's vGPU types"),
    Row("/sys/bus/mdev/devices/*", "mdev_type driver iommu_group", plain, "mediated device instances"),
    Row("/sys/bus/mdev/devices/*", "remove", nothing),
    Row(f"{PCI}/vfio-dev/*", "", nothing),
    Row("/sys/bus/mdev/devices/*/vfio-dev/*", "", nothing),
    Row("/sys/class/vfio-dev /sys/class/mdev_bus", "*", plain),
    Row("/sys/bus/pci/drivers/*", "????:??:??.? ?????:??:??.? module", plain, "what each driver has bound"),
    Row("/sys/bus/pci/drivers/*", "new_id bind unbind", nothing),
    Row("/sys/bus/pci/slots/*", "address", plain),
    # ---- the IOMMU
    Row("/sys/kernel/iommu_groups/*", "type reserved_regions name", plain, "IOMMU groups"),
    Row("/sys/kernel/iommu_groups/*/devices", "*", plain),
    Row("/sys/class/iommu", "*", plain, "IOMMUs in use"),
    Row("/sys/class/iommu/*/*-iommu", "cap ecap version features", plain),
    # ---- what the host itself uses devices for
    Row(
        "/sys/class/net/*",
        "operstate type flags ifindex dev_port carrier address master device brport bonding_slave upper_* lower_*",
        plain,
        "network interfaces",
    ),
    Row(f"{PCI}/net {PCI}/sound {PCI}/drm {PCI}/nvme", "*", nothing, "what the host's drivers made of functions"),
    Row(f"{PCI}/net/*", "operstate carrier flags", plain),
    Row("/sys/class/net/*/brport", "bridge", plain),
    Row("/sys/class/net/*/brif", "*", plain),
    Row("/sys/class/net/*/bonding", "slaves mode active_slave", plain),
    Row("/sys/class/net/*/bridge", "bridge_id", plain),
    Row("/sys/class/block/*", "dev size ro removable partition device", plain, "disks and partitions"),
    Row("/sys/class/block/*/holders", "*", plain),
    Row("/sys/class/block/*/slaves", "*", plain),
    Row("/sys/class/block/*/dm", "name suspended", plain),
    Row("/sys/class/block/*/dm", "uuid", Masks.dm_uuid),
    Row("/sys/class/block/*/md", "level array_state metadata_version raid_disks", plain),
    Row("/sys/class/block/*/bcache", "*", nothing),
    Row("/sys/class/nvme/*", "model state transport device address", plain),
    Row("/sys/class/nvme/*", "serial", Masks.serial),
    Row("/sys/class/scsi_host/* /sys/class/drm/* /sys/class/sound/* /sys/class/graphics/*", "device", plain),
    Row("/sys/class/drm/*", "status enabled", plain),
    Row("/sys/class/graphics/*", "name", plain),
    Row("/sys/class/vtconsole/*", "name bind", plain),
    Row("/sys/class/infiniband /sys/class/tpm /sys/class/sound", "*", nothing),
    # ---- the machine
    Row(
        "/sys/class/dmi/id",
        "sys_vendor product_name product_family board_vendor board_name bios_vendor bios_version bios_date",
        plain,
        "whose machine it is; no serial numbers",
    ),
    Row("/sys/firmware/acpi/tables", "*", nothing, "names of ACPI tables: DMAR, IVRS"),
    Row("/sys/firmware/efi", "runtime config_table", nothing),
    Row("/sys/firmware/efi", "fw_platform_size", plain),
    Row(
        "/sys/firmware/efi/efivars",
        "LoaderInfo-* LoaderEntrySelected-* LoaderEntryDefault-* StubInfo-* SecureBoot-* SetupMode-*",
        plain,
        "which loader booted",
    ),
    Row("/sys/kernel/security", "lockdown", plain),
    Row("/sys/kernel/mm/hugepages/*", "nr_hugepages free_hugepages", plain),
    Row("/sys/devices/system/node", "online possible", plain),
    Row("/sys/devices/system/node/node*/hugepages/*", "nr_hugepages free_hugepages", plain),
    Row("/sys/devices/system/node/node*", "cpulist meminfo", plain),
    Row("/sys/module", "*", nothing, "modules in the kernel"),
    Row("/sys/module/*", "version refcnt initstate", plain),
    Row("/sys/module/*/holders", "*", plain),
    *(
        Row(f"/sys/module/{name}/parameters", "*", words, "their parameters")
        for name in (
            *("vfio*", "kvm*", "i915*", "xe", "nvidia*", "nouveau", "amdgpu", "radeon", "snd_hda_intel", "mdev"),
            *("igb", "igbvf", "ixgbe", "i40e", "ice", "mlx5_core", "bnxt_en", "bochs", "mgag200", "ast", "zfs"),
            *("vendor_reset", "iommu*", "intel_iommu", "amd_iommu", "pci*", "efifb", "simplefb", "vesafb"),
        )
    ),
    # ---- the kernel's own word
    Row("/proc", "cmdline", words, "what the kernel was booted with"),
    Row(
        "/proc", "cpuinfo", lambda masks, data: data if masks.full else data.partition(b"\n\n")[0] + b"\n\n", "one CPU"
    ),
    Row("/proc", "meminfo swaps mdstat iomem ioports fb modules version uptime filesystems devices consoles", plain),
    Row("/proc", "mounts", Masks.mounts),
    Row("/proc/1 /proc/self", "mountinfo mounts", Masks.mounts),
    Row("/proc", "stat", Masks.boot_time),
    Row("/proc", "interrupts", plain, "which of the kernel's interrupt controllers remap"),
    Row("/proc/net", "route", Masks.route, "default routes; no addresses"),
    Row("/proc/net", "ipv6_route", Masks.route6),
    Row("/proc/net/bonding /proc/net/vlan", "*", words),
    Row("/proc/driver/nvidia", "version params", plain),
    Row("/proc/driver/nvidia/gpus/*", "information", Masks.gpu),
    Row("/proc/spl/kstat/zfs", "arcstats", plain, "what ZFS's cache would give back"),
    Row("/proc/spl/kstat/zfs", "*", nothing, "names of ZFS pools"),
    Row("/proc/spl/kstat/zfs/*", "state guid", plain),
    Row("/proc/spl/kstat/zfs/*", "txgs", nothing),
    Row("/proc/sys/kernel", "osrelease ostype version hostname tainted modules_disabled", plain),
    Row("/proc/sys/kernel/random", "boot_id", plain),
    Row("/proc/sys/vm", "nr_hugepages overcommit_memory swappiness", plain),
    Row("/dev/disk/by-id /dev/disk/by-uuid /dev/disk/by-path /dev/disk/by-label /dev/disk/by-partuuid", "*", nothing),
    Row("/sys/bus/usb/devices", "*", nothing, "USB devices, and the controllers that they hang on"),
    Row("/sys/bus/usb/devices/*", "idVendor idProduct busnum devnum bDeviceClass", plain),
    Row("/dev/mapper", "*", nothing, "which mapped device has which name"),
    Row("/sys/class/misc /sys/bus/platform/devices", "*", nothing),
    Row("/sys/fs/btrfs/*/devices", "*", plain),
    Row("/sys/fs/cgroup/system.slice", "nvidia* pve* mdevctl*", nothing, "services that run"),
    Row("/sys/class/nvme-subsystem/*", "nvme*", plain, "the controllers of a disk with several paths"),
    Row("/run/udev/data", "b*", Masks.udev, "file systems and labels of disks, as udev knows them"),
    Row("/dev/vfio /dev/vfio/devices /dev/dri", "*", nothing, "names of device nodes"),
    # ---- boot and module configuration
    Row("/etc/default", "grub", settings),
    Row("/etc/default/grub.d", "*", settings),
    Row("/etc/kernel", "cmdline proxmox-boot-uuids proxmox-boot-pin next-boot-pin", settings),
    Row("/etc/kernel/postinst.d /etc/initramfs/post-update.d", "*", nothing),
    Row("/boot/grub", "grub.cfg", Masks.grub_menu),
    Row("/boot /boot/efi /boot/efi/loader /efi /efi/loader", "loader.conf", settings),
    Row("/boot/loader/entries /boot/efi/loader/entries /efi/loader/entries", "*.conf", settings),
    Row("/boot", "initrd.img-* vmlinuz-* config-* System.map-* initrd.img vmlinuz", nothing, "names and dates"),
    Row("/run/modprobe.d /usr/local/lib/modprobe.d", "*.conf", Masks.modprobe, "options and blacklists"),
    Row("/lib/modprobe.d /usr/lib/modprobe.d", "*.conf", Masks.modprobe),
    Row("/etc/modprobe.d", "*", Masks.modprobe, "files that modprobe passes over, too"),
    Row("/etc/modules-load.d", "*", settings),
    Row("/etc", "modules", settings),
    Row("/etc/modules-load.d /usr/lib/modules-load.d /lib/modules-load.d /run/modules-load.d", "*.conf", settings),
    Row("/etc/initramfs-tools", "modules initramfs.conf", settings),
    Row("/etc/initramfs-tools/conf.d", "*", settings),
    Row("/etc/initramfs-tools/scripts/*", "pvepassthru", settings, "this tool's own"),
    Row("/etc/initramfs-tools/scripts/*", "*", Masks.makers, "others may unlock disks"),
    Row("/lib/modules/*", "modules.dep modules.builtin", plain),
    Row(
        "/lib/modules/*/kernel/drivers/net/ethernet/*/*",
        "igb.ko ixgbe.ko i40e.ko ice.ko",
        lambda _, data: b"\0".join(part for part in data.split(b"\0") if part.startswith(b"parmtype=")),
        "which parameters these drivers have",
    ),
    Row("/etc", "sysfs.conf debian_version os-release", settings),
    Row("/etc/sysfs.d", "*.conf", settings),
    Row("/usr/lib", "os-release", settings),
    Row("/etc/udev/rules.d", "*.rules", Masks.makers, "what makes virtual functions at boot"),
    Row("/etc/systemd/system /etc/systemd/system/*.service.d", "*.service *.conf", Masks.makers),
    Row("/usr/local/lib/systemd/system", "*.service", Masks.makers),
    Row("/etc/systemd/network", "*.link", Masks.makers),
    Row("/etc/tmpfiles.d", "*.conf", Masks.makers),
    Row("/etc/systemd/system", "*.wants *.requires", nothing),
    Row("/etc/systemd/system/*.wants /etc/systemd/system/*.requires", "*", nothing),
    Row("/etc/network /etc /var/spool/cron/crontabs", "interfaces rc.local crontab root", Masks.makers),
    Row("/etc/network/interfaces.d /etc/network/if-up.d /etc/network/if-pre-up.d /etc/cron.d", "*", Masks.makers),
    Row("/usr/lib/systemd/system /lib/systemd/system", "nvidia-* pve-nvidia-* mdevctl*", Masks.makers),
    Row("/usr/lib/nvidia", "sriov-manage", nothing),
    Row(
        "/usr/bin /usr/sbin", "nvidia-smi mdevctl grub-mkconfig proxmox-boot-tool update-grub update-initramfs", nothing
    ),
    Row("/etc/mdevctl.d", "**", Masks.mdevctl, "types of mediated devices; no attributes"),
    Row("/var/lib/dpkg/info", "sysfsutils.list", nothing),
    Row("/var/lib/dkms/*/*", "*", nothing, "for which kernels DKMS has built"),
    Row("/lib/modules", "*", nothing),
    Row("/lib/modules/*/updates/dkms", "*.ko.*", nothing),
    Row("/var/lib/pve-cluster", "config.db", nothing),
    Row("/var/lib/dpkg", "status", lambda masks, data: packages(data, PACKAGES, full=masks.full), "versions"),
    # ---- PVE
    Row("/etc/pve", "pvepassthru.yaml", Masks.yaml, "this tool's policy"),
    Row("/etc", "pvepassthru.yaml", Masks.yaml),
    Row("/etc/pve/mapping", "pci.cfg", Masks.sections, "mappings"),
    Row("/etc/pve", "qemu-server local lxc openvz", plain, "links to this node's folders"),
    Row("/etc/pve/qemu-server /etc/pve/nodes/*/qemu-server", "*.conf", Masks.vm_config, "VM configs of all nodes"),
    Row("/etc/pve/nodes", "*", nothing, "names of nodes"),
    Row("/etc/pve", "storage.cfg", Masks.storage),
    Row("/etc/pve", "jobs.cfg", Masks.sections, "backup jobs"),
    Row("/etc/pve", "datacenter.cfg", Masks.datacenter),
    Row("/etc/pve/ha", "resources.cfg groups.cfg rules.cfg", Masks.sections),
    Row("/etc/pve", "user.cfg", Masks.pools, "pools; no users"),
    Row("/var/lib/vz/snippets", "*", nothing, "hookscripts: their modes"),
    Row("/etc/pve", "pvepassthru-hooks.json", plain, "chained hookscripts: their volumes and paths"),
    Row("/etc/pve", "corosync.conf", Masks.corosync, "names of nodes; no addresses"),
    Row("/etc/pve", ".members .version .vmlist", Masks.words),
    Row("/run/qemu-server", "pci-id-reservations", plain, "PVE's reservations"),
    Row("/run/pvepassthru", "**", plain, "this tool's journals"),
    Row("/.sim", "**", plain, "the state of a simulated host"),
)
