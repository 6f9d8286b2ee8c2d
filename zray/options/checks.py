"""Checks of single options that need more than a type and a range. Each returns the value to keep, or raises."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from zray.options.given import MAX_COUNT, UNLIMITED, Given, count_from, read_text, sendable
from zray.scheduling.priority import MAX_PRIORITY
from zray.user_warnings import warn_user

if TYPE_CHECKING:
    from zray.scheduling.combine import Strategy

STREAMING, DYNAMIC = "streaming", "dynamic"
DYNAMIC_WARNING = 'num_returns="dynamic" is deprecated, on Ray too: use num_returns="streaming"'
MAX_RETURNS = 10_000_000
MAX_TIMEOUT_S = 1e9
"""The longest limit for a call, in seconds: decades."""


def read_priority(given: Given) -> int:
    allowed = f"an integer from -{MAX_PRIORITY} to {MAX_PRIORITY}"
    if isinstance(given.value, bool) or not isinstance(given.value, numbers.Integral):
        given.wrong_type(allowed)
    value = int(given.value)
    return value if abs(value) <= MAX_PRIORITY else given.wrong_value(f"it must be {allowed}")


def read_timeout(given: Given) -> float:
    if isinstance(given.value, bool) or not isinstance(given.value, numbers.Real):
        given.wrong_type("a number of seconds > 0, or None")
    value = float(given.value)
    return (
        value if 0 < value <= MAX_TIMEOUT_S else given.wrong_value(f"it must be > 0 and at most {MAX_TIMEOUT_S:,.0f}")
    )


def read_num_returns(given: Given) -> int | str:
    if isinstance(given.value, str) and given.value in (STREAMING, DYNAMIC):
        if given.value == DYNAMIC:
            warn_user(DYNAMIC_WARNING, DeprecationWarning)
        return given.value
    checked: int = count_from(0, most=MAX_RETURNS)(given)
    return checked


def read_retry_exceptions(given: Given) -> bool | tuple[type[Exception], ...]:
    allowed = "True, False, or a list of exception types"
    if isinstance(given.value, bool):
        return given.value
    if not isinstance(given.value, (list, tuple)):
        given.wrong_type(allowed)
    if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in given.value):
        given.wrong_value("retry_exceptions must be either a boolean or a list of exceptions")
    return tuple(given.value)


def read_task_name(given: Given) -> str | None:
    return None if given.value == "" else read_text(given)  # as in Ray, an empty name is the default


def read_max_restarts(given: Given) -> int:
    checked: int = count_from(-1, UNLIMITED, most=2**63 - 1)(given)
    return min(checked, MAX_COUNT)  # no actor lives to see the difference, and Ray's programs pass larger numbers


def check_streams(num_returns: int | str | None, is_generator: bool, what: str) -> bool:
    """Returns whether a call has a stream: a generator whose values are objects as they come.

    Raises ValueError if only a generator can have these ``num_returns``, and the function is none.
    """
    if num_returns is None:
        return is_generator
    if isinstance(num_returns, str) and not is_generator:
        raise ValueError(
            f"{what}: num_returns={num_returns!r} can only be used with generator functions (those that use 'yield'), "
            f"and this is none: give a number"
        )
    return isinstance(num_returns, str)


def read_backpressure(given: Given) -> int:
    checked: int = count_from(-1, UNLIMITED)(given)
    return checked or given.wrong_value("it must be > 0, or -1 for no limit")


def read_max_pending_calls(given: Given) -> int:
    checked: int = count_from(-1, UNLIMITED)(given)
    return checked or -1  # 0 means no limit too, as in Ray


def read_concurrency_groups(given: Given) -> dict[str, int]:
    if isinstance(given.value, (list, tuple)) and not given.value:
        return {}
    if not isinstance(given.value, Mapping):
        given.wrong_type("a dict of names and numbers of calls")
    groups = {}
    for name, limit in given.value.items():
        if not isinstance(name, str):
            given.wrong_type("a dict whose keys are strings")
        if not name:
            given.wrong_value("the name of a group cannot be empty")
        sendable(name, given)
        if isinstance(limit, bool) or not isinstance(limit, numbers.Integral):
            given.wrong_type(f"a dict with an integer >= 1 for each group, not {limit!r} for {name!r}")
        if not 1 <= int(limit) <= MAX_COUNT:
            given.wrong_value(f"the number of calls of group {name!r} must be an integer >= 1, at most {MAX_COUNT}")
        groups[name] = int(limit)
    return groups


def read_lifetime(given: Given) -> str:
    if not isinstance(given.value, str):
        given.wrong_type("'detached' or 'non_detached'")
    return (
        given.value
        if given.value in ("detached", "non_detached")
        else given.wrong_value("actor `lifetime` argument must be one of 'detached', 'non_detached' and 'None'")
    )


def read_scheduling_strategy(given: Given) -> str | Strategy:
    if isinstance(given.value, str):
        if given.value in ("DEFAULT", "SPREAD"):
            return given.value
        given.wrong_value("Invalid scheduling_strategy value; it must be None, 'DEFAULT', 'SPREAD' or a strategy")
    if not callable(getattr(given.value, "constraint", None)):
        given.wrong_type("None, 'DEFAULT', 'SPREAD' or a strategy of zray.util.scheduling_strategies")
    strategy: Strategy = given.value
    return strategy


def read_label_selector(given: Given) -> Mapping[str, str]:
    _read_selector(given)
    return dict(given.value)


def _read_selector(given: Given) -> None:
    from zray.scheduling.labels import read_selector  # only programs that use it load it

    try:
        read_selector(given.value)
    except TypeError:
        given.wrong_type("a dict of strings")
    except ValueError as error:
        given.wrong_value(str(error))


def read_fallback_strategy(given: Given) -> list[Mapping[str, Any]]:
    if not isinstance(given.value, (list, tuple)):
        given.wrong_type("a list of dicts, such as [{'label_selector': {'zone': 'a'}}]")
    for fallback in given.value:
        if not isinstance(fallback, Mapping):
            given.wrong_value("Each element in fallback_strategy must be a dictionary")
        if not fallback:
            given.wrong_value("Empty dictionary found in fallback_strategy")
        for name in fallback:
            if name != "label_selector":
                given.wrong_value(f"Unsupported option found: {name!r}; only 'label_selector' is supported")
        selector = fallback["label_selector"]
        if selector and not isinstance(selector, Mapping):
            given.wrong_value("The value of 'label_selector' must be a dictionary")
        _read_selector(Given(given.what, "label_selector in fallback_strategy", selector or {}))
    return list(given.value)


def refuse_object_store_memory(given: Given) -> NoReturn:
    given.wrong_value("Setting 'object_store_memory' is not implemented for tasks; it is an option of an actor class")


def read_own_labels(given: Given) -> Mapping[str, str]:
    if not isinstance(given.value, Mapping):
        given.wrong_type("a dict of strings")
    if not all(isinstance(part, str) for item in given.value.items() for part in item):
        given.wrong_value("keys and values of labels must be strings")
    return dict(given.value)


def read_placement_group(given: Given) -> Any:
    if given.value is None or given.value == "default" or hasattr(type(given.value), "bundle_specs"):
        return given.value
    given.wrong_type("a PlacementGroup, None or 'default'")


def read_runtime_env(given: Given) -> Mapping[str, Any]:
    value: Mapping[str, Any] = given.value if isinstance(given.value, Mapping) else given.wrong_type("a dict")
    return value  # the API checks its fields
