"""Gives actors hosts and workers of their own.

An actor holds the resources of its placement while it is constructed, and those that it has asked for its lifetime
afterwards. It goes to the host with the fewest actors per CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from zray.broker.accounts import Share
from zray.broker.grants import Grants
from zray.broker.places import Places
from zray.broker.queues import ActorLine
from zray.broker.records import Actor, Host, Worker
from zray.broker.states import SERVING
from zray.broker.workers import Workers
from zray.protocol.messages import ActorStart, FunctionBlob


class ActorPlacement:
    """Serves the lines of actors. ``send(dest, message)``. ``class_of``: the message with a class, if it is known."""

    def __init__(
        self,
        places: Places,
        grants: Grants,
        workers: Workers,
        send: Callable[[bytes, Any], None],
        class_of: Callable[[bytes], FunctionBlob | None],
    ) -> None:
        self.on_begin: Callable[[Actor], None] = lambda actor: None
        """Called with each actor that a worker is told to construct. The broker's core sets it."""
        self._places = places
        self._grants = grants
        self._workers = workers
        self._send = send
        self._class_of = class_of

    def serve(self, line: ActorLine, changed: dict[bytes, Host]) -> Iterator[None]:
        """Places the actors of a line as long as there is room: one for each step.

        ``changed``: the hosts that have changed since the last pass.
        """
        while line.actors:
            host = self._host_for(line, changed)
            if host is None:
                line.full = True
                return
            line.full = False
            self._place(line.actors.popitem(last=False)[1], host, line.share)
            yield

    def _host_for(self, line: ActorLine, changed: dict[bytes, Host]) -> Host | None:
        """The host with the fewest actors per CPU, of those that have room; None if no host has.

        Of equal hosts, the one that has the arguments of the actor's constructor.
        """
        share = line.share
        among = changed if line.full else None
        chosen = self._places.least_loaded(share.shape, lambda host: self._grants.is_open(host, share), among)
        near = self._places.hosts.get(next(iter(line.actors.values())).near)
        if chosen is None or near is None or near is chosen:
            return chosen
        as_good = self._places.is_as_good(near, chosen, share.shape) and self._grants.is_open(near, share)
        return near if as_good else chosen

    def _place(self, actor: Actor, host: Host, share: Share) -> None:
        worker = self._workers.take_idle(host, actor.job_id, share.shape)
        host.count_actor(1)
        actor.worker = worker or self._workers.start(host, actor, actor.job_id, share.shape.environment_id)
        actor.worker.actor = actor
        self._grants.grant(actor.worker, share)
        # The claim is that of its lifetime also while it is constructed: it may start threads.
        self._grants.cpus.claim(actor.worker, actor.running.cpus_used)
        if worker is not None:
            self.begin(worker)

    def begin(self, worker: Worker) -> None:
        """Has a worker that has joined construct its actor."""
        actor = worker.actor
        assert actor is not None
        worker.enter(SERVING)
        actor.failed_starts = 0
        self.on_begin(actor)
        worker.served = actor.actor_id
        if worker.job_id != actor.job_id:
            self._workers.assign(worker, actor.job_id)
        # Ahead of being asked for it: nearly always this process does not have it yet, and would wait for the answer.
        if (blob := self._class_of(actor.function_id)) is not None:
            self._send(worker.worker_id, blob)
        start = ActorStart(actor.actor_id, actor.incarnation, actor.function_id, actor.spec, actor.creator,
                           worker.gpus, actor.payload)  # fmt: skip
        self._send(worker.worker_id, start)
