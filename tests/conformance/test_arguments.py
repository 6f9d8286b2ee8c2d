"""What tasks are called with: values, references, and parameters of every kind."""

from __future__ import annotations


def test_built_in_types_as_arguments(ray):
    echo = ray.remote(lambda x: x)
    values = [None, True, 1, 2**80, 1.5, 1j, "ä", b"\0", [1], (1, 2), {"a": {1, 2}}, frozenset("ab"), range(3), int]
    assert ray.get([echo.remote(v) for v in values]) == values


def test_functions_and_local_classes_as_arguments(ray):
    class Point:
        def __init__(self, x):
            self.x = x

    @ray.remote
    def f(make, apply):
        return apply(make(3).x)

    assert ray.get(f.remote(Point, lambda v: v * 2)) == 6


def test_arguments_are_copies(ray):
    @ray.remote
    def f(items):
        items.append(2)
        return items

    mine = [1]
    assert ray.get(f.remote(mine)) == [1, 2]
    assert mine == [1]


def test_argument_is_taken_as_it_was_at_the_call(ray, gate):
    @ray.remote
    def f(items, _):
        return items

    mine = [1]
    ref = f.remote(mine, gate.wait.remote())
    mine.append(2)
    gate.open.remote()
    assert ray.get(ref) == [1]


def test_all_kinds_of_parameters(ray):
    @ray.remote
    def f(a, /, b, *rest, c, d=4, **more):
        return a, b, rest, c, d, more

    assert ray.get(f.remote(1, 2, 3, c=5, e=6)) == (1, 2, (3,), 5, 4, {"e": 6})
    assert ray.get(f.remote(1, b=2, c=3)) == (1, 2, (), 3, 4, {})


def test_parameters_with_names_that_a_runtime_may_use_itself(ray):
    @ray.remote
    def f(self, args, kwargs, name, func, num_returns, options):
        return self, args, kwargs, name, func, num_returns, options

    given = {"self": 1, "args": 2, "kwargs": 3, "name": 4, "func": 5, "num_returns": 6, "options": 7}
    assert ray.get(f.remote(**given)) == (1, 2, 3, 4, 5, 6, 7)


def test_catch_all_keywords_with_names_that_a_runtime_may_use_itself(ray):
    @ray.remote
    def f(**kwargs):
        return kwargs

    given = {"self": 1, "args": 2, "kwargs": 3, "name": 4}
    assert ray.get(f.remote(**given)) == given


def test_refs_as_top_level_arguments_are_resolved(ray):
    @ray.remote
    def f(a, *rest, b):
        return a, rest, b

    one, two, three = (ray.put(n) for n in (1, 2, 3))
    assert ray.get(f.remote(one, two, b=three)) == (1, (2,), 3)


def test_nested_refs_stay_refs(ray):
    @ray.remote
    def f(items, table):
        assert isinstance(items[0], ray.ObjectRef)
        return ray.get(items[0]) + ray.get(table["x"])

    assert ray.get(f.remote([ray.put(1)], {"x": ray.put(2)})) == 3


def test_argument_that_is_not_ready_is_waited_for(ray, gate):
    echo = ray.remote(lambda x: x)
    ref = echo.remote(echo.remote(gate.wait.remote()))
    assert ray.wait([ref], timeout=0) == ([], [ref])
    gate.open.remote()
    assert ray.get(ref) == "open"


def test_the_same_ref_twice_in_one_call(ray):
    ref = ray.put([1])
    assert ray.get(ray.remote(lambda a, b: (a, b)).remote(ref, ref)) == ([1], [1])


def test_long_chain_of_dependent_tasks(ray):
    increment = ray.remote(lambda x: x + 1)
    ref = ray.put(0)
    for _ in range(100):
        ref = increment.remote(ref)
    assert ray.get(ref) == 100


def test_many_arguments(ray):
    total = ray.remote(lambda *values: sum(values))
    assert ray.get(total.remote(*[ray.put(n) for n in range(200)], *range(800))) == sum(range(200)) + sum(range(800))
