# SPDX-License-Identifier: Apache-2.0
"""A change as a snippet for Terraform and for Ansible, as far as it is a plain rendering there; the rest is a comment.

Sources: the documents of the provider bpg/proxmox (resource proxmox_virtual_environment_vm) and of the collection
community.proxmox (module proxmox_kvm). Where these have no word for something, a comment says so.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pvepassthru.api.surroundings import CPU_KEYS
from pvepassthru.model import property_string
from pvepassthru.model.property_string import PropertyError
from pvepassthru.model.text import listed, number, one_line
from pvepassthru.model.vmconfig import is_hostpci

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pvepassthru.api.change import Change, KeyChange
    from pvepassthru.model.hostpci import HostpciEntry

    Value = str | int | bool | list[str]

_RESOURCE = "proxmox_virtual_environment_vm"
_MODULE = "community.proxmox.proxmox_kvm"
_HOSTPCI = {"pcie": "pcie", "rombar": "rombar", "x-vga": "xvga", "romfile": "rom_file"}
"""Options of hostpci entries, and their names in the Terraform provider."""
_PLAIN = {"bios": "bios", "machine": "machine", "hookscript": "hook_script_file_id"}
_EFI = {"efitype": "type", "pre-enrolled-keys": "pre_enrolled_keys"}
_ANSIBLE = ("bios", "cpu", "hookscript", "machine", "vga")
"""Options of proxmox_kvm that are PVE's own text."""


# ---- Terraform


def terraform(change: Change) -> str:
    """The attributes that the VM's resource is to have. All hostpci entries are there: others would be removed."""
    lines = [
        f"# VM {change.vmid} on node {change.node}: merge these into its resource",
        *(f"# {one.key}: {one.reason}" for one in change.keys),
        *(f"# note: {note}" for note in change.notes),
    ]
    if not change.keys:
        lines.append("# nothing to change")
        return _text(lines)
    entries = [entry for _, entry in sorted(change.after.section.entries.items())]
    blocks = [*_blocks(change), *map(_hostpci_block, entries)]
    lines += [f"# {remark}" for _, _, remarks in blocks for remark in remarks]
    lines += [f"# {one.key}: remove it, PVE's default counts" for one in change.keys if one.new is None]
    plain: dict[str, Value] = {"node_name": change.node, "vm_id": change.vmid}
    plain |= {_PLAIN[one.key]: one.new for one in change.keys if one.new is not None and one.key in _PLAIN}
    lines.append(f'resource "{_RESOURCE}" "vm{change.vmid}" {{')
    lines += _attributes(plain, "  ")
    for name, values, _ in blocks:
        if values:
            lines += ["", f"  {name} {{", *_attributes(values, "    "), "  }"]
    lines.append("}")
    return _text(lines)


def _blocks(change: Change) -> Iterator[tuple[str, dict[str, Value], list[str]]]:
    """The blocks of the keys that change, each with remarks on what it cannot say."""
    cpu: dict[str, Value] = {}
    remarks = ["cpu: a block without cores and sockets has the provider's defaults for them, so add the VM's"]
    for one in change.keys:
        if one.new is None or is_hostpci(one.key) or one.key in _PLAIN:
            continue
        if one.key == "cpu":
            values, more = _cpu(one.new)
            cpu |= values
            remarks += more
        elif one.key == "affinity":
            cpu["affinity"] = one.new
        elif one.key == "efidisk0":
            yield "efi_disk", _efi(one.new), []
        elif one.key == "vga":
            yield "vga", {"type": one.new}, []
        elif one.key == "balloon":
            memory = number(change.after.get("memory") or "512")
            yield "memory", {"dedicated": memory or 0, "floating": 0}, []
        else:
            yield "", {}, [f"{one.key}: {one.new}: the provider has no attribute for it"]
    if cpu:
        yield "cpu", cpu, remarks


def _cpu(text: str) -> tuple[dict[str, Value], list[str]]:
    values = _parsed(text)
    found: dict[str, Value] = {"type": values.pop("cputype", "kvm64")}
    if "flags" in values:
        found["flags"] = values.pop("flags").split(";")
    return found, [f"cpu: {name}={value}: the provider has no attribute for it" for name, value in values.items()]


def _parsed(text: str) -> dict[str, str]:
    try:
        return property_string.parse(text, CPU_KEYS)
    except PropertyError:
        return {"cputype": text}


def _efi(text: str) -> dict[str, Value]:
    volume, *options = text.split(",")
    found: dict[str, Value] = {"datastore_id": volume.partition(":")[0]}
    for option in options:
        name, _, value = option.partition("=")
        if name in _EFI:
            found[_EFI[name]] = value == "1" if name == "pre-enrolled-keys" else value
    return found


def _hostpci_block(entry: HostpciEntry) -> tuple[str, dict[str, Value], list[str]]:
    values: dict[str, Value] = {"device": entry.key}
    named = {"id": entry.host, "mapping": entry.mapping, "mdev": entry.mdev}
    values |= {name: text for name, text in named.items() if text is not None}
    remarks = []
    for name, text in entry.options.items():
        if name not in _HOSTPCI:
            remarks.append(f"{entry.key}: {name}={text}: the provider has no attribute for it")
        else:
            values[_HOSTPCI[name]] = text if name == "romfile" else text == "1"
    return "hostpci", values, remarks


def _attributes(values: Mapping[str, Value], indent: str) -> list[str]:
    widest = max(map(len, values))
    return [f"{indent}{name.ljust(widest)} = {_hcl(value)}" for name, value in values.items()]


def _hcl(value: Value) -> str:
    """A value in Terraform's language, in whose texts ${ and %{ begin templates."""
    text = json.dumps(value, ensure_ascii=False).replace("${", "$${").replace("%{", "%%{")
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


# ---- Ansible


def ansible(change: Change) -> str:
    """Tasks that make the change; they can be run again."""
    import yaml  # noqa: PLC0415 - only who asks for it needs PyYAML

    lines = [
        f"# VM {change.vmid} on node {change.node}; say api_host and who you are in module_defaults",
        *(f"# {one.key}: {one.reason}" for one in change.keys),
        *(f"# note: {note}" for note in change.notes),
    ]
    where = {"node": change.node, "vmid": change.vmid}
    options: dict[str, object] = {}
    for one in change.keys:
        if one.new is not None:
            lines += _option(one, one.new, options, change.vmid)
    tasks: list[dict[str, object]] = []
    if options:
        tasks.append({"name": f"Give VM {change.vmid} its devices", _MODULE: where | options | {"update": True}})
    gone = [one.key for one in change.keys if one.new is None]
    if gone:
        name = f"Take {listed(gone)} from the config of VM {change.vmid}"
        tasks.append({"name": name, _MODULE: where | {"delete": ",".join(gone)}})
    if not tasks:
        lines.append("# nothing to change" if not change.keys else "# nothing that the module can change")
        return _text(lines)
    return _text(lines) + str(yaml.safe_dump(tasks, sort_keys=False, allow_unicode=False, width=120))


def _option(one: KeyChange, new: str, options: dict[str, object], vmid: int) -> list[str]:
    """Take a key over into a task's options; lines that say what is to be done where that cannot be."""
    if is_hostpci(one.key):
        entries = options.setdefault("hostpci", {})
        if isinstance(entries, dict):
            entries[one.key] = new
    elif one.key == "balloon":
        options["balloon"] = number(new)
    elif one.key in _ANSIBLE:
        options[one.key] = new
    elif one.allocates:
        return [
            f"# the module would make the disk anew at each run; once, on the node: qm set {vmid} --{one.key} {new}"
        ]
    else:
        return [f"# the module has no option for it; on the node: qm set {vmid} --{one.key} {new}"]
    return []


def _text(lines: list[str]) -> str:
    """Lines of which no comment can end early."""
    return "".join(f"{one_line(line) if line.startswith('#') else line}\n" for line in lines)
