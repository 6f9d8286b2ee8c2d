"""Walks the chain of an exception, and recognises errors of code that wrote to a read-only value.

Values from the store are read-only. Code that writes to one gets an error from NumPy, or from a library that tried to
write. The library may name another reason: pandas names the type of the new value, numba a missing overload. So the
whole chain of exceptions is searched. nanobind and pybind11 do not mention the value at all: they report that no
overload fits, so then the arguments are checked.
"""

from __future__ import annotations

import builtins
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

from zray.exceptions import READ_ONLY_HINT, REFERENCE_HINT, TaskError, has_type

_GROUP: Any = getattr(builtins, "BaseExceptionGroup", None)  # new in Python 3.11
# These bypass the properties and methods of the exception's own class, which may raise anything.
traceback_of: Any = vars(BaseException)["__traceback__"].__get__
_CAUSE: Any = vars(BaseException)["__cause__"].__get__
_CONTEXT: Any = vars(BaseException)["__context__"].__get__

_WORDS = r"read-?only|not writ(e?)able|writeable flag|is a view|must be read-write"
_OTHERS = r"file|attribute|property|database|transaction|directory"
"""Other things that errors call read-only."""
_NO_OVERLOAD = "incompatible function arguments"
_MAX_CHARS = 10_000


def family(exc: BaseException) -> Iterator[BaseException]:
    """Yields ``exc``, its causes and contexts, the members of groups, and theirs in turn; each exception once."""
    waiting: list[object] = [exc]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if not issubclass(type(each), BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each  # type: ignore[misc]  # an exception, by the line above
        waiting += [_CAUSE(each), _CONTEXT(each)]
        if has_type(each, TaskError):
            waiting.append(vars(each).get("cause"))
        if _GROUP is not None and has_type(each, _GROUP):
            waiting += vars(_GROUP)["exceptions"].__get__(each)


def hint_for(exc: BaseException) -> str:
    """Returns a hint if ``exc`` was caused by a write to a read-only value, or by the use of a reference as its value.

    Returns an empty text for other errors, and if the error has the hint already.
    """
    if has_type(exc, TaskError):
        return ""
    if _uses_reference(exc):
        return REFERENCE_HINT
    return READ_ONLY_HINT if any(map(_blames_read_only, family(exc))) else ""


def _uses_reference(exc: BaseException) -> bool:
    if not has_type(exc, TypeError, AttributeError):
        return False
    try:
        text = str(exc)[:_MAX_CHARS]
    except BaseException:  # of the exception's own code, which may raise anything
        return False
    return "'ObjectRef'" in text and "hint:" not in text


def _blames_read_only(exc: BaseException) -> bool:
    if has_type(exc, OSError, AttributeError):
        return False
    try:
        text = str(exc)[:_MAX_CHARS].lower()
    except BaseException:  # of the exception's own code, which may raise anything
        return False
    if _NO_OVERLOAD in text:
        return _read_only_array_in(traceback_of(exc))
    return re.search(_WORDS, text) is not None and re.search(_OTHERS, text) is None


def _read_only_array_in(trace: types.TracebackType | None) -> bool:
    """Whether the innermost frame has a read-only array in a variable."""
    numpy = sys.modules.get("numpy")
    if trace is None or numpy is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    arrays = [value for value in trace.tb_frame.f_locals.values() if type(value) is numpy.ndarray]
    return any(not array.flags.writeable for array in arrays)
