# SPDX-License-Identifier: Apache-2.0
"""What several rules on the host read, each for `Surroundings.once`."""

from __future__ import annotations

from pvepassthru.host import boot as boots
from pvepassthru.host import firmware as firmwares
from pvepassthru.host import modules as kernel_modules
from pvepassthru.host import vms
from pvepassthru.model.record import TYPE_CHECKING, NamedTuple
from pvepassthru.model.text import number
from pvepassthru.rules.demand import demand
from pvepassthru.rules.rule import Unknown

if TYPE_CHECKING:
    from pvepassthru.host.boot import Boot
    from pvepassthru.host.firmware import Firmware
    from pvepassthru.host.modules import Modules
    from pvepassthru.model.cmdline import CommandLine
    from pvepassthru.rules.subject import Surroundings

CANDIDATES = ("03", "02", "01", "0c03", "0403", "12")
"""Classes of devices that people pass through: display, network, storage, USB, audio, accelerators."""


class Wanted(NamedTuple):
    """What the configs of this node's VMs ask for, each with these VMs."""

    whole: dict[str, tuple[int, ...]]
    """The functions that PVE binds to vfio-pci for them."""
    types: dict[str, tuple[int, ...]]
    """The mdev types of their entries, as written, such as i915-GVTg_V5_4 or nvidia-63."""


def firmware(around: Surroundings) -> Firmware:
    """Firmware, processor and kernel release."""
    return firmwares.read(around.host)


def boot(around: Surroundings) -> Boot:
    """The kernel's command line and what configures it."""
    return boots.read(around.host)


def running(around: Surroundings) -> CommandLine:
    """The running kernel's command line. Raises Unknown without /proc/cmdline."""
    line = around.once(boot).running
    if line is None:
        raise Unknown("there is no /proc/cmdline")
    return line


def modules(around: Surroundings) -> Modules:
    """Kernel modules and their configuration."""
    return kernel_modules.Modules(around.host, around.once(boot).running)


def wanted(around: Surroundings) -> Wanted:
    """What the VMs of this node are to be given; a config that cannot be read counts as empty."""
    wishes = around.once(demand)
    whole: dict[str, dict[int, None]] = {}
    for guest in wishes.guests.values():
        for wish in guest.wishes:
            for functions in wish.alternatives if wish.whole else ():
                for address in functions:
                    whole.setdefault(address, {})[guest.vmid] = None
    return Wanted({address: tuple(vmids) for address, vmids in whole.items()}, wishes.types)


def given(around: Surroundings) -> Wanted:
    """As `wanted`. Raises Unknown where there are no VM configs to be read."""
    if not around.host.exists(vms.CONFIGS):
        raise Unknown(f"there is no {vms.CONFIGS}")
    return around.once(wanted)


def configuration(around: Surroundings) -> Modules:
    """As `modules`. Raises Unknown where there is neither modprobe.d nor an option."""
    found = around.once(modules)
    if not found.lines and not around.host.exists(kernel_modules.OWN_FOLDER):
        raise Unknown(f"there is no {kernel_modules.OWN_FOLDER}")
    return found


def booted(around: Surroundings) -> int | None:
    """When the host booted, in seconds since the epoch; None without /proc/stat."""
    for line in (around.host.text("/proc/stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "btime":
            return number(value)
    return None


def is_candidate(around: Surroundings, address: str) -> bool:
    """Whether people pass such a device through."""
    return around.inventory.pci_class(address).startswith(CANDIDATES)


def ids(around: Surroundings, address: str) -> tuple[str, str, str, str]:
    """Vendor, device, subsystem vendor and subsystem device in hex digits, each empty when it cannot be told."""
    names = ("vendor", "device", "subsystem_vendor", "subsystem_device")
    values = [(around.inventory.attribute(address, name) or "").removeprefix("0x").lower() for name in names]
    return values[0], values[1], values[2], values[3]


def named(around: Surroundings, address: str) -> str:
    """A function with its ids and driver, for messages: `0000:01:00.0 (10de:2204, nouveau)`."""
    vendor, device, *_ = ids(around, address)
    driver = around.inventory.driver(address)
    return f"{address} ({vendor}:{device}{f', {driver}' if driver else ''})"


def of_vms(vmids: tuple[int, ...]) -> str:
    """`VM 100` or `VMs 100, 101`."""
    return f"VM{'s' if len(vmids) > 1 else ''} {', '.join(map(str, vmids[:12]))}"
