"""Options are checked where they are given, and each message says what was given and what is allowed."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest

from zray.options import ActorOptions, MethodOptions, TaskOptions


def task(**kwargs):
    return TaskOptions.from_kwargs(kwargs)


def actor(**kwargs):
    return ActorOptions.from_kwargs(kwargs)


def method(**kwargs):
    return MethodOptions.from_kwargs(kwargs)


def test_defaults():
    assert task() == TaskOptions(num_cpus=1, num_returns=None, max_retries=3, max_calls=0, retry_exceptions=False)
    assert actor() == ActorOptions(num_cpus=None, max_restarts=0, max_task_retries=0, max_pending_calls=-1)
    assert method() == MethodOptions(num_returns=None, max_task_retries=None, retry_exceptions=False)


@pytest.mark.parametrize("make", [task, actor, method])
def test_none_stands_for_the_default(make):
    kind = type(make())
    names = [name for name in kind.__dataclass_fields__ if name != "placement_group"]  # whose None means: no group
    assert make(**dict.fromkeys(names)) == kind()
    if make is not method:
        assert make(label_selector=None) == kind()
        assert make(placement_group=None).placement_group is None


def test_options_are_pickled_and_cannot_be_changed():
    options = task(resources={"x": 1}, retry_exceptions=[ValueError])
    assert pickle.loads(pickle.dumps(options)) == options
    with pytest.raises(AttributeError):
        options.num_cpus = 2


def test_the_callers_dict_is_copied():
    resources = {"x": 1}
    options = task(resources=resources)
    resources["x"] = 5
    assert options.resources == {"x": 1}


def test_updated_replaces_only_what_is_given():
    options = task(num_cpus=2, name="f", resources={"x": 1})
    updated = options.updated({"name": "g", "num_cpus": None})
    assert (updated.name, updated.num_cpus, updated.resources) == ("g", 1, {"x": 1})
    assert options.name == "f"
    assert actor(name="a").updated({"get_if_exists": True}).name == "a"
    assert method(num_returns=2).updated({"name": "m"}) == MethodOptions(num_returns=2, name="m")


# -- values that are accepted


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"num_cpus": 0}, 0),
        ({"num_cpus": 0.5}, 0.5),
        ({"num_cpus": np.int64(2)}, 2),
        ({"num_cpus": np.float32(0.5)}, 0.5),
        ({"num_cpus": Fraction(1, 2)}, 0.5),
        ({"num_gpus": 2.0}, 2),
        ({"memory": 1e9}, 10**9),
        ({"memory": 0.1 * 1024**3}, 107374182),
        ({"num_returns": 0}, 0),
        ({"num_returns": np.int64(3)}, 3),
        ({"max_retries": -1}, -1),
        ({"max_calls": 5}, 5),
        ({"retry_exceptions": True}, True),
        ({"retry_exceptions": [ValueError, OSError]}, (ValueError, OSError)),
        ({"scheduling_strategy": "SPREAD"}, "SPREAD"),
        ({"runtime_env": {}}, {}),
        ({"resources": {"odd name/é": 0.5}}, {"odd name/é": 0.5}),
    ],
)
def test_task_options_that_are_accepted(given, kept):
    (name,) = given
    value = getattr(task(**given), name)
    assert value == kept
    assert type(value).__module__ == "builtins"


def test_actor_options_that_are_accepted():
    options = actor(
        max_restarts=-1, max_task_retries=2, max_concurrency=4, max_pending_calls=10, name="n", namespace="s",
        lifetime="detached", get_if_exists=True, num_cpus=0.5,
    )  # fmt: skip
    assert (options.lifetime, options.max_concurrency, options.namespace) == ("detached", 4, "s")
    assert actor(lifetime="non_detached").lifetime == "non_detached"
    assert actor(max_pending_calls=0).max_pending_calls == -1


# -- resources


def test_amounts_are_counted_in_ten_thousandths():
    options = task(num_cpus=0.5, num_gpus=0.0001, memory=3, resources={"x": 0.1 + 0.2, "none": 0})
    assert options.resource_amounts() == {"CPU": 5000, "GPU": 1, "memory": 30_000, "x": 3000}
    assert task(num_cpus=0).resource_amounts() == {}
    assert task(num_cpus=0.0001).resource_amounts() == {"CPU": 1}


def test_fractions_add_up_to_no_more_than_one():
    for parts in range(1, 200):
        assert task(num_cpus=1 / parts).resource_amounts()["CPU"] * parts <= 10_000
    for hundredths in range(1, 101):
        assert task(num_cpus=hundredths / 100).resource_amounts() == {"CPU": hundredths * 100}


def test_actors_need_a_cpu_to_be_placed_but_hold_none():
    assert actor().placement_amounts() == {"CPU": 10_000}
    assert actor().running_amounts() == {}
    assert actor(num_cpus=2).placement_amounts() == actor(num_cpus=2).running_amounts() == {"CPU": 20_000}
    assert actor(num_cpus=0).placement_amounts() == {}
    assert actor(num_gpus=1, memory=1, resources={"x": 1}).running_amounts() == {
        "GPU": 10_000, "memory": 10_000, "x": 10_000,
    }  # fmt: skip


# -- what is refused


UNLIMITED = "only accepts None, 0, -1 or a positive integer, where -1 represents infinity"
BAD_VALUES = [
    (task, {"num_cpus": -1}, "The quantity of resource num_cpus cannot be negative"),
    (task, {"num_cpus": float("nan")}, "finite"),
    (task, {"num_cpus": float("inf")}, "finite"),
    (task, {"num_cpus": 0.00001}, "the smallest amount is 0.0001"),
    (task, {"num_gpus": 1.5}, "whole number"),
    (task, {"memory": -5}, "cannot be negative"),
    (task, {"num_returns": -1}, "0 or a positive integer"),
    (task, {"max_retries": -2}, f"The keyword 'max_retries' {UNLIMITED}"),
    (task, {"max_calls": -1}, "The keyword 'max_calls' only accepts None, 0 or a positive integer"),
    (task, {"retry_exceptions": ["ValueError"]}, "a list of exception"),
    (
        task,
        {"retry_exceptions": [KeyboardInterrupt]},
        "a list of exception",
    ),
    (
        task,
        {"resources": {"CPU": 1}},
        "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU'",
    ),
    (task, {"label_selector": {"a": "-x"}}, "Invalid label selector value '-x'"),
    (actor, {"label_selector": {"-a": "x"}}, "Invalid label key name '-a'"),
    (task, {"fallback_strategy": [1]}, "must be a dictionary"),
    (task, {"fallback_strategy": [{}]}, "Empty dictionary"),
    (task, {"fallback_strategy": [{"x": 1}]}, "Unsupported option found: 'x'"),
    (task, {"fallback_strategy": [{"label_selector": [1]}]}, "must be a dictionary"),
    (task, {"object_store_memory": 3}, "not implemented for tasks"),
    (task, {"_labels": {"a": 1}}, "must be strings"),
    (task, {"resources": {"GPU": 1}}, ": num_gpus=1"),
    (task, {"resources": {"memory": 1}}, ": memory=1"),
    (task, {"resources": {"": 1}}, "cannot be empty"),
    (actor, {"name": ""}, "cannot be empty"),
    (task, {"scheduling_strategy": "spread"}, "'SPREAD'"),
    (actor, {"max_restarts": -2}, UNLIMITED),
    (actor, {"max_task_retries": -2}, UNLIMITED),
    (actor, {"max_concurrency": 0}, "an integer >= 1"),
    (actor, {"max_pending_calls": -2}, UNLIMITED),
    (actor, {"lifetime": "forever"}, "must be one of 'detached', 'non_detached' and 'None'"),
    (actor, {"namespace": ""}, "cannot be empty"),
    (actor, {"get_if_exists": True}, "name"),
    (actor, {"concurrency_groups": {"io": 0}}, "of group 'io' must be an integer >= 1"),
    (actor, {"concurrency_groups": {"": 1}}, "cannot be empty"),
    (method, {"concurrency_group": ""}, "cannot be empty"),
    (method, {"num_returns": -1}, "0 or a positive integer"),
    (method, {"max_task_retries": -2}, UNLIMITED),
]
BAD_TYPES = [
    (task, {"num_cpus": "1"}, "a number >= 0"),
    (task, {"num_cpus": True}, "a number >= 0"),
    (task, {"num_cpus": 1j}, "a number >= 0"),
    (task, {"num_returns": 1.0}, "an integer >= 0"),
    (task, {"num_returns": True}, "an integer >= 0"),
    (task, {"num_returns": "2"}, "an integer >= 0"),
    (task, {"max_retries": 1.5}, "an integer >= -1"),
    (task, {"max_calls": "1"}, "an integer >= 0"),
    (task, {"retry_exceptions": ValueError}, "a list of exception"),
    (task, {"retry_exceptions": 1}, "a list of exception"),
    (task, {"resources": [("x", 1)]}, "a dict"),
    (task, {"resources": {1: 1}}, "strings"),
    (task, {"name": 5}, "a string"),
    (task, {"runtime_env": "env"}, "a dict"),
    (task, {"scheduling_strategy": 3}, "'SPREAD' or a strategy"),
    (task, {"label_selector": [1]}, "a dict of strings"),
    (task, {"label_selector": {"a": 1}}, "a dict of strings"),
    (actor, {"label_selector": {1: "a"}}, "a dict of strings"),
    (actor, {"fallback_strategy": {}}, "a list of dicts"),
    (task, {"accelerator_type": 3}, "a string"),
    (actor, {"object_store_memory": "1"}, "a number >= 0"),
    (task, {"_labels": "a"}, "a dict of strings"),
    (actor, {"max_restarts": "1"}, "an integer >= -1"),
    (actor, {"lifetime": 1}, "'detached'"),
    (actor, {"get_if_exists": 1}, "True or False"),
    (actor, {"name": b"x"}, "a string"),
    (actor, {"concurrency_groups": ["io"]}, "a dict of names and numbers"),
    (actor, {"concurrency_groups": {"io": "2"}}, "an integer >= 1"),
    (actor, {"concurrency_groups": {1: 2}}, "keys are strings"),
    (actor, {"allow_out_of_order_execution": "no"}, "True or False"),
    (method, {"concurrency_group": 1}, "a string"),
    (method, {"num_returns": None.__class__}, "an integer >= 0"),
]


@pytest.mark.parametrize(
    ("make", "given", "message", "error"),
    [(*case, ValueError) for case in BAD_VALUES] + [(*case, TypeError) for case in BAD_TYPES],
    ids=lambda case: str(case) if isinstance(case, dict) else "",
)
def test_bad_values_and_types(make, given, message, error):
    (name,) = given
    what = "@zray.method" if make is method else "@zray.remote"
    with pytest.raises(error) as caught:
        make(**given)
    text = str(caught.value)
    assert text.startswith(f"{what}: {name}={given[name]!r} ")
    assert message in text


@pytest.mark.parametrize(
    ("make", "given"),
    [(actor, {"enable_tensor_transport": True}), (method, {"tensor_transport": "nccl"})],
)
def test_transports_of_tensors(make, given):
    (name,) = given
    with pytest.raises(NotImplementedError, match=f"{name}=.* no transports of tensors, .* object store"):
        make(**given)
    assert make(**{name: None}) == make()


def test_a_selector_in_a_fallback_is_named():
    with pytest.raises(ValueError, match=r"label_selector in fallback_strategy=.*Invalid label selector value '--'"):
        task(fallback_strategy=[{"label_selector": {"a": "--"}}])


def test_what_else_a_task_or_actor_asks_for():
    assert task(accelerator_type="A100").resource_amounts() == {"CPU": 10_000, "accelerator_type:A100": 10}
    held = actor(accelerator_type="A100", object_store_memory=5)
    assert held.running_amounts() == {"accelerator_type:A100": 10, "object_store_memory": 50_000}
    assert held.placement_amounts() == {"CPU": 10_000, **held.running_amounts()}


def test_work_that_may_run_anywhere_has_no_constraint():
    for options in (task(), task(scheduling_strategy="SPREAD"), actor(label_selector={}), task(fallback_strategy=[])):
        assert options.constraint_row() is None
    assert task(label_selector={"zone": "a"}).constraint_row() is not None


def test_an_amount_within_resources_is_named():
    with pytest.raises(ValueError, match=r"resources\['x'\]=-1 is not allowed: The quantity of resource x cannot"):
        task(resources={"x": -1})
    with pytest.raises(TypeError, match=r"resources\['x'\]='1' has type str"):
        task(resources={"x": "1"})


WRONG_PLACES = [
    (task, "max_restarts", "an option of an actor class, not of a remote function; .*max_retries"),
    (task, "max_concurrency", "an option of an actor class, not of a remote function$"),
    (task, "lifetime", "an option of an actor class"),
    (actor, "max_retries", "an option of a remote function, not of an actor class; .*max_restarts"),
    (actor, "num_returns", r"not of an actor class; .*@zray.method\(num_returns=...\)"),
    (actor, "max_calls", "an option of a remote function, not of an actor class"),
    (actor, "retry_exceptions", r"@zray.method\(retry_exceptions=...\)"),
    (method, "num_cpus", "an option of a remote function or an actor class, not of an actor's method"),
    (method, "max_retries", "max_task_retries"),
]


@pytest.mark.parametrize(("make", "name", "message"), WRONG_PLACES)
def test_options_in_the_wrong_place(make, name, message):
    with pytest.raises(ValueError, match=message):
        make(**{name: 1})


def test_unknown_options_come_with_a_guess():
    with pytest.raises(ValueError, match=r"num_cpu for remote functions; did you mean 'num_cpus'\? Allowed .*retries"):
        task(num_cpu=1)
    with pytest.raises(ValueError, match=r"zzz for actors\. Allowed for an actor class: num_cpus, .*lifetime"):
        actor(zzz=1)


def test_updated_checks_too_and_names_the_place():
    with pytest.raises(ValueError, match=r"^f\.options\(\): num_cpus=-1"):
        task().updated({"num_cpus": -1}, "f.options()")
    with pytest.raises(ValueError, match=r"max_calls=3 is not allowed.*@zray.remote only"):
        task().updated({"max_calls": 3})
    with pytest.raises(ValueError, match="without a name"):
        actor().updated({"get_if_exists": True})


def test_half_a_byte_of_memory_is_none():
    assert task(memory=0.5).memory == 0


def test_max_calls_of_none_leaves_what_the_function_has():
    options = task(max_calls=3)
    assert options.updated({"max_calls": None}).max_calls == 3
    with pytest.raises(ValueError, match="max_calls=2 is not allowed"):
        options.updated({"max_calls": 2})


def test_a_function_that_is_declared_with_gpus_has_a_process_for_each_call():
    assert task(num_gpus=1).max_calls == 1
    assert task(num_gpus=0.5, max_calls=None).max_calls == 1
    assert task(num_gpus=1, max_calls=0).max_calls == 0
    assert task(num_gpus=0).max_calls == 0
    assert task().updated({"num_gpus": 1}).max_calls == 0
