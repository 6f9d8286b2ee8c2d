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
        "_fields",
        "_field_defaults",
        "__match_args__",
        "__slots__",
    ):
        assert getattr(Ours, attribute) == getattr(Typings, attribute), attribute
    assert Ours.__mro__[-2:] == Typings.__mro__[-2:] == (tuple, object)
    assert set(dir(Typings)) - set(dir(Ours)) <= {"__orig_bases__"}
    assert inspect.signature(Ours).parameters.keys() == inspect.signature(Typings).parameters.keys()
    assert typing.get_type_hints(Ours) == typing.get_type_hints(Typings)
    assert tuple(Ours("a", [1, 2])) == tuple(Typings("a", [1, 2])) == ("a", [1, 2], None)
    assert Ours("a", [1, 2]).total == 3
    assert repr(Ours("a")) == "Ours(name='a', sizes=[], owner=None)"
    assert Ours("a")._asdict() == Typings("a")._asdict() == {"name": "a", "sizes": [], "owner": None}
    assert not hasattr(Ours("a"), "__dict__")


@pytest.mark.parametrize("kind", [Ours, Typings])
def test_wrong_values_and_names_are_refused(kind: Any) -> None:
    assert kind._make(["a", [1], b"x"]) == ("a", [1], b"x")
    with pytest.raises(TypeError, match="Expected 3 arguments, got 2"):
        kind._make(["a", [1]])
    assert kind("a")._replace(name="b", owner=b"x") == ("b", [], b"x")
    with pytest.raises((TypeError, ValueError), match=r"unexpected field names: \['other'\]"):
        kind("a")._replace(other=1)
    with pytest.raises(TypeError, match=rf"{kind.__name__}\.__new__\(\) missing 1 required .* 'name'"):
        kind()
    with pytest.raises(AttributeError):
        kind("a").name = "b"


def test_a_record_may_have_no_field_one_or_many() -> None:
    class Empty(NamedTuple):
        pass

    class One(NamedTuple):
        field: int

    maker: Any = type(NamedTuple)
    many = maker(
        "Many", (NamedTuple,), {"__module__": __name__, "__annotations__": {f"f{n}": "int" for n in range(99)}}
    )
    assert Empty() == () and repr(Empty()) == "Empty()"
    assert One(5).field == 5 and tuple(One(5)) == (5,)
    assert many(*range(99)).f98 == 98


def test_classes_share_methods_and_descriptors() -> None:
    """Each object that a class has for itself is memory, in every process, for each of some hundred classes."""

    class Other(NamedTuple):
        first: bytes
        second: int

    for method in ("_make", "_replace", "_asdict", "__repr__", "__getnewargs__"):
        assert method not in vars(Other) and hasattr(Other, method)
    assert vars(Other)["first"] is vars(Ours)["name"]
    assert vars(Other)["second"] is vars(Ours)["sizes"]
    assert Other.__new__.__globals__ is Ours.__new__.__globals__


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

    with pytest.raises(ValueError, match="begins with an underscore"):
        maker("Hidden", (NamedTuple,), {"__module__": __name__, "__annotations__": {"_hidden": "int"}})
    with pytest.raises(AttributeError, match="cannot define _make"):
        maker("Own", (NamedTuple,), {"__module__": __name__, "_make": None})
