"""Generates, from the annotations of messages and records, the code that checks and makes them.

On the wire a message is an array that begins with its number, and a record (``zray.protocol.records``) is the array of
its fields. For each class a test and a maker are generated once, as one expression each, so that a small message takes
well under a microsecond. Integers are from 0 to 2**63 - 1, amounts and seconds are numbers that are not negative, and
identifiers have the sizes of ``zray.ids``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from zray import ids
from zray.bundles import GROUP_ID_BYTES

SIZES = {
    **dict.fromkeys(
        ("process_id", "owner", "dest", "source", "caller", "announcer", "holder", "worker_id", "host_id", "creator"),
        ids.PROCESS_ID_BYTES,
    ),
    "actor_id": ids.ACTOR_ID_BYTES,
    "task_id": ids.TASK_ID_BYTES,
    "object_id": ids.OBJECT_ID_BYTES,
    "function_id": ids.FUNCTION_ID_BYTES,
    "environment_id": ids.ENVIRONMENT_ID_BYTES,
    "incarnation": 8,  # the broker's; an actor's is a number
    "object_ids": ids.OBJECT_ID_BYTES,
    "task_ids": ids.TASK_ID_BYTES,
    **dict.fromkeys(("sources", "lost"), ids.PROCESS_ID_BYTES),
    "group_id": GROUP_ID_BYTES,
}
"""The size of an identifier in bytes, by the name of its field; for a list, the size of each identifier."""
LIMITLESS = frozenset({"max_restarts", "restarts_left"})
"""Integer fields that may also be -1, which means no limit."""


def is_record(hint: Any) -> bool:
    """Whether a field of this type is a record."""
    return hasattr(hint, "_fields")


def _hints(kind: Any) -> dict[str, Any]:
    return {field: _hint(kind.__module__, text) for field, text in kind.__annotations__.items()}


@functools.cache
def _hint(module: str, text: str) -> Any:
    """The type that an annotation of a module names. ``typing.get_type_hints`` would read each annotation anew, and the
    modules of messages have few different ones."""
    return eval(text, vars(sys.modules[module]))


# -------------------------------------------------------------------------------------------------- the test


def fits_message(kind: Any) -> Callable[[list[Any]], bool]:
    """Returns a predicate: whether an array is a message of this class. It does not check the number of the class."""
    tests, scope = _tests_of_fields(kind, first=1)
    return _function("r", [f"len(r) == {len(kind._fields) + 1}", *tests], scope)


@functools.cache
def _fits_record(kind: Any) -> Callable[[Any], bool]:
    tests, scope = _tests_of_fields(kind, first=0)
    return _function("r", ["type(r) is list", f"len(r) == {len(kind._fields)}", *tests], scope)


def _tests_of_fields(kind: Any, first: int) -> tuple[list[str], dict[str, Any]]:
    scope: dict[str, Any] = {}
    tests: list[str] = []
    for position, (field, hint) in enumerate(_hints(kind).items(), start=first):
        tests += _tests(hint, f"r[{position}]", field, scope)
    return tests, scope


def _tests(hint: Any, x: str, field: str, scope: dict[str, Any]) -> list[str]:
    """Returns the expressions that must be true for the value ``x`` of a field. ``scope`` gets the names they use."""
    if is_record(hint):
        scope[f"fits_{hint.__name__}"] = _fits_record(hint)
        return [f"fits_{hint.__name__}({x})"]
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return [f"({x} is None or {' and '.join(_tests(_given(hint), x, field, scope))})"]
    if origin is list:
        each = " and ".join(_tests(inner[0], "y", field, scope))
        return [f"type({x}) is list", f"(not {x} or all({each} for y in {x}))"]
    if origin is dict:
        each = " and ".join([*_tests(inner[0], "k", "", scope), *_tests(inner[1], "v", "", scope)])
        return [f"type({x}) is dict", f"all({each} for k, v in {x}.items())"]
    if hint is float:
        return [f"(type({x}) is float or type({x}) is int)", f"{x} >= 0"]
    tests = [f"type({x}) is {hint.__name__}"]
    if hint is int:
        tests.append(f"{-1 if field in LIMITLESS else 0} <= {x} < 9223372036854775808")
    if hint is bytes and field in SIZES:
        tests.append(f"len({x}) == {SIZES[field]}")
    return tests


def _given(hint: Any) -> Any:
    """The type of a field without ``| None``."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    (given,) = (each for each in get_args(hint) if each is not NoneType)
    return given


def _function(argument: str, tests: list[str], scope: dict[str, Any]) -> Callable[[Any], bool]:
    text = f"lambda {argument}: {' and '.join(tests)}"
    if not scope:
        return _of_text(text)
    function: Callable[[Any], bool] = eval(text, scope)
    return function


_NO_NAMES: dict[str, Any] = {}
"""The globals of functions that use no others: one for all takes less memory."""


@functools.cache
def _of_text(text: str) -> Callable[[Any], bool]:
    """The function with this text. A third of the classes have the same fields, but for their names, as another one."""
    function: Callable[[Any], bool] = eval(text, _NO_NAMES)
    return function


# ------------------------------------------------------------------------------------------------- the maker


@functools.cache
def maker(kind: Any) -> Callable[[list[Any]], Any]:
    """Returns a function that makes a message or record from a list of fields that has passed the test."""
    scope: dict[str, Any] = {}
    values = [_made(hint, f"r[{position}]", scope) for position, hint in enumerate(_hints(kind).values())]
    new = functools.partial(tuple.__new__, kind)
    if not scope:
        return new
    scope["new"] = new
    make: Callable[[list[Any]], Any] = eval(f"lambda r: new(({', '.join(values)},))", scope)
    return make


def _made(hint: Any, x: str, scope: dict[str, Any]) -> str:
    """Returns an expression that converts the value ``x``: itself, unless there are records in it."""
    if is_record(hint):
        scope[f"make_{hint.__name__}"] = maker(hint)
        return f"make_{hint.__name__}({x})"
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        made = _made(_given(hint), x, scope)
        return x if made == x else f"(None if {x} is None else {made})"
    if origin is list:
        made = _made(inner[0], "y", scope)
        return x if made == "y" else f"[{made} for y in {x}]"
    if origin is dict:
        made = _made(inner[1], "v", scope)
        return x if made == "v" else f"{{k: {made} for k, v in {x}.items()}}"
    return x


# ------------------------------------------------------------------------------------------------- the fault


def fault_in(kind: Any, values: list[Any]) -> str:
    """Names the field of a message that does not fit, such as ``HostReady: info.labels``."""
    return f"{kind.__name__}: {_fault_in_fields(kind, values)}"


@functools.cache
def _field_tests(kind: Any) -> list[tuple[str, Any, Callable[[Any], bool]]]:
    """The fields of a class, each with its type and its own test."""
    fields = []
    for field, hint in _hints(kind).items():
        scope: dict[str, Any] = {}
        fields.append((field, hint, _function("x", _tests(hint, "x", field, scope), scope)))
    return fields


def _fault_in_fields(kind: Any, values: list[Any]) -> str:
    fields = _field_tests(kind)
    if len(values) != len(fields):
        return f"{len(values)} fields instead of {len(fields)}"
    for (field, hint, fits), value in zip(fields, values, strict=True):
        if not fits(value):
            return field + _fault_within(_given(hint), value)
    return "it fits"


def _fault_within(hint: Any, value: Any) -> str:
    """The rest of the path to the fault within a field, such as ``[3].name``; empty if it is the field itself."""
    if is_record(hint) and type(value) is list:
        return f".{_fault_in_fields(hint, value)}"
    if get_origin(hint) is list and type(value) is list:
        (inner,) = get_args(hint)
        for index, each in enumerate(value):
            if is_record(inner) and not _fits_record(inner)(each):
                return f"[{index}]{_fault_within(inner, each)}"
    return ""
