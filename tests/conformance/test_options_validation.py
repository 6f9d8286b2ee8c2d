"""Invalid input raises where it is given."""

from __future__ import annotations

import functools
import re
import threading
import warnings

import pytest

REFUSED = (TypeError, ValueError)

FOR_ANY = [
    ("no_such_option", 1),
    ("num_cpus", -1),
    ("num_cpus", "1"),
    ("num_cpus", float("nan")),
    ("num_gpus", -1),
    ("memory", -1),
    ("memory", "1GB"),
    ("resources", {"CPU": 1}),
    ("resources", {"GPU": 1}),
    ("resources", {"slot": -1}),
    ("resources", {"slot": "x"}),
    ("resources", {"slot": 0.00001}),
    ("resources", [1]),
    ("resources", 5),
    ("name", 5),
]
FOR_TASKS = [
    ("num_returns", -1),
    ("num_returns", 1.5),
    ("num_returns", "x"),
    ("max_retries", -2),
    ("max_retries", 1.5),
    ("max_retries", "a"),
    ("max_calls", -1),
    ("max_calls", 1.5),
    ("retry_exceptions", 5),
    ("retry_exceptions", [5]),
    ("retry_exceptions", ["x"]),
    ("max_restarts", 1),
    ("max_task_retries", 1),
    ("max_concurrency", 2),
    ("lifetime", "detached"),
    ("namespace", "x"),
    ("get_if_exists", True),
]
FOR_ACTORS = [
    ("max_restarts", -2),
    ("max_restarts", 1.5),
    ("max_restarts", "a"),
    ("max_task_retries", -2),
    ("max_task_retries", 1.5),
    ("max_concurrency", -1),
    ("max_concurrency", 1.5),
    ("max_concurrency", "x"),
    ("max_pending_calls", -2),
    ("lifetime", "x"),
    ("lifetime", 5),
    ("namespace", 5),
    ("max_retries", 1),
    ("num_returns", 2),
    ("max_calls", 1),
    ("retry_exceptions", True),
]


def named(cases):
    return pytest.mark.parametrize(("option", "value"), cases, ids=[f"{name}={value}" for name, value in cases])


def names(impl, option):
    """The pattern that the message must match: it names the option. Ray's messages do so only for usual values."""
    return option if impl == "zray" else ""


def function():
    return 1


class Class:
    def f(self, x=0):
        return x


@named(FOR_ANY + FOR_TASKS)
def test_option_of_a_function(ray, impl, option, value):
    with pytest.raises(REFUSED, match=names(impl, option)):
        ray.remote(**{option: value})(function)
    with pytest.raises(REFUSED, match=names(impl, option)):
        ray.remote(function).options(**{option: value})


@named(FOR_ANY + FOR_ACTORS)
def test_option_of_a_class(ray, impl, option, value):
    with pytest.raises(REFUSED, match=names(impl, option)):
        ray.remote(**{option: value})(Class)
    with pytest.raises(REFUSED, match=names(impl, option)):
        ray.remote(Class).options(**{option: value}).remote()


@named([("name", ""), ("namespace", ""), ("get_if_exists", True)])
def test_option_of_an_actor_that_is_made(ray, option, value):
    with pytest.raises(ValueError):
        ray.remote(Class).options(**{option: value}).remote()


def test_options_that_are_allowed(ray):
    ray.remote(num_cpus=0.5, num_gpus=0, memory=1, resources={"slot": 0.5}, max_retries=-1, max_calls=0)(function)
    ray.remote(num_cpus=None, num_returns=0, retry_exceptions=[ValueError], name="x")(function)
    ray.remote(function).options(num_cpus=1, num_gpus=0, num_returns=2, retry_exceptions=False, memory=None)
    ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=5, max_pending_calls=-1)(Class)
    ray.remote(Class).options(name="x", namespace="y", lifetime="detached", get_if_exists=True, resources={})
    ray.remote(Class).options(lifetime=None, name=None)


@pytest.mark.parametrize("target", [5, "f", None, [function]], ids=["number", "text", "None", "list"])
def test_decorator_on_something_else(ray, target):
    with pytest.raises((*REFUSED, AssertionError)):
        ray.remote(target)


def test_decorator_without_anything(ray):
    with pytest.raises((*REFUSED, AssertionError)):
        ray.remote()


def test_decorator_with_positional_options(ray):
    with pytest.raises((*REFUSED, AssertionError)):
        ray.remote(function, 2)


def test_decorator_with_options_on_something_else(ray):
    with pytest.raises((*REFUSED, AttributeError)):
        ray.remote(num_cpus=1)(5)


class Callable:
    def __call__(self):
        return 1


@pytest.mark.parametrize("target", [functools.partial(max, 1), Callable()], ids=["partial", "callable object"])
def test_decorator_on_a_callable_that_is_no_function(ray, target):
    with pytest.raises(REFUSED):
        ray.remote(target)


def test_decorator_on_an_async_function(ray):
    async def f():
        return 1

    with pytest.raises(ValueError):
        ray.remote(f).remote()


def test_remote_function_called_directly(ray):
    with pytest.raises(TypeError, match="remote"):
        ray.remote(function)()


def test_actor_class_instantiated_directly(ray):
    with pytest.raises(TypeError, match="remote"):
        ray.remote(Class)()


def test_actor_method_called_directly(ray):
    actor = ray.remote(num_cpus=0)(Class).remote()
    with pytest.raises(TypeError, match="remote"):
        actor.f()


def test_unknown_method(ray):
    actor = ray.remote(num_cpus=0)(Class).remote()
    with pytest.raises(AttributeError, match="missing"):
        actor.missing  # noqa: B018


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"a": 1}), ((1,), {"z": 1}), ((), {"b": 1})],
    ids=["none", "too many", "twice", "unknown", "missing"],
)
def test_wrong_arguments(ray, args, kwargs):
    def f(a, b=0):
        return a

    class A:
        def __init__(self, a, b=0):
            pass

    class B:
        def f(self, a, b=0):
            pass

    actor = ray.remote(num_cpus=0)(B).remote()
    for call in (ray.remote(f).remote, ray.remote(A).remote, actor.f.remote):
        with pytest.raises(TypeError):
            call(*args, **kwargs)


def test_argument_that_cannot_be_pickled(ray):
    with pytest.raises(TypeError, match="lock"):
        ray.remote(lambda x: x).remote({"inner": threading.Lock()})


def test_closure_that_cannot_be_pickled(ray):
    lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        ray.remote(lambda: lock).remote()


def test_method_argument_that_cannot_be_pickled_leaves_the_actor_usable(ray):
    actor = ray.remote(num_cpus=0)(Class).remote()
    with pytest.raises(TypeError, match="lock"):
        actor.f.remote(threading.Lock())
    assert ray.get(actor.f.remote(5)) == 5


@pytest.mark.parametrize("options", [{"num_returns": -1}, {"bogus": 1}], ids=str)
def test_method_decorator(ray, options):
    with pytest.raises((*REFUSED, AssertionError)):
        ray.method(**options)(function)


@pytest.mark.parametrize("options", [{"num_returns": -1}, {"bogus": 1}], ids=str)
def test_method_options(ray, options):
    actor = ray.remote(num_cpus=0)(Class).remote()
    with pytest.raises(REFUSED):
        actor.f.options(**options).remote()


def test_kill_of_no_actor(ray):
    with pytest.raises(REFUSED):
        ray.kill(ray.put(1))


def test_cancel_of_no_ref(ray):
    with pytest.raises(REFUSED):
        ray.cancel(5)


@pytest.mark.parametrize("name", ["", 5, "no actor of this name"], ids=repr)
def test_get_actor(ray, name):
    with pytest.raises(REFUSED):
        ray.get_actor(name)


def test_init_twice(ray, init_options):
    with pytest.raises(RuntimeError):
        ray.init(**init_options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(ignore_reinit_error=True)
    assert ray.get(ray.remote(function).remote()) == 1


def test_init_with_an_unknown_argument(ray):
    with pytest.raises((RuntimeError, *REFUSED), match="no_such_argument"):
        ray.init(no_such_argument=1, ignore_reinit_error=True)


# ---------------------------------------------------------------------------------------------- what errors say


def work():
    return 1


class Worker:
    pass


COUNTED = "only accepts None, 0, -1 or a positive integer, where -1 represents infinity"
SAID = [
    (work, {"max_retries": -2}, f"The keyword 'max_retries' {COUNTED}"),
    (work, {"max_calls": -2}, "The keyword 'max_calls' only accepts None, 0 or a positive integer"),
    (work, {"num_cpus": -1}, "The quantity of resource num_cpus cannot be negative"),
    (work, {"resources": {"x": -1}}, "The quantity of resource x cannot be negative"),
    (work, {"resources": {"CPU": 1}}, "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU'"),
    (work, {"retry_exceptions": [3]}, "retry_exceptions must be either a boolean or a list of exceptions"),
    (work, {"max_restarts": 1}, "Invalid option keyword max_restarts for remote functions"),
    (work, {"nothing": 1}, "Invalid option keyword nothing for remote functions"),
    (Worker, {"max_restarts": -2}, f"The keyword 'max_restarts' {COUNTED}"),
    (Worker, {"max_task_retries": -2}, f"The keyword 'max_task_retries' {COUNTED}"),
    (Worker, {"max_calls": 1}, "Invalid option keyword max_calls for actors"),
    (Worker, {"lifetime": "x"}, "must be one of 'detached', 'non_detached' and 'None'"),
]


@pytest.mark.parametrize(("target", "given", "said"), SAID)
def test_programs_find_the_sentences_that_they_look_for(ray, target, given, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        ray.remote(**given)(target)


@pytest.mark.parametrize("arguments", [(), (1,), (1, 2)])
def test_the_decorator_needs_a_target_or_options(ray, arguments):
    with pytest.raises(AssertionError, match="decorator must be applied either with no arguments"):
        ray.remote(*arguments)


def test_an_error_has_the_name_of_the_users_in_its_own(ray):
    class Odd(Exception):
        pass

    @ray.remote
    def fail():
        raise Odd("here")

    with pytest.raises(Odd) as caught:
        ray.get(fail.remote())
    assert type(caught.value).__name__ == "RayTaskError(Odd)"
    assert "RayTaskError(Odd)" in repr(caught.value)
    assert "ray::fail()" in str(caught.value)


def test_an_option_that_methods_do_not_have(ray):
    for options in ({"bogus": 1}, {"num_returns": 2, "bogus": 1}, {"num_cpus": 1}):
        with pytest.raises(AssertionError, match=r"Unexpected keyword argument to @z?ray.method: '(bogus|num_cpus)'"):
            ray.method(**options)


def test_the_words_of_wrong_types(ray):
    def work():
        return 1

    for options in ({"num_cpus": "a"}, {"max_retries": "a"}, {"name": 1}, {"resources": [1]}, {"num_returns": 1.5}):
        (name,) = options
        with pytest.raises(TypeError, match=f"The type of keyword '{name}' must be .*, but received type <class '"):
            ray.remote(**options)(work)


def test_get_if_exists_needs_a_name(ray):
    @ray.remote
    class Actor:
        pass

    with pytest.raises(ValueError, match="The actor name must be specified to use `get_if_exists`"):
        Actor.options(get_if_exists=True).remote()
