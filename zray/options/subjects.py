"""Which options a remote function, an actor class and a method take, and what is said of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from zray.named_tuples import NamedTuple
from zray.options import checks
from zray.options.amounts import read_amount, read_gpus, read_memory, read_resources
from zray.options.given import UNLIMITED, Check, Given, count_from, read_flag, read_text

_SHARED: dict[str, Check] = {
    "num_cpus": read_amount,
    "num_gpus": read_gpus,
    "memory": read_memory,
    "resources": read_resources,
    "name": read_text,
    "scheduling_strategy": checks.read_scheduling_strategy,
    "placement_group": checks.read_placement_group,
    "placement_group_bundle_index": count_from(-1, " (-1: any bundle)"),
    "placement_group_capture_child_tasks": read_flag,
    "label_selector": checks.read_label_selector,
    "fallback_strategy": checks.read_fallback_strategy,
    "accelerator_type": read_text,
    "_labels": checks.read_own_labels,
    "runtime_env": checks.read_runtime_env,
    "enable_task_events": read_flag,
    "priority": checks.read_priority,
}
_STREAM: dict[str, Check] = {
    "_generator_backpressure_num_objects": checks.read_backpressure,
    "_num_objects_per_yield": count_from(1),
}
_TASK_CHECKS: dict[str, Check] = {
    **_SHARED,
    "name": checks.read_task_name,
    "num_returns": checks.read_num_returns,
    "max_retries": count_from(-1, UNLIMITED),
    "retry_exceptions": checks.read_retry_exceptions,
    "timeout_s": checks.read_timeout,
    "max_calls": count_from(0, ", where 0 means no limit"),
    **_STREAM,
    "object_store_memory": checks.refuse_object_store_memory,
}
_ACTOR_CHECKS: dict[str, Check] = {
    **_SHARED,
    "max_restarts": checks.read_max_restarts,
    "max_task_retries": count_from(-1, UNLIMITED),
    "max_concurrency": count_from(1),
    "max_pending_calls": checks.read_max_pending_calls,
    "object_store_memory": read_memory,
    "namespace": read_text,
    "lifetime": checks.read_lifetime,
    "get_if_exists": read_flag,
    "_actor_generator_backpressure_num_objects": checks.read_backpressure,
    "concurrency_groups": checks.read_concurrency_groups,
    "allow_out_of_order_execution": read_flag,
}
_METHOD_CHECKS: dict[str, Check] = {
    "num_returns": checks.read_num_returns,
    "max_task_retries": count_from(-1, UNLIMITED),
    "retry_exceptions": checks.read_retry_exceptions,
    "timeout_s": checks.read_timeout,
    "name": checks.read_task_name,
    "concurrency_group": read_text,
    "enable_task_events": read_flag,
    "_labels": checks.read_own_labels,
    **_STREAM,
}


class Subject(NamedTuple):
    """What options are given to. ``name`` and ``plural`` stand in errors; ``checks``: a check for each option."""

    name: str
    plural: str
    checks: Mapping[str, Check]


TASK = Subject("a remote function", "remote functions", _TASK_CHECKS)
ACTOR = Subject("an actor class", "actors", _ACTOR_CHECKS)
METHOD = Subject("an actor's method", "actor methods", _METHOD_CHECKS)

_HINTS = [
    (TASK, "max_restarts", "for a remote function it is max_retries"),
    (TASK, "max_task_retries", "for a remote function it is max_retries"),
    (ACTOR, "max_retries", "for an actor class there are max_restarts and max_task_retries"),
    (ACTOR, "num_returns", "give it to the method, with @zray.method(num_returns=...)"),
    (ACTOR, "retry_exceptions", "give it to the method, with @zray.method(retry_exceptions=...)"),
    (ACTOR, "timeout_s", "give it to the method, with @zray.method(timeout_s=...)"),
    (METHOD, "max_retries", "for an actor's method it is max_task_retries"),
    (METHOD, "priority", "an actor runs the calls of a caller in their order"),
]
_TENSOR_TRANSPORTS = frozenset(("enable_tensor_transport", "tensor_transport"))
"""Options of Ray's transports of tensors between GPUs. ``None`` and ``False`` ask for nothing and are accepted."""


def checked(subject: Subject, defaults: type, kwargs: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Returns the fields to set, by name. An option given as None is set to its default, an attribute of ``defaults``.

    Raises TypeError, ValueError or NotImplementedError, see ``zray.options``.
    """
    values = {}
    for name, value in kwargs.items():
        given = Given(what, name, value)
        if name in subject.checks:
            is_default = value is None and name != "placement_group"  # whose None is a value of its own
            values[name] = getattr(defaults(), name) if is_default else subject.checks[name](given)
        elif name in _TENSOR_TRANSPORTS:
            if value is not None and value is not False:
                given.no_transports()
        else:
            _refuse(subject, given)
    return values


def _refuse(subject: Subject, given: Given) -> NoReturn:
    """Raises ValueError: the option belongs to another kind of target, or does not exist."""
    invalid = f"Invalid option keyword {given.name} for {subject.plural}"
    owners = [other.name for other in (TASK, ACTOR, METHOD) if given.name in other.checks]
    if owners:
        hint = next((hint for owner, name, hint in _HINTS if owner is subject and name == given.name), "")
        owner = " or ".join(owners)
        given.wrong_value(
            f"{invalid}: it is an option of {owner}, not of {subject.name}" + (f"; {hint}" if hint else "")
        )
    import difflib  # slow to import, and only needed for the error

    close = difflib.get_close_matches(given.name, subject.checks, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else "."
    raise ValueError(f"{given.what}: {invalid}{guess} Allowed for {subject.name}: {', '.join(subject.checks)}")
