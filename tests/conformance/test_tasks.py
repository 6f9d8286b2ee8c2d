"""Remote functions: how they are made and called, what may be one, and what they return."""

from __future__ import annotations

import functools
import threading

import pytest

from .helpers import eventually


def module_level(x):
    return x + 1


def recursive_sum(ray, n):
    """Submits itself, by its own name in this module."""
    task = ray.remote(recursive_sum)
    return 0 if n == 0 else n + ray.get(task.remote(ray, n - 1))


def test_bare_decorator(ray):
    @ray.remote
    def f(x):
        return x * 2

    assert ray.get(f.remote(21)) == 42


def test_decorator_with_options(ray):
    @ray.remote(num_cpus=1, num_returns=2)
    def f():
        return "a", "b"

    assert ray.get(f.remote()) == ["a", "b"]


def test_remote_as_a_function(ray):
    assert ray.get(ray.remote(module_level).remote(1)) == 2


def test_remote_with_options_as_a_function(ray):
    pair = ray.remote(num_returns=2)(lambda: (1, 2))
    assert ray.get(pair.remote()) == [1, 2]


def test_lambda(ray):
    assert ray.get(ray.remote(lambda x, y=3: x + y).remote(1)) == 4


def test_same_lambda_twice(ray):
    one, two = (ray.remote(lambda: "same") for _ in range(2))
    assert ray.get([one.remote(), two.remote()]) == ["same", "same"]


def test_closure(ray):
    offset = 10

    @ray.remote
    def f(x):
        return x + offset

    assert ray.get(f.remote(1)) == 11


def test_closures_made_by_one_factory_are_distinct(ray):
    def adder(n):
        return ray.remote(lambda x: x + n)

    assert ray.get([adder(n).remote(0) for n in range(3)]) == [0, 1, 2]


def test_function_redefined_under_the_same_name(ray):
    def make(value):
        @ray.remote
        def f():
            return value, module_level(value)

        return f

    first, second = make(1), make(2)
    assert ray.get([first.remote(), second.remote(), first.remote()]) == [(1, 2), (2, 3), (1, 2)]


def test_closure_is_captured_at_the_first_call_and_kept(ray):
    values = [1]

    @ray.remote
    def f():
        return list(values)

    assert ray.get(f.remote()) == [1]
    values.append(2)
    assert ray.get(f.remote()) == [1]


def test_recursion_through_the_functions_own_name(ray):
    @ray.remote
    def fact(n):
        return 1 if n <= 1 else n * ray.get(fact.remote(n - 1))

    assert ray.get(fact.remote(5)) == 120


def test_recursion_of_a_function_of_an_imported_module(ray):
    assert ray.get(ray.remote(recursive_sum).remote(ray, 4)) == 10


def test_function_of_a_module_beside_the_script(ray):
    @ray.remote
    def f(x):
        return module_level(x)

    assert ray.get(f.remote(1)) == 2


def test_mutable_default_argument_is_per_process_as_in_plain_python(ray):
    @ray.remote(num_cpus=2)  # one at a time
    def f(seen=[]):  # noqa: B006
        seen.append(len(seen))
        return seen

    first = ray.get(f.remote())
    assert first == [0]
    assert ray.get(f.remote())[0] == 0


def test_result_none(ray):
    assert ray.get(ray.remote(lambda: None).remote()) is None


def test_no_return_value(ray):
    @ray.remote(num_returns=0)
    def f():
        return None

    assert f.remote() is None


def test_one_return_is_a_single_ref(ray):
    ref = ray.remote(lambda: (1, 2)).options(num_returns=1).remote()
    assert isinstance(ref, ray.ObjectRef)
    assert ray.get(ref) == (1, 2)


def test_several_returns_are_a_list_of_refs(ray):
    refs = ray.remote(lambda: (1, 2, 3)).options(num_returns=3).remote()
    assert len(refs) == 3
    assert all(isinstance(ref, ray.ObjectRef) for ref in refs)
    assert ray.get(refs[1]) == 2


def test_generator_as_the_source_of_several_returns(ray):
    @ray.remote(num_returns=3)
    def f():
        yield from "abc"

    assert ray.get(f.remote()) == ["a", "b", "c"]


@pytest.mark.parametrize("returned", [(1,), (1, 2, 3)], ids=["too few", "too many"])
def test_wrong_number_of_returns(ray, returned):
    refs = ray.remote(lambda: returned).options(num_returns=2).remote()
    for ref in refs:
        with pytest.raises(ValueError):
            ray.get(ref)


def test_several_returns_of_what_cannot_be_iterated(ray):
    refs = ray.remote(lambda: 5).options(num_returns=2).remote()
    with pytest.raises(TypeError):
        ray.get(refs[0])


def test_many_returns(ray):
    refs = ray.remote(lambda: range(300)).options(num_returns=300).remote()
    assert ray.get(refs) == list(range(300))


def test_a_task_returns_a_ref(ray):
    @ray.remote
    def f():
        return ray.put("inner")

    inner = ray.get(f.remote())
    assert isinstance(inner, ray.ObjectRef)
    assert ray.get(inner) == "inner"


def test_a_task_returns_the_ref_of_its_own_child(ray):
    @ray.remote
    def child():
        return "grandchild"

    @ray.remote
    def parent():
        return [child.remote()]

    assert ray.get(ray.get(parent.remote())[0]) == "grandchild"


def test_nested_tasks_deeper_than_there_are_cpus(ray):
    @ray.remote(num_cpus=1)
    def descend(n):
        return n if n == 0 else 1 + ray.get(descend.remote(n - 1))

    assert ray.get(descend.remote(8)) == 8


def test_wide_nested_tasks(ray):
    @ray.remote
    def leaf(x):
        return x

    @ray.remote
    def branch(n):
        return sum(ray.get([leaf.remote(i) for i in range(n)]))

    assert ray.get([branch.remote(5) for _ in range(4)]) == [10] * 4


def test_wait_inside_a_task_on_its_child_gives_the_cpu_back(ray):
    @ray.remote(num_cpus=2)
    def child():
        return 1

    @ray.remote(num_cpus=2)
    def parent():
        done, _ = ray.wait([child.remote()])
        return ray.get(done[0])

    assert ray.get(parent.remote()) == 1


def test_tasks_run_at_the_same_time(ray, gate):
    @ray.remote
    def meet():
        return ray.get(gate.wait.remote())

    refs = [meet.remote() for _ in range(2)]
    eventually(lambda: ray.get(gate.arrived.remote()) == 2)
    gate.open.remote()
    assert ray.get(refs) == ["open", "open"]


def test_options_do_not_change_the_original(ray):
    f = ray.remote(lambda: (1, 2))
    assert ray.get(f.options(num_returns=2).remote()) == [1, 2]
    assert ray.get(f.remote()) == (1, 2)


def test_options_override_the_decorator(ray):
    @ray.remote(num_returns=2)
    def f():
        return 1, 2

    assert ray.get(f.options(num_returns=1).remote()) == (1, 2)


def test_wrapped_function(ray):
    def twice(f):
        @functools.wraps(f)
        def wrapper(*args):
            return f(*args) * 2

        return wrapper

    @ray.remote
    @twice
    def f(x):
        return x + 1

    assert ray.get(f.remote(1)) == 4


def test_remote_function_passed_to_a_task(ray):
    inner = ray.remote(module_level)

    @ray.remote
    def call(f):
        return ray.get(f.remote(1))

    assert ray.get(call.remote(inner)) == 2


def test_submission_and_get_from_many_threads(ray):
    f = ray.remote(lambda x: x * x)
    results = {}

    def work(n):
        results[n] = ray.get([f.remote(n * 10 + i) for i in range(5)])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [(n * 10 + i) ** 2 for i in range(5)] for n in range(8)}


def test_submission_from_threads_of_a_task(ray):
    leaf = ray.remote(module_level)

    @ray.remote
    def f():
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda n: ray.get(leaf.remote(n)), range(8)))

    assert ray.get(f.remote()) == list(range(1, 9))


def test_one_slow_task_does_not_hold_up_the_others(ray, gate):
    slow = ray.remote(lambda box: ray.get(box[0]))
    held = slow.remote([gate.wait.remote()])
    quick = ray.remote(module_level)
    assert ray.get([quick.remote(n) for n in range(50)], timeout=20) == list(range(1, 51))
    gate.open.remote()
    assert ray.get(held) == "open"


def yields_two_and_fails():
    yield 1
    yield "x" * 200_000
    raise ValueError("after two")


def yields_two():
    yield 1
    yield 2


def raises(ray, ref, kind):
    with pytest.raises(kind) as caught:
        ray.get(ref)
    return str(caught.value)


def test_what_a_generator_yielded_before_it_failed_stays(ray):
    one, two, *failed = ray.remote(num_returns=4)(yields_two_and_fails).remote()
    assert ray.get([one, two]) == [1, "x" * 200_000]
    assert len(failed) == 2
    for ref in failed:
        assert "after two" in raises(ray, ref, ValueError)


def test_a_generator_that_yields_too_few(ray):
    one, two, missing = ray.remote(num_returns=3)(yields_two).remote()
    assert ray.get([one, two]) == [1, 2]
    assert "num_returns=3" in raises(ray, missing, ValueError)


def test_what_a_generator_yields_or_raises_beyond_the_last_value_does_not_count(ray):
    assert ray.get(ray.remote(num_returns=2)(yields_two_and_fails).remote()) == [1, "x" * 200_000]


def test_a_generator_of_one_value(ray):
    assert ray.get(ray.remote(num_returns=1)(yields_two).remote()) == 1
    assert ray.get(ray.remote(yields_two).options(num_returns=1).remote()) == 1


def test_generator_methods(ray):
    @ray.remote
    class Actor:
        @ray.method(num_returns=2)
        def two(self):
            yield 1
            raise KeyError("x")

        def one(self):
            yield 3

    actor = Actor.remote()
    first, second = actor.two.remote()
    assert ray.get(first) == 1
    assert "x" in raises(ray, second, KeyError)
    assert ray.get(actor.one.options(num_returns=1).remote()) == 3
