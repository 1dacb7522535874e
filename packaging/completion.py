# SPDX-License-Identifier: Apache-2.0
"""Writes the completion of the command for bash or zsh: `completion.py bash|zsh FILE`.

The scripts are static: VMIDs, PCI addresses and their like are names in /etc/pve and /sys, so no Python starts while
somebody types. With `--root DIR` on the line they are those below it.

(Not by shtab: its scripts for bash take a PCI address, which has colons, for several words, and compare a number with
`?` where an argument may be left out.)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import commands

if TYPE_CHECKING:
    from commands import Argument, Command

KINDS = {
    "ADDRESS": "addresses",
    "[NODE:]ADDRESS": "addresses",
    "CODE": "codes",
    "DEVICE": "devices",
    "DIR": "folders",
    "DIR|FILE": "files",
    "FILE": "files",
    "NODE": "nodes",
    "PARENT": "addresses",
    "PF": "addresses",
    "STORAGE": "storages",
    "TYPE": "types",
    "TYPE|best": "types",
    "UUID": "instances",
    "VMID": "vmids",
    "VMID|ADDRESS": "vmids_addresses",
}
"""Metavars to the function that lists what can stand there; a metavar that begins with FILE is a file."""
NAMES = {
    "--driver": "drivers",
    "--mapping": "mappings",
    "--node": "nodes",
    "--rom": "roms",
}
"""Options whose metavar does not tell what is meant, such as NAME."""
PLACES: dict[tuple[str, ...], str] = {
    ("mapping", "plan"): "mappings",
    ("mapping", "apply"): "mappings",
    ("mapping", "check"): "mappings",
    ("mapping", "remove"): "mappings",
}
"""Commands whose positional NAME means this."""
ELSEWHERE = {"migrate-to-mapping": "cluster_vmids", "fleet": "cluster_vmids"}
"""Commands whose VMs are those of all nodes."""

LISTS = r"""
# What can stand somewhere, one on a line. $root is what --root says, or empty.

_pvepassthru_names() { # the last part of each file that is there, without an ending
    local file ending=$1
    shift
    for file in "$@"; do
        [ -e "$file" ] || [ -h "$file" ] || continue
        file=${file##*/}
        printf '%s\n' "${file%"$ending"}"
    done
}
_pvepassthru_vmids() { _pvepassthru_names .conf "$root"/etc/pve/qemu-server/[0-9]*.conf; }
_pvepassthru_cluster_vmids() { _pvepassthru_names .conf "$root"/etc/pve/nodes/*/qemu-server/[0-9]*.conf; }
_pvepassthru_addresses() { _pvepassthru_names '' "$root"/sys/bus/pci/devices/*; }
_pvepassthru_vmids_addresses() { _pvepassthru_vmids; _pvepassthru_addresses; }
_pvepassthru_devices() { printf '%s\n' gpu nic nvme; _pvepassthru_addresses; }
_pvepassthru_drivers() { echo none; _pvepassthru_names '' "$root"/sys/bus/pci/drivers/*; }
_pvepassthru_instances() { _pvepassthru_names '' "$root"/sys/bus/mdev/devices/*; }
_pvepassthru_types() { _pvepassthru_names '' "$root"/sys/bus/pci/devices/*/mdev_supported_types/* | sort -u; }
_pvepassthru_nodes() { _pvepassthru_names '' "$root"/etc/pve/nodes/*; }
_pvepassthru_roms() { _pvepassthru_names '' "$root"/usr/share/kvm/*.rom "$root"/usr/share/kvm/*.bin; }
_pvepassthru_mappings() { sed -n 's/^\([A-Za-z][A-Za-z0-9_-]*\) *$/\1/p' "$root/etc/pve/mapping/pci.cfg" 2>/dev/null; }
_pvepassthru_storages() {
    echo local # which is there without a line of its own
    sed -n 's/^[a-z]*: *\([A-Za-z][A-Za-z0-9._-]*\) *$/\1/p' "$root/etc/pve/storage.cfg" 2>/dev/null | grep -vx local
}
_pvepassthru_codes() { printf '%s\n' @CODES@; }
"""
"""Functions that both shells understand."""

BASH = r"""# bash completion for pvepassthru; made by packaging/completion.py
@LISTS@
# What each command takes. flags: options without a value; values: OPTION=KIND; places: a KIND for each argument that
# is none, a + behind it for one that can be repeated; below: its commands. Choices are a KIND with commas.
_pvepassthru_takes() {
    flags='' values='' places='' below=''
    case $1 in
@CASES@
        *) return 1 ;;
    esac
}

_pvepassthru_reply() { # what of a KIND begins with $cur
    local kind=$1 IFS=$'\n'
    case $kind in
        '' | nothing) ;;
        files) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")) ;;
        folders) compopt -o filenames; COMPREPLY+=($(compgen -d -- "$cur")) ;;
        =*) COMPREPLY+=($(compgen -W "${kind//[=,]/$'\n'}" -- "$cur")) ;;
        *) COMPREPLY+=($(compgen -W "$("_pvepassthru_$kind")" -- "$cur")) ;;
    esac
}

_pvepassthru() {
    local cur prev words cword root=${PVEPASSTHRU_ROOT-} path='' kind='' place=0 at word
    local flags values places below
    _get_comp_words_by_ref -n := cur prev words cword
    COMPREPLY=()
    _pvepassthru_takes "$path"
    for ((at = 1; at < cword; at++)); do
        word=${words[at]}
        if [[ $word == --root=* ]]; then root=${word#--root=}; fi
        if [[ $word == -* ]]; then
            kind=''
            [[ " $values " == *" $word="* ]] && kind=${values#*"$word="} kind=${kind%%[[:space:]]*}
            if [[ $kind && $kind != *+ ]]; then
                if ((++at == cword)); then break; fi
                if [[ $word == --root ]]; then root=${words[at]}; fi
                kind=''
            fi
        elif [[ " $below " == *" $word "* ]]; then
            path="${path:+$path }$word" kind='' place=0
            _pvepassthru_takes "$path"
        elif [[ $below ]]; then
            return 0 # no command of ours
        elif [[ ! $kind ]]; then
            ((place++))
        fi
    done
    root=${root%/}
    if [[ $cur == --*=* && ! $kind ]]; then
        word=${cur%%=*} cur=${cur#*=}
        [[ " $values " == *" $word="* ]] || return 0
        kind=${values#*"$word="} kind=${kind%%[[:space:]]*}
        _pvepassthru_reply "${kind%+}"
        __ltrim_colon_completions "$cur"
        return 0
    fi
    if [[ $cur == -* ]]; then
        values=" $values"
        COMPREPLY=($(compgen -W "$flags $(sed 's/=[^ ]*//g' <<<"$values")" -- "$cur"))
        return 0
    fi
    if [[ $kind ]]; then
        _pvepassthru_reply "${kind%+}"
    elif [[ $below ]]; then
        COMPREPLY=($(compgen -W "$below" -- "$cur"))
    else
        set -- $places
        if ((place >= $# && $#)); then
            [[ ${!#} == *+ ]] && place=$(($# - 1))
        fi
        shift "$place" 2>/dev/null && _pvepassthru_reply "${1%+}"
    fi
    __ltrim_colon_completions "$cur"
}

complete -F _pvepassthru pvepassthru
"""

ZSH = r"""#compdef pvepassthru
# made by packaging/completion.py
@LISTS@
_pvepassthru_of() { # a KIND, behind the options for compadd
    local kind=$argv[-1] root=$pvepassthru_root
    local -a found
    argv[-1]=()
    found=("${(@f)$(emulate sh; "_pvepassthru_$kind")}")
    [[ -n $found ]] && compadd "$@" -a found
}

@FUNCTIONS@

_pvepassthru() {
    local pvepassthru_root=${PVEPASSTHRU_ROOT-} curcontext=$curcontext at
    for ((at = 2; at < CURRENT; at++)); do
        case $words[at] in
            --root) pvepassthru_root=$words[at+1] ;;
            --root=*) pvepassthru_root=${words[at]#--root=} ;;
        esac
    done
    pvepassthru_root=${${(Q)pvepassthru_root}%/}
    _pvepassthru_at
}

_pvepassthru "$@"
"""


def kind(command: Command, argument: Argument) -> str:
    """What can stand for an argument: the name of a list, or choices with a = before the first and commas between."""
    if argument.choices:
        return f"={','.join(argument.choices)}"
    name = NAMES.get(argument.options[-1]) if argument.options else PLACES.get(command.words)
    if name is None:
        name = "files" if argument.metavar.startswith("FILE") else KINDS.get(argument.metavar, "nothing")
    if name == "nothing" and "|" in argument.metavar and argument.metavar.islower():
        return f"={argument.metavar.replace('|', ',')}"
    return ELSEWHERE.get(command.words[0], name) if name == "vmids" else name


def _lists() -> str:
    from pvepassthru.rules.catalogue import BY_CODE  # noqa: PLC0415 - found when `commands` has read the sources

    return LISTS.strip().replace("@CODES@", " ".join(sorted(BY_CODE)))


# ---- bash


def bash(found: list[Command]) -> str:
    """The script for bash."""
    cases = "\n".join(_case(command) for command in found)
    return BASH.replace("@LISTS@", _lists()).replace("@CASES@", cases)


def _case(command: Command) -> str:
    flags: list[str] = []
    values: list[str] = []
    places: list[str] = []
    for argument in command.arguments:
        more = "+" if argument.nargs in {"*", "+"} else ""
        told = f"{kind(command, argument)}{more}"
        if not argument.options:
            places.append(told)
        elif argument.nargs == "0":
            flags += argument.options
        else:
            values += [f"{option}={told}" for option in argument.options]
    settings = {"flags": flags, "values": values, "places": places, "below": command.below}
    lines = [f"            {name}='{' '.join(words)}'" for name, words in settings.items() if words]
    return "\n".join([f"        '{' '.join(command.words)}')", *lines, "            ;;"])


# ---- zsh


def zsh(found: list[Command]) -> str:
    """The script for zsh."""
    functions = "\n\n".join(_function(command, found) for command in found)
    return ZSH.replace("@LISTS@", _lists()).replace("@FUNCTIONS@", functions)


def _function(command: Command, found: list[Command]) -> str:
    name = "_".join(("_pvepassthru_at", *command.words))
    specs = [spec for argument in command.arguments for spec in _specs(command, argument)]
    if not command.below:
        return "\n".join(
            [f"{name}() {{", " \\\n".join(["    _arguments -S", *(f"        {spec}" for spec in specs)]), "}"]
        )
    below = [other for other in found if other.words[:-1] == command.words and other.words]
    told = [_quoted(f"{_escaped(other.words[-1])}:{other.summary or other.description}") for other in below]
    specs += ["'1:command:->command'", "'*::argument:->argument'"]
    return "\n".join(
        [
            f"{name}() {{",
            "    local state state_descr line",
            "    local -A opt_args",
            "    local -a below",
            " \\\n".join(["    _arguments -C -S", *(f"        {spec}" for spec in specs)]),
            "    case $state in",
            "        command)",
            f"            below=({' '.join(told)})",
            "            _describe command below",
            "            ;;",
            "        argument)",
            f"            (($+functions[{name}_$words[1]])) && {name}_$words[1]",
            "            ;;",
            "    esac",
            "}",
        ]
    )


def _specs(command: Command, argument: Argument) -> list[str]:
    """What _arguments is told; see zshcompsys(1)."""
    told = kind(command, argument)
    listed = {"nothing": " ", "files": "_files", "folders": "_files -/"}.get(told, f"_pvepassthru_of {told}")
    action = f"({told[1:].replace(',', ' ')})" if told.startswith("=") else listed
    value = f":{_escaped(argument.metavar)}:{action}"
    if not argument.options:
        return [_quoted({"1": value, "?": f":{value}"}.get(argument.nargs, f"*{value}"))]
    alone = "(- *)" if argument.options[0] in {"-h", "--version"} else f"({' '.join(argument.options)})"
    before = "*" if argument.again else alone
    text = f"[{_escaped(argument.help)}]"
    found = []
    for option in argument.options:
        if argument.nargs == "0":
            found.append(f"{before}{option}{text}")
        elif argument.nargs == "1":
            found.append(f"{before}{option}{'=' if option.startswith('--') else '+'}{text}{value}")
        else:
            found.append(f"{before}{option}{text}:*-*{value}")
    return [_quoted(spec) for spec in found]


def _escaped(words: str) -> str:
    for character in "\\[]:":
        words = words.replace(character, f"\\{character}")
    return words


def _quoted(words: str) -> str:
    return "'" + words.replace("'", "'\\''") + "'"


SHELLS = {"bash": bash, "zsh": zsh}


def main(shell: str, path: str) -> None:
    """Write the completion for a shell into a file."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(SHELLS[shell](commands.read()))


if __name__ == "__main__":
    main(*sys.argv[1:])
