"""Real sockets on loopback: who comes in, who does not, and that the door goes on working."""

from __future__ import annotations

import contextlib
import os
import socket as sockets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from zray.exceptions import ConfigError
from zray.transport.security import authenticator as guards
from zray.transport.security.authenticator import Authenticator
from zray.transport.security.dialer import DialWatch, apply_client, require_curve
from zray.transport.security.keys import AllowList, ClientCredentials, KeyDirectory
from zray.transport.security.monitor import Monitor

GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + b"\0" * 32


class BrokerSocket:
    """A guarded ROUTER, and the loop of its owner."""

    def __init__(self, keys: KeyDirectory) -> None:
        self.keys = keys
        self.context: zmq.Context[Any] = zmq.Context()
        self.authenticator = Authenticator(self.context, keys.server(), AllowList(keys).find)
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.MAXMSGSIZE, 1 << 20)
        self.authenticator.apply_server(self.socket)
        self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.received: list[tuple[bytes, str]] = []  # what came in, and the key it came with

    def turn(self, timeout_ms: int = 50) -> None:
        poller = zmq.Poller()
        for socket in (self.socket, *self.authenticator.sockets):
            poller.register(socket, zmq.POLLIN)
        poller.poll(timeout_ms)
        self.authenticator.pump()
        with contextlib.suppress(zmq.Again):
            while True:
                frame = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)[-1]
                self.received.append((frame.bytes, str(frame.get("User-Id"))))

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, (dict(self.authenticator.refused), self.received)
            self.turn()

    def until_refused(self, reason: str, count: int = 1) -> None:
        self.until(lambda: self.authenticator.refused[reason] >= count)

    def dial(self, credentials: ClientCredentials | None, message: bytes = b"hello") -> zmq.Socket[Any]:
        socket: zmq.Socket[Any] = self.context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        if credentials is not None:
            apply_client(socket, credentials)
        socket.connect(f"tcp://127.0.0.1:{self.port}")
        socket.send(message)
        return socket

    def plain(self, data: bytes) -> sockets.socket:
        connection = sockets.create_connection(("127.0.0.1", self.port))
        with contextlib.suppress(ConnectionError):  # it may be hung up on before it has said everything
            connection.sendall(data)
        return connection

    def serves(self) -> None:
        """Whether somebody with a key still comes in, and nobody else has."""
        before = len(self.received)
        credentials = self.keys.client("driver")
        with self.dial(credentials, b"still there?"):
            self.until(lambda: len(self.received) > before)
        assert self.received[before:] == [(b"still there?", credentials.public.decode())]

    def close(self) -> None:
        self.authenticator.close()
        self.context.destroy(0)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[BrokerSocket]:
    door = BrokerSocket(KeyDirectory(tmp_path / "keys"))
    yield door
    door.close()


def stranger(door: BrokerSocket, server: bytes = b"") -> ClientCredentials:
    return ClientCredentials(*zmq.curve_keypair(), server or door.keys.server().public)


def test_right_key_comes_in(door: BrokerSocket) -> None:
    host, driver = door.keys.client("host"), door.keys.client("driver")
    with door.dial(host, b"from a host"), door.dial(driver, b"from a driver"):
        door.until(lambda: len(door.received) == 2)
    came = {message: door.authenticator.role_of(user_id) for message, user_id in door.received}
    assert came == {b"from a host": "host", b"from a driver": "driver"}
    assert door.authenticator.role_of(host.public) == "host" and door.authenticator.role_of(driver.public) == "driver"
    assert door.authenticator.role_of(b"x" * 40) is None and door.authenticator.role_of("") is None
    assert not door.authenticator.refused


def test_drivers_key_is_no_hosts(door: BrokerSocket) -> None:
    with door.dial(door.keys.client("driver"), b"I am a host"):
        door.until(lambda: bool(door.received))
    assert door.authenticator.role_of(door.received[0][1]) == "driver"


def test_no_key(door: BrokerSocket) -> None:
    with door.dial(None):
        door.until_refused(guards.NO_KEY)
        door.serves()


def test_unknown_key(door: BrokerSocket) -> None:
    with door.dial(stranger(door)):
        door.until_refused(guards.UNKNOWN_KEY)
        door.serves()
    assert door.authenticator.recent[0].address == "127.0.0.1"
    assert set(door.authenticator.refused) == {guards.UNKNOWN_KEY}


def test_key_of_another_broker(door: BrokerSocket) -> None:
    with door.dial(stranger(door, zmq.curve_keypair()[0])):
        door.until_refused(guards.WRONG_SERVER_KEY)
        door.serves()


def test_right_key_but_other_brokers(door: BrokerSocket) -> None:
    with door.dial(door.keys.client("host")._replace(server=zmq.curve_keypair()[0])):
        door.until_refused(guards.WRONG_SERVER_KEY)
        door.serves()


def test_public_key_alone_is_not_enough(door: BrokerSocket) -> None:
    host = door.keys.client("host")
    with door.dial(host._replace(secret=zmq.curve_keypair()[1])):
        door.until_refused(guards.WRONG_SERVER_KEY)
        door.serves()


def test_revoked_key(door: BrokerSocket) -> None:
    host = door.keys.client("host")
    with door.dial(host):
        door.until(lambda: bool(door.received))
        assert door.authenticator.role_of(host.public)
        door.keys.revoke("host")
        assert door.authenticator.role_of(host.public) is None  # although it is connected
    with door.dial(host):
        door.until_refused(guards.REVOKED_KEY)
        door.received.clear()
        door.serves()


def test_key_made_while_it_runs(door: BrokerSocket) -> None:
    door.keys.add("host", "lab3")
    with door.dial(door.keys.client("host", "lab3")):
        door.until(lambda: bool(door.received))
    assert door.authenticator.role_of(door.received[0][1]) == "host"


STRANGE_BYTES = {
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4, guards.NO_ZEROMQ),
    "oversized frame": (GREETING + b"\x06" + b"\x7f" + b"\xff" * 7 + b"x" * 100, guards.NO_ZEROMQ),
    "oversized command": (GREETING + b"\x06\0\0\0\0\x7f\xff\xff\xff" + b"\x05HELLO" + b"x" * 100, guards.NO_ZEROMQ),
    "garbled hello": (GREETING + b"\x04\xc8" + b"\x05HELLO" + b"x" * 194, guards.MALFORMED),
    "short hello": (GREETING + b"\x04\x06" + b"\x05HELLO", guards.MALFORMED),
    "message before the handshake": (GREETING + b"\x00\x05first", guards.MALFORMED),
    "truncated hello": (GREETING + b"\x04\xc8" + b"\x05HEL", guards.HUNG_UP),
    "truncated greeting": (GREETING[:20], guards.HUNG_UP),
    "nothing": (b"", guards.HUNG_UP),
}


@pytest.mark.parametrize("kind", STRANGE_BYTES)
def test_strange_bytes(door: BrokerSocket, kind: str) -> None:
    data, reason = STRANGE_BYTES[kind]
    with door.plain(data) as connection:
        with contextlib.suppress(OSError):  # hung up on already
            connection.shutdown(sockets.SHUT_WR)
        door.until_refused(reason)
    assert door.authenticator.refused == {reason: 1}
    assert door.authenticator.recent[0].address in ("127.0.0.1", "?")
    door.serves()


def test_silent_stranger_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "HANDSHAKE_MS", 200)
    door = BrokerSocket(KeyDirectory(tmp_path / "keys"))
    with door.plain(GREETING):
        door.until_refused(guards.HUNG_UP)
        door.serves()
    door.close()


def test_garbage_between_peers_is_counted_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "HANDSHAKE_MS", 400)
    door = BrokerSocket(KeyDirectory(tmp_path / "keys"))
    host = door.keys.client("host")
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(door.dial(host))
            door.plain(os.urandom(10) * 30).close()
        door.until(lambda: len(door.received) == 20 and sum(door.authenticator.refused.values()) == 20)
    door.serves()
    assert sum(door.authenticator.refused.values()) == 20
    door.close()


def test_replayed_handshake(door: BrokerSocket) -> None:
    """What a host said to the door, said again by somebody who listened in."""
    listener = sockets.create_server(("127.0.0.1", 0))
    with door.dial(door.keys.client("host")) as client, listener:
        client.disconnect(f"tcp://127.0.0.1:{door.port}")
        client.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        client.send(b"overheard")
        heard, sent = _relay(door, listener)
    assert (b"overheard", door.keys.client("host").public.decode()) in door.received
    door.received.clear()
    before = sum(door.authenticator.refused.values())
    with door.plain(heard):
        door.until(lambda: sum(door.authenticator.refused.values()) > before)
    assert sent and not door.received
    door.serves()


def _relay(door: BrokerSocket, listener: sockets.socket) -> tuple[bytes, bytes]:
    """Carries one connection to the door until a message is through; returns what each side said."""
    near, _ = listener.accept()
    far = door.plain(b"")
    said = {near: b"", far: b""}
    for end in (near, far):
        end.setblocking(False)

    def carry() -> bool:
        for end, other in ((near, far), (far, near)):
            with contextlib.suppress(BlockingIOError):
                data = end.recv(65536)
                said[end] += data
                other.sendall(data)
        return any(message == b"overheard" for message, _ in door.received)

    with near, far:
        door.until(carry)
    return said[near], said[far]


def test_fuzz(door: BrokerSocket) -> None:
    for length in (1, 10, 64, 200, 5000):
        for prefix in (b"", GREETING[:10], GREETING, GREETING + b"\x04\xc8\x05HELLO"):
            door.plain(prefix + os.urandom(length)).close()
    door.until(lambda: sum(door.authenticator.refused.values()) == 20)
    door.serves()


def test_hundreds_at_once(door: BrokerSocket) -> None:
    keys = door.keys.client("host")
    with contextlib.ExitStack() as stack:
        for _ in range(150):
            stack.enter_context(door.dial(keys))
        intruders = [stack.enter_context(door.dial(stranger(door))) for _ in range(10)]
        door.until(
            lambda: len(door.received) == 150 and door.authenticator.refused[guards.UNKNOWN_KEY] >= len(intruders)
        )
    assert {user_id for _, user_id in door.received} == {keys.public.decode()}


def test_events_that_nobody_takes_hold_nothing_up(door: BrokerSocket) -> None:
    for _ in range(1500):
        door.plain(b"GET / HTTP/1.1\r\n\r\n" * 6).close()
    door.until(lambda: sum(door.authenticator.refused.values()) == 1500)
    assert len(door.authenticator.recent) == guards.MAX_RECENT_REFUSALS
    door.serves()


def test_a_flood_of_questions_is_answered_bit_by_bit(door: BrokerSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "MAX_EVENTS_PER_PUMP", 3)
    with door.context.socket(zmq.DEALER) as asker:
        asker.connect("inproc://zeromq.zap.01")
        for _ in range(8):
            asker.send_multipart([b""] * 9)
        answered = []
        for _ in range(3):
            door.authenticator.pump()
            answered.append(door.authenticator.refused[guards.MALFORMED])
    assert answered == [3, 6, 8]


def test_a_flood_of_events_holds_nobody_up(door: BrokerSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    class Flood(Monitor):
        def events(self) -> Iterator[tuple[int, int]]:
            nonlocal taken
            while True:
                assert taken < 2 * guards.MAX_EVENTS_PER_PUMP
                taken += 1
                yield zmq.EVENT_HANDSHAKE_SUCCEEDED, 0

    monkeypatch.setattr(guards, "Monitor", Flood)
    with door.context.socket(zmq.ROUTER) as another:
        door.authenticator.apply_server(another)
        door.authenticator.pump()
        assert taken == guards.MAX_EVENTS_PER_PUMP
        door.authenticator.close()


def test_nobody_comes_in_once_the_guard_is_gone(door: BrokerSocket) -> None:
    door.authenticator.close()
    events: zmq.Socket[Any] = door.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    with events, door.dial(door.keys.client("host")):
        assert events.poll(10_000)
        assert int.from_bytes(events.recv_multipart()[0][:2], sys.byteorder) == zmq.EVENT_DISCONNECTED
        assert not door.socket.poll(0)
        door.socket.disable_monitor()


def test_closes_at_once(door: BrokerSocket) -> None:
    with contextlib.ExitStack() as stack:
        for credentials in (stranger(door), None, door.keys.client("host")):
            stack.enter_context(door.dial(credentials))
        door.until(lambda: bool(door.received))
        started = time.monotonic()
        door.authenticator.close()
        door.socket.close(0)
    door.context.term()
    assert time.monotonic() - started < 0.3


def test_refusals_are_logged_at_a_limited_rate(
    door: BrokerSocket, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def knock(times: int) -> list[str]:
        caplog.clear()
        for _ in range(times):
            before = door.authenticator.refused[guards.UNKNOWN_KEY]
            with door.dial(stranger(door)):
                door.until_refused(guards.UNKNOWN_KEY, before + 1)
        return [record.getMessage() for record in caplog.records]

    assert knock(4) == ["refused 127.0.0.1: unknown key"]
    monkeypatch.setattr(guards, "LOG_INTERVAL_S", 0.0)
    assert knock(1) == ["refused 127.0.0.1: unknown key (and 3 others since)"]


def test_questions_that_are_none(door: BrokerSocket) -> None:
    with door.context.socket(zmq.DEALER) as asker:
        asker.connect("inproc://zeromq.zap.01")
        for question in ([b""], [b"", b"1.0"], [b"", b"1.0", b"1", b"", b"1.2.3.4", b"", b"NULL"], [b""] * 9):
            asker.send_multipart(question)
            door.until(lambda: bool(asker.poll(0)))
            assert asker.recv_multipart()[3] == b"400"
    door.serves()


@pytest.mark.parametrize(
    ("who", "fault"),
    [
        ("unknown", "refuses this key"),
        ("other broker's", "the keys here are for another broker"),
        ("keyless", "--insecure has to be given to both"),
        ("to keyless", "--insecure has to be given to both"),
        ("to a web server", "not a zray broker"),
        ("known", ""),
        ("to nobody", ""),
    ],
)
def test_dialer_is_told_why(door: BrokerSocket, who: str, fault: str) -> None:
    known = door.keys.client("host")
    credentials = {"unknown": stranger(door), "other broker's": stranger(door, zmq.curve_keypair()[0]), "keyless": None}
    address = f"tcp://127.0.0.1:{door.port}"
    with contextlib.ExitStack() as stack:
        if who == "to keyless":
            keyless = stack.enter_context(door.context.socket(zmq.ROUTER))
            address = f"tcp://127.0.0.1:{keyless.bind_to_random_port('tcp://127.0.0.1')}"
        elif who.startswith("to "):
            web = stack.enter_context(sockets.create_server(("127.0.0.1", 0)))
            address = f"tcp://127.0.0.1:{web.getsockname()[1]}"
            if who == "to nobody":
                web.close()
        socket: zmq.Socket[Any] = stack.enter_context(door.context.socket(zmq.DEALER))
        socket.setsockopt(zmq.LINGER, 0)
        watch = DialWatch(socket)
        stack.callback(watch.close)
        chosen = credentials.get(who, known)
        if chosen is not None:
            apply_client(socket, chosen)
        socket.connect(address)
        socket.send(b"hello")
        if who == "to a web server":
            near, _ = web.accept()
            near.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            near.close()
        if fault:
            door.until(lambda: watch.fault() != "")
            assert fault in watch.explanation(address)
        else:
            door.until(lambda: bool(door.received) or who == "to nobody")
            assert watch.fault() == ""


def test_without_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    require_curve()
    monkeypatch.setattr(zmq, "has", lambda name: False)
    with pytest.raises(ConfigError, match="without CURVE"):
        require_curve()


# ------------------------------------------------------------------ those who do not give up


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_who_tries_again_with_the_same_key_counts_once(door: BrokerSocket, clock: list[float]) -> None:
    def ask(key: bytes) -> bytes:
        answer = door.authenticator._answer([b"", b"", b"1.0", b"1", b"zray", b"10.0.0.1", b"", b"CURVE", key * 32])
        return answer[4]

    assert [ask(key) for key in (b"a", b"a", b"b")] == [b"400"] * 3
    assert door.authenticator.refused == {guards.UNKNOWN_KEY: 2}
    clock[0] += guards.REPEAT_S - 1
    ask(b"a")
    clock[0] += guards.REPEAT_S - 1
    ask(b"a")
    assert door.authenticator.refused == {guards.UNKNOWN_KEY: 2}
    clock[0] += guards.REPEAT_S
    ask(b"a")
    assert door.authenticator.refused == {guards.UNKNOWN_KEY: 3}


@pytest.mark.parametrize("addresses", [["10.0.0.1"] * 9, ["?"] * 9, ["?", "10.0.0.1", "?"], ["10.0.0.1", "?"]])
def test_who_expects_another_broker_counts_once_by_address(
    door: BrokerSocket, clock: list[float], addresses: list[str]
) -> None:
    for address in addresses:
        door.authenticator._count_address(guards.WRONG_SERVER_KEY, address)
    assert door.authenticator.refused == {guards.WRONG_SERVER_KEY: 1}
    clock[0] += guards.REPEAT_S
    for address in ("10.0.0.2", "10.0.0.3"):
        door.authenticator._count_address(guards.WRONG_SERVER_KEY, address)
    assert door.authenticator.refused == {guards.WRONG_SERVER_KEY: 3}


def test_others_count_each_time(door: BrokerSocket, clock: list[float]) -> None:
    for _ in range(3):
        door.authenticator._count_address(guards.NO_ZEROMQ, "10.0.0.1")
    assert door.authenticator.refused == {guards.NO_ZEROMQ: 3}


def test_few_are_remembered(door: BrokerSocket, clock: list[float]) -> None:
    for number in range(2 * guards.MAX_TRACKED_ADDRESSES):
        door.authenticator._count_address(guards.WRONG_SERVER_KEY, str(number))
    assert len(door.authenticator._tried) == guards.MAX_TRACKED_ADDRESSES
