"""The functions of the state API: each makes a ``StateApiClient`` and asks it once.

Arguments that they share: ``address``: see ``StateApiClient``; ``filters``: triples of a field, ``=`` or ``!=``, and a
value (strings are compared without regard to case); ``limit``: at most so many records; ``timeout``: seconds to wait;
``detail``: also the fields that are None otherwise; ``raise_on_missing_output``: raise if some records could not be
read; ``_explain``: warn of what is missing. They raise RayStateApiException.
"""

from __future__ import annotations

from typing import Any

from zray.util.state.client import StateApiClient
from zray.util.state.common import (
    DEFAULT_LIMIT,
    DEFAULT_RPC_TIMEOUT,
    ActorState,
    ClusterEventState,
    Filter,
    GetApiOptions,
    JobState,
    ListApiOptions,
    NodeState,
    ObjectState,
    PlacementGroupState,
    RuntimeEnvState,
    StateResource,
    SummaryApiOptions,
    SummaryResource,
    TaskState,
    WorkerState,
)
from zray.util.state.logs import get_log as get_log
from zray.util.state.logs import list_logs as list_logs

Filters = list[Filter] | None


def list_actors(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ActorState]:
    """The actors that live, and the last ones that have died."""
    options = ListApiOptions(limit, timeout, detail, filters)
    return StateApiClient(address).list(StateResource.ACTORS, options, raise_on_missing_output, _explain)


def list_placement_groups(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[PlacementGroupState]:
    """The placement groups, and the last ones that are removed."""
    options = ListApiOptions(limit, timeout, detail, filters)
    return StateApiClient(address).list(StateResource.PLACEMENT_GROUPS, options, raise_on_missing_output, _explain)


def list_nodes(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[NodeState]:
    """The hosts that live, and the last ones that are gone."""
    options = ListApiOptions(limit, timeout, detail, filters)
    return StateApiClient(address).list(StateResource.NODES, options, raise_on_missing_output, _explain)


def list_jobs(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[JobState]:
    """The jobs: drivers that run, and the last ones that have ended."""
    options = ListApiOptions(limit, timeout, detail, filters)
    return StateApiClient(address).list(StateResource.JOBS, options, raise_on_missing_output, _explain)


def list_workers(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[WorkerState]:
    """The workers and drivers that live, and the last ones that have ended."""
    options = ListApiOptions(limit, timeout, detail, filters)
    return StateApiClient(address).list(StateResource.WORKERS, options, raise_on_missing_output, _explain)


def list_tasks(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[TaskState]:
    """The tasks and calls without an outcome, and of each owner the last that have ended."""
    options = ListApiOptions(limit, timeout, detail, filters)
    return StateApiClient(address).list(StateResource.TASKS, options, raise_on_missing_output, _explain)


def list_objects(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ObjectState]:
    """The objects, as the processes that own or hold them see them."""
    options = ListApiOptions(limit, timeout, detail, filters)
    return StateApiClient(address).list(StateResource.OBJECTS, options, raise_on_missing_output, _explain)


def list_runtime_envs(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[RuntimeEnvState]:
    """The runtime environments that hosts have set up, or failed to: one record for each environment and host."""
    options = ListApiOptions(limit, timeout, detail, filters)
    return StateApiClient(address).list(StateResource.RUNTIME_ENVS, options, raise_on_missing_output, _explain)


def list_cluster_events(
    address: str | None = None,
    filters: Filters = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ClusterEventState]:
    """An empty list: zray records no events. What happens is in the log of the broker."""
    options = ListApiOptions(limit, timeout, detail, filters)
    return StateApiClient(address).list(StateResource.CLUSTER_EVENTS, options, raise_on_missing_output, _explain)


def get_actor(
    id: str, address: str | None = None, timeout: float = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> ActorState | None:
    """The record of an actor, with details; None if there is none."""
    client = StateApiClient(address)
    found: ActorState | None = client.get(StateResource.ACTORS, id, GetApiOptions(timeout), _explain)
    return found


def get_job(
    id: str, address: str | None = None, timeout: float = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> JobState | None:
    """None: ``id`` names a submitted job, and zray has no job submission. See ``list_jobs``."""
    client = StateApiClient(address)
    found: JobState | None = client.get(StateResource.JOBS, id, GetApiOptions(timeout), _explain)
    return found


def get_placement_group(
    id: str, address: str | None = None, timeout: float = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> PlacementGroupState | None:
    """The record of a placement group, with details; None if there is none."""
    found: PlacementGroupState | None = StateApiClient(address).get(
        StateResource.PLACEMENT_GROUPS, id, GetApiOptions(timeout), _explain
    )
    return found


def get_node(
    id: str, address: str | None = None, timeout: float = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> NodeState | None:
    """The record of a host, with details; None if there is none."""
    client = StateApiClient(address)
    found: NodeState | None = client.get(StateResource.NODES, id, GetApiOptions(timeout), _explain)
    return found


def get_worker(
    id: str, address: str | None = None, timeout: float = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> WorkerState | None:
    """The record of a worker or driver, with details; None if there is none."""
    client = StateApiClient(address)
    found: WorkerState | None = client.get(StateResource.WORKERS, id, GetApiOptions(timeout), _explain)
    return found


def get_task(
    id: str, address: str | None = None, timeout: float = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> TaskState | list[TaskState] | None:
    """The record of a task, with details; a list of its attempts if there are several; None if there is none."""
    found: TaskState | list[TaskState] | None = StateApiClient(address).get(
        StateResource.TASKS, id, GetApiOptions(timeout), _explain
    )
    return found


def get_objects(
    id: str, address: str | None = None, timeout: float = DEFAULT_RPC_TIMEOUT, _explain: bool = False
) -> list[ObjectState]:
    """The records of an object, with details: one of each process that knows it."""
    return StateApiClient(address).get(StateResource.OBJECTS, id, GetApiOptions(timeout), _explain) or []


def summarize_tasks(
    address: str | None = None,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """Counts tasks and calls by name and state."""
    options = SummaryApiOptions(timeout)
    client = StateApiClient(address)
    return client.summary(
        SummaryResource.TASKS, options=options, raise_on_missing_output=raise_on_missing_output, _explain=_explain
    )


def summarize_actors(
    address: str | None = None,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """Counts actors by class and state."""
    options = SummaryApiOptions(timeout)
    client = StateApiClient(address)
    return client.summary(
        SummaryResource.ACTORS, options=options, raise_on_missing_output=raise_on_missing_output, _explain=_explain
    )


def summarize_objects(
    address: str | None = None,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """Counts objects and their bytes, by state and kind of reference."""
    options = SummaryApiOptions(timeout)
    client = StateApiClient(address)
    return client.summary(
        SummaryResource.OBJECTS, options=options, raise_on_missing_output=raise_on_missing_output, _explain=_explain
    )
