# SPDX-License-Identifier: Apache-2.0
"""docs/policy.md, made of the policy's JSON schema: `./dev docs` writes it, test_policy_page.py compares.

What the page says beyond the schema stands here, and in the example that it shows whole.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from tests.docs.markdown import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = os.path.join(ROOT, "docs", "policy.md")
EXAMPLE = os.path.join(ROOT, "packaging", "policy.example.yaml")
SCHEMA = os.path.join(ROOT, "pvepassthru", "host", "policy.schema.json")
HEAD = """# The policy

Made of the policy's JSON schema by `./dev docs`.

The policy says what may be done to which device, service and VM. Without one nothing surprising is done: no service,
console, framebuffer, reset method, BAR or power setting is touched, and no VFs are made.

| file | for |
|---|---|
| `/etc/pve/pvepassthru.yaml` | all nodes of the cluster |
| `/etc/pvepassthru.yaml` | this node; it wins, key by key |

Both must be root's and writable by nobody else, or they are refused ([security](security.md#the-policy)). A mistake in
one of them stops the start of **every** VM with passthrough, since a policy that is misread must not pass for none. So
check it after each change:

| command | what it says |
|---|---|
| `pvepassthru policy check` | each slip with its line, and what is meant, perhaps |
| `pvepassthru policy show` | what both files say together |
| `pvepassthru policy show 100` | what applies to a VM and its devices, and in which file it stands |

Of several rules for one device the nearest wins: what is said of the VM (`vms`), then of the device's address, its
slot, its mapping, its `vendor:device`, then `defaults`.
"""
SELECTORS = {
    "selector": "an address, a slot, `vendor:device` or `mapping:NAME`",
    "function": "an address, a slot or `vendor:device`",
    "vmid": "a VMID",
    "unit": "a systemd unit",
    "index": "a number of a VF, from 0",
    "bar": "a number of a BAR",
}
"""What the keys of a mapping are, by the schema's word."""
OF_DEVICES, OF_VMS = "[settings of devices](#settings-of-devices)", "[settings of VMs](#settings-of-vms)"
WITH_SETTINGS = {
    "defaults": f"all {OF_DEVICES} but `ids`, and all {OF_VMS}",
    "devices": f"all {OF_DEVICES}",
    "vms": f"all {OF_DEVICES} but `ids`, and all {OF_VMS}",
}
"""Parts of the policy with settings that others have too."""
TAIL = """## More on some settings

**`mac: stable`** is the first six bytes of the SHA-256 of `pvepassthru-vf-mac-1`, the host's machine-id, the PF's
permanent MAC (its PCI address, if it has none) and the VF's number, joined by newlines; the first byte is made that of
a local, unicast address. So it survives reboots, new names of the interface and another slot.

**`give_back`** that names a driver which is not loaded, or does not take the device: the former driver gets it.

**`silence`**: a silenced finding is shown with its reason, counts for no exit code, and refuses no start. For the rules
that save the host ([PVP240](rules.md#pvp240) to [PVP252](rules.md#pvp252)) `vm` and `device` must be given, and the
device is the one at stake.

**`gate: off`** does not switch off the rules that save the host.

## The example

[packaging/policy.example.yaml](../packaging/policy.example.yaml) has every setting once:

```yaml
"""


def page() -> str:
    """The whole page."""
    with open(SCHEMA, encoding="utf-8") as file:
        schema: dict[str, Any] = json.load(file)
    with open(EXAMPLE, encoding="utf-8") as file:
        example = file.read()
    definitions = schema["definitions"]
    parts = {name: _followed(value, definitions) for name, value in schema["properties"].items()}
    of_devices = parts["devices"]["additionalProperties"]
    names = of_devices["properties"]
    of_vms = {
        "properties": {name: value for name, value in parts["defaults"]["properties"].items() if name not in names}
    }
    sections = [_section(name, value, definitions) for name, value in parts.items()]
    sections += ["## Settings of devices\n", *_table(of_devices, definitions)]
    sections += ["## Settings of VMs\n", *_table(of_vms, definitions)]
    return "\n".join([HEAD, *sections, TAIL]) + example + "```\n"


def _followed(value: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    reference = value.get("$ref", "").removeprefix("#/definitions/")
    found: dict[str, Any] = definitions[reference] if reference else value
    return found


def _section(name: str, value: dict[str, Any], definitions: dict[str, Any]) -> str:
    lines = [f"## `{name}`", "", value["description"], ""]
    inner = value.get("additionalProperties") or value.get("items")
    if name in WITH_SETTINGS:
        lines += [f"Keys: {SELECTORS[value['keys']]}.", ""] if "keys" in value else []
        lines += [f"It may have {WITH_SETTINGS[name]}.", ""]
    elif isinstance(inner, dict):
        keys = value.get("keys")
        lines += (
            [f"Keys: {SELECTORS[keys] if keys else 'names of mappings'}.", ""]
            if "additionalProperties" in value
            else []
        )
        lines += _table(inner, definitions)
    else:
        lines += [f"Values: {_values(value)}. Default: {_default(value)}.", ""]
    return "\n".join(lines)


def _table(owner: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    yield from ("| setting | values | default | what |", "|---|---|---|---|")
    required = owner.get("required", ())
    inside: dict[str, dict[str, Any]] = {}
    for name, value in owner["properties"].items():
        setting = _followed(value, definitions)
        if isinstance(setting.get("additionalProperties"), dict) and "properties" in setting["additionalProperties"]:
            inside[name] = setting
        else:
            yield _row(name, setting, required=name in required)
    for name, setting in inside.items():
        names = ", ".join(f"`{one}`" for one in setting["additionalProperties"]["properties"])
        yield f"| `{name}` | by {SELECTORS[setting['keys']]}: {names} | - | {_cell(setting['description'])} |"
    yield ""


def _row(name: str, setting: dict[str, Any], *, required: bool = False) -> str:
    default = "must be given" if required else _default(setting)
    return f"| `{name}` | {_cell(_values(setting))} | {default} | {_cell(setting['description'])} |"


def _values(setting: dict[str, Any]) -> str:
    if "enum" in setting:
        return ", ".join(f"`{word}`" for word in setting["enum"])
    if setting.get("type") == "boolean":
        return "`true`, `false`"
    return str(setting["use"])


def _default(setting: dict[str, Any]) -> str:
    if "default" not in setting:
        return "-"
    value = setting["default"]
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    """Write the page."""
    with open(PATH, "w", encoding="utf-8") as file:
        file.write(page())
    sys.stdout.write(f"{os.path.relpath(PATH)} is written\n")


if __name__ == "__main__":
    main()
