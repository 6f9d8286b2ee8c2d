"""``ProcessGroup``: the shell of ``dispatch``. It holds the actors, a lock around the decisions, and a thread.

The thread receives what has ended and calls the jobs. It is a thread of its own, because a job may run the user's code
(joblib takes the next items from the user's iterator), which may wait for other tasks.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from zray.api.decorator import remote
from zray.api.objects import cancel, get, kill, wait
from zray.client.session import current
from zray.exceptions import ActorDiedError, ActorError, ClusterUnavailableError, TaskCancelledError
from zray.system.queues import take
from zray.util.process_group.dispatch import Action, Dispatcher, Recall, Send, Start, Stop
from zray.util.process_group.jobs import FunctionShelf, Job
from zray.util.process_group.worker import PoolWorker

OPTIONS = {"num_cpus": 0}
"""Options of the actors that the user may replace. As in Ray, a process holds no CPU: a pool that is made inside a task
would otherwise wait for the CPU of that task."""


class ProcessGroup:
    """Runs jobs on at most ``size`` processes. All methods may be called from any thread.

    Args:
        size: the number of processes.
        initializer: called with ``initargs`` in each process before its first job.
        quota: the number of jobs after which a process is replaced; None if it never is.
        restart: whether a process that dies is restarted. If not, its death breaks the group.
        ahead: see ``Dispatcher``.
        remote_args: options of the actors, as ``zray.remote`` takes them.
        environment: environment variables of the processes.

    Raises:
        ValueError: an option in ``remote_args`` is unknown or has a wrong value.
    """

    def __init__(
        self,
        size: int,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        quota: int | None = None,
        restart: bool = True,
        ahead: bool = True,
        remote_args: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        options = {**OPTIONS, "max_restarts": -1 if restart else 0, **(remote_args or {})}
        self._worker = remote(PoolWorker).options(**options)
        self._arguments = (initializer, tuple(initargs), environment)
        self.size = size
        self.functions = FunctionShelf()
        self._restart = restart
        self._dispatcher: Dispatcher[Job] = Dispatcher(size, quota, ahead=ahead)
        self._actors: dict[int, Any] = {}
        self._ending: list[Future[Any]] = []
        self._events: queue.SimpleQueue[tuple[int, Job, Future[Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._session = current()
        self.error: BaseException | None = None
        """Why the group is broken: a new job fails with this error. None if it is not."""

    # ------------------------------------------------------------------ start

    def start(self) -> None:
        """Starts all processes, and waits until their initializers have returned.

        Raises:
            ActorDiedError: an initializer raised, or a process died.
        """
        with self._lock:
            actions = self._dispatcher.start_all()
            self._perform_starts(actions)
            ready = [actor.__ray_ready__.remote() for actor in self._actors.values()]
        try:
            get(ready)
        except BaseException:
            self.terminate()
            raise

    # ------------------------------------------------------------------ jobs

    def submit(self, job: Job, *, is_driven: bool = False) -> None:
        """Queues a job. It fails with ``error`` if the group is broken.

        ``is_driven``: the caller calls ``drive`` next.
        """
        with self._lock:
            error = self.error or self._gone()
            if error is None:
                actions = self._dispatcher.submit(job, time.monotonic())
                self._perform_starts(actions)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="zray process group", daemon=True)
                    self._thread.start()
        if error is not None:
            job.failed(error)
            return
        self._perform(actions, job if is_driven else None)

    def drive(self, jobs: Sequence[Job]) -> None:
        """Receives the outcomes of jobs in this thread, which spares a synchronous caller two changes of threads.

        Returns when none of them is under way that this thread has sent. The group's thread receives the others.
        """
        driven = {job.ref: job for job in jobs if job.ref is not None and job.is_driven}
        try:
            while driven:
                ready, _ = wait([*driven], num_returns=1)
                others = [ref for ref in driven if ref is not ready[0]]
                if others:
                    ready += wait(others, num_returns=len(others), timeout=0)[0]
                for ref in ready:
                    outcome = _outcome(ref)
                    job = driven.pop(ref)
                    job.is_driven = False
                    self._receive(job.process, job, outcome)
                self._note_end()
                if self._has_recalls():
                    self._events.put(None)  # the thread looks when
        finally:
            for ref, job in driven.items():  # the wait was interrupted
                job.is_driven = False
                self._watch(ref, job)

    def _has_recalls(self) -> bool:
        with self._lock:
            return self._dispatcher.next_check_s(time.monotonic()) is not None

    def is_usable(self) -> bool:
        """Whether it accepts jobs, and has none."""
        with self._lock:
            return self.error is None and self._gone() is None and not self._dispatcher.pending()

    def pending(self) -> int:
        """The number of jobs that have not ended."""
        with self._lock:
            return self._dispatcher.pending()

    def take_queued(self) -> list[Job]:
        """Takes out the jobs that have not been sent, and returns them."""
        with self._lock:
            return self._dispatcher.drain()

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """Ends the processes once all jobs have ended. ``submit`` must not be called afterwards."""
        with self._lock:
            actions = self._dispatcher.close()
        self._perform(actions)
        self._note_end()

    def terminate(self, reason: str = "the pool was terminated") -> None:
        """Kills the processes. Jobs that have not ended fail with ActorDiedError."""
        self._break(ActorDiedError(reason))

    def join(self, timeout_s: float | None = None) -> bool:
        """Waits until all jobs and actors have ended. Returns whether they have within ``timeout_s``.

        ``close`` or ``terminate`` was called before.
        """
        if not self._over.wait(timeout_s):
            return False
        return not concurrent.futures.wait(self._ending, timeout_s).not_done

    def _break(self, error: BaseException) -> None:
        """Every job that has not ended fails, and so do later ones."""
        with self._lock:
            if self.error is None:
                self.error = error
            lost = [*self._dispatcher.drain(), *self._dispatcher.forget_processes()]
            self._dispatcher.close()
            actors, self._actors = self._actors, {}
        if self._gone() is None:
            with contextlib.suppress(ClusterUnavailableError):  # then they end with the cluster
                for actor in actors.values():
                    kill(actor)
        for job in lost:
            job.failed(self.error)
        self._note_end()

    def _note_end(self) -> None:
        with self._lock:
            over = self._dispatcher.is_over() and not self._actors
        if over:
            self._over.set()
            self._events.put(None)

    def _gone(self) -> BaseException | None:
        """An error if the cluster that the processes belong to is not this process's any more."""
        if current() is self._session:
            return None
        return ClusterUnavailableError("the cluster of this pool was left with zray.shutdown(): make a new pool")

    # ------------------------------------------------------------------ actions

    def _perform_starts(self, actions: list[Action[Job]]) -> None:
        """Makes the new actors. Under the lock, so that no job is sent to a process that does not exist yet."""
        for action in actions:
            if isinstance(action, Start):
                self._actors[action.process] = self._worker.remote(*self._arguments)

    def _perform(self, actions: list[Action[Job]], driven: Job | None = None) -> None:
        """Carries out the other actions. Without the lock, because sending pickles the user's values."""
        for action in actions:
            if isinstance(action, Send):
                self._send(action.process, action.job, action.job is driven)
            elif isinstance(action, Recall):
                if action.job.ref is not None:
                    cancel(action.job.ref)
            elif isinstance(action, Stop):
                self._stop(action.process)

    def _send(self, process: int, job: Job, is_driven: bool) -> None:
        actor = self._actors.get(process)
        if actor is None:  # the group has been broken meanwhile, and the job has failed with it
            return
        try:
            if not job.begin():
                self._end(process, job)
                self._events.put(None)  # the thread looks again which job waits, and for how long
                return
            ref = job.ref = actor.run.remote(job.function, job.items, job.form)
            job.process, job.is_driven = process, is_driven
            if not is_driven:
                self._watch(ref, job)
        except BaseException as error:  # the arguments cannot be pickled, or the cluster is gone
            if self._end(process, job):
                job.failed(error)
            self._events.put(None)
            if not isinstance(error, Exception):
                raise

    def _watch(self, ref: Any, job: Job) -> None:
        """Lets the thread receive the outcome."""
        process = job.process
        ref.future().add_done_callback(lambda future: self._events.put((process, job, future)))

    def _stop(self, process: int) -> None:
        actor = self._actors.get(process)
        if actor is not None and self._gone() is None:
            self._ending.append(actor.__ray_terminate__.remote().future())
        self._actors.pop(process, None)

    def _end(self, process: int, job: Job) -> bool:
        """Tells the dispatcher that a job has ended. Returns whether it had not ended before."""
        job.ref = None
        with self._lock:
            actions = self._dispatcher.ended(process, job, time.monotonic())
            self._perform_starts(actions or [])
        self._perform(actions or [])
        return actions is not None

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        while not self._over.is_set():
            with self._lock:
                timeout_s = self._dispatcher.next_check_s(time.monotonic())
            try:
                event = take(self._events, timeout_s)
            except queue.Empty:
                with self._lock:
                    actions = self._dispatcher.recall(time.monotonic())
                self._perform(actions)
                continue
            if event is not None:
                self._receive(*event)
                self._note_end()

    def _receive(self, process: int, job: Job, future: Future[Any]) -> None:
        error = future.exception()
        if isinstance(error, TaskCancelledError):
            self._take_back(process, job)
            return
        if not self._end(process, job):
            return  # it has failed with the group
        if error is None:
            job.succeeded(*future.result())
            return
        job.failed(error)
        if isinstance(error, ClusterUnavailableError) or (
            isinstance(error, ActorError) and (not self._restart or isinstance(error, ActorDiedError))
        ):
            self._break(error)

    def _take_back(self, process: int, job: Job) -> None:
        """The recall of a job has succeeded."""
        with self._lock:
            actions = self._dispatcher.recalled(process, job, time.monotonic())
            self._perform_starts(actions)
        self._perform(actions)


def _outcome(ref: Any) -> Future[Any]:
    """The outcome of a call that has ended."""
    future: Future[Any] = Future()
    try:
        future.set_result(get(ref))
    except Exception as error:
        future.set_exception(error)
    return future
