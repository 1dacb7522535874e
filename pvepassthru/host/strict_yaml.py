# SPDX-License-Identifier: Apache-2.0
"""YAML in which no key may be there twice; YAML itself would take the last one and say nothing.

Its keys are the text that is written, and a PCI address or MAC is text: YAML 1.1 reads 0000:01:00.0 as the number
60.0, in base 60. `off`, `on`, `yes` and `no` are text too; only true and false are truth values.

Imported only where there is a policy file, since it needs PyYAML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

MERGE = "tag:yaml.org,2002:merge"
"""The tag of `<<`, which takes over the keys of other mappings."""
NOT_YAML = (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError)
"""What yaml's own constructors let through for tags such as `!!int ""`, besides its YAMLError."""
TRUTHS = {"true": True, "false": False}


class YamlError(ValueError):
    """A text that is no YAML; the reason on one line, and the line where it was noticed, from 1, if that is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(" ".join(reason.split()))
        self.line = line


class Document(NamedTuple):
    """A YAML text."""

    value: object
    root: yaml.Node | None

    def line(self, path: Iterable[object]) -> int:
        """The line, from 1, of what lies at a path of keys and indices; of the last of it that is there."""
        node, line = self.root, 1
        if node is not None:
            line = node.start_mark.line + 1
        for step in path:
            if isinstance(node, yaml.MappingNode):
                pair = next((pair for pair in node.value if pair[0].value == step), None)
                if pair is None:
                    break
                line, node = pair[0].start_mark.line + 1, pair[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = node.start_mark.line + 1
            else:
                break
        return line


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - as its parent
        keys = set()
        for name in (name for name, _ in node.value if name.tag != MERGE):
            if not isinstance(name, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(problem="a key must be text", problem_mark=name.start_mark)
            name.tag = "tag:yaml.org,2002:str"
            if name.value in keys:
                problem = f"{name.value} is there twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=name.start_mark)
            keys.add(name.value)
        return super().construct_mapping(node, deep)

    def number(self, node: yaml.ScalarNode) -> object:
        if ":" in node.value:
            return node.value
        whole = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)

    def truth(self, node: yaml.ScalarNode) -> object:
        return TRUTHS.get(node.value.lower(), node.value)


for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _Loader.add_constructor(_tag, _Loader.number)
_Loader.add_constructor("tag:yaml.org,2002:bool", _Loader.truth)


def parse(data: bytes) -> Document:
    """The document that a YAML text is. Raises YamlError."""
    try:
        loader = _Loader(data)
        try:
            root = loader.get_single_node()
            value = None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:  # whose own words quote the text in several lines
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise YamlError(error.problem or error.context or "it cannot be read", line) from error
    except yaml.reader.ReaderError as error:
        before = data[: error.position] if isinstance(error.position, int) else b""
        raise YamlError("it has bytes that are no text; save it as UTF-8", before.count(b"\n") + 1) from error
    except (yaml.YAMLError, *NOT_YAML) as error:
        raise YamlError(str(error) or type(error).__name__) from error
    return Document(value, root)
