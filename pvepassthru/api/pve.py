# SPDX-License-Identifier: Apache-2.0
"""A cluster for those who automate: what VMs are to have, generated, judged, shown and applied through the PVE API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvepassthru.api import (
    apply,
    client,
    cluster,
    hindrance,
    profile,
    proposal,
    render,
    site,
    snippets,
    survey,
    wish_check,
)
from pvepassthru.model.errors import UsageError
from pvepassthru.model.text import listed, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

    from pvepassthru.api.apply import Applied, Result
    from pvepassthru.api.change import Change
    from pvepassthru.api.client import Client
    from pvepassthru.api.cluster import Node, Vm
    from pvepassthru.api.judgement import Judgement
    from pvepassthru.api.present import Present
    from pvepassthru.api.proposal import Proposal
    from pvepassthru.api.wish import Wish
    from pvepassthru.model.errors import PassthruError

TEXTS: dict[str, Callable[[Change], str]] = {
    "diff": render.diff,
    "qm": render.qm,
    "terraform": snippets.terraform,
    "ansible": snippets.ansible,
}
"""The forms of a change that are texts, by name."""
FORMS: dict[str, Callable[[Change], str]] = TEXTS | {
    "json": lambda change: render.as_json([change]),
    "yaml": lambda change: render.as_yaml([change]),
}
"""All forms, as `config --format` has them."""


class Pve:
    """One cluster through its API. Every method may raise ApiError and what is derived from it (docs/exit-codes.md).

    It is a context manager, whose connections end with the block; `client` makes any other call of the API.
    """

    def __init__(self, client: Client) -> None:
        self.client = client

    @classmethod
    def connect(cls, name: str | None = None, *, otp: Callable[[], str] | str | None = None) -> Self:
        """The cluster of a profile, chosen as the commands do it (docs/api.md); with a password it has logged in.

        `otp` is a one-time password, or asks for one when PVE wants it. Raises NotFoundError without such a profile,
        UnsafeError when others may read it, InputError for a mistake in it, and ApiError.
        """
        return cls(client.connect(profile.load(name), otp=otp))

    def __repr__(self) -> str:
        return f"Pve({self.client.user} at {self.client.where})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its connections."""
        self.client.close()

    def nodes(self) -> dict[str, Node]:
        """The nodes by name, each with whether it is online."""
        return cluster.nodes(self.client)

    def vms(self) -> dict[int, Vm]:
        """The VMs that this user may see, by VMID: the node of each, whether it runs, is a template, is locked."""
        return cluster.vms(self.client)

    def config(self, vmid: int) -> Present:
        """A VM's config: `get(key)` and `values` as its next start takes it, `digest` as it is now.

        Raises ApiMissingError when this user sees no such VM, and UsageError for what is no VMID.
        """
        wish_check.vmid(vmid)
        return cluster.config(self.client, vmid, cluster.vm(self.client, vmid).node)

    def generate(self, vmid: int, wish: Wish) -> Change:
        """The complete change that gives a VM what is wished; without keys when it has that already. Sends nothing.

        Raises UsageError for a wish that is ambiguous or contradicts itself or the config, NotFoundError and its child
        ApiMissingError for what is not there, DeviceError for what cannot be had or what PVE would refuse to start.
        """
        (found,) = self.propose({vmid: wish})
        return found.need()

    def propose(self, wishes: Mapping[int, Wish]) -> tuple[Proposal, ...]:
        """The changes of several VMs, each with what the rules say of it, or with the error why there is none.

        None of them is given what is chosen for another one. Sends nothing. Raises UsageError for a wish that
        contradicts itself, or says what no command line could.
        """
        said = {wish_check.vmid(vmid): wish_check.sound(wish) for vmid, wish in wishes.items()}
        return proposal.by_api(self.client, said, lambda _: None)

    def validate(self, change: Change) -> Judgement:
        """What the rules of `pvepassthru validate` find of the VM after a change, as far as the API tells of its node.

        `new` is what they do not find now, `remaining` what they find before and after, `gone` what is put right,
        `moot` what ends with an entry while the setting that it is about stays; `refused` says whether there is a new
        error, and is False for a change that only takes entries away.
        """
        place = site.of_api(self.client, survey.overview(self.client), change.node, [change.vmid])
        return proposal.judge(place, change)

    def hindrances(self, change: Change) -> tuple[PassthruError, ...]:
        """What would keep `apply` from making a change as things are now: a lock, what this user may not, and more.

        It is what `apply` refuses before its first write. It only reads; none for a change without keys.
        """
        return hindrance.foreseen(self.client, change)

    @staticmethod
    def diff(change: Change, form: str = "diff") -> str:
        """A change as text: `diff` with a reason for each key, `qm`, `json`, `yaml`, `terraform` or `ansible`.

        Raises UsageError for another form.
        """
        if form not in FORMS:
            raise UsageError(f"{shown(form)} is no form of a change", f"use {listed(FORMS)}")
        return FORMS[form](change)

    def apply(self, change: Change, *, take_pending: bool = False) -> Applied:
        """Make a change, as a whole or not at all; what it says is what was read back. Without keys nothing is sent.

        It is not judged: see `validate`. Of a VM that does not run PVE makes pending values of others effective with
        any write, so they are refused unless `take_pending` is true.

        Raises before the first write ApiConflictError (the config has changed since, a lock, pending values of others),
        ApiDeniedError (what this user may not set) and ApiMissingError (a storage or hookscript is not there); later,
        when all is as before, what went wrong;
        ApiPartialError and ApiUnsureError say what is known when it is not.
        """
        return apply.apply(self.client, change, take_pending=take_pending)

    def apply_all(
        self, changes: Iterable[Change], *, take_pending: bool = False, stop_at_first: bool = False
    ) -> list[Result]:
        """Make the changes of several VMs, one after the other, each as a whole or not at all, and tell of each."""
        return list(apply.apply_all(self.client, changes, take_pending=take_pending, stop_at_first=stop_at_first))
