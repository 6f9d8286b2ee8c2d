"""``put``, ``get``, ``wait``, ``cancel``, ``kill``, ``get_actor``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from zray.api.actor import ActorHandle
from zray.api.actor_meta import ActorMeta
from zray.api.generators import ObjectRefGenerator
from zray.api.runtime import runtime
from zray.client import session as sessions
from zray.object_ref import ObjectRef
from zray.options.given import check_text
from zray.protocol.messages import CANCEL_FORCE, CANCEL_RECURSIVE

T = TypeVar("T")


def put(value: T) -> ObjectRef[T]:
    """Stores a value and returns a reference to it.

    Args:
        value: anything that can be pickled.

    Raises:
        TypeError: ``value`` is an ObjectRef, so it is a reference already.
        SerializationError: ``value`` cannot be pickled. It is a TypeError too.
        ObjectStoreFullError: neither the object store nor the disk behind it has room.
    """
    if isinstance(value, ObjectRef):
        raise TypeError(
            "Calling 'put' on an ObjectRef is not allowed: it is a reference already. Put it in a list to store the "
            "reference"
        )
    ref: ObjectRef[T] = runtime().put(value)
    return ref


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...


@overload
def get(refs: list[ObjectRef[T]] | tuple[ObjectRef[T], ...], *, timeout: float | None = None) -> list[T]: ...


def get(refs: Any, *, timeout: float | None = None) -> Any:
    """Returns the value of a reference, or the values of a list of references, in the order of the list.

    Args:
        refs: an ObjectRef or a list of them.
        timeout: seconds to wait; None waits for ever; 0 or less (a deadline that has passed) does not wait.

    Large arrays are read-only views of shared memory. The error of one reference is raised as soon as it is known, even
    if other references are pending, also with a timeout of 0. Of several errors the first in the list is raised.

    Raises:
        TaskError: the task raised. The error is an instance of both TaskError and the type that the task raised.
        GetTimeoutError: not all values arrived in time. The message says why (finding the reason takes milliseconds, or
            a second if a worker does not answer).
        TaskCancelledError: the task was cancelled.
        WorkerCrashedError: the process that ran the task died.
        NodeDiedError: the host that ran the task is gone.
        ActorDiedError: the actor is dead.
        ActorUnavailableError: the actor died during the call, and is restarted.
        ObjectLostError: the value is gone, or its owner is (OwnerDiedError).
        ClusterUnavailableError: the broker is gone.
        ValueError: ``refs`` is neither an ObjectRef nor a list of them.
        TypeError: the list contains something other than an ObjectRef.
    """
    if timeout is not None:
        timeout = max(0, check_timeout(timeout))
    if type(refs) is ObjectRef:
        return runtime().get([refs], timeout)[0]
    if isinstance(refs, ObjectRefGenerator):
        return refs  # as on Ray: it has its values already, and they are references
    if not isinstance(refs, (list, tuple)):
        hint = "; make a list of it, list(...)" if isinstance(refs, Iterable) and not isinstance(refs, str) else ""
        raise ValueError(
            f"Invalid type of object refs: zray.get() takes an ObjectRef or a list of them, not "
            f"{type(refs).__name__}: {refs!r:.100}{hint}"
        )
    for ref in refs:
        if type(ref) is not ObjectRef:
            raise TypeError(
                f"Attempting to call `get` on the value {ref!r:.100}, which is not an ObjectRef but a "
                f"{type(ref).__name__}"
            )
    return runtime().get(refs, timeout) if refs else []


def wait(
    refs: list[ObjectRef[T]], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """Waits until ``num_returns`` of the references are ready, or ``timeout`` seconds have passed.

    A reference is ready when its value exists, or its task has failed. A generator is ready when its next reference is,
    or when it has ended.

    Args:
        refs: a list of distinct ObjectRefs, ObjectRefGenerators, or both.
        num_returns: how many references to wait for.
        timeout: seconds to wait; None waits for ever; 0 does not wait.
        fetch_local: bring an object of another machine to the store of this machine; it counts as ready once it is
            there. If False, or if this machine has no host, an object is ready wherever it is stored.

    Returns:
        The ready references, at most ``num_returns``, and the others; both in the order of ``refs``.

    Raises:
        TypeError: ``refs`` is not a list of ObjectRefs.
        ValueError: ``refs`` has duplicates, or ``num_returns`` or ``timeout`` is out of range.
        ClusterUnavailableError: the broker is gone.
    """
    given: object = refs
    if isinstance(given, ObjectRef):
        raise TypeError("wait() expected a list of ObjectRefs, got a single ObjectRef: use [ref]")
    if not isinstance(given, list):
        raise TypeError(f"wait() expected a list of ObjectRefs, got {type(refs).__name__}")
    if not refs:
        return [], []
    session = sessions.current()
    if (session is None or not session.checked.has(refs)) and not _are_distinct_refs(refs):
        return _wait_with_generators(refs, num_returns, timeout, fetch_local)
    if type(num_returns) is not int or num_returns <= 0:
        raise ValueError(
            f"Invalid number of objects to return: num_returns must be a positive integer, got {num_returns!r}"
        )
    if num_returns > len(refs):
        raise ValueError(
            f"num_returns cannot be greater than the number of references: {num_returns} is more than {len(refs)}"
        )
    if type(fetch_local) is not bool:
        raise TypeError(f"fetch_local must be a bool, got {fetch_local!r}")
    if timeout is not None and check_timeout(timeout) < 0:
        raise ValueError(f"timeout must be a nonnegative number of seconds, got {timeout!r}")
    ready: tuple[list[ObjectRef[T]], list[ObjectRef[T]]] = runtime().wait(refs, num_returns, timeout, fetch_local)
    return ready


def _are_distinct_refs(given: list[Any]) -> bool:
    """Whether ``given`` has only ObjectRefs, each once; False if there are generators. Raises TypeError, ValueError."""
    if [*map(type, given)].count(ObjectRef) != len(given):  # in C, as the line below: there may be thousands
        other = next((each for each in given if not isinstance(each, (ObjectRef, ObjectRefGenerator))), None)
        if other is None:
            return False
        raise TypeError(
            f"wait() expected a list of ObjectRefs, got list containing a {type(other).__name__}: {other!r:.100}"
        )
    if len(set(given)) != len(given):
        raise ValueError("wait() requires a list of unique ObjectRefs; the list contains duplicates")
    return True


def _wait_with_generators(
    given: list[Any], num_returns: int, timeout: float | None, fetch_local: bool
) -> tuple[list[Any], list[Any]]:
    """As ``wait``. A generator stands for its next reference."""
    if len(set(map(id, given))) != len(given):
        raise ValueError("zray.wait() takes a list of distinct ObjectRefs; the list contains duplicates")
    by_ref = {each.next_ref if isinstance(each, ObjectRefGenerator) else each: each for each in given}
    ready, rest = wait(list(by_ref), num_returns=num_returns, timeout=timeout, fetch_local=fetch_local)
    return [by_ref[ref] for ref in ready], [by_ref[ref] for ref in rest]


def check_timeout(timeout: Any) -> float:
    """Returns ``timeout``. Raises TypeError or ValueError if it is not a number of seconds."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds or None, got {timeout!r}")
    if math.isnan(timeout):
        raise ValueError(f"timeout must be a number of seconds, got {timeout!r}")
    return timeout


def cancel(ref: ObjectRef[Any] | ObjectRefGenerator, *, force: bool = False, recursive: bool = True) -> None:
    """Cancels the task that makes ``ref``. A queued task is dropped; a running task gets a KeyboardInterrupt.

    Any process that holds the reference may cancel the task. If another process submitted the task, the cancellation is
    sent to that process. Nothing happens if the task has ended already, or if ``ref`` refers to an object of ``put``.
    ``get`` of a cancelled task raises TaskCancelledError. A running ``async`` method gets asyncio.CancelledError. A
    running method of another actor is not interrupted: it may ask ``get_runtime_context().is_canceled()``, and when it
    returns, its result is TaskCancelledError.

    Args:
        ref: a reference, or the generator, that submitting the task, or the call of an actor, returned.
        force: kill the worker that runs it. Not for actor calls: use ``zray.kill``.
        recursive: also cancel the tasks that the task has submitted itself.

    Raises:
        TypeError: ``ref`` is not an ObjectRef, or no process of the cluster owns its object.
        ValueError: ``force`` was given for a call of an actor. (If another process made the call, that process logs a
            warning instead.)
    """
    if isinstance(ref, ObjectRefGenerator):
        ref = ref.completed()
    if not isinstance(ref, ObjectRef):
        raise TypeError(
            f"zray.cancel() only supported for object refs: {type(ref).__name__} is none; for an actor use zray.kill()"
        )
    runtime().cancel(ref, (CANCEL_FORCE if force else 0) | (CANCEL_RECURSIVE if recursive else 0))


def kill(actor: ActorHandle[Any], *, no_restart: bool = True) -> None:
    """Kills an actor at once. Its calls fail with ActorDiedError.

    Args:
        actor: a handle of the actor.
        no_restart: whether it stays dead; if False, it is restarted if it has restarts left (``max_restarts``).

    Raises:
        ValueError: ``actor`` is not an actor handle.
        ActorHandleNotFoundError: it is the handle of a cluster that this process has left. It is a ValueError too.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(
            f"zray.kill() only supported for actors: {type(actor).__name__} is no handle; for a task use zray.cancel()"
        )
    runtime().kill_actor(actor._actor_id, no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """Returns a handle of the actor that was created with ``name`` in ``namespace``.

    The handle is weak, as in Ray: neither it nor its copies keep the actor alive. A dead actor still has its name while
    a handle exists that is not weak. Its calls fail with ActorDiedError.

    Args:
        name: the option ``name`` with which the actor was created.
        namespace: the namespace of the name; default: the job's, see ``init``.

    Raises:
        ValueError: there is no such actor.
        ClusterUnavailableError: the broker is gone.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of an actor must be a non-empty string, got {name!r}")
    check_text(name, "zray.get_actor()", "name")
    if namespace:
        check_text(namespace, "zray.get_actor()", "namespace")
    found = runtime().find_actor(name, namespace or "")
    if found is None:
        raise ValueError(
            f"Failed to look up actor with name {name!r}: there is none in namespace "
            f"{namespace or runtime().namespace!r}"
        )
    actor_id, meta = found
    return ActorHandle(actor_id, None, ActorMeta.unpack(meta))
