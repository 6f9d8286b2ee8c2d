"""``put``, ``get``, ``wait``, ``cancel``, ``kill``, ``get_actor``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from zray.api.actor import ActorHandle
from zray.api.actor_meta import ActorMeta
from zray.api.runtime import runtime
from zray.object_ref import ObjectRef
from zray.options import check_text
from zray.protocol.messages import CANCEL_FORCE, CANCEL_RECURSIVE

T = TypeVar("T")


def put(value: T) -> ObjectRef[T]:
    """Stores a value and returns a reference to it.

    Args:
        value: anything that can be pickled.

    Raises:
        TypeError: for an ObjectRef, which is a reference already.
        SerializationError: a value that cannot be pickled; it is a TypeError too.
        ObjectStoreFullError: neither the object store nor the disk behind it has room.
    """
    if isinstance(value, ObjectRef):
        raise TypeError(
            "zray.put() of an ObjectRef: it is a reference already; put it in a list to store the reference"
        )
    ref: ObjectRef[T] = runtime().put(value)
    return ref


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...


@overload
def get(refs: list[ObjectRef[T]] | tuple[ObjectRef[T], ...], *, timeout: float | None = None) -> list[T]: ...


def get(refs: Any, *, timeout: float | None = None) -> Any:
    """The value of a reference, or the values of a list of them, in its order.

    Args:
        refs: an ObjectRef or a list of them.
        timeout: seconds to wait; None waits for ever, 0 and less (a deadline that has passed) not at all.

    Large arrays are read-only views of shared memory. An error among several is raised as soon as it is known, whatever
    else is pending, also with a timeout of 0; of several errors the first in the list.

    Raises:
        TaskError: the task raised; the error is an instance of both what it raised and TaskError.
        GetTimeoutError: not all values were there in time. The message says why (to find out takes milliseconds, or a
            second if a worker does not answer).
        TaskCancelledError: the task was cancelled.
        WorkerCrashedError: the process that ran the task died.
        NodeDiedError: the host that ran the task is gone.
        ActorDiedError: the actor is dead.
        ActorUnavailableError: the actor died during the call, and is restarted.
        ObjectLostError: the value is gone, or its owner (OwnerDiedError).
        ClusterUnavailableError: the broker is gone.
        ValueError: ``refs`` is neither an ObjectRef nor a list of them.
        TypeError: something else than ObjectRefs is in the list.
    """
    if timeout is not None:
        timeout = max(0, check_timeout(timeout))
    if type(refs) is ObjectRef:
        return runtime().get([refs], timeout)[0]
    if not isinstance(refs, (list, tuple)):
        hint = "; make a list of it, list(...)" if isinstance(refs, Iterable) and not isinstance(refs, str) else ""
        raise ValueError(
            f"zray.get() takes an ObjectRef or a list of them, not {type(refs).__name__}: {refs!r:.100}{hint}"
        )
    for ref in refs:
        if type(ref) is not ObjectRef:
            raise TypeError(
                f"zray.get() takes a list of ObjectRefs; there is a {type(ref).__name__} in it: {ref!r:.100}"
            )
    return runtime().get(refs, timeout) if refs else []


def wait(
    refs: list[ObjectRef[T]], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """Waits until ``num_returns`` of the references are ready, or ``timeout`` seconds have passed.

    A reference is ready when its value exists, or its task has failed.

    Args:
        refs: a list of distinct ObjectRefs.
        num_returns: how many to wait for.
        timeout: seconds to wait; None waits for ever, 0 not at all.
        fetch_local: bring an object of another machine to the store of this one; it counts as ready when it is there.
            If not, and on a machine without a host, it is ready wherever it is.

    Returns:
        The ready ones, at most ``num_returns``, and the others; both in the order of ``refs``.

    Raises:
        TypeError: ``refs`` is no list of ObjectRefs.
        ValueError: duplicates, or a count or timeout out of range.
        ClusterUnavailableError: the broker is gone.
    """
    given: object = refs
    if isinstance(given, ObjectRef):
        raise TypeError("zray.wait() takes a list of ObjectRefs, got a single one: use [ref]")
    if not isinstance(given, list):
        raise TypeError(f"zray.wait() takes a list of ObjectRefs, not {type(refs).__name__}")
    if not refs:
        return [], []
    if [*map(type, refs)].count(ObjectRef) != len(refs):  # there may be thousands, of which each round takes one
        other = next(ref for ref in refs if type(ref) is not ObjectRef)
        raise TypeError(
            f"zray.wait() takes a list of ObjectRefs; there is a {type(other).__name__} in it: {other!r:.100}"
        )
    if len(set(refs)) != len(refs):
        raise ValueError("zray.wait() takes a list of distinct ObjectRefs; there are duplicates in it")
    if type(num_returns) is not int or num_returns <= 0:
        raise ValueError(f"num_returns is a positive whole number, got {num_returns!r}")
    if num_returns > len(refs):
        raise ValueError(f"num_returns={num_returns} is more than the {len(refs)} reference(s) given")
    if type(fetch_local) is not bool:
        raise TypeError(f"fetch_local is a bool, got {fetch_local!r}")
    if timeout is not None and check_timeout(timeout) < 0:
        raise ValueError(f"timeout is a number of seconds from 0 on, got {timeout!r}")
    ready: tuple[list[ObjectRef[T]], list[ObjectRef[T]]] = runtime().wait(refs, num_returns, timeout, fetch_local)
    return ready


def check_timeout(timeout: Any) -> float:
    """Raises TypeError or ValueError if ``timeout`` is no number of seconds."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout is a number of seconds or None, got {timeout!r}")
    if math.isnan(timeout):
        raise ValueError(f"timeout is a number of seconds, got {timeout!r}")
    return timeout


def cancel(ref: ObjectRef[Any], *, force: bool = False, recursive: bool = True) -> None:
    """Cancels the task that makes ``ref``: what is queued is dropped, what runs gets a KeyboardInterrupt.

    Anyone who holds the reference may do so: another process than the one that submitted the task asks that one.
    Nothing happens if it has ended already, or if ``ref`` is of an object that was put. ``get`` of a cancelled task
    raises TaskCancelledError. Running methods are cancelled only in async actors.

    Args:
        ref: a reference that the task, or the call of an actor, returned.
        force: kill the worker that runs it. Not for actor calls: use ``zray.kill``.
        recursive: also what the task has submitted itself.

    Raises:
        TypeError: ``ref`` is no ObjectRef, or one that no process of the cluster owns.
        ValueError: ``force`` for a call of an actor (if another process made the call, that one warns instead).
    """
    if not isinstance(ref, ObjectRef):
        raise TypeError(f"zray.cancel() takes the ObjectRef of a task, not {type(ref).__name__}")
    runtime().cancel(ref, (CANCEL_FORCE if force else 0) | (CANCEL_RECURSIVE if recursive else 0))


def kill(actor: ActorHandle[Any], *, no_restart: bool = True) -> None:
    """Kills an actor at once. Its calls fail with ActorDiedError.

    Args:
        actor: a handle of it.
        no_restart: whether it stays dead; if not, it is restarted if it has restarts left (``max_restarts``).

    Raises:
        ValueError: ``actor`` is no handle.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"zray.kill() takes an actor handle, not {type(actor).__name__}; for a task use zray.cancel()")
    runtime().kill_actor(actor._actor_id, no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """A handle of the actor that was created with ``name`` in ``namespace`` (default: the job's).

    The handle is weak, as in Ray: it does not keep the actor alive, nor do its copies. An actor that died still has its
    name while others hold handles that do: calls of it end in ActorDiedError.

    Args:
        name: the option ``name`` with which it was created.
        namespace: default: that of the job, see ``init``.

    Raises:
        ValueError: there is no such actor.
        ClusterUnavailableError: the broker is gone.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of an actor is a non-empty string, got {name!r}")
    check_text(name, "zray.get_actor()", "name")
    if namespace:
        check_text(namespace, "zray.get_actor()", "namespace")
    found = runtime().find_actor(name, namespace or "")
    if found is None:
        raise ValueError(f"there is no actor named {name!r} in namespace {namespace or runtime().namespace!r}")
    actor_id, meta = found
    return ActorHandle(actor_id, None, ActorMeta.unpack(meta))
