"""The broker's shell: one door, one link per process, one loop. Holds no state of the cluster."""

from __future__ import annotations

import errno
import gc
import math
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zray import version
from zray.broker.core import BrokerCore
from zray.broker.door import Arrival, Door
from zray.broker.records import Process
from zray.config import Config
from zray.exceptions import ConfigError
from zray.protocol.codec import KIND_HANDSHAKE, Frame, pack_handshake, read_frame, unpack_handshake
from zray.protocol.link import Link
from zray.protocol.messages import (
    DRIVER,
    HOST,
    MAY_SEND,
    PROTOCOL_VERSION,
    WORKER,
    Hello,
    ProtocolError,
    Refused,
    Welcome,
)
from zray.protocol.questions import BrokerStatus
from zray.protocol.records import VersionPair
from zray.protocol.sockets import RESERVED_DESCRIPTORS
from zray.util.processes import describe_error, descriptors_left, raise_descriptor_limit
from zray.util.streams import say

if TYPE_CHECKING:
    from zray.security.keys import KeyDirectory

TICK_S = 0.25
PAUSE_S = 1.0
REDIAL_SHARE = 1 / 3
"""Of the time for which a peer may be silent: so long may a driver take to dial anew."""
VANISHED_TIMES = 10
"""So many times as long as a peer may be silent, the network of a driver's machine may be down (a minute)."""
MAX_FRAMES_PER_TURN = 1000
UPKEEP_S = 1.0
MAX_FAULTS = 100
"""After so many malformed messages a process is declared dead: to read them takes others' time."""
FAULT_BYTES = 1 << 16
"""A malformed frame counts once more for each of so many bytes that it has."""


class BrokerShell:
    """Binds ``address`` and serves until ``stop`` is called or a signal says so."""

    def __init__(
        self,
        address: str,
        config: Config,
        keys: KeyDirectory | None = None,
        upkeep: Callable[[float], None] = lambda now: None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """``keys``: see ``Door``; ``upkeep``: called about once a second with the time; ``log``: see ``BrokerCore``."""
        self._config = config
        self._upkeep = upkeep
        self._kept_up = 0.0
        self._warned_of_descriptors = False
        self._door = Door(address, config, keys)
        self._incarnation = os.urandom(8)
        self._links: dict[bytes, Link] = {}
        self._active: set[bytes] = set()  # processes whose links have something to send, or may have
        self._unreachable: dict[bytes, float] = {}  # processes to whom nothing can be sent, and since when
        self._faults: dict[bytes, int] = {}  # malformed messages, by the process that sent them
        self._core = BrokerCore(
            lambda: os.urandom(16), infeasible_warn_s=config.infeasible_warn_s, shell_status=self._status, log=log,
            silent_s=self._silent_s,
        )  # fmt: skip
        self._started = time.monotonic()
        self._refused: Counter[str] = Counter()  # joiners who have passed the door, by reason
        self._stopped = False
        self._last_tick = 0.0

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._door.address

    # ------------------------------------------------------------------ the loop

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Runs the loop."""
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)  # the tables of a million tasks are no garbage
        on_ready()
        while not self._stopped:
            self.one_turn()
        self._door.close()

    @property
    def dropped_frames(self) -> int:
        """Frames and messages that were no good."""
        return self._core.dropped_frames + self._door.malformed

    def _status(self) -> BrokerStatus:
        return BrokerStatus(
            address=self.address,
            uptime_s=time.monotonic() - self._started,
            zray=version.VERSION,
            python=version.python_version(),
            protocol=PROTOCOL_VERSION,
            refused=dict(self._refused + Counter(self._door.refusals)),
            dropped_frames=self.dropped_frames,
        )

    def _silent_s(self, process_id: bytes) -> float:
        link = self._links.get(process_id)
        return max(0.0, time.monotonic() - link.last_heard) if link is not None else 0.0

    def stop(self) -> None:
        """Ends the loop after the present turn."""
        self._stopped = True

    def one_turn(self) -> None:
        """Waits for something to do, does all of it, sends at most a batch per peer."""
        self._door.wait(min(TICK_S, self._core.due_s(time.monotonic())))
        now = time.monotonic()
        for _ in range(MAX_FRAMES_PER_TURN):
            arrival = self._door.receive()
            if arrival is None:
                break
            self._receive(arrival, now)
        if now - self._last_tick >= TICK_S:
            self._tick(now)
        self._core.schedule(now)
        self._send_all(now)

    def _receive(self, arrival: Arrival, now: float) -> None:
        process_id = arrival.process_id
        if self._faults.get(process_id, 0) >= MAX_FAULTS and process_id in self._links:
            self._core.dropped_frames += 1  # its end is under way
            return
        try:
            frame = read_frame(arrival.data)
            if frame.kind == KIND_HANDSHAKE:
                self._shake_hands(arrival, frame, now)
                return
            link = self._links.get(process_id)
            if link is None or frame.incarnation != self._incarnation:
                self._refuse_the_dead(arrival)
                return
            if not self._door.knows(arrival):
                raise ProtocolError("a frame in another process's name")
            self._active.add(process_id)
            malformed = link.malformed
            messages = link.receive(frame, now)
            if link.malformed != malformed:
                weight = 1 + len(arrival.data) // FAULT_BYTES
                self._blame(process_id, link.malformed - malformed, weight, link.fault)
            for message in messages:
                try:
                    self._core.receive(process_id, message, now)
                except ProtocolError as error:
                    self._blame(process_id, 1, 1, str(error))
                except Exception as error:  # a fault of ours: it must not take the cluster along
                    say(f"zray-broker: cannot handle a {type(message).__name__}:\n{traceback.format_exc()}")
                    self._blame(process_id, 1, 1, f"{type(message).__name__}: {error}")
        except ProtocolError as error:
            if self._door.knows(arrival):
                self._blame(process_id, 1, 1 + len(arrival.data) // FAULT_BYTES, str(error))
            else:
                self._core.dropped_frames += 1

    def _blame(self, process_id: bytes, count: int, weight: int, fault: str) -> None:
        """A process has sent what is no good: each such message is dropped, and in the end the process as well."""
        self._core.dropped_frames += count
        faults = self._faults[process_id] = self._faults.get(process_id, 0) + count * weight
        if faults >= MAX_FAULTS and process_id in self._core.processes:
            reason = f"it has sent too many malformed messages, the last: {fault}"
            say(f"zray-broker: process {process_id.hex()} is declared dead: {reason}")
            self._core.expel(process_id, reason)

    # ------------------------------------------------------------------ handshake

    def _shake_hands(self, arrival: Arrival, frame: Frame, now: float) -> None:
        hello, process_id = unpack_handshake(frame), arrival.process_id
        if not isinstance(hello, Hello) or hello.process_id != process_id or hello.kind not in MAY_SEND:
            raise ProtocolError("a joiner says Hello, under its own name")
        if (hello.protocol, hello.python) != (PROTOCOL_VERSION, version.python_version()):
            self._turn_away(arrival, "versions differ", _versions_of(hello))
            return
        reason = self._door.objection(arrival, hello.kind)
        reason = reason or self._core.may_join(process_id, hello.kind, self._door.relay_of(arrival))
        if not reason and process_id in self._links and not self._door.knows(arrival):
            reason = "another process has joined under its name"
        if reason:
            self._turn_away(arrival, reason)
            return
        cluster = self._core.joined(process_id, hello.kind, hello.info, now)
        if process_id not in self._links:
            self._door.admit(arrival, hello.kind)
            self._links[process_id] = self._new_link(hello, self._door.relay_of(arrival) != b"", now)
        welcome = Welcome(self._incarnation, self._config.max_message_bytes, cluster)
        self._door.send(process_id, pack_handshake(welcome))

    def _new_link(self, hello: Hello, relayed: bool, now: float) -> Link:
        # Whether a relayed process lives, and can be reached, shows at the host that relays: a beat for all of them.
        heartbeat_s = math.inf if relayed else self._config.heartbeat_s
        limit = min(self._config.max_message_bytes, hello.info.max_message_bytes)
        return Link(
            self._incarnation, MAY_SEND[hello.kind], now, heartbeat_s, self._config.silence_s, max_message_bytes=limit
        )

    def _turn_away(self, arrival: Arrival, reason: str, versions: Sequence[VersionPair] = ()) -> None:
        self._refused[reason.partition(":")[0]] += 1  # what follows the colon is of this one alone
        self._refuse(arrival, reason, versions)

    def _refuse(self, arrival: Arrival, reason: str, versions: Sequence[VersionPair] = ()) -> None:
        refused = pack_handshake(Refused(reason, list(versions)))
        self._door.send(arrival.process_id, refused, through=arrival.through)

    def _refuse_the_dead(self, arrival: Arrival) -> None:
        self._core.dropped_frames += 1
        reason = self._core.may_join(arrival.process_id, DRIVER)
        if reason:
            self._refuse(arrival, reason)

    # ------------------------------------------------------------------ sending and time

    def _send_all(self, now: float) -> None:
        out = self._core.drain()
        while out:
            for dest, messages in out.items():
                link = self._links.get(dest)
                if link is not None:
                    self._active.add(dest)
                    for message in messages:
                        link.send(message)
            out = self._core.drain()
        active, self._active = self._active, set()
        rejected = False
        for process_id in active:
            link = self._links.get(process_id)
            if link is not None:
                self._transmit(process_id, link, now)
                self._core.set_congested(process_id, link.congested)
                for message, reason in link.rejected:
                    self._core.on_rejected(process_id, message, reason)
                    rejected = True
                link.rejected.clear()
        if rejected:  # somebody has to be told
            self._send_all(now)
            return
        departed, self._core.departed = self._core.departed, []
        for process_id in departed:
            self._links.pop(process_id, None)
            self._door.forget(process_id)
            self._unreachable.pop(process_id, None)
            self._faults.pop(process_id, None)

    def _transmit(self, process_id: bytes, link: Link, now: float) -> None:
        for frame in link.outgoing(now):
            if self._door.send(process_id, frame):
                self._unreachable.pop(process_id, None)
            else:
                self._unreachable.setdefault(process_id, now)

    def _tick(self, now: float) -> None:
        paused_s = now - self._last_tick if self._last_tick else 0.0
        self._last_tick = now
        self._active.update(self._links)
        for process_id, link in list(self._links.items()):
            if paused_s > PAUSE_S:
                link.forgive_silence(now)
            process = self._core.processes.get(process_id)
            if not link.tick(now) and process is not None and self._means_death(process, now):
                self._core.lost(process_id, f"the {process.kind} was not heard for {self._config.silence_s:g} s")
        for process_id in self._door.outcasts():
            self._core.lost(process_id, "its key has been revoked")
        self._core.tick(now)
        if now - self._kept_up >= UPKEEP_S:
            self._kept_up = now
            self._upkeep(now)
        self._look_at_descriptors()
        self._door.keep()

    def _look_at_descriptors(self) -> None:
        """Without one, libzmq lets nobody in, and says nothing."""
        scarce = descriptors_left() < RESERVED_DESCRIPTORS
        if scarce and not self._warned_of_descriptors:
            why = describe_error(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            print(f"zray-broker: nobody else can join: {why}", file=sys.stderr, flush=True)
        self._warned_of_descriptors = scarce

    def _means_death(self, process: Process, now: float) -> bool:
        """Whether it is dead, now that it has been silent for too long.

        User code may hold the GIL, or Ctrl-Z stop a driver, for hours: a driver is dead only when its connection is
        gone as well, or its machine's kernel no longer acknowledges what it is sent. A driver that was stopped may have
        to dial anew, which takes it a moment. And whether a worker lives is known to its host.
        """
        if process.kind in (WORKER, HOST):
            return process.kind == HOST
        silence_s = self._config.silence_s
        since = self._unreachable.get(process.process_id)
        if since is not None:
            return now - since >= silence_s * REDIAL_SHARE
        return self._door.unanswered_s(process.process_id) >= silence_s * VANISHED_TIMES


def _versions_of(hello: Hello) -> list[VersionPair]:
    """A joiner's versions beside the broker's."""
    return [
        VersionPair("protocol", str(hello.protocol), str(PROTOCOL_VERSION)),
        VersionPair("python", hello.python, version.python_version()),
        VersionPair("zray", hello.zray, version.VERSION),
    ]


def run_broker(
    address: str,
    config: Config,
    on_ready: Callable[[str], None],
    keys: KeyDirectory | None = None,
    upkeep: Callable[[float], None] = lambda now: None,
    log: Callable[[str], None] = lambda line: None,
) -> int:
    """The life of a broker process; returns its exit code. ``keys``, ``upkeep``, ``log``: see ``BrokerShell``."""
    try:
        shell = BrokerShell(address, config, keys, upkeep, log)
    except ConfigError as error:
        print(f"zray-broker: {error}", file=sys.stderr)
        return 2
    raise_descriptor_limit()
    signal.signal(signal.SIGTERM, lambda *_: shell.stop())
    signal.signal(signal.SIGINT, lambda *_: shell.stop())
    shell.serve(lambda: on_ready(shell.address))
    return 0
