"""``zray.named_tuples`` makes the same classes as ``typing.NamedTuple``, without reading their annotations."""

from __future__ import annotations

import copy
import inspect
import pickle
import typing
from typing import Any

import pytest

from zray.named_tuples import NamedTuple


class Ours(NamedTuple):
    """A record."""

    name: str
    sizes: list[int] = []
    owner: bytes | None = None

    @property
    def total(self) -> int:
        return sum(self.sizes)


class Typings(typing.NamedTuple):
    """A record."""

    name: str
    sizes: list[int] = []
    owner: bytes | None = None

    @property
    def total(self) -> int:
        return sum(self.sizes)


def test_a_class_is_as_one_of_typing() -> None:
    for attribute in (
        "__doc__",
        "__module__",
        "__bases__",
        "_fields",
        "_field_defaults",
        "__match_args__",
        "__slots__",
    ):
        assert getattr(Ours, attribute) == getattr(Typings, attribute), attribute
    assert set(dir(Typings)) - set(dir(Ours)) <= {"__orig_bases__"}
    assert inspect.signature(Ours).parameters.keys() == inspect.signature(Typings).parameters.keys()
    assert typing.get_type_hints(Ours) == typing.get_type_hints(Typings)
    assert tuple(Ours("a", [1, 2])) == tuple(Typings("a", [1, 2])) == ("a", [1, 2], None)
    assert Ours("a", [1, 2]).total == 3
    assert repr(Ours("a")) == "Ours(name='a', sizes=[], owner=None)"


def test_instances_are_copied_and_pickled() -> None:
    made = Ours("a", [1], b"x")
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), made._replace()):
        assert type(again) is Ours and again == made


def test_no_annotation_is_read_when_a_class_is_made() -> None:
    class Late(NamedTuple):
        field: NotDefinedYet  # type: ignore[name-defined]  # noqa: F821

    assert Late.__annotations__ == {"field": "NotDefinedYet"}


def test_what_typing_refuses_is_refused() -> None:
    maker: Any = type(NamedTuple)
    with pytest.raises(TypeError, match="from nothing else"):
        maker("Two", (NamedTuple, int), {"__module__": __name__})
    with pytest.raises(TypeError, match="follows one with a default"):

        class Mixed(NamedTuple):
            first: int = 0
            second: int  # type: ignore[misc]

    with pytest.raises(AttributeError, match="cannot define _make"):
        maker("Own", (NamedTuple,), {"__module__": __name__, "_make": None})
