# SPDX-License-Identifier: Apache-2.0
"""`NamedTuple`, `Protocol` and `TYPE_CHECKING` without the module typing, for everything on the hook's fast path.

Importing typing and letting it read the annotations of every class costs the hook more time than its work. Type
checkers see typing.NamedTuple here; at run time a class gets the same fields, defaults, order, equality, `_replace`,
`_asdict` and match pattern (tests/model/test_record.py compares the two).
"""

from __future__ import annotations

from operator import itemgetter

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple  # noqa: PLC0414 - for others to import from here
    from typing import Protocol as Protocol  # noqa: PLC0414 - likewise
else:
    Protocol = object

    class _Meta(type):
        """Makes a subclass of NamedTuple a subclass of tuple with a property for each field."""

        def __new__(mcs, name, bases, body):  # noqa: ANN001, ANN204 - only at run time
            if not bases:
                return super().__new__(mcs, name, bases, body)
            fields = tuple(body.pop("__annotations__", ()))
            body["_field_defaults"] = {field: body[field] for field in fields if field in body}
            body.update((field, property(itemgetter(place))) for place, field in enumerate(fields))
            body["_fields"] = body["__match_args__"] = fields
            body["__slots__"] = ()
            for method in (_new, _replace, _asdict, _repr, _values):
                body.setdefault(method.public, method)
            return type(name, (tuple,), body)

    class NamedTuple(metaclass=_Meta):
        """Base of classes that are tuples with named, typed fields."""

    def _new(cls, *values, **named):  # noqa: ANN001, ANN002, ANN003, ANN202 - only at run time
        fields = cls._fields
        if len(values) != len(fields):
            defaults = cls._field_defaults
            rest = fields[len(values) :]
            absent = [field for field in rest if field not in named and field not in defaults]
            if len(values) > len(fields) or absent:
                raise TypeError(f"{cls.__name__}: {len(values)} values for {len(fields)} fields, without {absent}")
            values += tuple([named.pop(field) if field in named else defaults[field] for field in rest])
        if named:
            raise TypeError(f"{cls.__name__} has no field {', '.join(named)}, or has it twice")
        return tuple.__new__(cls, values)

    def _replace(self, /, **named):  # noqa: ANN001, ANN003, ANN202 - only at run time
        values = [named.pop(field) if field in named else self[place] for place, field in enumerate(self._fields)]
        if named:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(named)}")
        return tuple.__new__(type(self), values)

    def _asdict(self):  # noqa: ANN001, ANN202 - only at run time
        return dict(zip(self._fields, self, strict=True))

    def _repr(self):  # noqa: ANN001, ANN202 - only at run time
        words = ", ".join(f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
        return f"{type(self).__name__}({words})"

    def _values(self):  # noqa: ANN001, ANN202 - only at run time
        return tuple(self)

    _new.public, _replace.public, _asdict.public = "__new__", "_replace", "_asdict"
    _repr.public, _values.public = "__repr__", "__getnewargs__"  # the latter for copy and pickle
