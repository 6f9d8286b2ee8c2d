"""Remarks for ``docs/ray-compatibility.md``: how a name differs from Ray's, and why one is missing.

A name is written as in Ray. A remark on a module or class holds for all names in it that have none of their own.
"""

from __future__ import annotations

NOT_YET = "not yet"
"""The remark on a missing name that has none of its own."""

OUT = {
    "ray.cpp_function": "raises `NotImplementedError`: workers are in Python",
    "ray.java_actor_class": "raises `NotImplementedError`: workers are in Python",
    "ray.java_function": "raises `NotImplementedError`: workers are in Python",
    "ray.cross_language": "raises `NotImplementedError`: workers are in Python",
    "ray.data": "Ray Data stays out. Its import works, because libraries import it; its use raises",
    "ray.widgets": "pictures of objects in notebooks; zray has none",
    "ray.internal": "empty in Ray",
}
"""Names that stay out, or exist only to say so."""

_TENSORS = "transports of tensors between GPUs stay out"
_MADE = "identifiers of tasks are made by zray only"
_REDIS = "there is no Redis"
_COMPILED = "compiled graphs stay out"
MISSING = {
    "ray.dag.DAGNode.type_hint": _TENSORS,
    "ray.autoscaler.sdk": "zray starts no machines; `zray up` starts hosts on some: [deployment](deploy.md)",
    "ray.experimental.RDTManager": _TENSORS,
    "ray.experimental.wait_tensor_freed": _TENSORS,
    "ray.experimental.register_tensor_transport": _TENSORS,
    "ray.experimental.register_nixl_memory": _TENSORS,
    "ray.experimental.deregister_nixl_memory": _TENSORS,
    "ray.experimental.register_nixl_memory_pool": _TENSORS,
    "ray.experimental.set_nixl_cuda_stream": _TENSORS,
    "ray.experimental.TensorTransportManager": _TENSORS,
    "ray.experimental.TensorTransportMetadata": _TENSORS,
    "ray.experimental.CommunicatorMetadata": _TENSORS,
    "ray.experimental.set_target_for_ref": _TENSORS,
    "ray.experimental.set_target_device_for_ref": _TENSORS,
    "ray.cloudpickle": "not a part of the library cloudpickle's interface",
    "ray.dag.BIND_INDEX_KEY": _COMPILED,
    "ray.dag.COLLECTIVE_OPERATION_KEY": _COMPILED,
    "ray.dag.DAGNODE_TYPE_KEY": _COMPILED,
    "ray.actor.ActorClass.remote": "made for each class; a class has it",
    "ray.job_submission": "there is no server that takes jobs yet: run the program where it reaches the broker",
    "ray.util.annotations.AnnotationType": "marks leave no trace on what they mark",
    "ray.util.serialization.StandaloneSerializationContext": "private in effect: Ray's own use of serializers",
    "ray.dag.CollectiveOutputNode": _COMPILED,
    "ray.dag.DAGOperationFuture": _COMPILED,
    "ray.dag.GPUFuture": _COMPILED,
    "ray.dag.DAGContext": _COMPILED,
    "ray.util.collective": "communication between GPUs stays out",
    "ray.util.accelerators.tpu": "no resources for pods of TPUs; ask for the resource `TPU`",
    "ray.experimental.internal_kv.internal_kv_get_gcs_client": "there is no GCS",
    "ray.ObjectRef.redis_shard_hash": _REDIS,
    "ray.ActorID.redis_shard_hash": _REDIS,
    "ray.JobID.redis_shard_hash": _REDIS,
    "ray.NodeID.redis_shard_hash": _REDIS,
    "ray.TaskID.redis_shard_hash": _REDIS,
    "ray.ActorID.job_id": "an identifier does not contain its job's",
    "ray.ActorID.of": "identifiers of actors are made by zray only",
    "ray.TaskID.actor_id": "an identifier does not contain its actor's",
    "ray.TaskID.job_id": "an identifier does not contain its job's",
    "ray.TaskID.for_actor_creation_task": _MADE,
    "ray.TaskID.for_actor_task": _MADE,
    "ray.TaskID.for_driver_task": _MADE,
    "ray.TaskID.for_fake_task": _MADE,
    "ray.TaskID.for_normal_task": _MADE,
}
"""Why a name is missing, as long as it is."""

_SIZE = "its size is zray's: 16 bytes for hosts and workers, 24 for tasks and actors"
_BUILDER = "joins with the interface of a driver; there is no server for clients. One connection at a time"
_NO_TRANSPORT = "always `None`: there are no transports of tensors between GPUs"
DIFFERS = {
    "ray.workflow": "Ray 2.60 raises at its import, because it was removed; here it works, in small: "
    "[durable graphs](guide/durable-graphs.md)",
    "ray.dag.DAGNode.traverse_and_apply": "reaches the nodes below; in Ray those above, too",
    "ray.timeline": "the last 2,000 tasks of each owner; with `RAY_PROFILING=1` all tasks; one event a task",
    "ray.ActorID": _SIZE,
    "ray.NodeID": _SIZE,
    "ray.TaskID": _SIZE,
    "ray.WorkerID": _SIZE,
    "ray.FunctionID": "its size is zray's: 16 bytes",
    "ray.Language": "a name for each language; workers are in Python only",
    "ray.client": _BUILDER,
    "ray.ClientBuilder": _BUILDER,
    "ray.client_builder.ClientBuilder": "the same as `ray.ClientBuilder`",
    "ray.client_builder.ClientContext": "what `init` returns",
    "ray.client_builder.client": "the same as `ray.client`",
    "ray.util.state.get_job": "returns None: there is no job submission; `list_jobs` lists drivers",
    "ray.util.state.get_log": "reads the files of hosts on the same machine only",
    "ray.util.state.list_logs": "lists the files of hosts on the same machine only",
    "ray.util.state.list_cluster_events": "an empty list: zray records no events",
    "ray.util.state.list_tasks": (
        "times of submission, begin and end (of a running task to a quarter of a second; of actors' constructors "
        "none), but no call sites; of ended tasks the last 2,000 of each owner, and the last 1,000 of drivers that "
        "have left"
    ),
    "ray.util.state.get_task": "see `list_tasks`",
    "ray.util.connect": "joins with the interface of a driver; there is no server for clients",
    "ray.util.client_connect.connect": "joins with the interface of a driver; there is no server for clients",
    "ray.get": "a tuple of references is accepted, too; `GetTimeoutError` says why a value is not there yet",
    "ray.init": "see the table above. Returns a dictionary with Ray's attributes; reading its keys does not warn",
    "ray.nodes": "ports are -1; of hosts that have ended the last 2,000",
    "ray.shutdown": "always waits for the processes of a cluster that `init` started",
    "ray.autoscaler.sdk.request_resources": "has no effect, as in Ray on a cluster that it cannot grow",
    "ray.cloudpickle.dumps": "the library cloudpickle; Ray has a copy of it with changes",
    "ray.ObjectRef.call_site": "always empty, as in Ray by default",
    "ray.ObjectRef.owner_address": "the owner's identifier; in Ray an address",
    "ray.ObjectRef.tensor_transport": _NO_TRANSPORT,
    "ray.ObjectRef.from_hex": "works; in Ray it raises `NotImplementedError`",
    "ray.NodeID.from_hex": "an unusable text raises `ValueError`; Ray returns `nil()`",
    "ray.JobID.from_hex": "an unusable text raises `ValueError`; Ray returns `nil()`",
    "ray.TaskID.from_hex": "an unusable text raises `ValueError`; Ray returns `nil()`",
    "ray.ActorID.from_hex": "an unusable text raises `ValueError`; Ray returns `nil()`",
    "ray.job_config.JobConfig": "`jvm_options` has no meaning here, and `metadata` is kept in the object only",
}
"""In which way a name differs."""

_LOCAL = "has no meaning without a dashboard"
_ISOLATION = "zray does not use cgroups: `ValueError`, as in Ray without `enable_resource_isolation`"
_PRIVATE = "accepted; a line of the log at debug level says that it has no meaning here"
INIT = {
    "address": (
        "differs",
        "`ipc://PATH`, `tcp://HOST:PORT`, and Ray's `HOST:PORT`, `ray://HOST:PORT`, `auto` and `local`. `ray://` leads "
        "to the broker: there is no server for clients",
    ),
    "num_cpus, num_gpus, resources, object_store_memory": ("works", ""),
    "labels": ("works", ""),
    "local_mode": ("works", "Ray has removed it"),
    "ignore_reinit_error": ("works", ""),
    "include_dashboard": ("differs", "`True` logs a warning: there is no dashboard yet"),
    "dashboard_host, dashboard_port, proxy_server_url": ("differs", _LOCAL),
    "job_config": ("works", ""),
    "configure_logging, logging_level, logging_format": ("works", "for the logger `zray`"),
    "logging_config": ("works", ""),
    "log_to_driver": ("works", ""),
    "namespace": ("works", ""),
    "runtime_env": ("works", "without conda and containers, see [runtime environments](guide/runtime-environments.md)"),
    "enable_resource_isolation": ("missing", "`NotImplementedError`, which says what to use"),
    "cgroup_path, system_reserved_cpu, system_reserved_memory": ("missing", _ISOLATION),
    "_temp_dir": ("works", "sockets, logs and spilled objects are in a directory of the user's below it"),
    "_memory": ("works", "`memory=` does the same"),
    "object_spilling_directory": ("works", "as the setting `spill_dir`"),
    "_system_config": (
        "differs",
        "`object_spilling_config` (a directory), `memory_usage_threshold` and `memory_monitor_refresh_ms` become "
        "settings; other keys have no meaning here",
    ),
    "_redis_password, _node_name": ("differs", f"and all others that begin with `_`: {_PRIVATE}"),
    "memory, insecure": ("differs", "zray's own"),
}
"""What each argument of ``init`` does."""
