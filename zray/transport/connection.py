"""One process's connection to the broker: a DEALER socket, the handshake, and the link on top. No thread, no lock."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import zmq

from zray import version
from zray.config import Config
from zray.exceptions import SILENT_LISTENER, ClusterUnavailableError, ConfigError, VersionMismatchError, ZrayError
from zray.protocol.codec import KIND_HANDSHAKE, pack_handshake, read_frame, unpack_handshake
from zray.protocol.contract import TICK_S
from zray.protocol.link import Link
from zray.protocol.messages import FROM_BROKER, HOST, PROTOCOL_VERSION, WORKER, Hello, ProtocolError, Refused, Welcome
from zray.protocol.records import JoinInfo
from zray.transport.sockets import (
    check_address,
    foreign_listener_at,
    is_listened_at,
    is_readable,
    make_socket,
    obstacle_on_the_way,
    receive,
    send,
)

if TYPE_CHECKING:
    from zray.transport.security.dialer import DialWatch
    from zray.transport.security.keys import ClientCredentials

HELLO_INTERVAL_MS = 250
MAX_HELLO_INTERVAL_MS = 4000
"""The pause doubles up to this: thousands of processes that wait for a busy broker must not keep it busy."""
TCP_RECONNECT_MS = 100
FIRST_RETRY_S = 0.1
MAX_RETRY_S = 8.0
"""The pauses after failed handshakes begin with ``FIRST_RETRY_S`` and double up to ``MAX_RETRY_S``."""
MIN_GIVE_UP_MS = 1000
"""The least time that a TCP connection, or an attempt to make one, gets to answer, however small ``silence_s`` is."""


class Connection:
    """An established connection to the broker. ``connect`` makes it."""

    def __init__(
        self,
        context: zmq.Context[Any],
        socket: zmq.Socket[Any],
        welcome: Welcome,
        address: str,
        config: Config,
        head: Sequence[bytes] = (),
    ) -> None:
        self.address = address
        self._head = list(head)
        self._context = context
        self.socket = socket
        self.cluster = welcome.cluster
        self.refused: Refused | None = None
        self.dropped_frames = 0
        self.pass_down: Callable[[bytes, bytes], None] | None = None
        """Takes frames for processes that reach the broker through this one: the process ID and the frame."""
        self.max_message_bytes = min(config.max_message_bytes, welcome.max_message_bytes)
        """The largest message that both ends accept."""
        self.link = Link(
            welcome.incarnation, FROM_BROKER, time.monotonic(), config.heartbeat_s, config.silence_s,
            max_message_bytes=self.max_message_bytes,
        )  # fmt: skip
        self._incarnation = self.cluster_id = welcome.incarnation

    def receive(self, max_frames: int = sys.maxsize, expected: bool = False) -> list[Any]:
        """Returns the messages that have arrived, of at most ``max_frames`` frames. Does not wait.

        ``expected``: see ``zray.transport.sockets.receive``.
        """
        socket = self.socket
        messages: list[Any] = []
        for _ in range(max_frames):
            parts = receive(socket, expected=expected)
            if parts is None:
                break
            expected = False
            *through, data = parts
            if through != self._head:
                self._pass_down(through, data)
                continue
            try:
                frame = read_frame(data)
                if frame.kind == KIND_HANDSHAKE:
                    self._late_handshake(unpack_handshake(frame))
                elif frame.incarnation == self._incarnation:
                    messages.extend(self.link.receive(frame, time.monotonic()))
            except ProtocolError:
                self.dropped_frames += 1
        return messages

    def _pass_down(self, through: list[bytes], data: bytes) -> None:
        if self.pass_down is None or len(through) != 1:
            self.dropped_frames += 1
        else:
            self.pass_down(through[0], data)

    def _late_handshake(self, message: Any) -> None:
        # A repeated Welcome is ignored. A Refused says that this process was declared dead.
        if isinstance(message, Refused):
            self.refused = message

    def flush(self, messages: list[Any]) -> bool:
        """Sends messages, acknowledgements and retransmissions. Returns whether there was anything to send."""
        link = self.link
        for message in messages:
            link.send(message)
        frames = link.outgoing(time.monotonic())
        for frame in frames:
            try:
                send(self.socket, *self._head, frame)
            except zmq.Again:  # the connection is broken: the link sends lost frames again, or becomes silent
                break
        return bool(frames)

    @property
    def readable(self) -> bool:
        """Whether something has arrived. Check this after a send, which may consume the signal of the descriptor."""
        return is_readable(self.socket)

    def confirm(self, timeout_s: float) -> bool:
        """Waits until the broker has received everything that was sent. Drops what arrives meanwhile.

        Returns False after ``timeout_s``, or once the broker has refused this process or has been silent for too long.
        Others may tell the broker that this process has ended, each by a connection of its own. Only what is confirmed
        is certain to be there before that.
        """
        link, deadline = self.link, time.monotonic() + timeout_s
        link.probe(time.monotonic())
        self.flush([])
        while not link.idle:
            now = time.monotonic()
            if now >= deadline or self.refused is not None or not link.tick(now):
                return False
            self.flush([])  # what the tick found due, and what was lost
            self.socket.poll(round(1000 * min(TICK_S, deadline - now)))
            self.receive()
        return True

    def close(self, linger_ms: int = 200) -> None:
        """Closes the socket. Waits up to ``linger_ms`` milliseconds for the last frames to leave."""
        self.socket.close(linger_ms)
        self._context.term()


def connect(
    address: str,
    kind: str,
    process_id: bytes,
    info: JoinInfo,
    config: Config,
    credentials: ClientCredentials | None = None,
) -> Connection:
    """Joins the cluster of the broker at ``address``, and returns the connection.

    ``info``: its ``max_message_bytes`` is taken from ``config``; ``credentials``: for a broker on TCP that requires
    keys.

    Raises ClusterUnavailableError if no broker answers within ``config.connect_timeout_s``, VersionMismatchError or
    ZrayError if the broker refuses this process, and ConfigError if the address cannot be used.
    """
    check_address(address)
    _refuse_foreign_listener(address, kind)
    context: zmq.Context[Any] = zmq.Context(io_threads=1)
    socket = make_socket(context, zmq.DEALER, address, config)
    try:
        # Process IDs are not secret. So on TCP a connection has a secret name, and no other process can take it over.
        socket.setsockopt(zmq.ROUTING_ID, process_id if address.startswith("ipc://") else b"c" + os.urandom(16))
        info = info._replace(max_message_bytes=config.max_message_bytes)
        hello = Hello(PROTOCOL_VERSION, version.python_version(), version.VERSION, kind, process_id, info)
        if address.startswith("tcp://"):
            answer = _dial_tcp(socket, hello, address, config, credentials)
        else:
            answer = _dial(socket, hello, address, config)
        if isinstance(answer, Refused):
            raise _refusal(answer)
        _refuse_foreign_listener(address, kind)  # again: the listener may have changed meanwhile
        return Connection(context, socket, answer, address, config, _head(address, process_id))
    except zmq.ZMQError as error:
        socket.close(0)
        context.term()
        raise ConfigError(f"address {address!r} cannot be used: {error.strerror}") from None
    except BaseException:
        socket.close(0)
        context.term()
        raise


def _refuse_foreign_listener(address: str, kind: str) -> None:
    foreign = foreign_listener_at(address) if kind != WORKER else ""  # a worker has its address from its host
    if foreign:
        raise ClusterUnavailableError(f"the broker at {address!r} cannot be trusted: {foreign}")


def _head(address: str, process_id: bytes) -> list[bytes]:
    """The parts before each frame: on TCP, the ID of its process."""
    return [process_id] if address.startswith("tcp://") else []


def _dial(
    socket: zmq.Socket[Any],
    hello: Hello,
    address: str,
    config: Config,
    watch: DialWatch | None = None,
) -> Welcome | Refused:
    """Connects, and sends Hello until it is answered.

    If ``watch`` reports a failed handshake, connects again: libzmq itself tries again only if nothing listens.
    """
    socket.connect(address)
    started = time.monotonic()
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    head = _head(address, hello.process_id)
    if watch is not None:
        poller.register(watch.socket, zmq.POLLIN)
    pause_ms = HELLO_INTERVAL_MS
    retry_s = FIRST_RETRY_S
    while time.monotonic() - started < config.connect_timeout_s:
        with contextlib.suppress(zmq.Again):  # no connection is being made: the watch reports the reason
            send(socket, *head, pack_handshake(hello))
        left_ms = max(0.0, started + config.connect_timeout_s - time.monotonic()) * 1000
        answered = _await_answer(socket, poller, watch, pause_ms, left_ms)
        if watch is not None and not answered and watch.fault():
            # Disconnect at once: libzmq would go on dialling, and the listener would count a refusal each time. Then
            # poll, since libzmq gives up a connection only while its socket is used.
            socket.disconnect(address)
            socket.poll(round(1000 * min(retry_s, max(0.0, started + config.connect_timeout_s - time.monotonic()))))
            retry_s = min(2 * retry_s, MAX_RETRY_S)
            if time.monotonic() - started >= config.connect_timeout_s:
                break
            watch.dialled_anew()
            socket.connect(address)
        if not answered:
            pause_ms = min(2 * pause_ms, MAX_HELLO_INTERVAL_MS)
            continue
        try:
            *_, data = socket.recv_multipart(zmq.NOBLOCK)
            answer = unpack_handshake(read_frame(data))
        except (ProtocolError, ValueError, zmq.Again):
            continue
        if isinstance(answer, (Welcome, Refused)):
            return answer
    setting = "ZRAY_JOIN_TIMEOUT_S" if hello.kind == HOST and address.startswith("tcp://") else "ZRAY_CONNECT_TIMEOUT_S"
    why = _why_unanswered(address, watch)
    raise ClusterUnavailableError(
        f"no zray broker answered at {address!r} within {config.connect_timeout_s:g} s{why} "
        f"{setting} sets how long to try."
    )


def _await_answer(
    socket: zmq.Socket[Any], poller: zmq.Poller, watch: DialWatch | None, pause_ms: float, left_ms: float
) -> bool:
    """Whether something arrives within the pause. Returns early if ``watch`` reports a fault."""
    end = time.monotonic() + min(pause_ms, left_ms) / 1000
    while True:
        ready = dict(poller.poll(round(max(0.0, end - time.monotonic()) * 1000)))
        if socket in ready:
            return True
        if not ready or (watch is not None and watch.fault()):
            return False


def _why_unanswered(address: str, watch: DialWatch | None) -> str:
    """The known reason why no broker has answered, for the error message."""
    if watch is not None and watch.account:
        return f": {watch.explanation(address)}."
    if watch.reached if watch is not None else is_listened_at(address):
        return f": {SILENT_LISTENER}."
    return f": {obstacle_on_the_way(address)}. Is one running there (zray-broker prints its address)?"


def _dial_tcp(
    socket: zmq.Socket[Any], hello: Hello, address: str, config: Config, credentials: ClientCredentials | None
) -> Welcome | Refused:
    """``_dial`` over TCP: with credentials, and with a watch that finds out why a handshake fails."""
    from zray.transport.security.dialer import DialWatch, apply_client  # imported here: workers never need it

    if credentials is not None:
        apply_client(socket, credentials)
    # After an interruption the kernel would wait as long as that lasted before it tries again, which may be longer than
    # a peer may be silent. So a connection on which the peer's kernel has acknowledged nothing for a while is replaced.
    socket.setsockopt(zmq.TCP_MAXRT, max(MIN_GIVE_UP_MS, round(config.silence_s * 1000 / 4)))
    socket.setsockopt(zmq.CONNECT_TIMEOUT, max(MIN_GIVE_UP_MS, round(config.silence_s * 1000 / 6)))
    socket.setsockopt(zmq.RECONNECT_IVL, TCP_RECONNECT_MS)  # the watch must notice a failed handshake first
    watch = DialWatch(socket)
    try:
        return _dial(socket, hello, address, config, watch)
    finally:
        watch.close()


def _refusal(refused: Refused) -> ZrayError:
    if not refused.versions:
        return ZrayError(f"the broker refused this process: {refused.reason}")
    table = "\n".join(f"  {name:<10} here {here:<12} cluster {there}" for name, here, there in refused.versions)
    return VersionMismatchError(f"this process does not fit the cluster: {refused.reason}\n{table}")
