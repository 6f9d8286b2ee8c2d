"""What users see of a class: class attributes, special methods, hidden methods, inheritance, weak references."""

from __future__ import annotations

import weakref
from typing import Any

import pytest


def make_class(ray) -> Any:
    @ray.remote(num_cpus=0)
    class Shelf:
        """Keeps things."""

        COUNT = 7

        def __init__(self):
            self.data = {}

        @staticmethod
        def add_one(x):
            return x + 1

        @classmethod
        def add_count(cls, x):
            return cls.COUNT + x

        def use_class(self):
            return Shelf.COUNT, Shelf.add_one(1), Shelf.add_count(1)

        def __len__(self):
            return len(self.data)

        def __getitem__(self, key):
            return self.data[key]

        def __setitem__(self, key, value):
            self.data[key] = value

        def __contains__(self, key):
            return key in self.data

        def __call__(self, x):
            return "called", x

        def __or__(self, other):
            return "or", other

        def __bool__(self):
            return False

        def hidden(self):
            return "method"

        def hide(self):
            self.hidden: Any = 12  # type: ignore[method-assign, assignment]
            return self.hidden

    return Shelf


def test_class_attributes_for_callers(ray):
    shelf_class = make_class(ray)
    assert (shelf_class.COUNT, shelf_class.add_one(1), shelf_class.add_count(1)) == (7, 2, 8)
    assert {"COUNT", "add_one", "remote"} <= set(dir(shelf_class))
    with pytest.raises(AttributeError, match="nothing"):
        shelf_class.nothing  # noqa: B018


def test_class_attributes_for_its_own_methods(ray):
    assert ray.get(make_class(ray).remote().use_class.remote()) == (7, 2, 8)


def test_class_attributes_for_methods_that_a_subclass_inherits(ray):
    class Base:
        def read(self):
            return Derived.COUNT, super().__init__() is None

    @ray.remote(num_cpus=0)
    class Derived(Base):
        COUNT = 9

        def read(self):
            return super().read()

    assert ray.get(Derived.remote().read.remote()) == (9, True)


def test_special_methods(ray):
    shelf = make_class(ray).remote()
    assert ray.get(shelf.__setitem__.remote("a", 1)) is None
    assert ray.get(shelf.__getitem__.remote("a")) == 1
    assert ray.get(shelf.__len__.remote()) == 1
    assert ray.get([shelf.__contains__.remote("a"), shelf.__contains__.remote("b")]) == [True, False]
    assert ray.get(shelf.__call__.remote(2)) == ("called", 2)
    assert ray.get(shelf.__or__.remote(3)) == ("or", 3)
    assert ray.get(shelf.__bool__.remote()) is False


def test_special_methods_are_not_the_handles(ray):
    shelf = make_class(ray).remote()
    assert bool(shelf)
    with pytest.raises(TypeError):
        len(shelf)
    with pytest.raises(TypeError):
        shelf["a"]
    with pytest.raises(TypeError):
        shelf(2)


def test_special_methods_of_a_handle_that_travelled(ray):
    shelf = make_class(ray).remote()
    ray.get(shelf.__setitem__.remote("a", 1))

    @ray.remote
    def read(shelf):
        return ray.get(shelf.__getitem__.remote("a"))

    assert ray.get(read.remote(shelf)) == 1


def test_an_attribute_does_not_hide_its_method(ray):
    shelf = make_class(ray).remote()
    assert ray.get([shelf.hidden.remote(), shelf.hide.remote(), shelf.hidden.remote()]) == ["method", 12, "method"]


def test_an_attribute_set_by_the_constructor_does_not_hide_its_method(ray):
    @ray.remote(num_cpus=0)
    class A:
        def __init__(self):
            self.step = lambda: "attribute"

        def step(self):  # type: ignore[no-redef]
            return "method"

        async def other(self):
            return "other"

    assert ray.get(A.remote().step.remote()) == "method"


def test_subclasses_of_a_decorated_class_are_refused(ray):
    shelf_class = make_class(ray)
    with pytest.raises(TypeError, match="Shelf") as caught:

        class Derived(shelf_class):  # type: ignore[misc, valid-type]
            pass

    assert type(caught.value) is ray.actor.ActorClassInheritanceException


def test_weak_references_to_handles(ray):
    shelf = make_class(ray).remote()
    weak = weakref.ref(shelf)
    assert weak() is shelf
    assert len(weakref.WeakSet([shelf])) == 1
    cache = weakref.WeakKeyDictionary({shelf: 1})
    del shelf
    assert weak() is None and not cache


def test_weak_references_to_what_is_decorated(ray):
    shelf_class = make_class(ray)
    function = ray.remote(lambda: 1)
    assert weakref.ref(shelf_class)() is shelf_class and weakref.ref(function)() is function


def test_the_plain_class_can_be_subclassed(ray):
    plain: Any = make_class(ray).__ray_actor_class__

    class Larger(plain):
        def count(self):
            return self.COUNT

    larger = ray.remote(num_cpus=0)(Larger).remote()
    assert ray.get(larger.count.remote()) == 7


def test_a_handle_can_be_labelled(ray):
    @ray.remote(num_cpus=0)
    class Worker:
        def rank(self):
            return 1

    worker = Worker.remote()
    worker.label = "first"  # of this handle: the actor does not see it
    assert worker.label == "first"
    assert ray.get(worker.rank.remote()) == 1
