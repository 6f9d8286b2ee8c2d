"""The records of the state API, its options, and its filters: dataclasses with Ray's names.

A record also indexes like a mapping: ``row["state"]``, ``row.get("name")``. Fields that a cluster of zray does not know
are None; each class says which.
"""

# ruff: noqa: RUF009 (``column`` makes a ``dataclasses.field``)

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from zray.user_warnings import warn_user

DEFAULT_LIMIT = 100
"""How many records a list has, unless told otherwise."""
MAX_LIMIT = RAY_MAX_LIMIT_FROM_API_SERVER = RAY_MAX_LIMIT_FROM_DATA_SOURCE = 10_000
"""The largest limit."""
DEFAULT_LOG_LIMIT = 1000
"""How many lines Ray's command for logs shows, by default."""
DEFAULT_RPC_TIMEOUT = 30
"""Seconds to wait for an answer, by default."""

PredicateType = str
SupportedFilterType = str | bool | int | float
Filter = tuple[str, str, Any]
_State = TypeVar("_State", bound="StateSchema")


class StateResource(enum.Enum):
    """What can be listed."""

    ACTORS = "actors"
    JOBS = "jobs"
    PLACEMENT_GROUPS = "placement_groups"
    NODES = "nodes"
    WORKERS = "workers"
    TASKS = "tasks"
    OBJECTS = "objects"
    RUNTIME_ENVS = "runtime_envs"
    CLUSTER_EVENTS = "cluster_events"


class SummaryResource(enum.Enum):
    """What can be summarized."""

    ACTORS = "actors"
    TASKS = "tasks"
    OBJECTS = "objects"


def column(*, filterable: bool = True, detail: bool = False, default: Any = dataclasses.MISSING) -> Any:
    """A field of a record. ``filterable``: filters may name it; ``detail``: it is None unless details are asked for."""
    if detail and default is dataclasses.MISSING:
        default = None
    return dataclasses.field(default=default, metadata={"filterable": filterable, "detail": detail})


class StateSchema:
    """What all records have in common."""

    @classmethod
    def list_columns(cls, detail: bool = True) -> list[str]:
        """The names of the fields in order. ``detail``: also of those that are there only if details are asked for."""
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        return [field.name for field in fields if detail or not field.metadata.get("detail")]

    @classmethod
    def columns(cls) -> set[str]:
        """The names of all fields."""
        return {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def filterable_columns(cls) -> set[str]:
        """The names of the fields that filters may name."""
        return {field.name for field in dataclasses.fields(cls) if field.metadata.get("filterable")}  # type: ignore[arg-type]

    @classmethod
    def detail_columns(cls) -> set[str]:
        """The names of the fields that are there if details are asked for: all."""
        return cls.columns()

    @classmethod
    def base_columns(cls) -> set[str]:
        """The names of the fields that are always there."""
        return {field.name for field in dataclasses.fields(cls) if not field.metadata.get("detail")}  # type: ignore[arg-type]

    def asdict(self) -> dict[str, Any]:
        """The fields by name."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def get(self, key: str, default: Any = None) -> Any:
        """The field ``key``, or ``default`` if there is no such field."""
        return getattr(self, key, default)

    def without_details(self: _State) -> _State:
        """A copy without the fields that are there only if details are asked for."""
        hidden = dict.fromkeys(self.columns() - self.base_columns())
        return dataclasses.replace(self, **hidden)  # type: ignore[type-var]


@dataclasses.dataclass
class ActorState(StateSchema):
    """An actor. ``repr_name``, ``call_site``, the label fields and the two special counts of restarts are not known."""

    actor_id: str = column()
    class_name: str = column()
    state: str = column()
    """DEPENDENCIES_UNREADY, PENDING_CREATION, ALIVE, RESTARTING or DEAD."""
    job_id: str = column()
    name: str | None = column()
    node_id: str | None = column()
    pid: int | None = column()
    ray_namespace: str | None = column()
    serialized_runtime_env: str | None = column(filterable=False, detail=True)
    required_resources: dict[str, float] | None = column(filterable=False, detail=True)
    death_cause: dict[str, Any] | None = column(filterable=False, detail=True)
    is_detached: bool | None = column(filterable=False, detail=True)
    placement_group_id: str | None = column(detail=True)
    repr_name: str | None = column(detail=True)
    num_restarts: int | None = column(filterable=False, detail=True)
    num_restarts_due_to_lineage_reconstruction: int | None = column(filterable=False, detail=True)
    num_restarts_due_to_node_preemption: int | None = column(filterable=False, detail=True)
    call_site: str | None = column(filterable=False, detail=True)
    label_selector: dict[str, str] | None = column(filterable=False, detail=True)
    fallback_strategy: dict[str, Any] | None = column(filterable=False, detail=True)


@dataclasses.dataclass
class PlacementGroupState(StateSchema):
    """A placement group."""

    placement_group_id: str = column()
    name: str = column()
    creator_job_id: str = column()
    state: str = column()
    bundles: list[dict[str, Any]] | None = column(filterable=False, detail=True)
    is_detached: bool | None = column(detail=True)
    stats: dict[str, Any] | None = column(filterable=False, detail=True)
    topology_strategy: dict[str, Any] | None = column(filterable=False, detail=True)
    topology_assignments: dict[str, Any] | None = column(filterable=False, detail=True)


@dataclasses.dataclass
class NodeState(StateSchema):
    """A host. ``end_time_ms``: 0 while it lives."""

    node_id: str = column()
    node_ip: str = column()
    is_head_node: bool = column()
    state: str = column()
    """ALIVE or DEAD."""
    state_message: str | None = column(filterable=False)
    node_name: str = column()
    resources_total: dict[str, float] = column(filterable=False)
    labels: dict[str, str] = column(filterable=False)
    start_time_ms: int | None = column(filterable=False, detail=True)
    end_time_ms: int | None = column(filterable=False, detail=True)


@dataclasses.dataclass
class DriverInfo:
    """The driver of a job."""

    id: str
    node_ip_address: str
    pid: str


@dataclasses.dataclass
class JobState(StateSchema):
    """A job: a driver, as zray has no job submission. ``entrypoint`` is known for the asking driver's own job only."""

    type: str = column()
    job_id: str | None = column()
    submission_id: str | None = column()
    driver_info: DriverInfo | None = column(filterable=False)
    status: str = column()
    """RUNNING; SUCCEEDED once the driver is gone, as for Ray's drivers."""
    entrypoint: str = column(filterable=False)
    message: str | None = column(filterable=False)
    error_type: str | None = column(filterable=False)
    start_time: int | None = column(filterable=False, detail=True)
    end_time: int | None = column(filterable=False, detail=True)
    metadata: dict[str, str] | None = column(filterable=False, detail=True)
    runtime_env: dict[str, Any] | None = column(filterable=False, detail=True)
    driver_agent_http_address: str | None = column(filterable=False, detail=True)
    driver_node_id: str | None = column(filterable=False, detail=True)
    driver_exit_code: int | None = column(filterable=False, detail=True)


@dataclasses.dataclass
class WorkerState(StateSchema):
    """A worker or driver. ``end_time_ms``: 0 while it lives. The launch times and the debugger's fields are not known.

    The host of a driver is known only if the cluster has a single one.
    """

    worker_id: str = column()
    is_alive: bool = column()
    worker_type: str = column()
    """WORKER or DRIVER."""
    exit_type: str | None = column()
    node_id: str = column()
    ip: str = column()
    pid: int = column()
    exit_detail: str | None = column(filterable=False, detail=True)
    worker_launch_time_ms: int | None = column(filterable=False, detail=True)
    worker_launched_time_ms: int | None = column(filterable=False, detail=True)
    start_time_ms: int | None = column(filterable=False, detail=True)
    end_time_ms: int | None = column(filterable=False, detail=True)
    debugger_port: int | None = column(detail=True)
    num_paused_threads: int | None = column(detail=True)


@dataclasses.dataclass
class TaskState(StateSchema):
    """An attempt of a task or call. Profiles and log offsets are not recorded: small tasks stay fast.

    ``start_time_ms`` of a running task is known to a quarter of a second; after the worker's death it is not known, and
    None. ``events``: when the task was submitted, began and ended.
    """

    task_id: str = column()
    attempt_number: int = column()
    name: str = column()
    state: str = column()
    """PENDING_ARGS_AVAIL, PENDING_NODE_ASSIGNMENT, SUBMITTED_TO_WORKER, RUNNING, RUNNING_IN_RAY_GET, FINISHED or
    FAILED."""
    job_id: str = column()
    actor_id: str | None = column()
    type: str = column()
    """NORMAL_TASK, ACTOR_TASK or ACTOR_CREATION_TASK."""
    func_or_class_name: str = column()
    parent_task_id: str = column()
    node_id: str | None = column()
    worker_id: str | None = column()
    worker_pid: int | None = column()
    error_type: str | None = column()
    language: str | None = column(detail=True)
    required_resources: dict[str, float] | None = column(filterable=False, detail=True)
    runtime_env_info: dict[str, Any] | None = column(filterable=False, detail=True)
    placement_group_id: str | None = column(detail=True)
    events: list[dict[str, Any]] | None = column(filterable=False, detail=True)
    profiling_data: dict[str, Any] | None = column(filterable=False, detail=True)
    creation_time_ms: int | None = column(filterable=False, detail=True)
    start_time_ms: int | None = column(filterable=False, detail=True)
    end_time_ms: int | None = column(filterable=False, detail=True)
    task_log_info: dict[str, Any] | None = column(filterable=False, detail=True)
    error_message: str | None = column(filterable=False, detail=True)
    is_debugger_paused: bool | None = column(detail=True)
    call_site: str | None = column(filterable=False, detail=True)
    label_selector: dict[str, str] | None = column(filterable=False, detail=True)
    fallback_strategy: dict[str, Any] | None = column(filterable=False, detail=True)


@dataclasses.dataclass
class ObjectState(StateSchema):
    """An object, as one process that owns it or holds a reference to it sees it. ``call_site`` is not recorded."""

    object_id: str = column()
    object_size: int = column()
    """Bytes; -1 if it is not known."""
    task_status: str = column()
    attempt_number: int = column()
    reference_type: str = column()
    call_site: str = column()
    type: str = column()
    pid: int = column()
    ip: str = column()


@dataclasses.dataclass
class ClusterEventState(StateSchema):
    """An event of the cluster. zray records none."""

    severity: str = column()
    time: str = column(filterable=False)
    source_type: str = column()
    message: str = column(filterable=False)
    event_id: str = column()
    custom_fields: dict[str, Any] | None = column(filterable=False, detail=True)


@dataclasses.dataclass
class RuntimeEnvState(StateSchema):
    """A runtime environment on a host. ``ref_cnt``: how many workers are in it."""

    runtime_env: dict[str, Any] = column()
    success: bool = column()
    creation_time_ms: float | None = column(filterable=False)
    node_id: str = column()
    ref_cnt: int | None = column(filterable=False, detail=True)
    error: str | None = column(detail=True)


SCHEMAS: dict[StateResource, type[StateSchema]] = {
    StateResource.ACTORS: ActorState,
    StateResource.JOBS: JobState,
    StateResource.PLACEMENT_GROUPS: PlacementGroupState,
    StateResource.NODES: NodeState,
    StateResource.WORKERS: WorkerState,
    StateResource.TASKS: TaskState,
    StateResource.OBJECTS: ObjectState,
    StateResource.RUNTIME_ENVS: RuntimeEnvState,
    StateResource.CLUSTER_EVENTS: ClusterEventState,
}
AVAILABLE_STATES = [schema for schema in SCHEMAS.values() if schema is not ClusterEventState]
"""The classes of records, as Ray lists them."""


def resource_to_schema(resource: StateResource) -> type[StateSchema]:
    """The class of the records of a kind."""
    return SCHEMAS[resource]


# ------------------------------------------------------------------------------------------------- options


@dataclasses.dataclass
class ListApiOptions:
    """What to list.

    Raises ValueError for a filter that is not a triple, or whose predicate is neither ``=`` nor ``!=``.
    """

    limit: int = DEFAULT_LIMIT
    """At most so many records."""
    timeout: float = DEFAULT_RPC_TIMEOUT
    """Seconds to wait for an answer."""
    detail: bool = False
    """Also the fields that cost more."""
    filters: list[Filter] | None = dataclasses.field(default_factory=list)
    """Triples of a field, ``=`` or ``!=``, and a value. A record must fit all."""
    exclude_driver: bool = True
    """No record of the drivers' own code among tasks. zray has none anyway."""

    def __post_init__(self) -> None:
        self.filters = list(self.filters or [])
        for each in self.filters:
            if not isinstance(each, (tuple, list)) or len(each) != 3:
                raise ValueError(f"a filter is a triple of a field, a predicate and a value; got {each!r}")
            if each[1] not in ("=", "!="):
                raise ValueError(f"unsupported filter predicate {each[1]!r}: available are = and !=")

    def has_conflicting_filters(self) -> bool:
        """Whether two filters ask for different values of the same field. Warns if so: no record fits."""
        wanted: dict[str, Any] = {}
        for name, predicate, value in self.filters or ():
            if predicate == "=" and wanted.setdefault(name, value) != value:
                warn_user(
                    f"two filters ask for different values of {name!r}: {wanted[name]!r} and {value!r}. No record "
                    f"fits both",
                    UserWarning,
                )
                return True
        return False


@dataclasses.dataclass
class GetApiOptions:
    """How to get one record."""

    timeout: float = DEFAULT_RPC_TIMEOUT
    """Seconds to wait for an answer."""


@dataclasses.dataclass
class SummaryApiOptions:
    """What to summarize."""

    timeout: float = DEFAULT_RPC_TIMEOUT
    """Seconds to wait for an answer."""
    filters: list[Filter] | None = dataclasses.field(default_factory=list)
    """As in ``ListApiOptions``."""
    summary_by: str | None = None
    """Must be None, or the only kind of summary there is: "func_name", "class", "callsite"."""


# ------------------------------------------------------------------------------------------------- filters


def fits(row: StateSchema, filters: Iterable[Filter]) -> bool:
    """Whether a record fits all filters. Strings are compared without regard to case; a string is converted for fields
    that are numbers or booleans.

    Raises ValueError if a field cannot be filtered by, or a value cannot be converted.
    """
    return all(_fits(row, name.lower(), predicate, value) for name, predicate, value in filters)


def check_filters(schema: type[StateSchema], filters: Iterable[Filter]) -> None:
    """Raises ValueError if a filter names a field that cannot be filtered by."""
    for name, _, _ in filters:
        if name.lower() not in schema.filterable_columns():
            known = ", ".join(sorted(schema.filterable_columns()))
            raise ValueError(f"the given filter column {name!r} is not supported; supported are {known}")


def _fits(row: StateSchema, name: str, predicate: str, wanted: Any) -> bool:
    value = row[name]
    if isinstance(value, str) and isinstance(wanted, str):
        same = value.lower() == wanted.lower()
    elif isinstance(wanted, str) and isinstance(value, bool):
        same = value == _converted(name, wanted, _BOOLEANS.__getitem__)
    elif isinstance(wanted, str) and isinstance(value, int):
        same = value == _converted(name, wanted, int)
    else:
        same = value == wanted
    return same == (predicate == "=")


_BOOLEANS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}


def _converted(name: str, value: str, convert: Callable[[str], Any]) -> Any:
    try:
        return convert(value)
    except (ValueError, KeyError):
        raise ValueError(f"the filter of {name!r} has a value of a wrong type: {value!r}") from None
