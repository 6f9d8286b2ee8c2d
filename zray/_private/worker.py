"""``global_worker``: what this process knows about itself, under the names of Ray's worker.

Programs and their tests read identifiers, the mode and the node here. All of it is read from the public interface and
the session, each time it is asked for. The functions of the public interface are here, too.
"""

from __future__ import annotations

import os
from typing import Any

import zray
from zray import LOCAL_MODE, SCRIPT_MODE, WORKER_MODE
from zray.api.cluster import init, is_initialized, shutdown
from zray.api.cluster_context import Context as RayContext
from zray.api.decorator import remote
from zray.api.nodes import available_resources, cluster_resources, nodes
from zray.api.objects import cancel, get, get_actor, kill, put, wait
from zray.api.runtime import is_local_mode
from zray.api.runtime_context import get_gpu_ids
from zray.client import session as sessions
from zray.client.core.states import INLINE
from zray.exceptions import ZrayError
from zray.object_ref import ObjectRef
from zray.protocol.records import HostInfo
from zray.public_ids import ActorID, JobID, NodeID, TaskID
from zray.runtime_env import RuntimeEnv
from zray.sessions.directories import runtime_root

__all__ = [
    "LOCAL_MODE",
    "SCRIPT_MODE",
    "WORKER_MODE",
    "CoreWorker",
    "Node",
    "RayContext",
    "Worker",
    "available_resources",
    "cancel",
    "cluster_resources",
    "get",
    "get_actor",
    "get_gpu_ids",
    "global_worker",
    "init",
    "is_initialized",
    "kill",
    "nodes",
    "pickle",
    "put",
    "remote",
    "shutdown",
    "wait",
]


def _session() -> sessions.Session:
    session = sessions.current()
    if session is None:
        raise ZrayError("this process is not connected to a cluster: call zray.init() first")
    return session


class Node:
    """The host that this process belongs to. Each attribute is read when it is asked for."""

    @property
    def unique_id(self) -> str:
        """Its identifier, as in ``nodes()``."""
        return zray.get_runtime_context().get_node_id()

    @property
    def node_id(self) -> str:
        """The same."""
        return self.unique_id

    @property
    def address(self) -> str:
        """The broker's address."""
        return _session().address

    @property
    def gcs_address(self) -> str:
        """The broker's address."""
        return self.address

    @property
    def node_ip_address(self) -> str:
        """The address by which the host reaches the broker."""
        return zray.util.get_node_ip_address()

    @property
    def plasma_store_socket_name(self) -> str:
        """The path of its object store, as in ``nodes()``."""
        return self._info().store

    @property
    def raylet_socket_name(self) -> str:
        """The path of its socket, as in ``nodes()``."""
        return self._info().fetch

    @property
    def session_name(self) -> str:
        """The name of the cluster."""
        return zray.get_runtime_context().get_session_name()

    @property
    def address_info(self) -> dict[str, Any]:
        """What the host tells of itself, with Ray's keys."""
        info = self._info()
        return {
            "node_ip_address": self.node_ip_address,
            "raylet_ip_address": self.node_ip_address,
            "object_store_address": info.store,
            "raylet_socket_name": info.fetch,
            "session_dir": self.get_session_dir_path(),
            "gcs_address": self.address,
            "address": self.address,
            "node_id": self.node_id,
            "webui_url": "",
        }

    def get_session_dir_path(self) -> str:
        """The directory of the host's session."""
        return os.path.dirname(self._info().fetch)

    def get_logs_dir_path(self) -> str:
        """The directory of its log files."""
        return os.path.join(os.path.dirname(self.get_session_dir_path()), "logs", self._info().session)

    def get_temp_dir_path(self) -> str:
        """The directory below which sessions are."""
        return runtime_root(_session().config.tmpdir)

    def is_head(self) -> bool:
        """Whether it is the cluster's first host."""
        found = nodes()
        return bool(found) and found[0]["NodeID"] == self.unique_id

    def _info(self) -> HostInfo:
        home = _session().stores.find_home()
        for host in zray.api.runtime.runtime().hosts():
            if host.host_id == home:
                info: HostInfo = host.info
                return info
        raise ZrayError("there is no host on this machine")


class CoreWorker:
    """What this process knows about objects."""

    def object_exists(self, object_ref: ObjectRef) -> bool:
        """Whether the value is here: in this process, as small ones are, or in the object store of its host."""
        session = _session()
        object_id = object_ref.binary()
        with session.shell.lock:
            entry = session.core.references.entries.get(object_id)
            if entry is not None and entry.status == INLINE:
                return True
        store = session.stores.of(session.stores.find_home())
        return store is not None and store.contains(object_id)

    def get_all_reference_counts(self) -> dict[bytes, dict[str, int]]:
        """The objects that this process holds, by identifier in hexadecimal.

        For each: ``local``, the references of this process, where copies of one ObjectRef in the same process count
        once; ``submitted``, the tasks under way and the objects that contain the reference.
        """
        session = _session()
        with session.shell.lock:
            return {
                object_id.hex().encode(): {"local": entry.local, "submitted": entry.pins}
                for object_id, entry in session.core.references.entries.items()
                if entry.local or entry.pins
            }

    def get_current_task_id(self) -> TaskID:
        """The running task; ``TaskID.nil()`` in a driver."""
        return global_worker.current_task_id

    def get_actor_id(self) -> ActorID:
        """The actor that this process serves; ``ActorID.nil()`` if it serves none."""
        return global_worker.actor_id

    def get_current_node_id(self) -> NodeID:
        """The host that this process belongs to."""
        return global_worker.current_node_id


class Worker:
    """This process, under the names of Ray's worker."""

    def __init__(self) -> None:
        self.node = Node()
        """The host that this process belongs to."""
        self.core_worker = CoreWorker()
        """What this process knows about objects."""

    @property
    def mode(self) -> int | None:
        """``SCRIPT_MODE`` in a driver, ``WORKER_MODE`` in a worker, ``LOCAL_MODE``; None if not connected."""
        if is_local_mode():
            return LOCAL_MODE
        session = sessions.current()
        if session is None:
            return None
        return SCRIPT_MODE if session.job_id else WORKER_MODE

    @property
    def connected(self) -> bool:
        """Whether this process is connected to a cluster."""
        return self.mode is not None

    def check_connected(self) -> None:
        """Raises ZrayError if this process is not connected to a cluster."""
        if not self.connected:
            _session()

    @property
    def worker_id(self) -> bytes:
        """The identifier of this process."""
        return bytes.fromhex(zray.get_runtime_context().get_worker_id())

    @property
    def current_job_id(self) -> JobID:
        """The job that this process works for."""
        return JobID.from_hex(zray.get_runtime_context().get_job_id())

    @property
    def current_node_id(self) -> NodeID:
        """The host that this process belongs to."""
        return NodeID.from_hex(zray.get_runtime_context().get_node_id())

    @property
    def current_task_id(self) -> TaskID:
        """The running task; ``TaskID.nil()`` in a driver."""
        task_id = zray.get_runtime_context().get_task_id()
        return TaskID.nil() if task_id is None else TaskID.from_hex(task_id)

    @property
    def actor_id(self) -> ActorID:
        """The actor that this process serves; ``ActorID.nil()`` if it serves none."""
        actor_id = zray.get_runtime_context().get_actor_id()
        return ActorID.nil() if actor_id is None else ActorID.from_hex(actor_id)

    @property
    def namespace(self) -> str:
        """The namespace of the job."""
        return zray.get_runtime_context().namespace

    @property
    def runtime_env(self) -> RuntimeEnv:
        """The runtime environment of the running code."""
        return zray.get_runtime_context().runtime_env


pickle = zray.cloudpickle
"""The library with which values are pickled."""

global_worker = Worker()
"""This process."""


def __getattr__(name: str) -> Any:
    if name == "_global_node":  # Ray has it in drivers only, and None before ``init``
        return global_worker.node if global_worker.mode == SCRIPT_MODE else None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
