"""The figures to reach: one row each, what it is compared with, and when it counts as met.

This is the table alone. How a row is measured is in `rows/<group>.py`; rows of one group share a fresh process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CLUSTERS = ("zray", "ray")
POOLS = ("loky", "ppe")
IMPLEMENTATIONS = CLUSTERS + POOLS

Values = Mapping[str, float]
"""What each implementation reached in one row."""


@dataclass(frozen=True)
class AtMost:
    limit: float

    def met(self, row: Row, values: Values) -> bool | None:
        return values["zray"] <= self.limit if "zray" in values else None

    def text(self, row: Row) -> str:
        return f"<= {row.show(self.limit)}"


@dataclass(frozen=True)
class AtLeast:
    limit: float

    def met(self, row: Row, values: Values) -> bool | None:
        return values["zray"] >= self.limit if "zray" in values else None

    def text(self, row: Row) -> str:
        return f">= {row.show(self.limit)}"


@dataclass(frozen=True)
class Times:
    """As fast as `factor` times the best of `peers`. A factor of 1 asks to be faster at all."""

    factor: float
    peers: tuple[str, ...] = ("ray",)

    def met(self, row: Row, values: Values) -> bool | None:
        ratio = row.ratio(values, self.peers)
        return None if ratio is None else ratio >= self.factor

    def text(self, row: Row) -> str:
        factor = "faster than" if self.factor == 1 else f">= {self.factor:g}x"
        return f"{factor} {' and '.join(self.peers)}"


@dataclass(frozen=True)
class Row:
    name: str
    group: str
    title: str
    unit: str
    targets: tuple[AtMost | AtLeast | Times, ...] = ()
    implementations: tuple[str, ...] = CLUSTERS

    @property
    def less_is_better(self) -> bool:
        return self.unit in ("s", "ms", "MB")

    def best(self, values: list[float]) -> float:
        return min(values) if self.less_is_better else max(values)

    def ratio(self, values: Values, peers: tuple[str, ...] = ("ray",)) -> float | None:
        """How many times better zray is than the best of the peers; None when one of the two was not measured."""
        others = [values[peer] for peer in peers if peer in values]
        if "zray" not in values or not others:
            return None
        other = self.best(others)
        return other / values["zray"] if self.less_is_better else values["zray"] / other

    def met(self, values: Values) -> bool | None:
        """Whether all targets are met; None when there are none or some could not be judged."""
        verdicts = [target.met(self, values) for target in self.targets]
        if False in verdicts:
            return False
        return True if verdicts and None not in verdicts else None

    def target(self) -> str:
        return ", ".join(target.text(self) for target in self.targets)

    def show(self, value: float) -> str:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2 if self.unit != "s" or value >= 0.1 else 4
        return f"{value:,.{digits}f} {self.unit}"


def _faster_than_ray(factor: float) -> tuple[Times]:
    return (Times(factor),)


def _as_a_pool(pool: str) -> tuple[Times, Times]:
    """Eight times as fast as Ray, and as fast as the library whose interface it is."""
    return Times(8), Times(1, (pool,))


ROWS = (
    Row("startup", "lifecycle", "import + init + first task", "s", (AtMost(0.6),), IMPLEMENTATIONS),
    Row("idle_pss", "lifecycle", "idle cluster, PSS of all but the driver", "MB", (AtMost(60),), IMPLEMENTATIONS),
    Row("worker_worked_pss", "lifecycle", "one worker that has just worked, PSS", "MB", (), IMPLEMENTATIONS),
    Row("worker_pss", "lifecycle", "one idle worker, PSS", "MB", (AtMost(5),), IMPLEMENTATIONS),
    Row("shutdown", "lifecycle", "shutdown", "s", (AtMost(0.3),), IMPLEMENTATIONS),
    Row("actors_50", "crowd", "50 actors created and answered once", "s", (AtMost(2),)),
    Row("actors_50_pss", "crowd", "50 actors, PSS of all but the driver", "MB", (AtMost(250),)),
    Row("environment_first", "environments", "first task in an environment of env_vars", "ms", _faster_than_ray(5)),
    Row("tasks_together", "tasks", "tasks together", "/s", (Times(8), Times(1.3, POOLS)), IMPLEMENTATIONS),
    Row("tasks_one_by_one", "tasks", "tasks one after the other", "/s", _faster_than_ray(3), IMPLEMENTATIONS),
    Row("wait", "tasks", "wait on 1,000 refs one by one", "rounds/s", _faster_than_ray(10)),
    Row("actor_one_by_one", "actors", "actor calls one after the other", "/s", _faster_than_ray(1.5)),
    Row("actor_together", "actors", "actor calls together", "/s", _faster_than_ray(5)),
    Row("actor_n_n", "actors", "actor calls n:n", "/s", _faster_than_ray(5)),
    Row("async_one_by_one", "actors", "async actor calls one after the other", "/s", _faster_than_ray(1.5)),
    Row("async_together", "actors", "async actor calls together", "/s", _faster_than_ray(5)),
    Row("stream_items", "generators", "items of a stream", "/s", _faster_than_ray(8)),
    Row("placement_group", "placement", "placement groups created and removed", "/s", _faster_than_ray(5)),
    Row("queue_put_get", "queues", "put and get of util.queue", "pairs/s", _faster_than_ray(5)),
    Row("put_small", "objects", "put small", "/s", _faster_than_ray(20)),
    Row("get_small", "objects", "get small", "/s", _faster_than_ray(5)),
    Row("put_share", "objects", "put 100 MiB, pages recycled", "of memcpy", (AtLeast(0.75),)),
    Row("put_rate", "objects", "put 100 MiB, rate", "GB/s"),
    Row("memcpy", "objects", "memcpy beside it", "GB/s"),
    Row("argument_1mib", "objects", "tasks with a 1 MiB argument", "/s", _faster_than_ray(5), IMPLEMENTATIONS),
    Row("result_1mib", "objects", "tasks with a 1 MiB result", "/s", _faster_than_ray(5), IMPLEMENTATIONS),
    Row("arguments_10k", "scale", "10,000 args to one task", "s", _faster_than_ray(1)),
    Row("returns_3k", "scale", "3,000 returns of one task", "s", _faster_than_ray(1)),
    Row("gets_10k", "scale", "get of 10,000 refs", "s", _faster_than_ray(1)),
    Row("refs_10k", "scale", "get of one object with 10,000 refs", "/s", _faster_than_ray(1)),
    Row("pool_map", "pools", "Pool.map, 10,000 small calls", "/s", _as_a_pool("ppe"), (*CLUSTERS, "ppe")),
    Row("joblib_calls", "pools", "joblib, 10,000 small calls", "/s", _as_a_pool("loky"), (*CLUSTERS, "loky")),
    Row("backlog_rate", "backlog", "1,000,000 queued small tasks", "/s", (), ("zray",)),
    Row("backlog_ratio", "backlog", "rate at the end to rate at the start", "x", (AtLeast(0.7),), ("zray",)),
    Row("backlog_rss", "backlog", "peak RSS of driver + broker", "MB", (AtMost(4096),), ("zray",)),
    Row("beside_median", "beside", "a second driver's task beside 1,000,000 queued", "ms", (AtMost(5),), ("zray",)),
    Row("beside_p99", "beside", "its 99th percentile", "ms", (AtMost(100),), ("zray",)),
)
