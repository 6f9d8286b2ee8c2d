"""``ZrayBackend``: joblib's calls as jobs of a group of processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from joblib import parallel
from joblib._parallel_backends import AutoBatchingMixin, FallbackToBackend, SequentialBackend

import zray
from zray.client.session import current
from zray.util.joblib.batches import SharedArrays, pack, run_packed
from zray.util.process_group import reuse
from zray.util.process_group.group import ProcessGroup
from zray.util.process_group.jobs import Job
from zray.util.process_group.worker import CALL_ONCE

MAX_NBYTES = 1 << 20
"""The size, in bytes, from which an array is shared, if ``Parallel`` does not say it."""


class ZrayBackend(AutoBatchingMixin, parallel.ParallelBackendBase):  # type: ignore[misc]
    """Runs the calls of ``joblib.Parallel`` in a zray cluster.

    ``n_jobs`` is the number of processes; -1 stands for one per CPU of the cluster. The processes stay for a minute
    after the end of a call, and the next call with the same settings uses them.

    Args:
        ray_remote_args: options of the actors that the processes are, as ``zray.remote`` takes them.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        ray_remote_args: dict[str, Any] | None = None,
        **backend_kwargs: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **backend_kwargs)
        self.ray_remote_args = ray_remote_args
        self._group: ProcessGroup | None = None
        self._key: Any = None
        self._arrays = SharedArrays(None)
        self._max_nbytes: int | None = MAX_NBYTES
        self._configured: dict[str, Any] = {}

    # ------------------------------------------------------------------ joblib: start and end

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Returns the number of processes for ``n_jobs``. Starts or joins a cluster if it asks for the CPUs of one.

        Raises:
            ValueError: ``n_jobs`` is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return n_jobs
        if not zray.is_initialized():
            zray.init()
        return max(int(zray.cluster_resources().get("CPU", 1)) + 1 + n_jobs, 1)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
        max_nbytes: int | None = MAX_NBYTES,
        **others: Any,
    ) -> int:
        """Takes or starts the processes for a call, and returns their number.

        ``others`` are settings of joblib's memory maps (``temp_folder``, ``mmap_mode``), which have no meaning here:
        shared arrays are in the object store, and read-only.
        """
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if not zray.is_initialized():
            zray.init()
        remote_args = self.ray_remote_args if ray_remote_args is None else ray_remote_args
        environment: dict[str, str] = self._prepare_worker_env(n_jobs=n_jobs)
        key = (id(current()), n_jobs, repr(remote_args), tuple(sorted(environment.items())))
        group = reuse.take(key)
        if group is None:
            group = ProcessGroup(n_jobs, remote_args=remote_args, environment=environment)
        self._group, self._key = group, key
        self._max_nbytes = max_nbytes
        self._arrays = SharedArrays(max_nbytes)
        self._configured = {"ray_remote_args": ray_remote_args, "max_nbytes": max_nbytes}
        self.parallel = parallel
        return n_jobs

    def start_call(self) -> None:
        """A call of ``Parallel`` begins: an array that has changed since the last one is put again."""
        self._arrays = SharedArrays(self._max_nbytes)

    def stop_call(self) -> None:
        """A call of ``Parallel`` has ended: its arrays are freed."""
        self._arrays = SharedArrays(self._max_nbytes)

    def terminate(self) -> None:
        """The processes are not needed any more. They rest until the next call."""
        group, self._group = self._group, None
        if group is not None:
            if group.is_usable():
                reuse.rest(self._key, group)
            else:
                group.terminate()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Kills the processes, because a call has raised. With ``ensure_ready``, new ones take their place."""
        group, self._group = self._group, None
        if group is not None:
            group.terminate("a call of joblib.Parallel was aborted")
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel, **self._configured)

    # ------------------------------------------------------------------ joblib: batches

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None) -> Future[Any]:
        """Sends a batch. The future ends with the list of its results, or with what one of its calls raised."""
        future: Future[Any] = Future()
        if callback is not None:
            future.add_done_callback(callback)
        group = self._group
        if group is None:
            future.set_exception(RuntimeError("this call of joblib.Parallel has been ended"))
            return future
        try:
            packed = pack(func, self._arrays)
        except Exception as error:
            future.set_exception(error)
            return future
        group.submit(_Batch(group.functions.shared(run_packed), [(packed, {})], future))
        return future

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, future: Future[Any]) -> Any:
        """Returns the results of a batch, or raises its error."""
        return future.result()


class _Batch(Job):
    """A batch of calls. joblib has its own list of what it waits for, so only the future is told."""

    __slots__ = ("_future",)

    def __init__(self, function: Any, items: list[Any], future: Future[Any]) -> None:
        super().__init__(function, items, CALL_ONCE)
        self._future = future

    def succeeded(self, results: list[Any], errors: dict[int, BaseException]) -> None:
        if errors:
            self._future.set_exception(errors[0])
        else:
            self._future.set_result(results[0])

    def failed(self, error: BaseException) -> None:
        self._future.set_exception(error)
