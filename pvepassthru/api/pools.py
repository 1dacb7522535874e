# SPDX-License-Identifier: Apache-2.0
"""The mapping that serves a device of a wish: the one that it names, or where only mappings will do, one that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api.chosen import Choice
from pvepassthru.api.wish import BEST
from pvepassthru.model import mapped
from pvepassthru.model.errors import DeviceError, NotFoundError, UsageError
from pvepassthru.model.mapping import instead
from pvepassthru.model.text import counted, listed, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvepassthru.api.chosen import Chosen
    from pvepassthru.api.wish import Device


class Pools:
    """Finds mappings for one VM; the devices that a mapping has on the VM's node are its pool."""

    def __init__(self, chosen: Chosen) -> None:
        self.chosen = chosen
        self.reach = chosen.reach
        self.hardware = chosen.hardware

    def addresses(self) -> set[str]:
        """The functions of all mappings that fit this node."""
        return {address for name in self._right() for one in self.reach.pool(name) for address in one}

    def named(self, device: Device) -> Choice:
        """What a device has by the mapping that it names. Raises NotFoundError and DeviceError."""
        name, node = device.mapping, self.hardware.node
        known = self.reach.mappings.by_name
        mapping = known.get(name)
        if mapping is None:
            raise NotFoundError(f"there is no mapping {shown(name)}", instead(name, known))
        here = mapping.on(node)
        if not here:
            others = listed(sorted({other.node for other in mapping.entries})) or "no node"
            way = f"pvepassthru mapping apply {name} --node {node} --device DEVICE"
            message = f"mapping {name} has no device on node {node}"
            raise NotFoundError(message, f"it has devices on {others}; add one of {node}: {way}")
        problems = [problem for one in here for problem in mapped.check(mapping, one, self.hardware, name, None)]
        if problems:
            raise DeviceError(problems[0].message, problems[0].hint)
        pool = self.reach.pool(name)
        functions = pool[0]
        if device.mdev:
            parents = [alternative[0] for alternative in pool]
            _, kind = self.chosen.mediated.choose(device, parents, self.reach.mdevs(), pooled=True)
            return Choice(device, functions, mapping=name, mdev=kind, pool=len(pool))
        self._say_whole(name)
        for address in dict.fromkeys(address for alternative in pool for address in alternative):
            if vfs := self.hardware.functions[address].vfs:
                self.chosen.notes.append(
                    f"{address} of mapping {name} has {counted(len(vfs), 'VF')}, which vanish when it is passed"
                )
        same = [
            one
            for one in self.chosen.unclaimed
            if one.alternatives == pool and one.entry.host and not one.entry.wants_mdev
        ]
        self.chosen.wanted.update(address for alternative in pool for address in alternative)
        if len(pool) == 1 and same:  # the same device by its address: through the mapping from now on
            self.chosen.unclaimed.remove(same[0])
            return Choice(device, functions, mapping=name, entry=same[0].entry)
        return Choice(device, functions, mapping=name, pool=len(pool))

    def _say_whole(self, name: str) -> None:
        """Note of a mapping for mediated devices that its device is passed whole."""
        if self.reach.mappings.by_name[name].mdev:
            self.chosen.notes.append(
                f"mapping {name} has mediated devices, and without mdev= its device is passed whole"
            )

    def _right(self) -> list[str]:
        """The mappings that fit this node, each with all of its devices there, by name."""
        node = self.hardware.node
        return [
            name
            for name, mapping in sorted(self.reach.mappings.by_name.items())
            if mapping.on(node)
            and not any(mapped.check(mapping, here, self.hardware, name, None) for here in mapping.on(node))
        ]

    def pooled(self, device: Device) -> Choice | None:
        """A mapping of several devices that all serve and of which one is left, so that PVE may take any of them.

        None without one. Raises UsageError when several fit, and NotFoundError and DeviceError for an mdev type.
        """
        if device.addresses or device.mapping:
            return None
        fitting = [name for name in self._right() if self._is_pool(device, name)]
        if not fitting:
            return None
        name = _only(fitting, f"devices for {device.words}")
        pool = self.reach.pool(name)
        kind = ""
        if device.mdev:
            parents = [functions[0] for functions in pool]
            kind = self.chosen.mediated.choose(device, parents, self.reach.mdevs(), pooled=True)[1]
        self.chosen.pools[name] = self.chosen.pools.get(name, 0) + 1
        self.chosen.wanted.update(functions[0] for functions in pool)
        return Choice(device, pool[0], mapping=name, mdev=kind, pool=len(pool))

    def _is_pool(self, device: Device, name: str) -> bool:
        pool = self.reach.pool(name)
        firsts = [self.hardware.functions[functions[0]] for functions in pool if len(functions) == 1]
        if len(firsts) != len(pool) or len(pool) < 2 or self.reach.mappings.by_name[name].mdev != bool(device.mdev):
            return False
        if device.mdev not in {"", BEST} and not all(device.mdev in one.offers() for one in firsts):
            return False
        entries = [taken for taken in self.reach.entries if taken.entry.mapping == name]
        alone = self.chosen.single.union(
            *(taken.functions for taken in self.reach.entries if len(taken.alternatives) == 1)
        )
        left = len({one.address for one in firsts} - alone) - len(entries) - self.chosen.pools.get(name, 0)
        shared = device.mdev and not any(one.vendor_vgpu or one.physfn for one in firsts)
        return all(self.chosen.is_one(device, one) for one in firsts) and (bool(shared) or left > 0)

    def having(self, functions: Sequence[str]) -> list[str]:
        """The mappings that fit this node and have these functions in a device, with others maybe."""
        return [name for name in self._right() if any(set(functions) <= set(one) for one in self.reach.pool(name))]

    def through(self, choice: Choice) -> Choice:
        """The same choice by a mapping that has just that device here. Raises NotFoundError and UsageError."""
        if choice.mapping:
            return choice
        fitting = [name for name in self._right() if self.reach.pool(name) == (choice.functions,)]
        what = listed(choice.functions)
        if not fitting:
            node = self.hardware.node
            among = self.having(choice.functions)
            device = f"'{choice.host}'" if ";" in choice.host else choice.host
            way = f"pvepassthru mapping apply NAME --node {node} --device {device} --only"
            hint = f"only root@pam can name a device by its address; have a mapping made: {way}"
            if among:
                hint = f"mapping {listed(among)} has more, of which PVE takes what is free: --mapping {among[0]}"
            raise NotFoundError(f"no mapping has just {what} of node {node}", hint)
        name = _only(fitting, what)
        if not choice.mdev:
            self._say_whole(name)
        return choice._replace(host="", mapping=name)


def _only(names: list[str], what: str) -> str:
    """The only name. Raises UsageError when there are several."""
    if len(names) > 1:
        raise UsageError(f"several mappings have {what}: {listed(names)}", "name one of them")
    return names[0]
