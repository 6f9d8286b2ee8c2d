"""A job of a group, and the function in it as it is sent."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

from zray.api.objects import put
from zray.serialization import PickledCallable, pickle_callable
from zray.util.process_group.worker import CALL_EACH

MAX_BLOB_BYTES = 65536
"""A larger function is put into the object store once, instead of being sent with each job."""
MAX_REMEMBERED = 32
"""The number of functions whose pickles a group keeps."""

_PLAIN = (types.FunctionType, types.BuiltinFunctionType, type)


class Job:
    """One call of ``PoolWorker.run``. Subclasses decide what happens with the outcome.

    ``function``: what ``FunctionShelf`` made of it. ``form``: see ``worker``. The group's thread calls ``succeeded`` or
    ``failed``, once, and without its lock. They must not wait for anything.
    """

    __slots__ = ("form", "function", "is_driven", "items", "process", "ref")

    def __init__(self, function: Any, items: Sequence[Any], form: int = CALL_EACH) -> None:
        self.function = function
        self.items = items
        self.form = form
        self.ref: Any = None
        """The call's reference while it is under way."""
        self.process = 0
        """The number of the process that it was sent to last."""
        self.is_driven = False
        """Whether the thread that has sent it receives its outcome (``ProcessGroup.drive``)."""

    def begin(self) -> bool:
        """Called before the job is sent. False: it was cancelled, and is not sent."""
        return True

    def succeeded(self, results: list[Any], errors: dict[int, BaseException]) -> None:
        """The items have been processed; ``errors`` has the exceptions by position."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> None:
        """The job as a whole has failed: its process died, its values cannot be pickled, ..."""
        raise NotImplementedError


class FunctionShelf:
    """Pickles each function once for all jobs of a group, or again if a name that it uses has changed."""

    def __init__(self) -> None:
        self._pickled: dict[int, tuple[Callable[..., Any], PickledCallable]] = {}

    def once(self, function: Any) -> Any:
        """Returns ``function`` as an argument of one job."""
        blob = self._blob(function)
        return function if blob is None else blob

    def shared(self, function: Any) -> Any:
        """Returns ``function`` as an argument of several jobs: the bytes of its pickle, or a reference.

        Raises SerializationError.
        """
        blob = self._blob(function)
        return put(function) if blob is None else blob

    def _blob(self, function: Any) -> bytes | None:
        """The pickle of a plain function. None for other callables, which may have a state of their own, so each job
        gets a copy; for functions with references in them, which zray has to count; and for large ones."""
        if not isinstance(function, _PLAIN):
            return None
        _, pickled = self._pickled.get(id(function), (None, None))
        if pickled is None or (pickled.captures is not None and pickled.captures.changed()):
            pickled = pickle_callable(function)
            if len(self._pickled) >= MAX_REMEMBERED:
                self._pickled.clear()
            self._pickled[id(function)] = (function, pickled)  # keeps it, so no other object gets its id
        return None if pickled.refs or len(pickled.blob) > MAX_BLOB_BYTES else pickled.blob
