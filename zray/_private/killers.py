"""Actors that kill hosts or workers while a test runs, under the names of Ray's, and ``kill_raylet``."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from typing import Any

from zray.api.actor import ActorHandle
from zray.api.decorator import remote
from zray.api.nodes import nodes
from zray.api.objects import get
from zray.api.runtime import runtime
from zray.api.runtime_context import get_runtime_context
from zray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from zray.util.state import list_tasks

__all__ = [
    "NodeKillerBase",
    "RayletKiller",
    "ResourceKillerActor",
    "WorkerKillerActor",
    "get_and_run_resource_killer",
    "kill_raylet",
]

LOOK_S = 0.1
"""How often a killer looks for victims while there are none, in seconds."""
Victim = tuple[Any, ...]
Filter = Callable[[], Callable[[Any], bool]]


def kill_raylet(raylet: dict[str, Any], graceful: bool = False) -> None:
    """Ends a host of this machine.

    Args:
        raylet: its record, as in ``nodes()``.
        graceful: let it end in order.

    Raises:
        ValueError: no live host has this identifier.
    """
    end_host(raylet["NodeID"], graceful)


def end_host(node_id: str, graceful: bool = False) -> None:
    """Sends SIGKILL, or SIGTERM if ``graceful``, to the process of a host of this machine.

    Raises:
        ValueError: no live host has this identifier.
    """
    for host in runtime().hosts():
        if host.host_id.hex() == node_id:
            os.kill(host.info.pid, signal.SIGTERM if graceful else signal.SIGKILL)
            return
    raise ValueError(f"no live host has the identifier {node_id!r}")


class ResourceKillerActor:
    """Kills victims at random times, until there were enough. A subclass finds and kills them.

    Args:
        head_node_id: the host that is spared.
        kill_interval_s: the time between two victims, in seconds. Each waits a random part of it.
        kill_delay_s: the time before the first one, in seconds.
        max_to_kill: how many victims there are; None: no limit.
        batch_size_to_kill: how many are killed at once.
        kill_filter_fn: returns a predicate, which says who may be a victim.
    """

    waits = True
    """Whether a victim that was found lives on for a random time."""

    def __init__(
        self,
        head_node_id: str,
        kill_interval_s: float = 60,
        kill_delay_s: float = 0,
        max_to_kill: int | None = 2,
        batch_size_to_kill: int = 1,
        kill_filter_fn: Filter | None = None,
    ) -> None:
        self.head_node_id = head_node_id
        self.kill_interval_s = kill_interval_s
        self.kill_delay_s = kill_delay_s
        self.max_to_kill = max_to_kill
        self.batch_size_to_kill = batch_size_to_kill
        self.kill_filter_fn = kill_filter_fn
        self.is_running = False
        self.killed: set[Victim] = set()
        self.done = asyncio.Event()

    async def ready(self) -> None:
        """Returns when the actor is there."""

    async def run(self) -> None:
        """Kills, until ``max_to_kill`` victims are dead or ``stop_run`` is called."""
        self.is_running = True
        await asyncio.sleep(self.kill_delay_s)
        while self.is_running and (self.max_to_kill is None or len(self.killed) < self.max_to_kill):
            victims = await self._find_resources_to_kill()
            pause = random.random() * self.kill_interval_s if self.waits else 0.0
            await asyncio.sleep(pause)
            for victim in victims if self.is_running else ():
                if await self._kill_resource(*victim):
                    self.killed.add(victim)
            if self.max_to_kill is None or len(self.killed) < self.max_to_kill:
                await asyncio.sleep(self.kill_interval_s - pause)
        self.is_running = False
        self.done.set()

    async def stop_run(self) -> bool:
        """Ends ``run``. Returns whether it was under way."""
        was_running, self.is_running = self.is_running, False
        return was_running

    async def get_total_killed(self) -> set[Victim]:
        """The victims, when ``run`` has ended."""
        await self.done.wait()
        return set(self.killed)

    async def get_killed_nodes(self) -> set[Victim]:
        """The same."""
        return await self.get_total_killed()

    def _may_die(self, candidates: list[Any]) -> list[Any]:
        return candidates if self.kill_filter_fn is None else list(filter(self.kill_filter_fn(), candidates))

    async def _find_resources_to_kill(self) -> list[Victim]:
        """Waits for victims. Each is what ``_kill_resource`` takes. Subclasses have it."""
        raise NotImplementedError

    async def _kill_resource(self, *victim: Any) -> bool:
        """Kills one. Returns whether it is dead. Subclasses have it."""
        raise NotImplementedError


class NodeKillerBase(ResourceKillerActor):
    """Kills hosts. One host besides the spared one always lives on. Victims: identifier, address and port."""

    async def _find_resources_to_kill(self) -> list[Victim]:
        while self.is_running:
            live = [row for row in nodes() if row["Alive"] and row["NodeID"] != self.head_node_id]
            found = [(row["NodeID"], row["NodeManagerAddress"], row["NodeManagerPort"]) for row in self._may_die(live)]
            victims = [victim for victim in found if victim not in self.killed][: self.batch_size_to_kill]
            if victims and len(live) > self.batch_size_to_kill:
                return victims
            await asyncio.sleep(LOOK_S)
        return []


@remote(num_cpus=0)
class RayletKiller(NodeKillerBase):
    """Kills hosts of this machine, as when a machine fails."""

    async def _kill_resource(self, node_id: str, *_: Any) -> bool:
        try:
            end_host(node_id)
        except (ValueError, ProcessLookupError):  # it has ended meanwhile
            return False
        return True


@remote(num_cpus=0)
class WorkerKillerActor(ResourceKillerActor):
    """Kills workers of this machine while they run a task. Victims: the identifiers of task and host, and the PID."""

    waits = False

    async def _find_resources_to_kill(self) -> list[Victim]:
        while self.is_running:
            own = get_runtime_context().get_worker_id()
            running = list_tasks(filters=[("state", "=", "RUNNING")], detail=True, limit=10_000)
            others = [row for row in running if row.worker_id and row.worker_pid and row.worker_id != own]
            victims = [(row.task_id, row.worker_pid, row.node_id) for row in self._may_die(others)]
            if victims:
                return victims[: self.batch_size_to_kill]
            await asyncio.sleep(LOOK_S)
        return []

    async def _kill_resource(self, task_id: str, pid: int, node_id: str) -> bool:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


def get_and_run_resource_killer(
    resource_killer_cls: Any,
    kill_interval_s: float,
    namespace: str | None = None,
    lifetime: str | None = None,
    no_start: bool = False,
    max_to_kill: int | None = 2,
    batch_size_to_kill: int = 1,
    kill_delay_s: float = 0,
    kill_filter_fn: Filter | None = None,
) -> ActorHandle[Any]:
    """Creates a killer with the name "ResourceKiller" on this process's host, and starts it unless ``no_start``.

    Args:
        resource_killer_cls: the actor class, such as ``RayletKiller``.
        kill_interval_s: see ``ResourceKillerActor``, as the others that are not named here.
        namespace: the actor's namespace.
        lifetime: the actor's lifetime.
        no_start: do not call ``run``.
    """
    here = get_runtime_context().get_node_id()
    killer: ActorHandle[Any] = resource_killer_cls.options(
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        namespace=namespace,
        name="ResourceKiller",
        lifetime=lifetime,
    ).remote(
        here,
        kill_interval_s=kill_interval_s,
        kill_delay_s=kill_delay_s,
        max_to_kill=max_to_kill,
        batch_size_to_kill=batch_size_to_kill,
        kill_filter_fn=kill_filter_fn,
    )
    get(killer.ready.remote())
    if not no_start:
        killer.run.remote()
    return killer
