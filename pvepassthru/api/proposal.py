# SPDX-License-Identifier: Apache-2.0
"""The changes that make wishes true, each with what the rules say of it, before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pvepassthru.api import cluster, generate, hindrance, judgement, mirror, site, survey
from pvepassthru.api.judgement import Judgement
from pvepassthru.model.errors import ApiError, PassthruError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pvepassthru.api.change import Change
    from pvepassthru.api.client import Client
    from pvepassthru.api.site import Site
    from pvepassthru.api.wish import Wish
    from pvepassthru.host.host import Host

_NO_FINDINGS = Judgement((), (), ())


class Proposal(NamedTuple):
    """One VM's change before it is made, or why there is none."""

    vmid: int
    change: Change | None
    judged: Judgement
    error: PassthruError | None
    mirrored: bool = False
    """Whether the rules judged it by what the API tells, without the node's policy and what only the node knows."""

    hindrances: tuple[PassthruError, ...] = ()
    """What would stand in the way of making it as things are now, if that was looked at (`foreseen`)."""

    @property
    def refused(self) -> bool:
        """Whether the rules find a new error."""
        return self.judged.refused

    def need(self) -> Change:
        """The change. Raises the error for which there is none."""
        if self.change is None:
            raise self.error or PassthruError(f"there is no change for VM {self.vmid}")
        return self.change

    @property
    def ready(self) -> Change | None:
        """The change, if there is something to change and nothing against it."""
        return self.change if self.change and self.change.keys and not self.refused else None


def by_files(host: Host, wishes: Mapping[int, Wish], say: Callable[[str], object]) -> tuple[Proposal, ...]:
    """The proposals by the files of these VMs' own node, in the order of the wishes; `say` gets what is to be known.

    Raises NotFoundError and InputError when the node cannot be looked at.
    """
    return _propose(wishes, lambda failed: [site.of_files(host, wishes, failed)], say)


def by_api(
    client: Client, wishes: Mapping[int, Wish], say: Callable[[str], object], here: Host | None = None
) -> tuple[Proposal, ...]:
    """The proposals by the API, in the order of the wishes; `here` is the host that asks, if it is a node of PVE.

    Raises ApiError when the cluster cannot be read.
    """
    return _propose(wishes, lambda failed: _sites(client, wishes, here, failed, say), say)


def foreseen(client: Client | None, proposals: Iterable[Proposal]) -> tuple[Proposal, ...]:
    """The same with what would stand in the way as things are now, in a few requests for each change. Never raises."""
    return tuple(
        one._replace(hindrances=hindrance.foreseen(client, one.change)) if one.change else one for one in proposals
    )


def _propose(
    wishes: Mapping[int, Wish],
    sites: Callable[[dict[int, PassthruError]], Iterable[Site]],
    say: Callable[[str], object],
) -> tuple[Proposal, ...]:
    """`sites` puts what it cannot read into its argument."""
    failed: dict[int, PassthruError] = {}
    found: dict[int, Proposal] = {}
    for place in sites(failed):
        if place.note:
            say(place.note)
        made = generate.generate_all(place.presents, wishes, place.hardware, place.mappings, place.taken, failed=failed)
        for change in made:
            try:
                found[change.vmid] = Proposal(change.vmid, change, judge(place, change), None, _is_mirror(place))
            except PassthruError as error:
                failed[change.vmid] = error
    return tuple(
        found[vmid] if vmid in found else Proposal(vmid, None, _NO_FINDINGS, failed.get(vmid)) for vmid in wishes
    )


def judge(place: Site, change: Change) -> Judgement:
    """What the rules say of a change to a VM of this node. Raises as judgement.judge."""
    if not change.keys:
        return _NO_FINDINGS
    judged = judgement.judge(place.host, change)
    if not _is_mirror(place):
        return judged
    new, remaining, gone, moot = (tuple(map(mirror.plain, findings)) for findings in judged.findings.values())
    return Judgement(new, remaining, gone, moot, judged.only_removes)


def _is_mirror(place: Site) -> bool:
    return isinstance(place.host, mirror.Mirror)


def _sites(
    client: Client,
    wishes: Iterable[int],
    here: Host | None,
    failed: dict[int, PassthruError],
    say: Callable[[str], object],
) -> Iterator[Site]:
    """The nodes of these VMs, by the API. Raises ApiError when the cluster cannot be read."""
    known = survey.overview(client)
    asked = False
    by_node: dict[str, list[int]] = {}
    for number in wishes:
        if number in known.vms:
            by_node.setdefault(known.vms[number].node, []).append(number)
        else:
            try:
                cluster.vm(client, number)
            except ApiError as error:
                failed[number] = error
    for node, numbers in sorted(by_node.items()):
        try:
            place = site.of_api(client, known, node, numbers, here=here, failed=failed)
            if isinstance(place.host, mirror.Mirror) and not asked:  # a node's own files tell of all its VMs
                asked = True
                hidden = survey.unseen(client)
                if hidden:
                    say(f"{hidden.message}: a device that looks free may be theirs; {hidden.hint}")
        except PassthruError as error:
            failed.update(dict.fromkeys(numbers, error))
        else:
            yield place
