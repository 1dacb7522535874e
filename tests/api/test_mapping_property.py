# SPDX-License-Identifier: Apache-2.0
"""Random hardware and random mappings: nobody's entries are dropped, twice changes nothing, PVE takes what is added.

What PVE takes is also asked of the fake PVE's own check, which shares no code with the planner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pvepassthru.api import hardware, mapping_order, mapping_plan, mappings
from pvepassthru.api.mapping_plan import Options
from pvepassthru.api.mapping_wish import Sought, of_arguments
from pvepassthru.api.mappings import Stored
from pvepassthru.api.nodes import Nodes
from pvepassthru.model import mapped, mapping
from pvepassthru.model.errors import ApiError, ApiUnreachableError, PassthruError
from tests.api.fake_pve import hardware as fake
from tests.api.fake_pve import mappingtext
from tests.api.fake_pve.data import Cluster, Device, MdevType, Node
from tests.api.fake_pve.state import State

if TYPE_CHECKING:
    from pvepassthru.api.hardware import NodeHardware
    from pvepassthru.api.mapping_plan import Plan
    from pvepassthru.api.mappings import Line

NODES = ("pve1", "pve2", "pve3")
MODELS = (
    ("10de", "1b80", "1462:3362", "030000"),
    ("10de", "1b80", "1043:8591", "030000"),
    ("10de", "10f0", "1462:3362", "040300"),
    ("8086", "10fb", "8086:7a11", "020000"),
    ("8086", "10ed", None, "020000"),
    ("144d", "a808", "144d:a801", "010802"),
    ("8086", "1901", None, "060400"),
)
SLOTS = ("0000:01:00", "0000:02:00", "0000:03:10", "10000:e1:00")
SOUGHT: tuple[Sought | None, ...] = (
    None,
    *(of_arguments(word) for word in ("10de:1b80", "8086:10ed", "144d:a808", "gpu", "nic", "01:00", "01:00.0")),
    *(of_arguments(vf_of=word) for word in ("8086:10fb", "0000:02:00.0")),
    of_arguments("10de:1b80", subsystem="1462:3362"),
    of_arguments("10de:1b80", mdev=True),
    of_arguments("0000:02:00.0;0000:02:00.1"),
)

OPTIONS = st.builds(
    Options,
    st.sampled_from(["", *mapping_order.ORDERS]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(), (), ("01:00",), ("pve2:0000:02:00.0",)]),
)


@st.composite
def devices(draw: st.DrawFn) -> list[Device]:
    """The functions of a node."""
    found: dict[str, Device] = {}
    for slot in draw(st.lists(st.sampled_from(SLOTS), unique=True, min_size=2, max_size=4)):
        for number in draw(st.lists(st.sampled_from("0123"), unique=True, min_size=1, max_size=3)):
            vendor, device, subsystem, kind = draw(st.sampled_from(MODELS))
            mdev = (None, None, None, [MdevType("t-1")])[draw(st.integers(0, 3))]
            group = draw(st.sampled_from([-1, 2, 3, 4, 5]))
            found[f"{slot}.{number}"] = Device(
                f"{slot}.{number}",
                vendor,
                device,
                subsystem,
                group,
                kind,
                mdev,
                draw(st.sampled_from([None, "0000:02:00.0"])),
            )
    return [
        Device(**{**vars(one), "physfn": one.physfn if one.physfn in found and one.physfn != one.id else None})
        for one in found.values()
    ]


@st.composite
def lines(draw: st.DrawFn, nodes: dict[str, Node]) -> str:
    """A map line: of a device that is there, or nearly, or of none."""
    node = draw(st.sampled_from([*NODES, "pve9"]))
    there = nodes[node].pci if node in nodes else ()
    real = draw(st.booleans())
    if there and real:
        device = draw(st.sampled_from(list(there)))
        path = draw(st.sampled_from([device.id, device.id, device.id[:-2]]))
        values = {"id": f"{device.vendor}:{device.device}", "iommugroup": str(device.group)}
        values |= {"subsystem-id": device.subsystem} if device.subsystem else {}
        if device.group < 0:
            del values["iommugroup"]
    else:
        path = draw(st.sampled_from(SLOTS)) + draw(st.sampled_from(["", ".0", ".1", ".7"]))
        vendor, number, subsystem, _ = draw(st.sampled_from(MODELS))
        values = {"id": f"{vendor}:{number}", "iommugroup": draw(st.sampled_from(["2", "3", "02"]))}
        values |= {"subsystem-id": subsystem} if subsystem else {}
    more = draw(st.sampled_from([{}, {}, {"description": "by hand"}]))
    words = [f"{key}={text}" for key, text in ({"node": node, "path": path} | values | more).items()]
    return ",".join(draw(st.permutations(words)) if draw(st.booleans()) else words)


class Case:
    """A cluster with a mapping, and what is asked for."""

    def __init__(self, nodes: dict[str, Node], unread: set[str], asked: tuple[str, ...], stored: Stored | None) -> None:
        self.state = State(Cluster(nodes))
        found: dict[str, NodeHardware] = {
            name: hardware.of_api(name, [fake._row(one, node.pci, verbose=True) for one in node.pci], {})  # type: ignore[misc]  # a row is an object
            for name, node in nodes.items()
            if name in asked and name not in unread
        }
        errors: dict[str, ApiError] = {
            name: ApiUnreachableError(f"node {name} is offline") for name in unread & set(asked)
        }
        self.seen = Nodes(NODES, asked, dict(found), errors)
        self.stored = stored

    def plan(self, stored: Stored | None, sought: Sought | None, options: Options) -> Plan:
        known = {stored.name: stored} if stored else {}
        return mapping_plan.plan("some", known, self.seen, sought, options)

    def refused(self, line: Line, *, mdev: bool) -> bool:
        """Whether PVE refuses a line on its node, as the fake PVE judges it."""
        self.state.write_mappings({"some": mappingtext.Mapping([line.text], {"mdev": str(int(mdev))})})
        return bool(fake.faults(self.state, str(line.node), "some"))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    nodes = {name: Node(draw(devices())) for name in NODES}
    texts = draw(st.lists(lines(nodes), max_size=6))
    stored = Stored(
        "some", tuple(map(mappings.line, texts)), draw(st.integers(0, 3)) == 0, draw(st.booleans()), "digest"
    )
    unread = draw(st.sets(st.sampled_from(NODES), max_size=1))
    asked = draw(st.sampled_from([NODES, NODES, ("pve1",), ("pve2", "pve3")]))
    return Case(nodes, unread, asked, stored if texts else None)


@given(cases(), st.sampled_from(SOUGHT), OPTIONS)
@settings(max_examples=120, deadline=None)
def test_plans(case: Case, sought: Sought | None, options: Options) -> None:
    try:
        plan = case.plan(case.stored, sought, options)
    except PassthruError:
        assume(case.stored is None)  # what is asked for contradicts the mapping, or is nowhere: no plan to look at
        return
    _check_others(case, plan, options)
    _check_kept(case, plan, options)
    _check_new(case, plan)
    again = case.plan(plan.after, sought, options)
    assert (again.changed, again.lines, again.moved) == (False, (), ()), "twice changes nothing"
    text = mappingtext.write({"some": mappingtext.Mapping([line.text for line in plan.after.lines], {})})
    read = mapping.parse(text.encode())
    assert read.bad_lines == ()
    assert [one._replace(line=0) for one in read.by_name["some"].entries] == [line.entry for line in plan.after.lines]


def _check_others(case: Case, plan: Plan, options: Options) -> None:
    """Not one line of another node is touched."""
    before = plan.before.lines if plan.before else ()
    for node in {line.node for line in before} - set(case.seen.hardware):
        if not (options.prune and node == "pve9" and case.seen.everywhere):
            mine = [line for line in before if line.node == node]
            assert [line for line in plan.after.lines if line.node == node] == mine


def _check_kept(case: Case, plan: Plan, options: Options) -> None:
    """What fits stays; what does not is removed with prune only, and else named or made right."""
    before, after = plan.before.lines if plan.before else (), plan.after.lines
    mended = {change.old for change in plan.lines if change.old and change.new}
    stale = {one.text for one in plan.stale}
    for line in before:
        if line.node in case.seen.hardware and not case.refused(line, mdev=plan.after.mdev):
            assert after.count(line) >= before.count(line)
        elif not options.prune:
            assert line in after or line.text in mended
    for line in after:
        if line.node in case.seen.hardware and case.refused(line, mdev=plan.after.mdev):
            assert line.text in stale


def _check_new(case: Case, plan: Plan) -> None:
    """PVE takes what is new, by our own check and by the fake's."""
    before = plan.before.lines if plan.before else ()
    for line in plan.after.lines:
        if line not in before:
            assert line.entry is not None
            assert not case.refused(line, mdev=plan.after.mdev)
            assert mapped.check(plan.after.mapping, line.entry, case.seen.hardware[str(line.node)], "", None) == []
