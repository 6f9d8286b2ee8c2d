"""Hosts with real transfer cores, and an owner with its real table, on a simulated network: seeded.

Channels lose what is under way when they break; the broker loses nothing, but hosts die, also in the middle of what
they are sending. Stores are small: rooms wait in line, copies are evicted to make some. Chunks get damaged. What must
hold: every reader is told, and given the right bytes; nobody waits for ever; while the keeper of an object lives, and
nobody is out of room, nobody is told that it is lost; there is never more reserved than a store can hold.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from zray.client.core.locations import LocationTable
from zray.protocol.contract import BROKER
from zray.protocol.messages import CopyGone, CopyMade, Locate, Located, ProcessDied, Pull, PullFailed, Watch
from zray.testing.network import Simulation
from zray.transfer import effects
from zray.transfer.chunks import make_chunk
from zray.transfer.core import TransferCore
from zray.transfer.effects import Origin

OWNER = b"owner".ljust(16, b".")
TICK_S = 0.25


@dataclasses.dataclass(frozen=True)
class Trouble:
    """What goes wrong. ``deaths``: hosts that are killed; the others are probabilities."""

    deaths: int = 0
    break_channels: float = 0.0
    no_channels: float = 0.0
    damage: float = 0.0
    withdraw: float = 0.0
    evict: float = 0.0
    tight: bool = False


def if_alive(host: SimHost, act: Callable[[], object]) -> None:
    if host.alive:
        act()


class SimOwner:
    """The owner of all objects; it lives."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.table = LocationTable()
        self.keepers: dict[bytes, bytes] = {}
        self.sizes: dict[bytes, int] = {}

    def receive(self, source: bytes, message: Any) -> None:
        if isinstance(message, Locate):
            sources = self.table.sources(
                message.object_id, self.keepers[message.object_id], source, message.serves, message.lost
            )
            kind = "" if sources else "ObjectLostError"
            answer = Located(message.object_id, message.question, self.sizes[message.object_id], sources, kind, "")
            self.world.send(OWNER, source, answer)
        elif isinstance(message, CopyMade):
            self.table.made(message.object_id, source)
        elif isinstance(message, CopyGone):
            self.table.gone(message.object_id, source)

    def died(self, process_id: bytes) -> None:
        self.table.on_process_died(process_id)
        for object_id, keeper in self.keepers.items():
            if keeper == process_id and (copies := self.table.complete(object_id)):
                self.keepers[object_id] = copies[0]
                self.table.gone(object_id, copies[0])
                self.world.hosts[copies[0]].kept.add(object_id)


class SimHost:
    """A host: its core, and a shell made of nothing."""

    def __init__(self, world: World, number: int, capacity: int) -> None:
        self.world = world
        self.process_id = b"host" + bytes([number]) * 12
        self.core = TransferCore(self.process_id, is_host=True)
        self.alive = True
        self.capacity = capacity
        self.objects: dict[bytes, bytes] = {}
        self.kept: set[bytes] = set()  # those that are no copies
        self.rooms: dict[int, bytearray] = {}
        self.waiting: deque[effects.Reserve] = deque()
        self.readers: dict[str, bytes] = {}
        self.channels: set[bytes] = set()  # those that this host has dialled
        self.epoch = 0
        self._tick()

    def _tick(self) -> None:
        if self.alive:
            self.core.tick(self.world.sim.now)
            self.perform()
            self.world.sim.after(TICK_S, self._tick)

    @property
    def used(self) -> int:
        return sum(map(len, self.objects.values())) + sum(map(len, self.rooms.values()))

    def read(self, reader: str, object_id: bytes) -> None:
        if not self.alive:
            self.world.over.add(reader)
            return
        self.readers[reader] = object_id
        if object_id in self.objects:
            self.finished(effects.Finished(reader, "", ""))
            return
        size = self.world.owner.sizes[object_id]
        self.core.fetch(reader, object_id, self.world.owner.keepers[object_id], size, self.world.sim.now)
        self.perform()

    def withdraw(self, reader: str) -> None:
        if self.alive and self.readers.pop(reader, None) is not None:
            self.core.withdraw(reader, self.world.sim.now)
            self.world.over.add(reader)
            self.perform()

    # ------------------------------------------------------------------ what arrives

    def receive(self, source: bytes, message: Any, channel: bytes = b"") -> None:
        if not self.alive:
            return
        if channel and isinstance(message, (Pull, PullFailed)):
            self.core.received_by_channel(source, channel, message, self.world.sim.now)
        else:
            self.core.receive(source, message, self.world.sim.now)
        self.perform()

    def died(self, process_id: bytes) -> None:
        if self.alive:
            self.channels.discard(process_id)
            self.core.receive(BROKER, ProcessDied(process_id, "killed"), self.world.sim.now)
            self.perform()

    # ------------------------------------------------------------------ what is to be done

    def perform(self) -> None:
        world = self.world
        while output := self.core.take_output():
            for watch in output.sends.pop(BROKER, []):
                assert isinstance(watch, Watch)
                world.watch(self, watch.process_id)
            for dest, messages in output.sends.items():
                for message in messages:
                    world.send(self.process_id, dest, message)
            for effect in output.effects:
                if isinstance(effect, effects.Ask):
                    self.ask(effect)
                elif isinstance(effect, effects.Dial):
                    self.dial(effect.peer)
                elif isinstance(effect, effects.Serve):
                    self.serve(effect)
                elif isinstance(effect, effects.Refuse):
                    self.answer(Origin(effect.channel[:16], effect.channel), PullFailed(effect.pull, effect.reason))
                elif isinstance(effect, effects.Reserve):
                    self.waiting.append(effect)
                    self.make_room()
                elif isinstance(effect, effects.Seal):
                    self.objects[effect.object_id] = bytes(self.rooms.pop(effect.number))
                    self.core.sealed(effect.number, world.sim.now)
                elif isinstance(effect, effects.GiveUp):
                    self.rooms.pop(effect.number, None)
                    self.make_room()
                elif isinstance(effect, effects.Finished):
                    self.finished(effect)
        self.core.check()
        assert self.used <= self.capacity, "more than the store can hold"

    def make_room(self) -> None:
        """First come, first served; copies go."""
        while self.waiting:
            number, size = self.waiting[0]
            for object_id in [each for each in self.objects if each not in self.kept]:
                if self.used + size > self.capacity:
                    del self.objects[object_id]
            if self.used + size > self.capacity:
                return
            self.waiting.popleft()
            if number in self.core.pulls:
                room = self.rooms[number] = bytearray(size)
                self.core.reserved(number, memoryview(room), size, self.world.sim.now)

    def evict(self) -> None:
        """Copies go, as others need the room."""
        for object_id in [each for each in self.objects if each not in self.kept]:
            del self.objects[object_id]

    def ask(self, effect: effects.Ask) -> None:
        if effect.source in self.channels:
            self.world.by_link(self, effect.source, effect.request)
        else:
            self.core.channel_down(effect.source, self.world.sim.now)

    def dial(self, peer: bytes) -> None:
        rng = self.world.sim.random
        works = rng.random() >= self.world.trouble.no_channels

        def made() -> None:
            if not self.alive or peer not in self.core.peers:
                return
            if works and self.world.hosts[peer].alive:
                self.channels.add(peer)
                self.core.channel_up(peer, self.world.sim.now)
            else:
                self.core.channel_down(peer, self.world.sim.now)
            self.perform()

        self.world.sim.after(rng.uniform(0.0, 0.05 if works else 3.0), made)

    def break_channels(self) -> None:
        self.epoch += 1  # what is under way by channels is lost
        for peer in list(self.channels):
            self.link_broke(peer)
        self.world.tell_peers(self)

    def link_broke(self, peer: bytes) -> None:
        if self.alive and peer in self.channels:
            self.channels.discard(peer)
            self.core.channel_down(peer, self.world.sim.now)
            self.perform()

    def serve(self, effect: effects.Serve) -> None:
        origin, request, room = effect
        data = room if room is not None else memoryview(self.objects.get(request.object_id, b""))
        if request.offset >= len(data):
            self.answer(origin, PullFailed(request.pull, "not here"))
            return
        head, packed = make_chunk(request, len(data), data[request.offset : request.offset + request.length])
        sent = bytes(packed)
        if self.world.sim.random.random() < self.world.trouble.damage:
            sent = bytes([sent[0] ^ 1]) + sent[1:]
        self.answer(origin, head._replace(data=sent))

    def answer(self, origin: Origin, message: Any) -> None:
        if origin.channel:
            self.world.back_by_link(self, origin, message)
        else:
            self.world.send(self.process_id, origin.process_id, message)

    def finished(self, effect: effects.Finished) -> None:
        object_id = self.readers.pop(effect.reader, None)
        if object_id is None:
            return
        self.world.over.add(effect.reader)
        if effect.kind:
            self.world.failed(self, effect.reader, object_id, effect.kind)
        elif object_id in self.objects:
            assert self.objects[object_id] == self.world.values[object_id], "the wrong bytes"
            self.world.read += 1


class World:
    """All hosts, the owner, and the network between them."""

    def __init__(self, seed: int, trouble: Trouble) -> None:
        self.sim = Simulation(seed)
        self.trouble = trouble
        self.values: dict[bytes, bytes] = {}
        self.over: set[str] = set()
        self.read = 0
        self.lost = 0
        self.watchers: dict[bytes, list[Any]] = {}
        self._last_arrival: dict[tuple[bytes, bytes], float] = {}
        rng = self.sim.random
        self.owner = SimOwner(self)
        capacity = 3000 if trouble.tight else 1 << 30
        self.hosts = {host.process_id: host for host in (SimHost(self, n, capacity) for n in range(rng.randint(2, 9)))}
        for host in self.hosts.values():
            self.watch(self.owner, host.process_id)
        for number in range(rng.randint(1, 4)):
            self._make_object(number)

    def _make_object(self, number: int) -> None:
        rng = self.sim.random
        object_id = OWNER + number.to_bytes(12, "big")
        value = rng.randbytes(rng.choice((1, 63, 64, 65, 200, 1000, 2000)))
        keeper = rng.choice(list(self.hosts.values()))
        if keeper.used + len(value) > keeper.capacity // 3:
            return
        self.values[object_id] = keeper.objects[object_id] = value
        keeper.kept.add(object_id)
        self.owner.keepers[object_id], self.owner.sizes[object_id] = keeper.process_id, len(value)

    # ------------------------------------------------------------------ the network

    def _deliver(self, source: bytes, dest: bytes, way: bytes, action: Any) -> None:
        """In order on each way, as channels are, some time later."""
        arrival = max(
            self.sim.now + self.sim.random.uniform(0.0001, 0.01), self._last_arrival.get((source, dest + way), 0.0)
        )
        self._last_arrival[source, dest + way] = arrival
        self.sim.after(arrival - self.sim.now, action)

    def send(self, source: bytes, dest: bytes, message: Any) -> None:
        """Through the broker, which tells of the dead."""

        def arrive() -> None:
            if dest == OWNER:
                self.owner.receive(source, message)
            elif self.hosts[dest].alive:
                self.hosts[dest].receive(source, message)
            elif source in self.hosts:
                self.hosts[source].died(dest)

        self._deliver(source, dest, b"", arrive)

    def by_link(self, host: SimHost, dest: bytes, message: Any) -> None:
        epochs = host.epoch, self.hosts[dest].epoch

        def arrive() -> None:
            if (host.epoch, self.hosts[dest].epoch) == epochs:
                channel = host.process_id + bytes([epochs[0] % 256, epochs[1] % 256])
                self.hosts[dest].receive(host.process_id, message, channel)

        self._deliver(host.process_id, dest, b"channel", arrive)

    def back_by_link(self, host: SimHost, origin: Origin, message: Any) -> None:
        asker = self.hosts[origin.process_id]

        def arrive() -> None:
            if origin.channel == asker.process_id + bytes([asker.epoch % 256, host.epoch % 256]) and host.alive:
                asker.receive(host.process_id, message)

        self._deliver(host.process_id, origin.process_id, b"channel", arrive)

    def watch(self, watcher: Any, process_id: bytes) -> None:
        if process_id in self.hosts and not self.hosts[process_id].alive:
            self.sim.after(0.001, lambda: watcher.died(process_id))
        else:
            self.watchers.setdefault(process_id, []).append(watcher)

    def kill(self, host: SimHost) -> None:
        if not host.alive:
            return
        host.alive = False
        host.epoch += 1
        self.over.update(host.readers)
        self.tell_peers(host)  # their channels break, before the broker knows of the death
        delay_s = self.sim.random.uniform(0.01, 1.0)
        for watcher in self.watchers.pop(host.process_id, []):
            self.sim.after(delay_s, partial(watcher.died, host.process_id))

    def tell_peers(self, host: SimHost) -> None:
        """Those who have dialled a host notice that their channels are broken."""
        for peer in self.hosts.values():
            if host.process_id in peer.channels:
                self.sim.after(self.sim.random.uniform(0.0, 0.1), partial(peer.link_broke, host.process_id))

    def failed(self, host: SimHost, reader: str, object_id: bytes, kind: str) -> None:
        """A reader was told no: it must have been so."""
        self.lost += 1
        assert kind == "ObjectLostError", kind
        keeper = self.hosts[self.owner.keepers[object_id]]
        assert self.trouble.deaths or self.trouble.damage, "nothing has happened that could lose an object"
        if not self.trouble.damage:
            assert not keeper.alive or object_id not in keeper.objects or self.deaths, "its keeper lives"

    # ------------------------------------------------------------------ a run

    deaths = 0

    def run(self) -> None:
        rng, trouble = self.sim.random, self.trouble
        names = []
        hosts, objects = list(self.hosts.values()), list(self.values)
        for number in range(rng.randint(1, 40) if objects else 0):
            name = f"reader {number}"
            names.append(name)
            host, object_id = rng.choice(hosts), rng.choice(objects)
            self.sim.after(rng.uniform(0.0, 1.0), partial(host.read, name, object_id))
            if rng.random() < trouble.withdraw:
                self.sim.after(rng.uniform(0.0, 2.0), partial(host.withdraw, name))
        for _ in range(trouble.deaths):
            victim = rng.choice(hosts)

            def die(victim: SimHost = victim) -> None:
                self.deaths += 1
                self.kill(victim)

            self.sim.after(rng.uniform(0.0, 1.5), die)
        for _ in range(20):
            at, host = rng.uniform(0.0, 2.0), rng.choice(hosts)
            if rng.random() < trouble.break_channels:
                self.sim.after(at, partial(if_alive, host, host.break_channels))
            if rng.random() < trouble.evict:
                self.sim.after(at, partial(if_alive, host, host.evict))
        assert self.sim.run(lambda: self.over.issuperset(names), 60.0), f"waiting: {set(names) - self.over}"
        self.sim.run(lambda: not any(host.core.pulls for host in hosts if host.alive), 60.0)
        for host in hosts:
            if host.alive:
                assert not host.core.pulls and not host.rooms, "something is left"
                assert not any(peer.asked for peer in host.core.peers.values()), "somebody is still asked"
