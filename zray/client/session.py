"""A process's session with a cluster: puts its parts together. ``zray.init`` makes one, and every worker has one.

A process has one global session (``current``). A forked child does not have its parent's.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from zray.client.advice import Advice
from zray.client.checked import CheckedRefs
from zray.client.context import current_task
from zray.client.core.client_core import ClientCore
from zray.client.core.effects import CloseLane, DialLane, LaneEffect, OfferLane, Warn
from zray.client.effect_handlers import EffectHandlers
from zray.client.exports import Exports
from zray.client.futures import Completion, Futures
from zray.client.object_bytes import ObjectBytes
from zray.client.object_refs import ObjectRefs
from zray.client.objects import Objects
from zray.client.prefetch import Prefetches
from zray.client.questions import Questions
from zray.client.remote import RemoteObjects
from zray.client.shell import ClientShell
from zray.client.stores import Stores
from zray.client.waits import Waits, lending
from zray.config import Config
from zray.exceptions import ClusterUnavailableError, ObjectLostError, ZrayError
from zray.ids import JOB_ID_BYTES
from zray.object_ref import ObjectRef, set_tracker
from zray.protocol.questions import HostList, HostsQuery
from zray.protocol.records import EnvironmentSpec, JobSettings
from zray.serialization import serialize
from zray.serialization.views import read_mutable_as_views
from zray.system import signals
from zray.system.machine import machine_id
from zray.system.streams import say
from zray.transport.connection import Connection

if TYPE_CHECKING:
    from zray.client.groups import GroupWatches

NONE = serialize(None).to_bytes()


class Session:
    """The runtime of one driver or worker. All methods, also those of its parts, may be called from any thread.

    ``host_id``: the host of a worker; empty for a driver. ``settings``: of the driver's job; a worker learns those
    of its jobs.

    The parts: ``objects`` puts and gets values, ``object_bytes`` reads and writes them in their stored form,
    ``refs`` makes the ``ObjectRef``s, ``questions`` asks the broker, ``export`` ships functions. ``core`` decides,
    ``shell`` sends. What only callers need (``submission``, ``arguments``, ``streams``) is made by the API's runtime:
    each object that a worker makes costs it memory.
    """

    def __init__(
        self,
        connection: Connection,
        process_id: bytes,
        host_id: bytes,
        settings: JobSettings,
        config: Config,
        lifeline: int = -1,
    ) -> None:
        cluster = connection.cluster
        self.config = config
        read_mutable_as_views(config.mutable_as_views)
        self.max_inline_bytes = connection.max_message_bytes // 2
        """The limit for all values in one message together, in bytes. The rest of the message needs room too."""
        self._settings = settings
        self.job_id = cluster.job_id
        self.cluster_id = connection.cluster_id
        self.process_id = process_id
        self.environment = EnvironmentSpec()
        """The runtime environment of a worker, or of a driver's job. What this process submits inherits it."""
        self.pid = os.getpid()
        self.core = ClientCore(process_id, host_id, self.max_inline_bytes)
        self.core.tasks.pauses.retries = config.task_oom_retries
        self.core.lineage.max_bytes = config.max_lineage_bytes
        self.core.tasks.epoch_s = time.time() - time.monotonic()
        self.core.streams.none = NONE
        self.stores = Stores(
            host_id,
            cluster.hosts,
            lambda: self.query(HostsQuery, HostList).hosts,
            lambda: self.shell.lock,
            lambda text: self.handlers[Warn](Warn(text)),
        )
        self.core.places.home = self.stores.home
        self.address = connection.address
        effects = EffectHandlers(self.core)
        self.handlers = effects.handlers
        self.handlers.update(dict.fromkeys((OfferLane, DialLane, CloseLane), self._perform_for_lanes))
        self.show_logs_by = effects.show_logs_by
        self.on_lost: Callable[[str], None] = lambda reason: None
        self.on_exit_actor: Callable[[str, bytes], None] = lambda reason, ender: None
        self.shell = ClientShell(self.core, connection, effects.perform, self._lost, lifeline)
        if config.lanes:
            self.core.lanes.machine = machine_id()
        else:
            self.core.leases.after = math.inf
        self.checked = CheckedRefs()
        self.at_tick = effects.at_tick
        self.shell.on_tick = effects.tick
        self.advice = None if host_id else Advice(lambda text: say(f"zray: {text}"), self.core.only_task)
        lent: Callable[[], contextlib.AbstractContextManager[None]] = functools.partial(lending, self.shell)
        if self.advice is not None:
            lent = self.advice.waiting
        self._link = connection.link
        self.questions = Questions(self.shell, process_id, self.check_usable)
        self.ask, self.query, self.tell = self.questions.ask, self.questions.query, self.questions.tell
        self.refs = ObjectRefs(self.shell, self)
        self.intern, self.pickled_by_user = self.refs.intern, self.refs.pickled_by_user
        remote = RemoteObjects(self.shell, self.stores, lent)
        self.object_bytes = ObjectBytes(self.shell, self.stores, remote, self.checked, process_id)
        effects.free = self.object_bytes.free
        self.at_tick.append(self.object_bytes.release_dropped)
        waits = Waits(self.shell, Prefetches(self.shell, self.stores), lent, self.check_usable, self._explain)
        self.objects = Objects(
            self.shell,
            self.refs,
            self.stores,
            self.object_bytes,
            waits,
            self.checked,
            process_id,
            config.inline_max_bytes,
            self.check_usable,
            of_another_cluster,
        )
        futures = Futures(self.shell, self.refs, self.objects, self.check_usable)
        self.future_of, self.when_ready = futures.future_of, futures.when_ready
        self.export = Exports(self.shell, self.objects.put, self.refs.pickled_by_user)
        self.groups: GroupWatches | None = None  # made when it is first needed
        self.captures = False
        """Whether a task or actor of this process has captured what it creates into its placement group."""

    @property
    def is_congested(self) -> bool:
        """Whether the link to the broker is full, so that this process must not add to it."""
        return self._link.congested

    @property
    def job_settings(self) -> JobSettings:
        """The settings of the driver's job. A worker's are those of the job that it works for."""
        job = self.core.execution.job
        return self._settings if job is None else job.settings

    @property
    def namespace(self) -> str:
        """The namespace of the job's actors."""
        return self.job_settings.namespace

    def current_job(self) -> bytes:
        """See ``zray.object_ref.Tracker``."""
        job = self.core.execution.job
        return job.job_id if job is not None else self.job_id or bytes(JOB_ID_BYTES)

    def _perform_for_lanes(self, effect: LaneEffect) -> None:
        self.shell.perform_for_lanes(effect)

    def _lost(self, reason: str) -> None:
        self.on_lost(reason)

    def check_usable(self) -> None:
        """Raises if the cluster is gone or this is a forked child."""
        if os.getpid() != self.pid:
            raise ZrayError("this process was forked from a process that uses zray: call zray.init() in it first")
        if self.shell.lost:
            raise ClusterUnavailableError(self.shell.lost)

    def exit_actor(self, reason: str) -> None:
        """Ends the actor that this process serves, once its running calls have ended. May be called from any thread."""
        self.on_exit_actor(reason, current_task.get().task_id)

    def _explain(self, object_ids: list[bytes]) -> str:
        from zray.client.explain import explain  # not at the top: most processes never need it

        return explain(self, object_ids)

    # ------------------------------------------------------------------ the end

    def tell_last_records(self, reason: str) -> None:
        """Tells the broker of this process's tasks, before it leaves a cluster that goes on."""
        with self.shell.lock:
            for record in self.core.last_records(reason, time.monotonic()):
                self.core.to_broker(record)

    def close(self, last_messages: list[Any], confirm_s: float = 0.0) -> bool:
        """Leaves the cluster. ``last_messages`` are sent to the broker first.

        ``confirm_s``: how long to wait until the broker has received everything before them. Returns False if it has
        not.
        """
        with self.shell.lock:
            self.core.tell_held_back(math.inf)
            self.shell.collect()
        confirmed = self.shell.close(last_messages, confirm_s)
        self.shell.settle()
        self.checked.forget()
        waiting = [waiter for entry in list(self.core.references.entries.values()) for waiter in entry.waiters or ()]
        for waiter in waiting:
            if isinstance(waiter, Completion):
                waiter.give_up()
        self.stores.close()
        return confirmed


class UnknownReference(ObjectLostError, ValueError):
    """A reference that this process has no record of. It is an ObjectLostError, and a ValueError as in Ray."""


def of_another_cluster(refs: Iterable[ObjectRef]) -> UnknownReference:
    """Returns the error for a reference that this process has no record of."""
    trackers = [ref._tracker for ref in refs]
    if any(isinstance(tracker, Session) and tracker.pid != os.getpid() for tracker in trackers):
        return UnknownReference(
            "the reference was made before this process was forked, and belongs to the parent: a forked child shares "
            "no objects with it. Get the value before the fork, or use a task instead of the forked child"
        )
    return UnknownReference("the reference belongs to a cluster that this process has left with zray.shutdown()")


_current: Session | None = None
_left_behind: list[Session] = []


def current() -> Session | None:
    """The session of this process."""
    return _current


def set_current(session: Session | None) -> None:
    """Replaces the session of this process."""
    global _current
    _current = session
    _leave_to_parent_at_fork()


@functools.cache  # not at import: a function that runs after each fork of the zygote would cost every worker memory
def _leave_to_parent_at_fork() -> None:
    os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    global _current
    if _current is not None:
        lock = _current.shell.lock
        signals.uninstall(lock)
        lock.left_behind_by_fork()
        set_tracker(None)
        _left_behind.append(_current)  # kept, because the child must not close or collect the parent's session
        _current = None
