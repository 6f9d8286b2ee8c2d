"""What drivers and workers say to the broker. Hosts say some of it, too."""

from __future__ import annotations

from zray.ids import ActorId, FunctionId, ProcessId, TaskId
from zray.named_tuples import NamedTuple
from zray.protocol.records import Activity, ActorSpec, EnvironmentSpec, GroupSpec


class Submit(NamedTuple):
    """Submits a task. ``near``: the host that has most bytes of the arguments; empty if that does not matter."""

    task_id: TaskId
    attempt: int
    function_id: FunctionId
    shape: bytes
    flags: int
    near: bytes
    payload: bytes


class Cancel(NamedTuple):
    task_id: TaskId
    mode: int


class Done(NamedTuple):
    """A task ended: its grant may be given back, and the outcome goes to the owner."""

    task_id: TaskId
    attempt: int
    run_us: int
    payload: bytes


class Reply(NamedTuple):
    """A call ended. The broker passes the outcome on to the owner."""

    owner: ProcessId
    task_id: TaskId
    attempt: int
    payload: bytes


class Yield(NamedTuple):
    """A generator has yielded values: items of a stream. The broker passes them on to the owner. There are none at the
    beginning of an attempt that leaves items out.

    ``position``: of the first of them; ``payload``: as the outcome of a call.
    """

    owner: ProcessId
    task_id: TaskId
    attempt: int
    position: int
    payload: bytes


class Started(NamedTuple):
    """The worker runs a task that takes long or waits.

    The broker drops the task's payload, and passes this on to the owner.
    """

    task_id: TaskId
    attempt: int


class TimeLimited(NamedTuple):
    """The worker begins a task or call that may run for ``limit_s`` seconds."""

    owner: ProcessId
    task_id: TaskId
    attempt: int
    limit_s: float


class TimeLimitOver(NamedTuple):
    """A task or call that the worker has announced with ``TimeLimited`` has ended."""

    task_id: TaskId


class Returned(NamedTuple):
    task_ids: list[bytes]


class Blocked(NamedTuple):
    blocked: bool


class FunctionPut(NamedTuple):
    function_id: FunctionId
    name: str
    blob: bytes


class FunctionGet(NamedTuple):
    function_id: FunctionId


class EnvironmentPut(NamedTuple):
    """Announces a runtime environment to the job, before the first task or actor that names it in its shape.

    ``eager``: each host starts a worker in it at once.
    """

    environment_id: bytes
    environment: EnvironmentSpec
    eager: bool


class ActorCreate(NamedTuple):
    """Announces an actor.

    ``ready``: the message has the arguments of the constructor; else they follow in another ``ActorCreate``.
    ``request``: the number for the answer, if the actor has a name: ``ActorFound`` or ``NameTaken``. ``get_if_exists``:
    if another actor has the name, the answer is that actor. ``near``: the host that has most bytes of the arguments;
    empty if that does not matter.
    """

    actor_id: ActorId
    function_id: FunctionId
    spec: ActorSpec
    request: int
    get_if_exists: bool
    ready: bool
    near: bytes
    payload: bytes


class ActorCall(NamedTuple):
    actor_id: ActorId
    incarnation: int
    seq: int
    task_id: TaskId
    attempt: int
    payload: bytes


class ActorCancel(NamedTuple):
    """Cancels a call. The broker drops the call if it is queued there; else it tells the actor's worker."""

    actor_id: ActorId
    task_id: TaskId
    mode: int


class ActorKill(NamedTuple):
    actor_id: ActorId
    no_restart: bool


class ActorRelease(NamedTuple):
    actor_id: ActorId


class ActorLookup(NamedTuple):
    """Looks up an actor by its name. Answer: ``ActorFound`` or ``NoSuchActor``."""

    request: int
    name: str
    namespace: str


class GroupCreate(NamedTuple):
    """Creates a placement group. ``request``: the number for the answer ``GroupNamed``, if the group has a name."""

    group_id: bytes
    request: int
    spec: GroupSpec


class GroupRemove(NamedTuple):
    """Removes a placement group, and ends what runs in it. Does nothing if it is removed already, or unknown."""

    group_id: bytes


class GroupWatch(NamedTuple):
    """Asks when a placement group is created. Answer, when it is created or removed: ``GroupSettled``."""

    request: int
    group_id: bytes


class ActorReady(NamedTuple):
    """The constructor returned (``error`` is empty) or raised. From the creator: it could not be called."""

    actor_id: ActorId
    error: bytes


class ActorExiting(NamedTuple):
    """The worker ends its actor intentionally: the broker must not restart it."""

    actor_id: ActorId
    reason: str


class Leaving(NamedTuple):
    """A worker exits: it has answered all tasks that it had started, and handed back the others (``Returned``)."""

    reason: str


class Staying(NamedTuple):
    """The answer to ``ExitIfIdle`` of a worker that stays.

    ``busy``: it is in use, or it owns objects that can be reached; else it is worth keeping.
    """

    busy: bool


class Killable(NamedTuple):
    """The answer to a ``CancelTask`` with force, for a task that runs.

    The worker has cancelled what the task has submitted, if asked to, and has handed back the tasks behind it.
    """

    task_id: TaskId


class Watch(NamedTuple):
    process_id: ProcessId


class Forward(NamedTuple):
    """Carries the rows of messages for another process."""

    dest: ProcessId
    rows: bytes


class Goodbye(NamedTuple):
    """A driver leaves and its job ends, or a host leaves with its workers."""

    reason: str


class Inspected(NamedTuple):
    """The answer of a driver or worker to ``Inspect``."""

    request: int
    activity: Activity
