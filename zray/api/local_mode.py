"""``init(local_mode=True)``: a task runs in this process, when it is submitted. For debugging.

Values pass through the serializer here too, so that a program that works in local mode works in a cluster.
"""

from __future__ import annotations

import concurrent.futures
import inspect
import itertools
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from zray.api.call_options import CallStream
from zray.api.runtime import PreparedTask
from zray.client.context import TaskContext, current_task
from zray.client.core.streams import FIRST_ITEM, item_id, position_of
from zray.client.futures import raisable_in_coroutines
from zray.client.streams import Reader
from zray.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorExit,
    ActorHandleNotFoundError,
    ObjectFreedError,
    TaskError,
)
from zray.failures import KILLED
from zray.ids import make_task_id, put_id, return_id, task_of
from zray.methods import method_of
from zray.object_ref import DynamicObjectRefGenerator, HeldRef, ObjectRef
from zray.options import ActorOptions
from zray.protocol.records import HostInfo, HostState
from zray.serialization import PickledCallable, deserialize, load_error, pack_task_error, serialize
from zray.system.signals import came_from_handler
from zray.user_warnings import warn_user

if TYPE_CHECKING:
    from zray.api.actor_meta import ActorMeta
    from zray.protocol.state_questions import HostRecord


LOCAL_JOB = b"\0\0\0\1"
"""The identifier of the only job."""


class _Actor:
    """A local actor. ``meta``: its packed ``ActorMeta``. ``death``: the error of its calls once it is dead."""

    def __init__(self, meta: bytes) -> None:
        self.meta = meta
        self.instance: Any = None
        self.death: Exception | None = None


def _raising(error: BaseException) -> Iterator[Any]:
    """A generator that raises before its first value."""
    yield from ()
    raise error


async def _all_of(values: AsyncIterator[Any]) -> list[Any]:
    return [value async for value in values]


class LocalRuntime:
    """A ``Runtime`` and ``Tracker`` without a cluster."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._process_id = os.urandom(16)
        self._counter = 0
        self._values: dict[bytes, tuple[bool, bytes]] = {}  # object -> (is an error, bytes)
        self._refs: dict[bytes, HeldRef] = {}
        self._kept: list[ObjectRef] = []
        self._ends: set[bytes] = set()  # what follows the last item of each stream
        self._actors: dict[bytes, _Actor] = {}
        self._names: dict[tuple[str, str], bytes] = {}
        self._warned = False

    # ------------------------------------------------------------------ Tracker

    def intern(self, object_id: bytes) -> ObjectRef:
        held = self._refs.get(object_id)
        ref: ObjectRef | None = held() if held is not None else None
        if ref is None:
            ref = ObjectRef._make(object_id, self)
            held = self._refs[object_id] = HeldRef(ref, self._dropped)
            held.object_id = object_id
        return ref

    def _dropped(self, held: HeldRef) -> None:
        if self._refs.get(held.object_id) is held:
            del self._refs[held.object_id]
            self._values.pop(held.object_id, None)

    def current_job(self) -> bytes:
        return LOCAL_JOB

    def pickled_by_user(self, object_id: bytes) -> None:
        self._kept.append(self.intern(object_id))

    def future_of(self, object_id: bytes) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(self._value(object_id))
        except BaseException as error:
            if came_from_handler(error):  # a signal handler interrupted the caller, which has no future yet
                raise
            future.set_exception(raisable_in_coroutines(error))
        return future

    # ------------------------------------------------------------------ objects

    def _new_id(self) -> bytes:
        self._counter += 1
        return make_task_id(self._process_id, self._counter)

    def _store(self, object_id: bytes, value: Any) -> ObjectRef:
        serialized = serialize(value)
        # References inside values are kept until the process ends: local mode need not save memory.
        self._kept.extend(self.intern(inner) for inner in serialized.refs)
        self._values[object_id] = (False, serialized.to_bytes())
        return self.intern(object_id)

    def put(self, value: Any) -> ObjectRef:
        return self._store(put_id(self._new_id()), value)

    def get(self, refs: Sequence[ObjectRef], timeout_s: float | None) -> list[Any]:
        return [self._value(ref.binary()) for ref in refs]

    def _value(self, object_id: bytes) -> Any:
        if object_id not in self._values:
            raise ObjectFreedError("the object was freed, or belongs to a cluster that this process has left")
        is_error, data = self._values[object_id]
        if not is_error:
            return deserialize(data, self.intern)
        error = load_error(data, self.intern)
        raise error.as_instanceof_cause() if isinstance(error, TaskError) else error

    def wait(
        self, refs: list[ObjectRef], num_returns: int, timeout_s: float | None, fetch_local: bool
    ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        return refs[:num_returns], refs[num_returns:]

    def cancel(self, ref: ObjectRef, mode: int) -> None:
        return  # it has run already

    # ------------------------------------------------------------------ tasks

    def _warn_of_environment(self, environment: Mapping[str, Any] | None) -> None:
        """Warns once that runtime environments have no effect here."""
        if environment and not self._warned:
            self._warned = True
            warn_user("runtime_env has no effect in local mode: everything runs in this process")

    def submit(
        self, pickled: Callable[[], PickledCallable], function: Callable[..., Any], task: PreparedTask,
        args: Sequence[Any], kwargs: dict[str, Any],
    ) -> list[ObjectRef]:  # fmt: skip
        self._warn_of_environment(task.environment)
        name = pickled().name
        retries = task.max_retries if task.options.retry_exceptions else 0
        retried = task.options.retry_exceptions
        generator = inspect.isgeneratorfunction(function)
        return self._run(name, function, task.n_returns, args, kwargs, retries, retried, generator, task.stream)

    def _run(
        self, name: str, function: Callable[..., Any], n_returns: int, args: Sequence[Any], kwargs: dict[str, Any],
        retries: int = 0, retried: Any = False, generator: bool = False, stream: CallStream | None = None,
    ) -> list[ObjectRef]:  # fmt: skip
        task_id = self._new_id()
        attempt = 0
        while True:
            token = current_task.set(TaskContext(task_id, name, attempt))
            try:
                value = function(*map(self._resolve, args), **{key: self._resolve(arg) for key, arg in kwargs.items()})
                if inspect.iscoroutine(value):
                    import asyncio  # large, and few programs need it, see zray.worker.process.served_actor

                    value = asyncio.run(value)
                if stream is not None:
                    return self._store_stream(task_id, name, value, stream)
                if isinstance(value, GeneratorType) and (n_returns > 1 or (n_returns and generator)):
                    return self._store_yielded(task_id, name, n_returns, value)
                values = [value] if n_returns == 1 else list(value) if n_returns else []
                if len(values) != n_returns:
                    raise ValueError(f"{name} has num_returns={n_returns} but returned {len(values)} values")
                return [self._store(return_id(task_id, index), item) for index, item in enumerate(values, start=1)]
            except (KeyboardInterrupt, SystemExit):  # meant for this process
                raise
            except BaseException as error:
                if came_from_handler(error):  # a signal handler of the driver, in which the task runs, raised it
                    raise
                if (retried is True or (retried and isinstance(error, tuple(retried)))) and attempt != retries:
                    attempt += 1
                    continue
                if stream is not None:
                    return self._store_stream(task_id, name, _raising(error), stream)
                return self._fail(task_id, name, n_returns, error)
            finally:
                current_task.reset(token)

    def _store_yielded(
        self, task_id: bytes, name: str, n_returns: int, values: GeneratorType[Any, Any, Any]
    ) -> list[ObjectRef]:
        """Stores the first values that a generator yields. If it raises, the remaining objects are its error."""
        refs: list[ObjectRef] = []
        try:
            for value in itertools.islice(values, n_returns):
                refs.append(self._store(return_id(task_id, len(refs) + 1), value))
            if len(refs) < n_returns:
                raise ValueError(f"{name} has num_returns={n_returns} but yielded {len(refs)} value(s)")
        except Exception as error:
            if came_from_handler(error):
                raise
            refs += self._fail(task_id, name, n_returns, error, len(refs) + 1)
        return refs

    def _store_stream(self, task_id: bytes, name: str, values: Any, stream: CallStream) -> list[ObjectRef]:
        """Runs a generator to its end. Returns the references that ``ClusterRuntime.submit`` returns for a stream."""
        items: list[ObjectRef] = []
        try:
            if inspect.isasyncgen(values):
                import asyncio  # as above

                values = asyncio.run(_all_of(values))
            for value in values:
                for each in (value,) if stream.per_yield == 1 else value:
                    items.append(self._store(item_id(task_id, len(items)), each))
        except Exception as error:
            if came_from_handler(error):
                raise
            items += self._fail(task_id, name, FIRST_ITEM + len(items), error, FIRST_ITEM + len(items))
        if stream.spec.collected:
            return [self._store(return_id(task_id, 1), DynamicObjectRefGenerator(items))]
        self._kept.extend(items)
        end = item_id(task_id, len(items))
        self._ends.add(end)
        completed, handle = self._store(return_id(task_id, 1), None), self.intern(put_id(task_id))
        return [completed, handle, items[0] if items else self.intern(end)]

    def when_ready(self, object_id: bytes) -> concurrent.futures.Future[None]:
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        future.set_result(None)
        return future

    def is_end(self, ref: ObjectRef) -> bool:
        return ref.binary() in self._ends

    def advance(self, reader: Reader) -> ObjectRef | None:
        ref = reader.next_ref
        if self.is_end(ref):
            raise StopIteration
        reader.next_ref = self.intern(item_id(task_of(ref.binary()), position_of(ref.binary()) + 1))
        return ref

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, ObjectRef):
            return self._value(value.binary())
        return deserialize(serialize(value).to_bytes(), self.intern)

    def _fail(self, task_id: bytes, name: str, n_returns: int, error: BaseException, first: int = 1) -> list[ObjectRef]:
        data = pack_task_error(name, error, pid=os.getpid(), host=socket.gethostname()).to_bytes()
        refs = []
        for index in range(first, n_returns + 1):
            object_id = return_id(task_id, index)
            self._values[object_id] = (True, data)
            refs.append(self.intern(object_id))
        return refs

    # ------------------------------------------------------------------ actors

    def create_actor(
        self, meta: ActorMeta, pickled: Callable[[], PickledCallable], options: ActorOptions, args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> tuple[bytes, ObjectRef | None, ActorMeta]:  # fmt: skip
        self._warn_of_environment(options.runtime_env)
        key = (options.namespace or self.namespace, options.name or "")
        if options.name and key in self._names:
            if not options.get_if_exists:
                raise ActorAlreadyExistsError(
                    f"The name {options.name!r} is already taken: an actor of namespace {key[0]!r} has it"
                )
            actor_id = self._names[key]
            return actor_id, None, type(meta).unpack(self._actors[actor_id].meta)
        actor_id = self._new_id()
        actor = self._actors[actor_id] = _Actor(meta.packed())
        if options.name:
            self._names[key] = actor_id
        kind: Any = getattr(pickled, "_function")  # noqa: B009  (the class itself: local mode need not ship it)

        def construct(*args: Any, **kwargs: Any) -> None:
            actor.instance = kind(*args, **kwargs)

        made = self._run(f"{meta.class_name}.__init__", construct, 1, args, kwargs)
        is_error, data = self._values[made[0].binary()]
        if is_error:
            error = load_error(data, self.intern)
            if isinstance(error, TaskError):
                actor.death = error.as_instanceof_cause()
            else:
                actor.death = ActorDiedError(str(error), actor_id)
        return actor_id, None, meta

    def call(
        self, actor_id: bytes, handle: ObjectRef | None, meta: ActorMeta, method: str, packed: bytes, n_returns: int,
        retries: int, args: Sequence[Any], kwargs: dict[str, Any], stream: CallStream | None,
    ) -> list[ObjectRef]:  # fmt: skip
        actor = self._actors[actor_id]
        name = f"{meta.class_name}.{method}"

        def call(*args: Any, **kwargs: Any) -> Any:
            if actor.death is not None:
                raise actor.death
            try:
                return method_of(actor.instance, method)(*args, **kwargs)
            except ActorExit as error:
                actor.death = ActorDiedError(str(error), actor_id)
                raise actor.death from None

        generator = meta.methods[method].is_generator
        return self._run(name, call, n_returns, args, kwargs, generator=generator, stream=stream)

    def find_actor(self, name: str, namespace: str) -> tuple[bytes, bytes] | None:
        actor_id = self._names.get((namespace or self.namespace, name))
        return None if actor_id is None else (actor_id, self._actors[actor_id].meta)

    def named_actors(self, namespace: str | None) -> list[tuple[str, str]]:
        return [
            key
            for key, actor_id in self._names.items()
            if namespace in (None, key[0]) and self._actors[actor_id].death is None
        ]

    def kill_actor(self, actor_id: bytes, no_restart: bool) -> None:
        if actor_id not in self._actors:
            raise ActorHandleNotFoundError("the handle belongs to a cluster that this process has left")
        self._actors[actor_id].death = ActorDiedError(KILLED, actor_id)
        self._names = {key: value for key, value in self._names.items() if value != actor_id}

    # ------------------------------------------------------------------ questions

    def hosts(self) -> list[HostState]:
        info = HostInfo(hostname=socket.gethostname(), ip="127.0.0.1")
        return [HostState(self._process_id, info, self.resources(free=False), self.resources(free=True), workers=0)]

    def ended_hosts(self) -> list[HostRecord]:
        return []

    def resources(self, free: bool) -> dict[str, float]:
        return {"CPU": float(os.cpu_count() or 1)}
