# SPDX-License-Identifier: Apache-2.0
"""What small processes need of `typing`, which takes more than a megabyte of memory where it is loaded.

Type checkers see `typing` itself. Modules that take names from here have ``from __future__ import annotations``, so
that no annotation is ever evaluated.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NamedTuple, NoReturn
else:
    # Names for annotations only.
    Any = Final = NoReturn = object

    class _NamedTupleMeta(type):
        """Makes classes of named tuples out of annotated ones, as `typing.NamedTuple` does."""

        def __new__(cls, name, bases, members):
            if not bases:
                return super().__new__(cls, name, bases, members)
            fields = members.get("__annotations__", {})
            defaults = [members.pop(field) for field in fields if field in members]
            base = namedtuple(name, fields, defaults=defaults, module=members["__module__"])
            return type(name, (base,), {"__slots__": (), **members})

    class NamedTuple(metaclass=_NamedTupleMeta):
        """A tuple whose fields have names, types and defaults."""


__all__ = ["Any", "Final", "NamedTuple", "NoReturn"]
