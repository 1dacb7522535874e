# SPDX-License-Identifier: Apache-2.0
"""Rules on the kernel's command line, PVP114 to PVP123.

What the kernel takes: Linux Documentation/admin-guide/kernel-parameters.txt, drivers/iommu/intel/iommu.c and
drivers/iommu/amd/init.c. The kernel minds the case of names and values; `-` and `_` are the same in names.
"""

from __future__ import annotations

from pvepassthru.host import boot as boots
from pvepassthru.model import shell
from pvepassthru.model.cmdline import CommandLine, same_name
from pvepassthru.model.record import TYPE_CHECKING
from pvepassthru.model.text import listed, nearest, shown
from pvepassthru.rules import sources
from pvepassthru.rules.kernel import off_by
from pvepassthru.rules.rule import NotApplicable, Unknown
from pvepassthru.rules.subject import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pvepassthru.host.boot import Boot
    from pvepassthru.model.cmdline import Parameter
    from pvepassthru.rules.subject import Surroundings

CMDLINE = "/proc/cmdline"
VALUES = {
    "intel_iommu": frozenset(
        ("on", "off", "igfx_off", "forcedac", "strict", "sp_off", "sm_on", "sm_off", "tboot_noforce", "ecs_off")
    ),
    "amd_iommu": frozenset(
        (
            *("off", "fullflush", "force_enable", "force_isolation", "pgtbl_v1", "pgtbl_v2", "irtcachedis"),
            *("nohugepages", "v2_pgsizes_only"),
        )
    ),
}
"""What the two parameters take; AMD's knows no `on`: it is on without."""
KNOWN = (
    *("intel_iommu", "amd_iommu", "iommu", "pcie_acs_override", "intremap", "vfio_pci.ids", "vfio_pci.disable_vga"),
    *("vfio_pci.disable_idle_d3", "vfio_iommu_type1.allow_unsafe_interrupts", "i915.enable_gvt", "i915.enable_guc"),
    *("i915.max_vfs", "xe.max_vfs", "xe.force_probe", "kvm.ignore_msrs", "initcall_blacklist", "module_blacklist"),
    *("modprobe.blacklist", "video", "pci", "nointremap", "iommu.passthrough", "iommu.strict", "kvm_intel.nested"),
    *("kvm_amd.nested", "hugepages", "hugepagesz", "default_hugepagesz", "isolcpus"),
)
"""Parameters that have to do with passthrough; the case of their names is checked, and whether the boot took them."""
SLIPS = ("intel_iommu", "amd_iommu", "iommu", "pcie_acs_override", "vfio_pci.ids", "i915.enable_gvt")
"""Of these, those whose misspellings are looked for; each is spelt unlike any other parameter of the kernel."""
OTHERS = frozenset(
    (
        *("intel_idle", "amd_iommu_dump", "amd_iommu_intr", "intel_pstate", "i915.enable_guc", "i915.enable_psr"),
        *("i915.enable_fbc", "i915.enable_dc", "i915.enable_ips", "i915.enable_dpt", "vfio_pci.disable_vga"),
    )
)
"""Real parameters that look like one of SLIPS."""


def intel_not_on(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the kernel of an Intel host, if it is older than 6.8, is told to use the IOMMU.

    From 6.8 on it uses it without being told; on AMD every kernel does.

    Why it matters: PVE refuses to start a VM with a device while the kernel drives no IOMMU.

    How to fix: add `intel_iommu=on` to GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub and run `update-grub`, or to
    /etc/kernel/cmdline and run `proxmox-boot-tool refresh`; then reboot. `pvepassthru doctor --fix` does it.
    """
    line = around.once(sources.running)
    found = around.once(sources.firmware)
    if found.iommu is None or found.kernel is None:
        raise Unknown("it cannot be told whose IOMMU this is, or what kernel")
    if found.iommu != "Intel" or not found.older_than(6, 8):
        raise NotApplicable("this kernel uses the IOMMU without being told")
    why = off_by(around)
    if why and why[0] == "PVP114":
        message = (
            f"kernel {found.release} drives an Intel IOMMU only with intel_iommu=on, which is not on its command line"
        )
        if line.values("amd_iommu"):
            message += " (amd_iommu= is for AMD)"
        yield Hit(CMDLINE, message, f"add intel_iommu=on {_way(around.once(sources.boot))}")


def switched_off(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a parameter switches the IOMMU off: intel_iommu=off, amd_iommu=off, iommu=off.

    Why it matters: PVE refuses to start a VM with a device while the kernel drives no IOMMU.

    How to fix: remove the parameter from the kernel's command line, apply it (`update-grub` or `proxmox-boot-tool
    refresh`) and reboot.
    """
    _ = around.once(sources.running)
    why = off_by(around)
    if why and why[0] == "PVP115":
        message = f"{why[1]} is on the kernel's command line and switches the IOMMU off"
        yield Hit(CMDLINE, message, f"remove it {_way(around.once(sources.boot))}")


def without_effect(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a parameter for the IOMMU is one that this processor's kernel does nothing with.

    intel_iommu= is for Intel, amd_iommu= for AMD; and `amd_iommu=on` means nothing, since AMD's IOMMU is on without.

    Why it matters: it does no harm, but seems to do something.

    How to fix: remove it at the next occasion. `iommu=pt` is for both.
    """
    line = around.once(sources.running)
    maker = around.once(sources.firmware).iommu
    if maker is None:
        raise Unknown("it cannot be told whose IOMMU this is")
    other = {"Intel": "amd_iommu", "AMD": "intel_iommu"}[maker]
    words = [f"{word.text} is not for {maker}'s IOMMU, which this host has" for word in line.named(other)]
    if maker == "AMD":
        words += [
            f"{word.text} is no value that the kernel knows: AMD's IOMMU is on without it"
            for word in line.named("amd_iommu")
            if word.value == "on"
        ]
    for message in words:
        yield Hit(CMDLINE, f"{shown(message)}", "remove it at the next occasion")


def wrong_case(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the parameters for passthrough are written in the right case, such as `intel_iommu=on`.

    Why it matters: the kernel minds the case, and ignores `Intel_iommu=on` or `I915.enable_gvt=1` without a word.

    How to fix: write it as the message says, apply it (`update-grub` or `proxmox-boot-tool refresh`) and reboot.
    """
    for word in _kernel_words(around.once(sources.running)):
        right = _right_case(word)
        if right:
            message = f"the kernel ignores {shown(word.text)}, as it minds the case: write {right}"
            yield Hit(CMDLINE, message, f"write {right} {_way(around.once(sources.boot))}")


def _right_case(word: Parameter) -> str | None:
    """How a parameter is to be written whose name or value is in the wrong case; None if it is in the right one."""
    for name in KNOWN:
        if same_name(word.name.lower(), name):
            fits = same_name(word.name, name)
            value = word.value
            values = (value or "").split(",")
            lower = (value or "").lower().split(",")
            known = VALUES.get(name, frozenset())
            if known and any(one not in known and small in known for one, small in zip(values, lower, strict=True)):
                value, fits = ",".join(lower), fits and values == lower
            return None if fits else (name if value is None else f"{name}={value}")
    return None


def misspelt(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether a parameter for passthrough has a name or a value that the kernel does not know.

    Why it matters: the kernel ignores it without a word.

    How to fix: write it as the message says, apply it (`update-grub` or `proxmox-boot-tool refresh`) and reboot.
    """
    for word in _kernel_words(around.once(sources.running)):
        name = word.name.replace("-", "_")
        if _right_case(word):
            continue
        if name in VALUES:
            known = VALUES[name] | {"on"}
            wrong = [one for one in (word.value or "").split(",") if one not in known]
            if wrong:
                near = nearest(wrong[0], known) if wrong[0] else None
                hint = f"write {name}={near or 'on'}, or remove it, {_way(around.once(sources.boot))}"
                yield Hit(CMDLINE, f"{shown(word.text)} has a value that the kernel does not know", hint)
        elif name.lower() not in OTHERS and name not in KNOWN:
            near = _slip(name)
            if near:
                hint = f"write {near} if that is meant, {_way(around.once(sources.boot))}"
                yield Hit(CMDLINE, f"the kernel knows no {shown(word.name)}, which looks like {near}", hint)


def _slip(name: str) -> str | None:
    """The parameter that a name is a slip of: a letter or two wrong, none more in a short name or a module's part."""
    near = nearest(name, SLIPS)
    if near is None or abs(len(near) - len(name)) > 2 or ("." in name) != ("." in near) or name[:1] != near[:1]:
        return None
    pairs = (zip(name, near, strict=False), zip(reversed(name), reversed(near), strict=False))
    same = 0
    for pair in pairs:
        for letter, other in pair:
            if letter != other:
                break
            same += 1
    longest = max(len(name), len(near))
    return near if longest - same <= (2 if longest > 7 else 1) else None


def _kernel_words(line: CommandLine) -> list[Parameter]:
    return [word for word in line.parameters if not word.to_init]


def _way(boot: Boot) -> str:
    """Where to change the command line, and what applies it."""
    files = " or ".join(boot.files) or "/etc/default/grub (or /etc/kernel/cmdline)"
    return f"in {files}, then: {_apply(boot)}, and reboot"


def _apply(boot: Boot) -> str:
    """What makes the loader take changed files."""
    if boot.loader and not boot.apply:
        return f"write the entries of {boot.loader} anew"
    return " ".join(boot.apply) or "update-grub (or proxmox-boot-tool refresh)"


# ---- what the next boot brings


def not_booted(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the kernel got the parameters for passthrough that are configured for it.

    Why it matters: a parameter that is written but was never applied does nothing; one that was removed still does.

    How to fix: run `update-grub` or `proxmox-boot-tool refresh`, as the message says, then reboot.
    """
    boot = around.once(sources.boot)
    line = around.once(sources.running)
    if boot.configured is None:
        raise Unknown(boot.trouble or "it cannot be told what configures the command line")
    configured = boot.configured.line
    missing = [word for word in _relevant(configured) if not _has(line, word)]
    extra = [word.text for word in _relevant(line) if not _has(configured, word)]
    if missing:
        message = f"{shown(listed(word.text for word in missing))} is configured, but the running kernel did not get it"
        where = next(origin.where for origin in boot.configured.origins if origin.parameter == missing[0])
        yield Hit(where, message, f"{_apply(boot)}, then reboot")
    if extra:
        message = f"the running kernel has {shown(listed(extra))}, which is configured no more"
        yield Hit(CMDLINE, message, f"add it {_way(boot)}, if it is to stay")


def _relevant(line: CommandLine) -> list[Parameter]:
    return [word for word in _kernel_words(line) if any(same_name(word.name, name) for name in KNOWN)]


def _has(line: CommandLine, wanted: Parameter) -> bool:
    return any(same_name(word.name, wanted.name) and word.value == wanted.value for word in _kernel_words(line))


def loaders_disagree(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether the files of the two boot loaders ask for the same parameters for passthrough.

    Why it matters: proxmox-boot-tool serves GRUB, which reads /etc/default/grub, and systemd-boot, which reads
    /etc/kernel/cmdline. Only the file of the loader that boots counts; an edit of the other one does nothing.

    How to fix: make the change in the file of the loader that booted, as the message says.
    """
    boot = around.once(sources.boot)
    if boot.configured is None or boot.loader is None:
        raise Unknown(boot.trouble or boot.why)
    other_file, other = _other_loader(around, boot)
    if other is None:
        raise NotApplicable("only one loader is configured")
    only = [word.text for word in _relevant(other) if not _has(boot.configured.line, word)]
    if only:
        message = (
            f"{shown(listed(only))} is only in {other_file}, but {boot.loader} boots this host and does not read it"
        )
        yield Hit(other_file, message, f"add it {_way(boot)}")


def _other_loader(around: Surroundings, boot: Boot) -> tuple[str, CommandLine | None]:
    """The file of the loader that did not boot, and what it asks for; None if there is no such file."""
    if boot.loader == "GRUB":
        text = boots.whole(around.host, boots.CMDLINE)
        return boots.CMDLINE, None if text is None else CommandLine(text.partition("\n")[0])
    paths = boots.grub_files(around.host)
    scripts = tuple(shell.parse(path, boots.whole(around.host, path) or "") for path in paths)
    configured = boots.grub_line(scripts)[0] if scripts else None
    return boots.GRUB, configured.line if configured else None


# ---- parameters with a price


def acs_override(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether `pcie_acs_override=` splits IOMMU groups that the hardware does not isolate.

    Why it matters: devices of such groups can reach each other's memory past the IOMMU: a guest with one may read or
    damage what the host or another guest has on the other, and errors there look like anything.

    How to fix: use a slot whose root port has a group of its own (`pvepassthru devices --groups`), and remove the
    parameter. Keep it only where all guests are trusted.
    """
    words = [word.text for word in around.once(sources.running).named("pcie_acs_override")]
    if words:
        message = f"{shown(listed(words))} makes IOMMU groups look smaller than the hardware isolates"
        yield Hit(CMDLINE, message, "use another slot where there is one; keep it only while all guests are trusted")


def efifb_off(around: Surroundings) -> Iterator[Hit]:
    """What it checks: whether `video=efifb:off` is set on a kernel whose framebuffer is simpledrm's.

    Why it matters: the parameter does nothing there, and the boot framebuffer stays on the GPU.

    How to fix: use `initcall_blacklist=sysfb_init` in its place when the GPU that shows the console is to be passed
    through; else remove it.
    """
    off = {"efifb:off", "vesafb:off", "simplefb:off"}
    words = [
        word.text for word in around.once(sources.running).named("video") if off & set((word.value or "").split(","))
    ]
    if words and _simple_framebuffer(around):
        message = f"{shown(listed(words))} does nothing here: the boot framebuffer is simpledrm's"
        way = _way(around.once(sources.boot))
        yield Hit(CMDLINE, message, f"write initcall_blacklist=sysfb_init in its place {way}")


def _simple_framebuffer(around: Surroundings) -> bool:
    names = around.host.names("/sys/bus/platform/devices")
    return "simpledrm" in (around.host.text("/proc/fb") or "") or any(
        name.startswith("simple-framebuffer") for name in names
    )
