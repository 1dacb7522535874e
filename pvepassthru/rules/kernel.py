# SPDX-License-Identifier: Apache-2.0
"""Rules on processor, firmware, and interrupt remapping, PVP11x and PVP14x."""

from __future__ import annotations

from pvepassthru.host import firmware
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, shown
from pvepassthru.rules import sources
from pvepassthru.rules.rule import NotApplicable, Unknown
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.rules.subject import Subject, Surroundings

UNSAFE = "allow_unsafe_interrupts"
_BIOS = {"Intel": "enable Intel VT-x in the firmware's setup", "AMD": "enable SVM in the firmware's setup"}
_KVM = {"Intel": "kvm_intel", "AMD": "kvm_amd"}
_VTD = {"Intel": "VT-d", "AMD": "AMD-Vi (IOMMU)"}


# ---- firmware


def no_virtualization(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the processor offers hardware virtualization (VT-x or SVM) to the kernel.

    Why it matters: KVM does not work without it, so no VM runs, with or without a device.

    How to fix: enable it in the firmware's setup (Intel Virtualization Technology, or SVM Mode). On a PVE host that is
    itself a VM, nested virtualization must be on at the outer host.
    """
    found = around.once(sources.firmware)
    if found.flags is None:
        if around.host.exists(firmware.CPUINFO):
            raise NotApplicable("the processor is no x86 one")
        raise Unknown(f"there is no {firmware.CPUINFO}")
    if not found.flags & {"vmx", "svm"}:
        hint = _BIOS.get(found.vendor or "", "enable virtualization in the firmware's setup")
        if "hypervisor" in found.flags:
            hint = "this host is itself a VM: enable nested virtualization at the outer host"
        yield Hit(firmware.CPUINFO, "the processor offers the kernel neither VT-x nor SVM", hint)


def no_kvm(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether KVM is there, on a processor that offers virtualization.

    Why it matters: no VM starts without /dev/kvm.

    How to fix: `modprobe kvm_intel` or `modprobe kvm_amd`; the kernel log says why it does not load. As a rule the
    firmware has locked virtualization away.
    """
    found = around.once(sources.firmware)
    if found.flags is None or not around.host.names("/sys/class/misc"):
        raise Unknown("there is no /sys/class/misc or no /proc/cpuinfo with flags")
    if not found.flags & {"vmx", "svm"}:
        raise NotApplicable("the processor offers no virtualization")
    if not around.host.exists("/sys/class/misc/kvm"):
        module = _KVM.get(found.vendor or "", "kvm")
        yield Hit("/sys/class/misc/kvm", "the kernel offers no /dev/kvm", f"modprobe {module}, and see the kernel log")


def no_iommu_table(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the firmware tells the kernel of an IOMMU, by the ACPI table DMAR (Intel) or IVRS (AMD).

    Why it matters: without it the kernel uses no IOMMU, and PVE refuses to start a VM with a device.

    How to fix: enable VT-d (Intel) or IOMMU, AMD-Vi (AMD) in the firmware's setup; "Auto" often means off. When there
    is no such setting, update the firmware, or see whether processor and board have an IOMMU at all.
    """
    found = around.once(sources.firmware)
    if found.tables is None:
        raise Unknown(f"there is no {firmware.TABLES}")
    if _lacks_table(around):
        what = _VTD.get(found.iommu or "", "the IOMMU (VT-d, AMD-Vi)")
        message = "the firmware describes no IOMMU: there is neither a DMAR nor an IVRS table"
        hint = f"enable {what} in the firmware's setup"
        if "hypervisor" in (found.flags or ()):
            hint = "this host is itself a VM: give it a virtual IOMMU (machine q35, viommu=intel)"
        yield Hit(firmware.TABLES, message, hint)


def _lacks_table(around: Surroundings) -> bool:
    tables = around.once(sources.firmware).tables
    return tables is not None and not tables & firmware.IOMMU_TABLES and not around.inventory.iommu_present()


def no_iommu(around: Surroundings) -> Iterator[Hit]:
    """Whether the kernel drives an IOMMU, on a host whose firmware has one and whose parameters allow it.

    Why it matters: PVE refuses to start a VM with a device.

    How to fix: see what the kernel log says of DMAR or AMD-Vi; update the firmware.
    """
    present = around.inventory.iommu_present()
    if present is None:
        raise Unknown("there is no /sys/class/iommu")
    if _lacks_table(around):
        raise NotApplicable("the firmware describes no IOMMU, as PVP112 says")
    if off_by(around):
        raise NotApplicable("the kernel's command line leaves it off, as PVP114 or PVP115 says")
    if not present:
        hint = "see what the kernel log says of DMAR or AMD-Vi, and update the firmware"
        if (
            around.once(sources.firmware).iommu == "Intel"
        ):  # a kernel that is not PVE's may be built without the default
            hint = f"add intel_iommu=on to the kernel's command line if it is not there; else {hint}"
        yield Hit("/sys/class/iommu", "the kernel drives no IOMMU", hint)


def off_by(around: Surroundings) -> tuple[str, str] | None:
    """The code and the words of the parameter that leaves the IOMMU off, or None: it is on, or that is not why."""
    line = around.once(sources.boot).running
    if around.inventory.iommu_present() is not False or line is None:
        return None
    found = around.once(sources.firmware)
    name = {"Intel": "intel_iommu", "AMD": "amd_iommu"}.get(found.iommu or "")
    values = ",".join(value or "" for value in line.values(name)).split(",") if name else []
    switches = [value for value in values if value in {"on", "off"}]
    if switches[-1:] == ["off"]:
        return "PVP115", f"{name}=off"
    if "off" in ",".join(value or "" for value in line.values("iommu")).split(","):
        return "PVP115", "iommu=off"
    if found.iommu == "Intel" and not switches and found.older_than(6, 8):
        return "PVP114", "intel_iommu=on"
    return None


def unsigned_module(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether Secure Boot and lockdown let the kernel load the modules that DKMS built.

    Why it matters: with Secure Boot the kernel refuses a module that is not signed, so a vGPU, vendor-reset or i915
    SR-IOV driver is missing after the reboot.

    How to fix: sign the modules with a key that is enrolled (`mokutil --import /var/lib/dkms/mok.pub`, then confirm it
    at the next boot and rebuild them), or turn Secure Boot off in the firmware.
    """
    found = around.once(sources.firmware)
    if found.secure_boot is None and not found.lockdown:
        raise Unknown("neither the SecureBoot variable nor lockdown can be read")
    if found.lockdown == "none" or not (found.lockdown or found.secure_boot):
        raise NotApplicable("the kernel is not locked down")
    folder = f"/lib/modules/{found.release}/updates/dkms"
    built = [name for name in around.host.names(folder) if ".ko" in name]
    if not built:
        raise NotApplicable("DKMS built no module for the running kernel")
    signed = {name: firmware.is_signed(around.host, f"{folder}/{name}") for name in built}
    unsigned = [name for name in built if signed[name] is False]
    if not unsigned and None in signed.values():
        raise Unknown(f"the modules in {folder} are compressed")
    if unsigned:
        why = "Secure Boot is on" if found.secure_boot else f"lockdown is {found.lockdown}"
        message = f"{listed(unsigned)} of kernel {found.release} have no signature, and {why}"
        yield Hit(folder, message, "sign them: mokutil --import /var/lib/dkms/mok.pub, reboot, then rebuild with dkms")


# ---- interrupt remapping


def no_remapping(subject: Subject) -> Iterator[Hit]:
    """What it checks: whether the IOMMU remaps interrupts, or VFIO is told to do without.

    Why it matters: a device could send any interrupt to the host. VFIO refuses such a group, and QEMU does not start.

    How to fix: update the firmware, enable VT-d's interrupt remapping there, and remove `intremap=off` or
    `nointremap` from the kernel's command line. Where hardware cannot do it, and the guest is trusted: `options
    vfio_iommu_type1 allow_unsafe_interrupts=1` in /etc/modprobe.d/pvepassthru.conf, at the risk of an unstable host.
    """
    for device in subject.resolution.passed:
        if device.bound_to_vfio and _remaps(subject.around) is False and not _allows_unsafe(subject.around):
            message = (
                f"the kernel does not remap interrupts, so VFIO refuses {device.addresses[0]}{_why(subject.around)}"
            )
            yield Hit(subject.at(device.entry.key, device.entry.line), message, _UNSAFE_HINT)


def host_remapping(around: Surroundings) -> Iterator[Hit]:
    """Whether the IOMMU remaps interrupts, or VFIO is told to do without."""
    if around.inventory.iommu_present() is False:
        raise NotApplicable("the kernel drives no IOMMU")
    remaps = _remaps(around)
    if remaps is None:
        raise Unknown(f"neither {firmware.INTERRUPTS} nor the IOMMU's capabilities tell")
    if not remaps and not _allows_unsafe(around):
        message = f"the kernel does not remap interrupts, so VFIO refuses every device{_why(around)}"
        yield Hit("/sys/class/iommu", message, _UNSAFE_HINT)


_UNSAFE_HINT = (
    "enable it in the firmware's setup or update the firmware; as a last resort: "
    "pvepassthru doctor --fix --unsafe-interrupts"
)


def _remaps(around: Surroundings) -> bool | None:
    return around.once(_read_remapping)


def _read_remapping(around: Surroundings) -> bool | None:
    is_x86 = around.once(sources.firmware).flags is not None or around.once(sources.firmware).vendor is not None
    return firmware.remapping(around.host) if is_x86 else None


def _allows_unsafe(around: Surroundings) -> bool:
    modules = around.once(sources.modules)
    value = modules.parameter("vfio_iommu_type1", UNSAFE)
    if value is not None:
        return is_yes(value)
    option = modules.option("vfio_iommu_type1", UNSAFE)
    return option is not None and is_yes(option.value)


def is_yes(value: str) -> bool:
    """Whether the kernel takes this for true; a parameter without a value is."""
    return value[:1] in {"", "1", "y", "Y", "t", "T"} or value.lower() == "on"


def _why(around: Surroundings) -> str:
    line = around.once(sources.boot).running
    for name, value in (("intremap", "off"), ("nointremap", None)):
        if line and line.values(name)[-1:] == (value,):
            return f": {name}{f'={value}' if value else ''} is on the kernel's command line"
    return ""


def unsafe_interrupts(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether VFIO is told to give devices away without interrupt remapping.

    Why it matters: a guest that has a device can then send the host any interrupt: isolation is less, and the host
    may become unstable. Where the IOMMU remaps interrupts the setting is of no use.

    How to fix: remove `allow_unsafe_interrupts=1` from modprobe.d or the kernel's command line, then
    `update-initramfs -u -k all` and reboot. Keep it only where hardware cannot remap and all guests are trusted.
    """
    modules = around.once(sources.modules)
    value = modules.parameter("vfio_iommu_type1", UNSAFE)
    option = modules.option("vfio_iommu_type1", UNSAFE)
    if value is None and option is None and modules.loaded is None:
        raise Unknown("there is no /sys/module")
    if not _allows_unsafe(around) and not (option and is_yes(option.value)):
        return
    where = option.where if option and option.where.startswith("/etc") else "/sys/module/vfio_iommu_type1"
    if value is not None and not is_yes(value):
        said = f"from the next boot on VFIO is to give devices away without interrupt remapping ({UNSAFE} is set)"
    else:
        said = f"VFIO gives devices away without interrupt remapping ({UNSAFE} is {shown(value or 'set')})"
    if _remaps(around):
        yield Hit(where, f"{said}, though this host's IOMMU remaps interrupts", f"remove {UNSAFE} and reboot")
    else:
        yield Hit(where, said, "keep it only while all guests with a device are trusted")
