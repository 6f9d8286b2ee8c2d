"""The broker's shell: one ROUTER socket, one link per process, one loop. Holds no state of the cluster."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import zmq

from zray import version
from zray.broker.core import BrokerCore
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
from zray.protocol.sockets import check_address, make_socket

TICK_S = 0.25
PAUSE_S = 1.0
MAX_FRAMES_PER_TURN = 1000


class BrokerShell:
    """Binds ``address`` and serves until ``stop`` is called or a signal says so."""

    def __init__(self, address: str, config: Config) -> None:
        self.address = address
        self._config = config
        self._context: zmq.Context[Any] = zmq.Context(io_threads=1)
        self._socket = make_socket(self._context, zmq.ROUTER, address, config)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
        self._incarnation = os.urandom(8)
        self._links: dict[bytes, Link] = {}
        self._unreachable: set[bytes] = set()  # processes to whom nothing could be sent when it was tried last
        self._core = BrokerCore(lambda: os.urandom(16), infeasible_warn_s=config.infeasible_warn_s)
        self._stopped = False
        self._last_tick = 0.0
        try:
            self._bind(address)
        except ConfigError:
            self._socket.close(0)
            self._context.term()
            raise
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def _bind(self, address: str) -> None:
        check_address(address)
        if _somebody_listens(address):
            raise ConfigError(f"the broker cannot listen at {address!r}: another broker is running there")
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            raise ConfigError(
                f"the broker cannot listen at {address!r}: {error.strerror}. Is another broker running there?"
            ) from None

    # ------------------------------------------------------------------ the loop

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Runs the loop."""
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)  # the tables of a million tasks are no garbage
        on_ready()
        while not self._stopped:
            self.one_turn()
        self._socket.close(0)
        self._context.term()
        if self.address.startswith("ipc://"):
            with contextlib.suppress(FileNotFoundError):  # libzmq leaves it behind
                os.unlink(self.address.removeprefix("ipc://"))

    @property
    def dropped_frames(self) -> int:
        """Frames and messages that were no good."""
        return self._core.dropped_frames

    def stop(self) -> None:
        """Ends the loop after the present turn."""
        self._stopped = True

    def one_turn(self) -> None:
        """Waits for something to do, does all of it, sends at most a batch per peer."""
        self._socket.poll(int(TICK_S * 1000))
        now = time.monotonic()
        for _ in range(MAX_FRAMES_PER_TURN):
            try:
                identity, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._receive(identity, parts, now)
        if now - self._last_tick >= TICK_S:
            self._tick(now)
        self._core.schedule(now)
        self._send_all(now)

    def _receive(self, identity: bytes, parts: list[bytes], now: float) -> None:
        try:
            if len(parts) != 1:
                raise ProtocolError("a message has one part")
            frame = read_frame(parts[0])
            if frame.kind == KIND_HANDSHAKE:
                self._shake_hands(identity, frame, now)
                return
            link = self._links.get(identity)
            if link is None or frame.incarnation != self._incarnation:
                self._refuse_the_dead(identity)
                return
            malformed = link.malformed
            messages = link.receive(frame, now)
            self._core.dropped_frames += link.malformed - malformed
            for message in messages:
                try:
                    self._core.receive(identity, message, now)
                except ProtocolError:
                    self._core.dropped_frames += 1
                except Exception:  # a fault of ours: it must not take the cluster along
                    self._core.dropped_frames += 1
                    print(f"zray-broker: cannot handle a {type(message).__name__}:", file=sys.stderr)
                    traceback.print_exc()
        except ProtocolError:
            self._core.dropped_frames += 1

    # ------------------------------------------------------------------ handshake

    def _shake_hands(self, identity: bytes, frame: Frame, now: float) -> None:
        hello = unpack_handshake(frame)
        if not isinstance(hello, Hello) or hello.process_id != identity or hello.kind not in MAY_SEND:
            raise ProtocolError("a joiner says Hello, under its own name")
        here = {"protocol": PROTOCOL_VERSION, "python": version.python_version(), "zray": version.VERSION}
        there = {"protocol": hello.protocol, "python": hello.python, "zray": hello.zray}
        differs = [[name, there[name], here[name]] for name in ("protocol", "python") if there[name] != here[name]]
        if differs:
            rows = [[name, there[name], here[name]] for name in here]
            self._send_raw(identity, pack_handshake(Refused("versions differ", {"differs": rows})))
            return
        reason = self._core.may_join(identity, hello.kind)
        if reason:
            self._send_raw(identity, pack_handshake(Refused(reason, {})))
            return
        cluster = self._core.joined(identity, hello.kind, hello.info, now)
        if identity not in self._links:
            self._links[identity] = Link(
                self._incarnation, MAY_SEND[hello.kind], now, self._config.heartbeat_s, self._config.silence_s
            )
        self._send_raw(identity, pack_handshake(Welcome(self._incarnation, cluster)))

    def _refuse_the_dead(self, identity: bytes) -> None:
        self._core.dropped_frames += 1
        reason = self._core.may_join(identity, DRIVER)
        if reason:
            self._send_raw(identity, pack_handshake(Refused(reason, {})))

    # ------------------------------------------------------------------ sending and time

    def _send_all(self, now: float) -> None:
        out = self._core.drain()
        while out:
            for dest, messages in out.items():
                link = self._links.get(dest)
                if link is not None:
                    for message in messages:
                        link.send(message)
            out = self._core.drain()
        gone = []
        for process_id, link in self._links.items():
            for frame in link.outgoing(now):
                if self._send_raw(process_id, frame):
                    self._unreachable.discard(process_id)
                else:
                    self._unreachable.add(process_id)
            if process_id not in self._core.processes:
                gone.append(process_id)
        for process_id in gone:
            del self._links[process_id]
            self._unreachable.discard(process_id)

    def _send_raw(self, identity: bytes, data: bytes) -> bool:
        """Sends a frame; False when the peer is not connected (any more): its link sends it again, or is silent."""
        try:
            self._socket.send_multipart([identity, data], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            return False
        return True

    def _tick(self, now: float) -> None:
        paused_s = now - self._last_tick if self._last_tick else 0.0
        self._last_tick = now
        for process_id, link in list(self._links.items()):
            if paused_s > PAUSE_S:
                link.forgive_silence(now)
            process = self._core.processes.get(process_id)
            if not link.tick(now) and process is not None and self._means_death(process):
                self._core.lost(process_id, f"the {process.kind} was not heard for {self._config.silence_s:g} s")
        self._core.tick(now)

    def _means_death(self, process: Process) -> bool:
        """Whether it is dead, now that it has been silent for too long.

        User code may hold the GIL, or Ctrl-Z stop a driver, for minutes: a driver is dead only when its connection,
        which ZeroMQ's own threads keep up, is gone as well; and whether a worker lives is known to its host.
        """
        if process.kind == WORKER:
            return False
        return process.kind == HOST or process.process_id in self._unreachable


def _somebody_listens(address: str) -> bool:
    """Whether a Unix socket is in use. libzmq would take it over, and its broker go deaf."""
    if not address.startswith("ipc://"):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(address.removeprefix("ipc://"))
        except OSError:
            return False
        return True


def run_broker(address: str, config: Config, on_ready: Callable[[str], None]) -> int:
    """The life of a broker process; returns its exit code."""
    try:
        shell = BrokerShell(address, config)
    except ConfigError as error:
        print(f"zray-broker: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: shell.stop())
    signal.signal(signal.SIGINT, lambda *_: shell.stop())
    shell.serve(lambda: on_ready(shell.address))
    return 0
