"""``zray.get_runtime_context()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zray.accelerators import FAMILIES, accelerator_in
from zray.api.deprecation import warn_deprecated
from zray.api.runtime import context, is_local_mode, runtime
from zray.bundles import group_of, plain
from zray.client import session as sessions
from zray.exceptions import ZrayError
from zray.ids import PROCESS_ID_BYTES
from zray.object_ref import get_tracker

if TYPE_CHECKING:
    from zray.public_ids import ActorID, JobID, NodeID, PlacementGroupID, TaskID
    from zray.runtime_env import RuntimeEnv

LOCAL_PROCESS = bytes(PROCESS_ID_BYTES)
"""The identifier of the only process in local mode, and of the only host."""


class RuntimeContext:
    """What the running code can learn about itself. Identifiers are hexadecimal strings."""

    @staticmethod
    def _session() -> sessions.Session:
        runtime()
        session = sessions.current()
        if session is None:
            raise ZrayError("there is no cluster in local mode")
        return session

    def get_job_id(self) -> str:
        """The job: everything that one driver submits."""
        runtime()
        return get_tracker().current_job().hex()

    def get_node_id(self) -> str:
        """The host that this process belongs to."""
        return LOCAL_PROCESS.hex() if is_local_mode() else self._session().stores.find_home().hex()

    def get_node_labels(self) -> dict[str, str]:
        """The labels of the host that this process belongs to; empty in local mode."""
        if is_local_mode():
            return {}
        home = self._session().stores.find_home()
        return next((host.info.labels for host in runtime().hosts() if host.host_id == home), {})

    def get_worker_id(self) -> str:
        """This process."""
        return LOCAL_PROCESS.hex() if is_local_mode() else self._session().process_id.hex()

    def get_task_id(self) -> str | None:
        """The running task or method; None in a driver."""
        return context().task_id.hex() or None

    def get_task_name(self) -> str | None:
        """The name of the running task, by default the function's, or ``Class.method``; None in a driver."""
        return context().name or None

    def get_task_function_name(self) -> str | None:
        """The function's name, as ``module.function`` or ``module.Class.method``; None in a driver."""
        running = context()
        if is_local_mode() or not running.task_id:
            return running.name or None
        return self._session().core.execution.function_name(running.task_id) or running.name

    def get_attempt_number(self) -> int:
        """0 for the first attempt of a task, 1 for its first retry, ..."""
        return context().attempt

    def is_canceled(self) -> bool:
        """Whether ``zray.cancel`` was called for the running task or method.

        A running method of an actor that is not ``async`` is not interrupted: it can ask this from time to time, and
        return. Whatever it returns, its result is TaskCancelledError; if it raises, its error.

        Raises:
            RuntimeError: it is called in a driver, or in an actor with ``async`` methods, whose calls get
                ``asyncio.CancelledError``.
        """
        session = None if is_local_mode() else self._session()
        if session is None or session.core.execution.job is None:
            raise RuntimeError("is_canceled() is for the code of tasks and actors, and this process is a driver")
        spec = session.core.execution.actor_spec
        if spec is not None and spec.has_coroutines:
            raise RuntimeError(
                "is_canceled() is not available in an async actor: its cancelled calls get asyncio.CancelledError"
            )
        return context().task_id in session.core.execution.cancelled

    def get_actor_id(self) -> str | None:
        """The actor that this process serves; None if it serves none."""
        return None if is_local_mode() else self._session().core.execution.actor_id.hex() or None

    def get_actor_name(self) -> str | None:
        """The name with which the actor was created; empty if it has none; None outside an actor."""
        spec = self._session().core.execution.actor_spec
        return None if spec is None else spec.name

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor has been restarted."""
        return self._session().core.execution.incarnation > 0

    @property
    def namespace(self) -> str:
        """The namespace of the job."""
        return str(runtime().namespace)

    def get_assigned_resources(self) -> dict[str, float]:
        """The resources that the running task or actor holds: amounts by name; memory in bytes."""
        return {name: amount / 10_000 for name, amount in plain(context().resources).items()}

    def get_placement_group_id(self) -> str | None:
        """The placement group in which the running task or actor is; None if it is in none, and in a driver."""
        return group_of(context().resources) or None

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether what the running task or actor creates runs in its placement group."""
        return context().captures

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The accelerators that the running task or actor may use, by resource: ``{"GPU": ["0"], "TPU": [], ...}``.

        They are numbers, or the names in the family's variable (``CUDA_VISIBLE_DEVICES``, ...) if the host was started
        with it.
        """
        running = context()
        found: dict[str, list[str]] = {resource: [] for resource in FAMILIES}
        if running.accelerators:
            found[accelerator_in(plain(running.resources))] = [str(index) for index in running.accelerators]
        return found

    @property
    def current_actor(self) -> Any:
        """A weak handle of the actor in which it is read, see ``zray.get_actor``.

        Raises:
            RuntimeError: it is read outside an actor.
        """
        from zray.api.actor import ActorHandle
        from zray.api.actor_meta import ActorMeta

        session = self._session()
        spec = session.core.execution.actor_spec
        if spec is None:
            raise RuntimeError("current_actor is only known inside an actor")
        return ActorHandle(session.core.execution.actor_id, None, ActorMeta.unpack(spec.meta))

    @property
    def runtime_env(self) -> RuntimeEnv:
        """The runtime environment that the running code is in; in a driver, the one of its job."""
        from zray.runtime_env import RuntimeEnv

        return RuntimeEnv.deserialize(self.get_runtime_env_string())

    def get_runtime_env_string(self) -> str:
        """The same as JSON; "{}" for none."""
        return "{}" if is_local_mode() else self._session().environment.text or "{}"

    @property
    def gcs_address(self) -> str:
        """The broker's address."""
        return self._session().address

    def get_session_name(self) -> str:
        """The name of the cluster: the same in all of its processes, and never used again."""
        return "session_local" if is_local_mode() else f"session_{self._session().cluster_id.hex()}"

    def get_temp_dir(self) -> str:
        """The directory below which this process has sockets, logs and spilled objects.

        It is ``_temp_dir`` of ``init`` or the setting ``tmpdir``, if one of these was given.
        """
        if is_local_mode():
            import tempfile

            return tempfile.gettempdir()
        from zray.sessions.directories import runtime_root

        tmpdir = self._session().config.tmpdir
        return tmpdir or runtime_root()

    # ------------------------------------------------------------------ what Ray has deprecated

    @property
    def job_id(self) -> JobID:
        """Deprecated: use ``get_job_id``."""
        from zray.public_ids import JobID

        warn_deprecated("RuntimeContext.job_id", "get_job_id()")
        return JobID.from_hex(self.get_job_id())

    @property
    def node_id(self) -> NodeID:
        """Deprecated: use ``get_node_id``."""
        from zray.public_ids import NodeID

        warn_deprecated("RuntimeContext.node_id", "get_node_id()")
        return NodeID.from_hex(self.get_node_id())

    @property
    def task_id(self) -> TaskID | None:
        """Deprecated: use ``get_task_id``. Raises AssertionError in a driver."""
        from zray.public_ids import TaskID

        warn_deprecated("RuntimeContext.task_id", "get_task_id()")
        self._assert_worker("task_id")
        task_id = self.get_task_id()
        return None if task_id is None else TaskID.from_hex(task_id)

    @property
    def actor_id(self) -> ActorID | None:
        """Deprecated: use ``get_actor_id``. Raises AssertionError in a driver."""
        from zray.public_ids import ActorID

        warn_deprecated("RuntimeContext.actor_id", "get_actor_id()")
        self._assert_worker("actor_id")
        actor_id = self.get_actor_id()
        return None if actor_id is None else ActorID.from_hex(actor_id)

    @property
    def current_placement_group_id(self) -> PlacementGroupID:
        """Deprecated: use ``get_placement_group_id``. ``PlacementGroupID.nil()`` outside of a group."""
        from zray.public_ids import PlacementGroupID

        warn_deprecated("RuntimeContext.current_placement_group_id", "get_placement_group_id()")
        name = self.get_placement_group_id()
        return PlacementGroupID.nil() if name is None else PlacementGroupID.from_hex(name)

    def get_resource_ids(self) -> dict[str, list[str]]:
        """Deprecated: use ``get_accelerator_ids``."""
        warn_deprecated("RuntimeContext.get_resource_ids()", "get_accelerator_ids()")
        return self.get_accelerator_ids()

    def get(self) -> dict[str, Any]:
        """Deprecated: use the methods ``get_..._id``.

        Returns the identifiers and the namespace as a dictionary: job_id, node_id, namespace, and in a worker task_id
        and actor_id.
        """
        from zray.public_ids import ActorID, JobID, NodeID, TaskID

        warn_deprecated("RuntimeContext.get()", "get_job_id(), get_node_id() and the other methods")
        found: dict[str, Any] = {
            "job_id": JobID.from_hex(self.get_job_id()),
            "node_id": NodeID.from_hex(self.get_node_id()),
            "namespace": self.namespace,
        }
        if (task_id := self.get_task_id()) is not None:
            found["task_id"] = TaskID.from_hex(task_id)
        if (actor_id := self.get_actor_id()) is not None:
            found["actor_id"] = ActorID.from_hex(actor_id)
        return found

    @staticmethod
    def _assert_worker(name: str) -> None:
        if not context().task_id:
            raise AssertionError(f"{name} is only available in a worker; this process is a driver")


_context = RuntimeContext()


def get_runtime_context() -> RuntimeContext:
    """Returns the context of the running code. Initialises zray if necessary."""
    runtime()
    return _context


def get_gpu_ids() -> list[int | str]:
    """The GPUs that the running task or actor may use: numbers, or the names in ``CUDA_VISIBLE_DEVICES`` if the host
    was started with it."""
    running = context()
    is_gpu = bool(running.accelerators) and accelerator_in(plain(running.resources)) == "GPU"
    return list(running.accelerators) if is_gpu else []
