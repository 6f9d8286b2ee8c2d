"""``StateApiClient``: lists, gets and summarizes records of a cluster, with Ray's methods."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from zray.user_warnings import warn_user
from zray.util.state.common import (
    MAX_LIMIT,
    SCHEMAS,
    ActorState,
    GetApiOptions,
    ListApiOptions,
    ObjectState,
    StateResource,
    SummaryApiOptions,
    SummaryResource,
    TaskState,
    check_filters,
    fits,
)
from zray.util.state.exception import RayStateApiException
from zray.util.state.sources import Found, Source

_ID_FIELDS = {
    StateResource.NODES: "node_id",
    StateResource.ACTORS: "actor_id",
    StateResource.PLACEMENT_GROUPS: "placement_group_id",
    StateResource.WORKERS: "worker_id",
    StateResource.TASKS: "task_id",
    StateResource.OBJECTS: "object_id",
    StateResource.JOBS: "submission_id",
}


_Rows = list[Any]  # within the class, ``list`` is a method


class StateApiClient:
    """Reads the state of one cluster.

    Args:
        address: of its broker; None or "auto": the cluster of this process, else the ``zray-broker`` that this user
            runs here.
        cookies: for Ray's server. It has no meaning here.
        headers: for Ray's server. It has no meaning here.

    Raises:
        ServerUnavailable: there is no cluster to ask.
    """

    def __init__(self, address: str | None = None, cookies: Any = None, headers: Any = None) -> None:
        self._source = Source(address)

    def list(
        self,
        resource: StateResource,
        options: ListApiOptions,
        raise_on_missing_output: bool,
        _explain: bool = False,
    ) -> _Rows:
        """Returns the records of a kind that fit the filters, ordered by their identifiers.

        Args:
            resource: the kind.
            options: filters, limit, timeout, whether details are wanted.
            raise_on_missing_output: raise if some records could not be read.
            _explain: warn if records could not be read, are not kept any more, or were left out because of the limit.

        Raises:
            RayStateApiException: a filter or the limit cannot be used, or records are missing.
        """
        filters = options.filters or []
        if options.has_conflicting_filters():
            return []
        if not 0 <= options.limit <= MAX_LIMIT:
            raise RayStateApiException(f"limit must be from 0 to {MAX_LIMIT:,}, got {options.limit!r}")
        rows, found = self._rows(resource, filters, options.timeout)
        if found.missing and raise_on_missing_output:
            raise RayStateApiException(
                f"not all {resource.value} could be read: {found.missing}. Give raise_on_missing_output=False to get "
                f"the rest"
            )
        for text in (found.missing, found.forgotten):
            if text and _explain:
                warn_user(f"not all {resource.value} are returned: {text}")
        if len(rows) > options.limit and _explain:
            warn_user(f"only {options.limit:,} of {len(rows):,} {resource.value} are returned")
        rows = rows[: options.limit]
        return rows if options.detail else [row.without_details() for row in rows]

    def _rows(self, resource: StateResource, filters: _Rows, timeout_s: float) -> tuple[_Rows, Found]:
        schema = SCHEMAS[resource]
        found = self._source.records(resource, timeout_s)
        try:
            check_filters(schema, filters)
            rows = [row for row in found.rows if fits(row, filters)]
        except ValueError as error:
            raise RayStateApiException(str(error)) from None
        key = "job_id" if resource is StateResource.JOBS else _ID_FIELDS.get(resource, "")
        rows.sort(key=lambda row: (row.get(key) or "", row.get("attempt_number") or 0))
        return rows, found

    def get(
        self, resource: StateResource, id: str, options: GetApiOptions | None = None, _explain: bool = False
    ) -> Any:
        """Returns the record with an identifier, with details; None if there is none.

        For objects: a list of the records of all processes that know it. For a task that was tried several times: a
        list of its attempts. For jobs: None, because ``id`` names a submitted job, and zray has no job submission.

        Raises:
            ValueError: records of this kind have no identifier.
        """
        if resource not in _ID_FIELDS:
            raise ValueError(f"{resource.name} cannot be got by an identifier")
        timeout_s = (options or GetApiOptions()).timeout
        rows, _ = self._rows(resource, [(_ID_FIELDS[resource], "=", id)], timeout_s)
        if not rows:
            return None
        if resource is StateResource.OBJECTS:
            return rows
        return rows[0] if len(rows) == 1 else rows

    def summary(
        self,
        resource: SummaryResource,
        *,
        options: SummaryApiOptions | None = None,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> dict[str, Any]:
        """Returns counts of records, under the key "cluster".

        Raises:
            RayStateApiException: records are missing, and ``raise_on_missing_output``.
            ValueError: ``summary_by`` asks for a kind of summary that zray does not have.
        """
        options = options or SummaryApiOptions()
        summarize, by = _SUMMARIES[resource]
        if options.summary_by not in (None, by):
            raise ValueError(f"summary_by={options.summary_by!r}: {resource.value} are summarized by {by!r} only")
        wanted = ListApiOptions(limit=MAX_LIMIT, timeout=options.timeout, detail=True, filters=options.filters)
        rows = self.list(StateResource(resource.value), wanted, raise_on_missing_output, _explain)
        return {"cluster": {"summary_by": by, **summarize(rows)}}


def _summary_of_tasks(rows: list[TaskState]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for row in rows:
        name = row.name or row.func_or_class_name
        group = summary.setdefault(name, {"func_or_class_name": name, "type": row.type, "state_counts": {}})
        _count(group["state_counts"], row.state)
    types = Counter(row.type for row in rows)
    return {
        "summary": summary,
        "total_tasks": types["NORMAL_TASK"],
        "total_actor_tasks": types["ACTOR_TASK"],
        "total_actor_scheduled": types["ACTOR_CREATION_TASK"],
    }


def _summary_of_actors(rows: list[ActorState]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for row in rows:
        group = summary.setdefault(row.class_name, {"class_name": row.class_name, "state_counts": {}})
        _count(group["state_counts"], row.state)
    return {"summary": summary, "total_actors": len(rows)}


@dataclasses.dataclass
class _ObjectsOfSite:
    total_objects: int = 0
    total_size_mb: float = 0.0
    total_num_workers: int = 0
    total_num_nodes: int = 0
    task_state_counts: dict[str, int] = dataclasses.field(default_factory=dict)
    task_attempt_number_counts: dict[str, int] = dataclasses.field(default_factory=dict)
    ref_type_counts: dict[str, int] = dataclasses.field(default_factory=dict)


def _summary_of_objects(rows: list[ObjectState]) -> dict[str, Any]:
    summary: dict[str, _ObjectsOfSite] = {}
    for row in rows:
        group = summary.setdefault(row.call_site, _ObjectsOfSite())
        group.total_objects += 1
        group.total_size_mb += max(0, row.object_size) / 2**20
        _count(group.task_state_counts, row.task_status)
        _count(group.task_attempt_number_counts, str(row.attempt_number))
        _count(group.ref_type_counts, row.reference_type)
    for site, group in summary.items():
        group.total_num_workers = len({row.pid for row in rows if row.call_site == site})
        group.total_num_nodes = len({row.ip for row in rows if row.call_site == site})
    return {
        "summary": {site: dataclasses.asdict(group) for site, group in summary.items()},
        "total_objects": len(rows),
        "total_size_mb": sum(group.total_size_mb for group in summary.values()),
        "callsite_enabled": False,
    }


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


_SUMMARIES: dict[SummaryResource, Any] = {
    SummaryResource.ACTORS: (_summary_of_actors, "class"),
    SummaryResource.TASKS: (_summary_of_tasks, "func_name"),
    SummaryResource.OBJECTS: (_summary_of_objects, "callsite"),
}
