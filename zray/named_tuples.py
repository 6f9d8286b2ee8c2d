"""``NamedTuple``: the base class of messages and records. ``typing.NamedTuple``, but its classes are small.

zray has almost three hundred such classes, and each process that starts makes most of them. ``typing.NamedTuple`` takes
6 KB of memory for a class of four fields, since each class has methods of its own. Here all classes share the methods,
and the fields' descriptors: a class takes half of that.

``typing.NamedTuple`` also compiles the annotation of each field (``typing.ForwardRef``), which takes more than half of
the time in which a class is made. Here the annotations stay the text that ``from __future__ import annotations`` makes
of them, and ``typing.get_type_hints`` reads them when somebody asks. Type checkers see ``typing.NamedTuple``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    from collections import namedtuple
    from collections.abc import Iterable

    class _Record(tuple):
        """What all classes share."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}

        @classmethod
        def _make(cls, values: Iterable[Any]) -> Any:
            """Returns an instance of these values. Raises TypeError if there are not as many as fields."""
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
            return made

        def _replace(self, /, **changes: Any) -> Any:
            """Returns a copy in which these fields are changed. Raises ValueError if it does not have one of them."""
            made = self._make(map(changes.pop, self._fields, self))
            if changes:
                raise ValueError(f"Got unexpected field names: {list(changes)!r}")
            return made

        def _asdict(self) -> dict[str, Any]:
            """Returns the values by field."""
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self) -> str:
            values = ", ".join([f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True)])
            return f"{type(self).__name__}({values})"

        def __getnewargs__(self) -> tuple[Any, ...]:
            """What pickle and copy pass to ``__new__``."""
            return tuple(self)

    class _Maker(type):
        """The metaclass: makes a named tuple of the body of a class."""

        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            if bases != (NamedTuple,):
                raise TypeError(f"{name} can inherit from NamedTuple and from nothing else")
            annotations = body.get("__annotations__", {})
            fields = tuple(annotations)
            defaults = {field: body[field] for field in fields if field in body}
            if tuple(defaults) != fields[len(fields) - len(defaults) :]:
                raise TypeError(f"{name}: a field without a default follows one with a default")
            for field in fields:
                if field.startswith("_"):
                    raise ValueError(f"{name}: the name of a field, {field}, begins with an underscore")
            for given in _GIVEN.intersection(body):
                raise AttributeError(f"{name} cannot define {given}, which every named tuple has")
            body |= zip(fields, _getters(len(fields)), strict=True)
            new = _constructor(fields)
            new.__qualname__ = f"{name}.__new__"
            new.__defaults__ = tuple(defaults.values())
            new.__annotations__ = annotations
            body |= {"__new__": new, "__slots__": (), "__match_args__": fields, "_fields": fields}
            if defaults:
                body["_field_defaults"] = defaults
            return type(name, (_Record,), body)

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
    _SCOPE = {"_new": tuple.__new__, "__builtins__": {}, "__name__": __name__}
    _all_getters: list[Any] = []

    def _constructor(fields: tuple[str, ...]) -> Any:
        """Returns a function that makes an instance of a class from these fields."""
        values = "".join([f"{field}, " for field in fields])
        new = eval(f"lambda _cls, {values}: _new(_cls, ({values}))", _SCOPE)
        new.__name__ = "__new__"
        return new

    def _getters(count: int) -> list[Any]:
        """Returns descriptors of the first fields of a tuple. Those of ``namedtuple`` are faster than any in Python."""
        if count > (known := len(_all_getters)):
            template = namedtuple("_", [f"field_{position}" for position in range(count + 32)])
            _all_getters.extend([vars(template)[field] for field in template._fields[known:]])
        return _all_getters[:count]

    NamedTuple = type.__new__(_Maker, "NamedTuple", (), {"__doc__": "The base of a named tuple's declaration."})

__all__ = ["NamedTuple"]
