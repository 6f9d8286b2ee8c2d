"""Runs tasks and calls: loads arguments, calls the user's code, packs return values. Uses no sockets and no threads."""

from __future__ import annotations

import functools
import os
import socket
import time
import traceback
from collections.abc import Iterable
from types import GeneratorType
from typing import Any

from zray.client.context import TaskContext
from zray.client.core.assignments import CALL, CONSTRUCTOR, Assignment
from zray.client.core.payloads import Return
from zray.client.core.states import ERROR, INLINE, PENDING, STORED
from zray.client.exports import STORED_FUNCTION
from zray.client.session import Session
from zray.exceptions import DeserializationError, ModuleMissingError, ObjectLostError, ObjectStoreFullError, has_type
from zray.failures import alias_of
from zray.ids import TASK_ID_BYTES, return_id
from zray.named_tuples import NamedTuple
from zray.object_ref import ObjectRef
from zray.protocol.codec import unpack
from zray.protocol.messages import FunctionBlob, ProtocolError
from zray.serialization import Serialized, deserialize, load_callable, pack_task_error, serialize, without_exception
from zray.system.streams import say
from zray.worker.process.environment import Environment
from zray.worker.recorder import Recorder

HOSTNAME = socket.gethostname()


class CallOptions:
    """The options that all calls of a function or method share.

    ``name``: the name that the caller has chosen, else the function's, ``Class.method`` or ``Class.__init__``.
    """

    __slots__ = ("captures", "dynamic", "generator", "group", "max_calls", "method", "most_untaken", "n_returns",
                 "name", "per_yield", "retry_exceptions", "timeout_s")  # fmt: skip

    def __init__(self, packed: bytes, actor_class: str) -> None:
        options = unpack(packed)
        if type(options) is not dict:
            raise ProtocolError("malformed options")
        self.name: str = options.get("name", "")
        self.n_returns: int = options.get("num_returns", 1)
        self.method: str = options.get("method", "")
        self.max_calls: int = options.get("max_calls", 0)
        self.generator: bool = options.get("generator", False)  # its only value is the first that it yields
        self.per_yield: int = options.get("per_yield", 1)  # the number of items that a generator yields at a time
        self.most_untaken: int = options.get("most_untaken", 0)  # the items of all streams of the actor; 0: any number
        self.dynamic: bool = options.get("dynamic", False)  # the completion of its stream refers to all items
        self.group: str = options.get("group", "")
        self.retry_exceptions: bool | bytes = options.get("retry_exceptions", False)
        self.captures: bool = options.get("captures", False)  # what it creates runs in its placement group
        limit = options.get("timeout", [0.0, False])  # its second element is for the owner, see ``retries_timeouts``
        self.timeout_s: float = limit[0] if type(limit) is list and limit else -1.0  # how long it may run; 0: unlimited
        if not (
            [type(self.name), type(self.n_returns), type(self.method), type(self.max_calls)] == [str, int, str, int]
            and [type(self.generator), type(self.dynamic), type(self.captures)] == [bool, bool, bool]
            and type(self.group) is str
            and [type(self.per_yield), type(self.most_untaken)] == [int, int]
            and self.per_yield > 0
            and type(self.timeout_s) is float
            and self.timeout_s >= 0
            and type(self.retry_exceptions) in (bool, bytes)
            and self.n_returns >= 0
        ):
            raise ProtocolError("malformed options")
        if actor_class and self.name == (self.method or "__init__"):
            self.name = f"{actor_class}.{self.name}"


@functools.lru_cache(maxsize=4096)
def read_options(packed: bytes, actor_class: str) -> CallOptions:
    """Parses a call's options once. ``actor_class``: empty for plain tasks.

    Raises ProtocolError if they are malformed.
    """
    return CallOptions(packed, actor_class)


class Packed(NamedTuple):
    """What a call answers. ``error``: the error among its return values, if a generator has raised."""

    returns: list[Return]
    error: BaseException | None


class Runner:
    """Loads functions and arguments, and packs return values, for one worker."""

    def __init__(self, session: Session, recorder: Recorder) -> None:
        self._session = session
        self._recorder = recorder
        self._loaded: dict[bytes, Any] = {}
        self._calls: dict[bytes, int] = {}
        self._retried: dict[bytes, tuple[type[BaseException], ...]] = {}

    # ------------------------------------------------------------------ functions

    def function(self, function_id: bytes) -> Any:
        """Returns the function or class. Raises what loading it raised, each time."""
        loaded = self._loaded.get(function_id)
        if loaded is None:
            loaded = self._loaded[function_id] = self._load(self._session.core.execution.functions[function_id])
        return loaded

    def forget_functions(self) -> None:
        """Releases the functions that have been loaded, and what only they reference."""
        self._loaded.clear()

    def _load(self, message: FunctionBlob) -> Any:
        if not message.found:
            raise ModuleMissingError(f"function {message.function_id.hex()} is not known to the cluster")
        blob = message.blob
        if blob.startswith(STORED_FUNCTION):
            ref = self._session.intern(blob[len(STORED_FUNCTION) :])
            blob = self._session.objects.get([ref], None)[0]
        return load_callable(blob, self._session.intern)

    def reached_max_calls(self, task: Assignment, options: CallOptions) -> bool:
        """Counts a call. Returns whether the function has run ``max_calls`` times in this process."""
        if not options.max_calls:
            return False
        calls = self._calls[task.function_id] = self._calls.get(task.function_id, 0) + 1
        return calls >= options.max_calls

    # ------------------------------------------------------------------ arguments

    def arguments(self, task: Assignment) -> tuple[list[Any], dict[str, Any]]:
        """Unpickles the arguments and fetches the values of top-level references.

        Raises DeserializationError, and the error that a reference holds as its value.
        """
        payload = task.payload
        session = self._session
        if payload.status == INLINE and not payload.data:
            args: list[Any] = []
            kwargs: dict[str, Any] = {}
        else:
            data: bytes | memoryview = payload.data
            if payload.status == STORED:
                data = session.object_bytes.read(payload.host, payload.object_id, payload.size)
            args, kwargs = deserialize(data, lambda object_id: session.refs.load_covered(object_id, task.covered))
        asked: list[tuple[int | str, ObjectRef]] = []
        for key, object_id, status, value, host, size in payload.refs:
            if status == PENDING:
                asked.append((key, session.refs.load_covered(object_id, task.covered)))
                continue
            if status == STORED:
                try:
                    value = session.object_bytes.read(host, object_id, size)
                except ObjectLostError as error:
                    asked.append((key, session.refs.load_covered(object_id, task.covered)))
                    session.object_bytes.look_again(object_id, host, error)
                    continue
            try:
                loaded = deserialize(value, lambda inner: session.refs.load_covered(inner, task.covered))
            except DeserializationError as error:
                raise DeserializationError(error.reason, str(key)) from error.__cause__
            _put(args, kwargs, key, loaded)
        if asked:  # they did not fit into the payload
            for (key, _), loaded in zip(asked, session.objects.get([ref for _, ref in asked], None), strict=True):
                _put(args, kwargs, key, loaded)
        return args, kwargs

    def arguments_are_here(self, task: Assignment) -> bool:
        """Whether ``arguments`` returns without waiting: no value is only at its owner, or in another host's store."""
        payload = task.payload
        home = self._session.stores.home
        if payload.status == STORED and payload.host != home:
            return False
        return not payload.refs or all(
            status != PENDING and (status != STORED or host == home) for _, _, status, _, host, _ in payload.refs
        )

    # ------------------------------------------------------------------ outcomes

    def pack_results(self, task: Assignment, options: CallOptions, value: Any) -> Packed:
        """Returns the return values of a call that returned ``value``, which may be the result of ``take_yielded``."""
        n_returns = options.n_returns
        if type(value) is Packed:
            return value
        if n_returns == 1:
            return Packed([self._pack(task, 1, value, options, self._session.max_inline_bytes)], None)
        if n_returns == 0:
            return Packed([], None)
        values = list(value) if isinstance(value, Iterable) else None
        if values is None:
            raise TypeError(f"{options.name} has num_returns={n_returns} but returned a {type(value).__name__}")
        if len(values) != n_returns:
            raise ValueError(f"{options.name} has num_returns={n_returns} but returned {len(values)} values")
        returns: list[Return] = []
        room = self._session.max_inline_bytes
        for index, item in enumerate(values, start=1):
            returns.append(self._pack(task, index, item, options, room))
            room -= len(returns[-1].data)
        return Packed(returns, None)

    def take_yielded(self, task: Assignment, options: CallOptions, values: GeneratorType[Any, Any, Any]) -> Any:
        """Returns the return values of a generator, or the generator itself if it is not their source.

        It runs the user's code, so call it where that code runs. Each value is packed as it comes, so only one has to
        be in memory. Values that were yielded before an error stay. Afterwards the generator is at its end: it is asked
        once more than there are values, and closed if it yields another.
        """
        n_returns = options.n_returns
        if n_returns == 0 or (n_returns == 1 and not options.generator):
            return values
        returns: list[Return] = []
        room = self._session.max_inline_bytes
        try:
            for value in values:
                if len(returns) == n_returns or os.getpid() != self._session.pid:  # the caller ends a forked child
                    values.close()
                    break
                returns.append(self._pack(task, len(returns) + 1, value, options, room))
                room -= len(returns[-1].data)
                del value
            else:
                if len(returns) < n_returns:
                    raise ValueError(f"{options.name} has num_returns={n_returns} but yielded {len(returns)} value(s)")
        except Exception as error:
            if len(returns) == n_returns:
                say(f"zray: {options.name} raised after its last value:\n{traceback.format_exc().rstrip()}")
                return Packed(returns, None)
            rest = self._pack_error(task, options.name, range(len(returns) + 1, n_returns + 1), error, max(0, room))
            return Packed([*returns, *rest], error)
        return Packed(returns, None)

    def pack_item(self, task: Assignment, options: CallOptions, object_id: bytes, value: Any) -> Return:
        """Packs an item of a stream, or another object of the call that is in a message of its own."""
        return NONE if value is None else self._pack_as(task, object_id, value, options, self._session.max_inline_bytes)

    def _pack(self, task: Assignment, index: int, value: Any, options: CallOptions, room: int) -> Return:
        """Packs one return value. ``room``: the bytes that the answer has left."""
        return NONE if value is None else self._pack_as(task, return_id(task.task_id, index), value, options, room)

    def _pack_as(self, task: Assignment, object_id: bytes, value: Any, options: CallOptions, room: int) -> Return:
        serialized = serialize(value, f"the return value of {options.name}")
        task.keep.append(serialized.held)
        size = serialized.total_bytes
        session = self._session
        if size <= min(session.config.inline_max_bytes, room) or not (host := session.stores.find_home()):
            return Return(INLINE, serialized.to_bytes(), size, serialized.refs)
        self._store(task, host, object_id, serialized)
        return Return(STORED, b"", size, serialized.refs)

    def _store(self, task: Assignment, host: bytes, object_id: bytes, serialized: Serialized) -> None:
        task.stored.append(object_id)  # first, so that discard() frees it if an interrupt prevents the answer
        self._recorder.stores(object_id)  # so that the owner is told if a death prevents the answer
        self._session.object_bytes.write(host, object_id, serialized)

    def discard(self, task: Assignment) -> None:
        """Frees the return values that a call has stored and that its answer will not contain.

        Call it before the answer: another attempt may store values under the same identifiers.
        """
        if task.stored:
            self._session.stores.free(self._session.stores.home, task.stored)
            task.stored = []

    def pack_error_item(self, task: Assignment, name: str, object_id: bytes, error: BaseException) -> list[Return]:
        """Returns an error as one item of a stream."""
        index = int.from_bytes(object_id[TASK_ID_BYTES:], "big")
        return self._pack_error(task, name, range(index, index + 1), error, self._session.max_inline_bytes)

    def pack_error(self, task: Assignment, name: str, n_returns: int, error: BaseException) -> list[Return]:
        """Returns the outcome of a call that raised. Also for an error while its return values were packed."""
        self.discard(task)
        return self._pack_error(task, name, range(1, n_returns + 1), error, self._session.max_inline_bytes)

    def _pack_error(self, task: Assignment, name: str, indices: range, error: BaseException, room: int) -> list[Return]:
        """Packs an error as several return values of a call. ``room``: the bytes that the answer has left.

        A large error goes into the store, once.
        """
        packed = pack_task_error(name, error, pid=os.getpid(), host=HOSTNAME)
        task.keep.append(packed.held)
        size = packed.total_bytes
        if size > min(self._session.config.inline_max_bytes, room // max(1, len(indices))):
            if task.kind != CONSTRUCTOR and indices:
                try:
                    return self._store_error(task, indices, packed)
                except ObjectStoreFullError as full:
                    packed = without_exception(packed, f"{size:,} bytes: {full}")
            else:
                packed = without_exception(packed, f"it has {size:,} bytes")
        data = packed.to_bytes()
        return [Return(ERROR, data, len(data), packed.refs if index == indices[0] else ()) for index in indices]

    def _store_error(self, task: Assignment, indices: range, packed: Serialized) -> list[Return]:
        first = return_id(task.task_id, indices[0])
        self._store(task, self._session.stores.find_home(), first, packed)
        aliases = [Return(ERROR, alias_of(first), 0, (first,)) for _ in indices[1:]]
        return [Return(ERROR, b"", packed.total_bytes, packed.refs), *aliases]

    def retryable(self, options: CallOptions, error: BaseException) -> bool:
        """Whether the submitter asked for another attempt after such an exception."""
        wanted = options.retry_exceptions
        if isinstance(wanted, bool):
            return wanted and has_type(error, Exception)
        kinds = self._retried.get(wanted)
        if kinds is None:
            kinds = self._retried[wanted] = tuple(deserialize(wanted, self._session.intern))
        return has_type(error, *kinds)


NONE = Return(INLINE, serialize(None).to_bytes(), 0, ())
"""What a call that returns None answers."""


def _put(args: list[Any], kwargs: dict[str, Any], key: int | str, value: Any) -> None:
    """Puts an argument into its place."""
    if isinstance(key, str):
        kwargs[key] = value
    else:
        args[key] = value


def context_of(task: Assignment, options: CallOptions, environment: Environment) -> TaskContext:
    """Returns the context that the running code can read."""
    resources, accelerators = environment.resources_of(task), environment.devices_of(task)
    captures = options.captures or (task.kind == CALL and environment.actor_captures)
    return TaskContext(task.task_id, options.name, task.attempt, resources, accelerators, captures)


def now_us() -> int:
    """Returns a monotonic time in microseconds."""
    return time.perf_counter_ns() // 1000
