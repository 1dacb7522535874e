# SPDX-License-Identifier: Apache-2.0
"""Stand-ins of programs of a cluster's nodes, on the fake PVE of a Workstation: pveum, ha-manager, ssh."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pvepassthru.cli.main import build_parser
from tests.docs.words import BadWordsError, options, say

if TYPE_CHECKING:
    from tests.docs.machine import Machine


def _workstation(machine: Machine) -> Any:  # noqa: ANN401 - a fake PVE, which only a Workstation has
    api = getattr(machine, "api", None)
    if api is None:
        raise BadWordsError("this page has no cluster")
    return api


def pveum(machine: Machine, words: list[str]) -> int:
    """`pveum user add` and `delete`, `acl modify`, `user token add`: of the user that the cluster has for automation.

    So what pages say of rights is what their commands are run with.
    """
    users = _workstation(machine).cluster.users
    if words[:2] == ["acl", "modify"]:
        given = options(words[3:])
        if users[given["users"]].acl.get(words[2]) != given["roles"] or len(given) != 2:
            raise BadWordsError(f"pveum {' '.join(words)}: the cluster of this page has other rights")
    elif words[:3] == ["user", "token", "add"]:
        token = users[words[3]].tokens[words[4]]
        if words[5:] != ["--privsep", "1" if token.separate else "0"]:
            raise BadWordsError(f"pveum {' '.join(words)}: the token of this page is another")
        say(f"value {token.secret}")
    elif words[0] != "user" or words[1] not in {"add", "delete"} or words[2] not in users or words[3:]:
        raise BadWordsError(f"pveum {' '.join(words)}")
    return 0


HA = {
    ("add",): {"group"},
    ("groupadd",): {"nodes", "restricted"},
    ("rules", "add", "node-affinity"): {"resources", "nodes", "strict"},
    ("remove",): set(),
    ("groupremove",): set(),
    ("rules", "remove"): set(),
}
"""Commands of ha-manager with the options that they have here: `add` and `remove` of both releases, groups of PVE 8,
rules of PVE 9."""


def ha_manager(machine: Machine, words: list[str]) -> int:
    """`ha-manager`: resources, groups of PVE 8, rules of PVE 9, each with the name of what is made or removed."""
    cluster = _workstation(machine).cluster
    action = next((known for known in HA if tuple(words[: len(known)]) == known), None)
    name, given = (words[len(action)], options(words[len(action) + 1 :])) if action else ("", {})
    nodes = {node for node in given.get("nodes", "").split(",") if node}
    if action is None or not set(given) <= HA[action] or (nodes and not nodes <= set(cluster.nodes)):
        raise BadWordsError(f"ha-manager {' '.join(words)}")
    numbers = {key: int(value) if key in {"strict", "restricted"} else value for key, value in given.items()}
    if action[-1] in {"add", "remove"} and len(action) == 1:
        if not re.fullmatch(r"vm:\d+", name):
            raise BadWordsError(f"ha-manager {' '.join(words)}")
        row = {"sid": name, "type": "vm", "state": "started", **numbers}
        cluster.ha_resources = _changed(cluster.ha_resources, "sid", row, there=action == ("add",))
    elif action[0] == "rules":
        row = {"rule": name, "type": "node-affinity", **numbers}
        cluster.ha_rules = _changed(cluster.ha_rules, "rule", row, there="add" in action)
    else:
        cluster.ha_groups = _changed(
            cluster.ha_groups, "group", {"group": name, **numbers}, there=action == ("groupadd",)
        )
    return 0


Rows = list[dict[str, str | int]]


def _changed(rows: Rows, key: str, row: dict[str, str | int], *, there: bool) -> Rows:
    """The rows with this one more or less. Raises BadWordsError if it is to be removed and is not there."""
    others = [other for other in rows if other[key] != row[key]]
    if not there and len(others) == len(rows):
        raise BadWordsError(f"ha-manager: there is no {row[key]}")
    return [*others, row] if there else others


def ssh(machine: Machine, words: list[str]) -> int:
    """`ssh root@NODE COMMAND`: a command of ours is one that there is, others are those of this module."""
    host, *command = words
    if host.removeprefix("root@").removesuffix(".example.org") not in _workstation(machine).cluster.nodes:
        raise BadWordsError(f"ssh {host}: no such node")
    if command[0] == "pvepassthru":
        build_parser(command[1:]).parse_args(command[1:])
        return 0
    return machine.stand_in(command)
