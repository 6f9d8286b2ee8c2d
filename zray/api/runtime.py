"""The runtime that carries out calls of the public functions: a cluster, or this process itself in local mode.

``Runtime`` is the interface that the decorators and functions of the API use. ``ClusterRuntime`` implements it over a
session with a cluster.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from zray.api import auto_init
from zray.api.call_options import CallStream, pack_options, retried_types, retries_timeouts, stream_of
from zray.client import session as sessions
from zray.client.arguments import ArgumentPacker
from zray.client.context import TaskContext, current_task
from zray.client.session import Session, of_another_cluster
from zray.client.streams import Reader, StreamReader
from zray.client.submission import Submission
from zray.exceptions import (
    ActorAlreadyExistsError,
    ActorHandleNotFoundError,
    PendingCallsLimitExceeded,
    SerializationError,
    ZrayError,
)
from zray.ids import owner_of
from zray.object_ref import ObjectRef
from zray.options import ActorOptions, TaskOptions
from zray.protocol.codec import shape_key
from zray.protocol.messages import ActorFound, ActorKill, ActorLookup, NameTaken
from zray.protocol.questions import (
    HostList,
    HostsQuery,
    MemberQuery,
    Membership,
    NamedActors,
    NamedActorsQuery,
    Resources,
    ResourcesQuery,
)
from zray.protocol.records import ActorSpec, HostState
from zray.protocol.state_questions import HostRecord, HostRecords, StateOfHosts
from zray.serialization import PickledCallable, serialize

if TYPE_CHECKING:
    import concurrent.futures

    from zray.api.actor_meta import ActorMeta
    from zray.api.environments import Environments
    from zray.runtime_env import RuntimeEnv


class PreparedTask:
    """A remote function's options, encoded once for all calls.

    ``shape`` is empty if they name a placement group. What a call asks for then depends on the caller, too.
    """

    __slots__ = ("_generator", "_name", "environment", "max_retries", "n_returns", "options", "packed", "placed",
                 "shape", "spread", "stream")  # fmt: skip

    def __init__(self, name: str, options: TaskOptions, generator: bool = False) -> None:
        self.options = options
        self.stream = stream_of(
            options.num_returns, generator, options._generator_backpressure_num_objects,
            options._num_objects_per_yield, name,
        )  # fmt: skip
        self.n_returns = options.num_returns if isinstance(options.num_returns, int) else 1
        self.max_retries = options.max_retries
        self.spread = options.scheduling_strategy == "SPREAD"
        self.shape = b"" if options.names_group() else self.shape_in(b"")
        self.environment = checked_environment(options.runtime_env)
        self.placed: tuple[object, bytes] = (None, b"")  # a runtime, and the shape in the environment that it gives
        self._name = name
        self._generator = generator
        self.packed = self._pack(False)

    def shape_in(self, environment_id: bytes) -> bytes:
        """The shape of a call in a runtime environment, outside placement groups."""
        options = self.options
        return shape_key(options.resource_amounts(), options.constraint_row(), environment_id, options.priority)

    def _pack(self, captures: bool) -> bytes:
        options = self.options
        return pack_options(
            options.name or self._name, self.n_returns, "", retried_types(options.retry_exceptions), options.max_calls,
            self._generator, self.stream, captures=captures, timeout_s=options.timeout_s,
            retries_timeouts=retries_timeouts(options.retry_exceptions),
        )  # fmt: skip

    def in_group(self, session: Session, environment_id: bytes) -> tuple[bytes, bytes]:
        """The shape and the packed options of a call that may run in a placement group.

        Raises ValueError if the group has no such bundle, or the bundle is too small.
        """
        from zray.api.group_placement import placed_task  # not at the top: few programs have groups

        shape, captures = placed_task(session, self.options, environment_id, self._name)
        return shape, self._pack(True) if captures else self.packed


def checked_environment(given: Mapping[str, Any] | None) -> RuntimeEnv | None:
    """Checks the option ``runtime_env``. Returns None if it asks for nothing."""
    if not given:
        return None
    from zray.api.environments import checked  # few programs need it

    return checked(given)


def blame_argument(signature: inspect.Signature | None, args: Sequence[Any], kwargs: dict[str, Any], what: str) -> None:
    """Raises SerializationError that names the first argument of a call that cannot be pickled."""
    names = list(signature.parameters) if signature is not None else []
    for position, value in enumerate(args):
        name = repr(names[position]) if position < len(names) else str(position)
        if not isinstance(value, ObjectRef):
            serialize(value, f"argument {name} of {what}")
    for name, value in kwargs.items():
        if not isinstance(value, ObjectRef):
            serialize(value, f"argument {name!r} of {what}")


class Runtime(Protocol):
    """The interface that the API needs. Both implementations raise the same errors."""

    @property
    def namespace(self) -> str: ...

    def submit(
        self, pickled: Callable[[], PickledCallable], function: Callable[..., Any], task: PreparedTask,
        args: Sequence[Any], kwargs: dict[str, Any],
    ) -> list[ObjectRef]: ...  # fmt: skip

    def create_actor(
        self, meta: ActorMeta, pickled: Callable[[], PickledCallable], options: ActorOptions, args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> tuple[bytes, ObjectRef | None, ActorMeta]: ...  # fmt: skip

    def call(
        self, actor_id: bytes, handle: ObjectRef | None, meta: ActorMeta, method: str, packed: bytes, n_returns: int,
        retries: int, args: Sequence[Any], kwargs: dict[str, Any], stream: CallStream | None,
    ) -> list[ObjectRef]: ...  # fmt: skip

    def find_actor(self, name: str, namespace: str) -> tuple[bytes, bytes] | None:
        """Returns the identifier of the actor with ``name``, and its packed ``ActorMeta``; None if there is none."""

    def kill_actor(self, actor_id: bytes, no_restart: bool) -> None:
        """Kills an actor. Raises ActorHandleNotFoundError if its creator never joined the cluster."""

    def named_actors(self, namespace: str | None) -> list[tuple[str, str]]:
        """Returns the namespace and name of each living actor that has a name; None: in all namespaces."""

    def put(self, value: Any) -> ObjectRef: ...

    def get(self, refs: Sequence[ObjectRef], timeout_s: float | None) -> list[Any]: ...

    def wait(
        self, refs: list[ObjectRef], num_returns: int, timeout_s: float | None, fetch_local: bool
    ) -> tuple[list[ObjectRef], list[ObjectRef]]: ...

    def cancel(self, ref: ObjectRef, mode: int) -> None: ...

    def when_ready(self, object_id: bytes) -> concurrent.futures.Future[None]: ...

    def is_end(self, ref: ObjectRef) -> bool: ...

    def advance(self, reader: Reader) -> ObjectRef | None: ...

    def hosts(self) -> list[HostState]: ...

    def ended_hosts(self) -> list[HostRecord]: ...

    def resources(self, free: bool) -> dict[str, float]:
        """Returns the resources of all hosts together; if ``free``, only the amounts that are not in use."""


class ClusterRuntime:
    """The API over a session with a cluster."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._environments: Environments | None = None
        self._inherits = bool(session.environment.text)
        self.put = session.objects.put
        self.get = session.objects.get
        self.wait = session.objects.wait
        self.when_ready = session.when_ready
        limit = session.config.inline_max_bytes
        self._arguments = ArgumentPacker(session.core, session.objects, session.advice, limit, of_another_cluster)
        self._submission = Submission(session.shell, session.refs, session.questions, session.check_usable)
        self.cancel = self._submission.cancel
        streams = StreamReader(session.shell, session.refs)
        self.is_end, self.advance = streams.is_end, streams.advance

    @property
    def namespace(self) -> str:
        return self.session.namespace

    def submit(
        self, pickled: Callable[[], PickledCallable], function: Callable[..., Any], task: PreparedTask,
        args: Sequence[Any], kwargs: dict[str, Any],
    ) -> list[ObjectRef]:  # fmt: skip
        session = self.session
        shape, packed = task.shape, task.packed
        if not shape or session.captures:
            shape, packed = task.in_group(session, self._environment_of(task))
        elif self._inherits or task.environment is not None:
            shape = self._shape_in_environment(task)
        shipped = pickled()
        function_id = shipped.id16
        if function_id not in session.core.exported:
            function_id = session.export(shipped)
        try:
            arguments, _keep = self._arguments.pack(args, kwargs)
        except SerializationError:
            blame_argument(inspect.signature(function), args, kwargs, shipped.name)
            raise
        return self._submission.submit(
            function_id, shape, packed, arguments, task.n_returns, task.max_retries, task.spread,
            None if task.stream is None else task.stream.spec,
        )  # fmt: skip

    @property
    def environments(self) -> Environments:
        """The runtime environments of this process."""
        if self._environments is None:
            from zray.api.environments import Environments  # few programs need it

            self._environments = Environments(self.session)
        return self._environments

    def begin_job_environment(self, given: Mapping[str, Any]) -> None:
        """Sets the runtime environment of this driver's job; see ``Environments.begin_job``."""
        self.environments.begin_job(given)
        self._inherits = bool(self.session.environment.text)

    def _environment_of(self, task: PreparedTask) -> bytes:
        if not self._inherits and task.environment is None:
            return b""
        return self.environments.for_option(task.environment)

    def _shape_in_environment(self, task: PreparedTask) -> bytes:
        placed_by, shape = task.placed
        if placed_by is not self:
            environment_id = self.environments.for_option(task.environment)
            shape = task.shape_in(environment_id)
            task.placed = (self, shape)
        return shape

    def create_actor(
        self, meta: ActorMeta, pickled: Callable[[], PickledCallable], options: ActorOptions, args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> tuple[bytes, ObjectRef | None, ActorMeta]:  # fmt: skip
        session = self.session
        environment_id = b""
        if self._inherits or options.runtime_env:
            environment_id = self.environments.for_option(checked_environment(options.runtime_env))
        shipped = pickled()
        function_id = session.export(shipped)
        try:
            arguments, _keep = self._arguments.pack(args, kwargs)
        except SerializationError:
            blame_argument(meta.constructor, args, kwargs, f"{meta.class_name}()")
            raise
        detached = options.lifetime == "detached" or (
            options.lifetime is None and session.job_settings.actors_are_detached
        )
        placement, running, captures = self._places_of(options, environment_id, meta.class_name)
        spec = ActorSpec(
            class_name=meta.qualified_name,
            name=options.name or "",
            namespace=options.namespace or session.namespace,
            detached=detached,
            max_restarts=options.max_restarts,
            max_concurrency=meta.concurrency,
            ordered=meta.ordered,
            has_coroutines=meta.has_coroutines,
            placement=placement,
            running=running,
            handle=b"",
            meta=meta.packed(),
            groups=meta.groups,
        )
        packed = pack_options("__init__", 1, "", False, captures=captures)
        if not spec.name:
            return *self._submission.create_actor(function_id, spec, packed, arguments, counted=not detached), meta
        found, actor_id, handle = self._submission.create_named_actor(
            function_id, spec, packed, arguments, counted=not detached, get_if_exists=options.get_if_exists
        )
        if isinstance(found, ActorFound) and found.actor_id == actor_id:
            return actor_id, handle, meta
        session.shell.run(lambda: session.core.actors.abandon(actor_id))
        if isinstance(found, NameTaken):
            what = f"The name {options.name!r} is already taken: an actor of namespace {spec.namespace!r} has it"
            if found.is_dead:
                raise ActorAlreadyExistsError(
                    f"{what}. It is dead, but keeps the name until its last handle is gone: delete the handles, or "
                    f"call zray.kill(zray.get_actor({options.name!r}))"
                )
            raise ActorAlreadyExistsError(
                f"{what}: choose another name, or get it with zray.get_actor() or get_if_exists=True"
            )
        return found.actor_id, None, type(meta).unpack(found.spec.meta)

    def _places_of(self, options: ActorOptions, environment_id: bytes, class_name: str) -> tuple[bytes, bytes, bool]:
        """The shapes for placing an actor, and for as long as it lives; whether its group captures what it creates."""
        if not options.names_group() and not self.session.captures:
            placement = shape_key(
                options.placement_amounts(), options.constraint_row(), environment_id, options.priority
            )
            return placement, shape_key(options.running_amounts()), False
        from zray.api.group_placement import placed_actor  # not at the top: few programs have groups

        return placed_actor(self.session, options, environment_id, class_name)

    def call(
        self, actor_id: bytes, handle: ObjectRef | None, meta: ActorMeta, method: str, packed: bytes, n_returns: int,
        retries: int, args: Sequence[Any], kwargs: dict[str, Any], stream: CallStream | None,
    ) -> list[ObjectRef]:  # fmt: skip
        submission = self._submission
        if 0 <= meta.max_pending_calls <= submission.pending_calls(actor_id):
            raise PendingCallsLimitExceeded(
                f"{meta.class_name} has {submission.pending_calls(actor_id)} calls pending, and max_pending_calls is "
                f"{meta.max_pending_calls}: get some of their results first"
            )
        try:
            arguments, _keep = self._arguments.pack(args, kwargs, handle)
        except SerializationError:
            blame_argument(meta.methods[method].signature, args, kwargs, f"{meta.class_name}.{method}")
            raise
        return submission.call_actor(
            actor_id, meta.ordered, meta.concurrency, packed, arguments, n_returns, retries, meta.class_name,
            meta.groups, None if stream is None else stream.spec,
        )  # fmt: skip

    def find_actor(self, name: str, namespace: str) -> tuple[bytes, bytes] | None:
        core = self.session.core
        found = self.session.ask(
            lambda done: core.to_broker(ActorLookup(core.new_request(done), name, namespace or self.namespace))
        )
        return (found.actor_id, found.spec.meta) if isinstance(found, ActorFound) else None

    def kill_actor(self, actor_id: bytes, no_restart: bool) -> None:
        session, creator = self.session, owner_of(actor_id)
        known = (
            creator == session.process_id
            or session.query(lambda request: MemberQuery(request, creator), Membership).is_member
        )
        if not known:
            raise ActorHandleNotFoundError(
                f"the handle of actor {actor_id.hex()} belongs to a cluster that this process has left: get a new "
                f"handle from the present cluster"
            )
        session.tell([ActorKill(actor_id, no_restart)])

    def named_actors(self, namespace: str | None) -> list[tuple[str, str]]:
        answer = self.session.query(lambda request: NamedActorsQuery(request, namespace), NamedActors)
        return [(row.namespace, row.name) for row in answer.names]

    def hosts(self) -> list[HostState]:
        return self.session.query(HostsQuery, HostList).hosts

    def ended_hosts(self) -> list[HostRecord]:
        answer = self.session.query(StateOfHosts, HostRecords)
        return [host for host in answer.hosts if host.ended_s is not None]

    def resources(self, free: bool) -> dict[str, float]:
        return self.session.query(lambda request: ResourcesQuery(request, free), Resources).amounts


_runtime: Runtime | None = None
_of_session: Session | None = None


def runtime() -> Any:
    """The runtime of this process. Initialises zray if necessary, as Ray does."""
    global _runtime, _of_session
    session = sessions.current()
    if session is not None and session is _of_session:
        return _runtime
    if session is not None:
        _runtime, _of_session = ClusterRuntime(session), session
        return _runtime
    if _runtime is not None and _of_session is None:
        return _runtime  # local mode
    if auto_init.start is None:
        raise ZrayError("zray is not initialised: call zray.init()")
    auto_init.start()
    return runtime()


def set_runtime(new: Runtime | None) -> None:
    """Installs or removes the runtime of local mode."""
    global _runtime, _of_session
    _runtime, _of_session = new, None


def is_local_mode() -> bool:
    """Whether everything runs in this process."""
    return _runtime is not None and _of_session is None


def context() -> TaskContext:
    """The context of the running task; in a driver, an empty context."""
    return current_task.get()
