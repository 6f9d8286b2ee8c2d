"""``NamedTuple``: the base class of messages and records. ``typing.NamedTuple``, but faster to derive a class from.

``typing.NamedTuple`` compiles the annotation of each field (``typing.ForwardRef``), which takes more than half of the
time in which a class is made: 85 us for four fields. zray has more than two hundred such classes, and each process that
starts makes most of them. Here the annotations stay the text that ``from __future__ import annotations`` makes of them,
and ``typing.get_type_hints`` reads them when somebody asks. Type checkers see ``typing.NamedTuple``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    from collections import namedtuple

    _NOT_COPIED = frozenset({"__annotations__", "__module__", "__name__"})

    class _Maker(type):
        """The metaclass: makes a named tuple of the body of a class."""

        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            if bases != (NamedTuple,):
                raise TypeError(f"{name} can inherit from NamedTuple and from nothing else")
            annotations = body.get("__annotations__", {})
            defaults = [field for field in annotations if field in body]
            if defaults and defaults != list(annotations)[-len(defaults) :]:
                raise TypeError(f"{name}: a field without a default follows one with a default")
            made = namedtuple(
                name, annotations, defaults=[body[field] for field in defaults], module=body["__module__"]
            )
            made.__annotations__ = made.__new__.__annotations__ = annotations
            for key, value in body.items():
                if key not in annotations and key not in _NOT_COPIED:
                    if key in _GIVEN:
                        raise AttributeError(f"{name} cannot define {key}, which every named tuple has")
                    setattr(made, key, value)
            return made

    _GIVEN = frozenset(
        {
            "__new__",
            "__init__",
            "__slots__",
            "__getnewargs__",
            "_fields",
            "_field_defaults",
            "_make",
            "_replace",
            "_asdict",
        }
    )
    NamedTuple = type.__new__(_Maker, "NamedTuple", (), {"__doc__": "The base of a named tuple's declaration."})

__all__ = ["NamedTuple"]
