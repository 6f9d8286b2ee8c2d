"""The actor in each process of a group. It runs jobs: one function, called for each item of a job."""

from __future__ import annotations

import os
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zray.serialization import load_callable

MAX_KNOWN = 64
"""The number of functions that a process keeps loaded."""

CALL_EACH, UNPACK_EACH, CALL_ONCE = 0, 1, 2
"""What the items of a job are: the only argument; positional arguments; positional and named arguments."""


class PoolWorker:
    """Runs the jobs of a group, one after the other.

    Args:
        initializer: called once, with ``initargs``, before the first job.
        environment: environment variables, set before that.
    """

    def __init__(
        self,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self._known: dict[bytes, Callable[..., Any]] = {}
        self._initializer = initializer
        os.environ.update(environment or {})
        if environment:
            _limit_loaded_threads(environment)
        if initializer is not None:
            initializer(*initargs)

    def run(self, function: Any, items: Sequence[Any], form: int) -> tuple[list[Any], dict[int, BaseException]]:
        """Calls ``function`` for each item. Returns the results, and the exceptions by the positions of their items.

        Args:
            function: a callable, or the bytes of one that is kept loaded.
            form: CALL_EACH, UNPACK_EACH or CALL_ONCE.
        """
        function = self._load(function) if type(function) is bytes else self._with_state(function)
        results: list[Any] = []
        errors: dict[int, BaseException] = {}
        for item in items:
            try:
                if form == CALL_EACH:
                    results.append(function(item))
                elif form == UNPACK_EACH:
                    results.append(function(*item))
                else:
                    results.append(function(*item[0], **item[1]))
            except (Exception, SystemExit) as error:
                errors[len(results)] = _portable(error)
                results.append(None)
        return results, errors

    def _load(self, blob: bytes) -> Callable[..., Any]:
        function = self._known.get(blob)
        if function is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            function = self._known[blob] = self._with_state(load_callable(blob, _no_reference))
        return function

    def _with_state(self, function: Any) -> Any:
        """Lets a function of a script see the global variables that the initializer of the same script has.

        Both come by value, each with its own copy of the global variables that it uses. In one process of the standard
        pool they would have the same ones: a common initializer assigns a global variable that the function reads.
        """
        ours, theirs = self._initializer, _innermost(function)
        if not isinstance(ours, types.FunctionType) or not isinstance(theirs, types.FunctionType):
            return function
        comes_by_value = theirs.__globals__ is not vars(sys.modules.get(theirs.__module__, types))
        if comes_by_value and ours.__module__ == theirs.__module__ and ours.__globals__ is not theirs.__globals__:
            state = ours.__globals__.items()
            theirs.__globals__.update({name: value for name, value in state if not name.startswith("__")})
        return function


def _innermost(function: Any) -> Any:
    """The function within partial functions and bound methods."""
    while True:
        inner = getattr(function, "func", None) or getattr(function, "__func__", None)
        if inner is None:
            return function
        function = inner


def _no_reference(object_id: bytes) -> Any:
    raise AssertionError("functions with references are not sent as bytes")


def _portable(error: BaseException) -> BaseException:
    """Returns ``error`` so that it arrives with its traceback as text, as the standard pool sends it.

    If it cannot be pickled and loaded, a ``MaybeEncodingError`` with its text takes its place.
    """
    import pickle
    from multiprocessing.pool import ExceptionWithTraceback, MaybeEncodingError  # type: ignore[attr-defined]

    import cloudpickle

    trace = error.__traceback__
    shown = trace.tb_next if trace is not None and trace.tb_next is not None else trace  # without the frame of run()
    wrapped: BaseException = ExceptionWithTraceback(error, shown)
    traceback.clear_frames(shown)  # they hold the items and results
    try:
        pickle.loads(cloudpickle.dumps(wrapped))
    except Exception as reason:
        text = "".join(traceback.format_exception_only(type(error), error)).strip()
        return MaybeEncodingError(repr(reason), text)  # type: ignore[no-any-return]
    return wrapped


def _limit_loaded_threads(environment: dict[str, str]) -> None:
    """Limits the threads of numerical libraries that are loaded already: they read the environment only once."""
    limit = environment.get("OMP_NUM_THREADS", "")
    if limit.isdigit() and "numpy" in sys.modules:
        try:
            import threadpoolctl
        except ImportError:
            return  # scikit-learn brings it; without it the libraries keep the number of their first use
        threadpoolctl.threadpool_limits(int(limit))
