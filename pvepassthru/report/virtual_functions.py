# SPDX-License-Identifier: Apache-2.0
"""Physical functions with their virtual functions, as `sriov show` has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.host import iplink, sriov, vms
from pvepassthru.model.errors import PassthruError
from pvepassthru.rules.owners import Owners

if TYPE_CHECKING:
    from typing import Any

    from pvepassthru.host.sriov import Pf, Vf
    from pvepassthru.model.policy import SriovPolicy, VfSettings
    from pvepassthru.rules.subject import Surroundings


def policies(around: Surroundings) -> tuple[dict[str, SriovPolicy], list[str]]:
    """What the policy says of each PF, and sentences on rules that are not obeyed. Raises InputError, UnsafeError."""
    told, inventory = around.policies, around.inventory
    doubts = []
    if not around.host.names(vms.PVE):
        doubts.append(f"{vms.PVE} is empty (see systemctl status pve-cluster), so its policy is not known")
    doubts += [rule.message for rule in told.moved(inventory)]
    return {wanted.address: wanted for wanted in told.sriov(inventory)}, doubts


class PhysicalFunctions:
    """PFs as they are shown."""

    def __init__(self, around: Surroundings, owners: Owners | None = None) -> None:
        self.warnings: list[str] = []
        """Sentences on what could not be told, as far as it was asked."""
        self._host = around.host
        self._owners = owners or Owners(around)
        self._users = sriov.Users(around.host)
        try:
            self._wanted, self.warnings = policies(around)
        except PassthruError as error:
            self._wanted, self.warnings = {}, [str(error)]

    def shape(self, pf: Pf) -> dict[str, Any]:
        """A PF as JSON has it."""
        wanted = self._wanted.get(pf.address)
        links = self._links(pf)
        return {
            "address": pf.address,
            "driver": pf.driver,
            "total": pf.most,
            "vfs": pf.vfs,
            "policy": wanted.vfs if wanted else None,
            "in_hook": wanted.in_hook if wanted else False,
            "autoprobe": pf.autoprobe,
            "interfaces": list(pf.nets),
            "switch": pf.switch,
            "vf_driver": pf.known.vf_driver,
            "driver_most": pf.known.most,
            "parameter": pf.known.parameter,
            "must_be_up": pf.known.must_be_up,
            "resets_link": pf.known.resets_link,
            "manager": pf.known.manager,
            "notes": list(pf.known.notes),
            "functions": [self._vf(vf, links.get(vf.number)) for vf in pf.functions],
        }

    def _vf(self, vf: Vf, link: VfSettings | None) -> dict[str, Any]:
        return {
            "number": vf.number,
            "address": vf.address,
            "driver": vf.driver,
            "group": vf.group,
            "vms": [
                {"vmid": owner.vmid, "entries": list(owner.entries), "runs": owner.runs, "has": owner.has}
                for owner in self._owners.of(vf.address)
            ],
            "in_use": self._users.why(vf),
            "network": {name: value for name, value in link._asdict().items() if name != "driver"} if link else None,
        }

    def _links(self, pf: Pf) -> dict[int, VfSettings]:
        if not pf.nets or not pf.functions or self._host.root:
            return {}
        try:
            return iplink.show(self._host, pf.nets[0]).vfs
        except PassthruError as error:
            self.warnings.append(str(error))
            return {}
