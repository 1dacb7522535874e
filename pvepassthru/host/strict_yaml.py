# SPDX-License-Identifier: Apache-2.0
"""YAML in which no key may be there twice; YAML itself would take the last one and say nothing.

And in which a PCI address is text: YAML 1.1 reads 0000:01:00.0 as the number 60.0, in base 60.

Imported only where there is a policy file, since it needs PyYAML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from typing import Any

MERGE = "tag:yaml.org,2002:merge"
"""The tag of `<<`, which takes over the keys of other mappings."""
NOT_YAML = (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError)
"""What yaml's own constructors let through for tags such as `!!int ""`, besides its YAMLError."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - as its parent
        keys = set()
        for name in (name for name, _ in node.value if name.tag != MERGE):
            key = self.construct_object(name, deep=True)
            if key in keys:  # a TypeError for what can be no key
                raise yaml.constructor.ConstructorError(problem=f"{key} is there twice", problem_mark=name.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep)

    def number(self, node: yaml.ScalarNode) -> object:
        if ":" in node.value:
            return node.value
        whole = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)


for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _Loader.add_constructor(_tag, _Loader.number)


def loads(data: bytes) -> object:
    """The value of a YAML text. Raises ValueError, with the reason on one line."""
    try:
        return yaml.load(data, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:  # whose own words quote the text in several lines
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(" ".join(f"{place}{error.problem or error.context}".split())) from error
    except (yaml.YAMLError, *NOT_YAML) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
