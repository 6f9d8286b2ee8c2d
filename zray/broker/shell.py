"""The broker's shell: one socket, and one loop around the two cores, ``Membership`` and ``BrokerCore``."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zray import version
from zray.broker.broker import Broker
from zray.broker.core import BrokerCore
from zray.broker.membership import Membership, Rules
from zray.config import FREEZE_HEAP, Config
from zray.exceptions import ConfigError, SystemFailure
from zray.logs.line import ERROR, LogLine
from zray.logs.process_log import write
from zray.memory.heap import freeze_heap
from zray.protocol.contract import TICK_S
from zray.protocol.messages import PROTOCOL_VERSION
from zray.protocol.questions import BrokerStatus
from zray.system.processes import describe_error, descriptors_left, end_signals, raise_descriptor_limit
from zray.transport.broker_socket import BrokerSocket
from zray.transport.sockets import RESERVED_DESCRIPTORS

if TYPE_CHECKING:
    from zray.broker.journal import Journal
    from zray.transport.security.keys import KeyDirectory

MAX_FRAMES_PER_TURN = 1000
UPKEEP_S = 1.0
"""How often ``upkeep`` is called, in seconds."""


class BrokerShell:
    """Binds ``address`` and serves until ``stop`` is called."""

    def __init__(
        self,
        address: str,
        config: Config,
        keys: KeyDirectory | None = None,
        upkeep: Callable[[float], None] = lambda now: None,
        more: Sequence[str] = (),
        if_free: Sequence[str] = (),
        journal: Journal | None = None,
    ) -> None:
        """``keys``, ``more``, ``if_free``: see ``BrokerSocket``. ``upkeep(now)`` is called once a second, and writes to
        the log. ``journal``: what an earlier broker has kept, and where this one keeps it; it is closed at the end.

        Raises ConfigError if the address or the journal cannot be used.
        """
        self._config = config
        self._upkeep = upkeep
        self._kept_up = 0.0
        self._warned_of_descriptors = False
        self._socket = BrokerSocket(address, config, keys, more, if_free)
        core = BrokerCore(
            lambda: os.urandom(16), infeasible_warn_s=config.infeasible_warn_s, shell_status=self._status,
            silent_s=lambda process_id: members.silent_s(process_id, time.monotonic()),
            has_journal=journal is not None,
        )  # fmt: skip
        self._journal = journal
        if journal is not None:
            core.restore(journal.records(), time.monotonic())
        rules = Rules(config.heartbeat_s, config.silence_s, config.max_message_bytes, self._socket.is_tcp)
        members = Membership(os.urandom(8), rules, self._socket.role_of, core.may_join, self._socket.unanswered_s)
        keep = [] if journal is None else [journal.write]
        self._broker = Broker(core, members, self._socket, write, *keep)
        self._started = time.monotonic()
        self._stopped = False
        self._last_tick = 0.0

    @property
    def address(self) -> str:
        """The address at which it listens."""
        return self._socket.address

    # ------------------------------------------------------------------ the loop

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Runs the loop until ``stop`` is called, then closes the socket. Calls ``on_ready`` before the first turn."""
        if self._config.optimizes(FREEZE_HEAP):
            freeze_heap()
        gc.set_threshold(50_000, 20, 50)  # a collection finds no garbage in the tables of a million tasks
        on_ready()
        while not self._stopped:
            self.one_turn()
        self._socket.close()
        if self._journal is not None:
            self._journal.close()

    @property
    def dropped_frames(self) -> int:
        """The number of malformed or refused frames and messages."""
        return self._broker.core.dropped_frames + self._broker.members.dropped_frames + self._socket.malformed

    def _status(self) -> BrokerStatus:
        return BrokerStatus(
            address=self.address,
            uptime_s=time.monotonic() - self._started,
            zray=version.VERSION,
            python=version.python_version(),
            protocol=PROTOCOL_VERSION,
            refused=dict(self._broker.members.refused + Counter(self._socket.refusals)),
            dropped_frames=self.dropped_frames,
        )

    def stop(self) -> None:
        """Ends the loop after the present turn. May be called by a signal handler."""
        self._stopped = True

    def one_turn(self) -> None:
        """Waits for input, handles up to ``MAX_FRAMES_PER_TURN`` frames, and sends the messages of the turn."""
        broker = self._broker
        self._socket.wait(min(TICK_S, broker.core.due_s(time.monotonic())))
        now = time.monotonic()
        for _ in range(MAX_FRAMES_PER_TURN):
            arrival = self._socket.receive()
            if arrival is None:
                break
            broker.receive(arrival, now)
        if now - self._last_tick >= TICK_S:
            self._tick(now)
        broker.schedule(now)
        broker.send(now)

    def _tick(self, now: float) -> None:
        self._last_tick = now
        self._broker.tick(now)
        if now - self._kept_up >= UPKEEP_S:
            self._kept_up = now
            self._upkeep(now)
            if self._journal is not None:
                self._journal.tick(now)
        self._look_at_descriptors()
        self._socket.keep()

    def _look_at_descriptors(self) -> None:
        """Logs an error when descriptors run out: libzmq then accepts no connections, and reports nothing."""
        scarce = descriptors_left() < RESERVED_DESCRIPTORS
        if scarce and not self._warned_of_descriptors:
            why = describe_error(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            write(LogLine(ERROR, "broker", f"no other process can join: {why}"))
        self._warned_of_descriptors = scarce


def run_broker(
    address: str,
    config: Config,
    on_ready: Callable[[str], None],
    keys: KeyDirectory | None = None,
    upkeep: Callable[[float], None] = lambda now: None,
    more: Sequence[str] = (),
    if_free: Sequence[str] = (),
    journal: Journal | None = None,
) -> int:
    """Runs a broker until SIGINT or one of ``end_signals``. Returns its exit code.

    The other arguments: see ``BrokerShell``.
    """
    try:
        shell = BrokerShell(address, config, keys, upkeep, more, if_free, journal)
    except ConfigError as error:
        print(f"zray-broker: {error}", file=sys.stderr)
        return 2
    raise_descriptor_limit()
    for number in (signal.SIGINT, *end_signals()):
        signal.signal(number, lambda *_: shell.stop())
    try:
        shell.serve(lambda: on_ready(shell.address))
    except SystemFailure as error:
        write(LogLine(ERROR, "broker", str(error)))
        return 1
    return 0
