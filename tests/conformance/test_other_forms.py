"""Other forms of calls (``_remote``, bare ``@method``), and what libraries read of classes and methods."""

from __future__ import annotations

import inspect

import pytest


def make_class(ray):
    @ray.remote(num_cpus=0, max_restarts=2)
    class Pair:
        """Holds two values."""

        def __init__(self, left, right=2):
            self.values = left, right

        def both(self, extra=None):
            return (*self.values, extra)

        @ray.method
        def undecorated(self):
            return "bare"

    return Pair


def test_a_function_with_options(ray):
    @ray.remote
    def both(a, b=2):
        return a, b

    assert ray.get(both._remote((1,))) == (1, 2)
    assert ray.get(both._remote(args=[1], kwargs={"b": 3}, num_returns=2, name="a name")) == [1, 3]
    assert ray.get(both._remote(kwargs={"a": 5})) == (5, 2)


def test_a_class_with_options(ray):
    pair = make_class(ray)._remote(args=[1], kwargs={"right": 5}, name="by _remote")
    assert ray.get(pair.both.remote()) == (1, 5, None)
    assert ray.get_actor("by _remote") == pair


def test_a_method_with_options(ray):
    pair = make_class(ray).remote(1)
    assert ray.get(pair.both._remote()) == (1, 2, None)
    assert ray.get(pair.both._remote(args=[7], num_returns=3)) == [1, 2, 7]
    assert ray.get(pair.both._remote(kwargs={"extra": 8}, name="a name", max_task_retries=1)) == (1, 2, 8)


def test_a_bad_option_of_a_method(ray, impl):
    pair = make_class(ray).remote(1)
    with pytest.raises(ValueError, match="num_returns"):
        pair.both.options(num_returns=-1)
    if impl == "zray":  # Ray does not check the options of _remote
        with pytest.raises(ValueError, match="num_returns"):
            pair.both._remote(num_returns=-1)
        with pytest.raises(ValueError, match="no_such_option"):
            ray.remote(lambda: 1)._remote(no_such_option=1)


def test_method_without_options(ray):
    assert ray.get(make_class(ray).remote(1).undecorated.remote()) == "bare"


def test_method_with_parentheses_and_no_options(ray):
    def plain(self):
        return 1

    assert ray.method()(plain) is plain


def test_what_is_read_of_a_class(ray):
    kind = make_class(ray)
    assert kind.__ray_metadata__.class_name.endswith("Pair")
    assert kind.__ray_metadata__.max_restarts == 2
    assert inspect.isclass(kind.__ray_metadata__.modified_class)


def test_what_is_read_of_a_method(ray):
    pair = make_class(ray).remote(1)
    assert pair.both._method_name == "both"
    with pytest.raises(TypeError, match="remote"):
        pair.both()


def test_a_handle_beside_other_values(ray):
    pair = make_class(ray).remote(1)
    assert pair != 3 and pair != "x" and pair is not None

    class Equal:
        def __eq__(self, other):
            return True

        __hash__ = None  # type: ignore[assignment]

    assert pair == Equal()


def test_task_events_can_be_switched_off(ray):
    pair = make_class(ray).options(enable_task_events=False).remote(1)
    assert ray.get(pair.both.options(enable_task_events=False).remote()) == (1, 2, None)
    assert ray.get(pair.both.options(_labels={"a": "b"}).remote()) == (1, 2, None)
    assert ray.get(ray.remote(enable_task_events=False)(lambda: 3).remote()) == 3
    with pytest.raises(TypeError):
        ray.remote(enable_task_events="no")(lambda: 3)
