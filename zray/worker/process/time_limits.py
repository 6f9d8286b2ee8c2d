"""The outcome of tasks and calls that ran longer than they may. See ``zray/broker/time_limits.py``."""

from __future__ import annotations

import os

from zray.exceptions import TaskTimeoutError
from zray.serialization.causes import traceback_of

_LIBRARY = os.path.dirname(os.__file__) + os.sep
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep


def timeout_error(name: str, attempt: int, limit_s: float, interrupted: BaseException | None) -> TaskTimeoutError:
    """Returns the error of a call whose time was over. ``interrupted``: what it raised then; None if it returned."""
    what = f"`{name}` (attempt {attempt + 1}) ran longer than timeout_s={limit_s:g}"
    if interrupted is None:
        return TaskTimeoutError(f"{what}: its value came too late")
    place = _place_of(interrupted)
    return TaskTimeoutError(f"{what}: it was interrupted{f' at {place}' if place else ''}")


def _place_of(error: BaseException) -> str:
    """The innermost line in a traceback that is neither zray's nor the standard library's; empty if there is none."""
    place, trace = "", traceback_of(error)
    while trace is not None:
        code = trace.tb_frame.f_code
        path = code.co_filename
        if not path.startswith((_PACKAGE, "<frozen ")) and (not path.startswith(_LIBRARY) or "site-packages" in path):
            place = f"{path}:{trace.tb_lineno}, in {code.co_name}"
        trace = trace.tb_next
    return place
