"""Which method a call of an actor means."""

from __future__ import annotations

import functools
import operator

import pytest

from zray.exceptions import ActorExit
from zray.methods import method_of


class Base:
    def plain(self):
        return "plain", self

    def overridden(self):
        return "base"

    def __getattr__(self, name):
        if name == "dynamic":
            return lambda: "dynamic"
        raise AttributeError(name)


class Derived(Base):
    def __init__(self):
        for name in ("plain", "overridden", "static", "of_class", "partial", "callable"):
            self.__dict__[name] = lambda: "hidden by an attribute"
        self.own = lambda: "own"

    def overridden(self):
        return "derived", super().overridden()

    @staticmethod
    def static(x):
        return "static", x

    @classmethod
    def of_class(cls):
        return cls

    def add(self, x, y):
        return x + y

    partial = functools.partialmethod(add, 1)
    callable = operator.methodcaller("bit_length")  # not functools.partial, which binds from Python 3.14 on

    def __len__(self):
        return 7


def test_methods_of_the_class_whatever_the_instance_has():
    actor = Derived()
    assert method_of(actor, "plain")() == ("plain", actor)
    assert method_of(actor, "overridden")() == ("derived", "base")
    assert method_of(actor, "static")(1) == ("static", 1)
    assert method_of(actor, "of_class")() is Derived
    assert method_of(actor, "partial")(2) == 3
    assert method_of(actor, "__len__")() == 7


def test_a_callable_that_is_no_method():
    assert method_of(Derived(), "callable")(5) == 3


def test_what_only_the_instance_has():
    assert method_of(Derived(), "own")() == "own"
    assert method_of(Derived(), "dynamic")() == "dynamic"
    with pytest.raises(AttributeError, match="nothing"):
        method_of(Derived(), "nothing")


def test_methods_that_every_actor_has():
    actor = Derived()
    assert method_of(actor, "__ray_ready__")() is True
    assert method_of(actor, "__ray_call__")(lambda self, x, *, y: (self, x, y), 1, y=2) == (actor, 1, 2)
    with pytest.raises(ActorExit):
        method_of(actor, "__ray_terminate__")()
