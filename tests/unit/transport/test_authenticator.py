"""The authenticator, with real sockets on loopback: peers that it accepts or refuses, and that it goes on working."""

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
from zray.transport.security import authenticator as auth
from zray.transport.security.authenticator import Authenticator
from zray.transport.security.dialer import DialWatch, apply_client, require_curve
from zray.transport.security.keys import AllowList, ClientCredentials, KeyDirectory
from zray.transport.security.monitor import Monitor

GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + b"\0" * 32


class GuardedRouter:
    """A ROUTER socket with an authenticator, and the loop of its owner."""

    def __init__(self, keys: KeyDirectory) -> None:
        self.keys = keys
        self.context: zmq.Context[Any] = zmq.Context()
        self.authenticator = Authenticator(self.context, keys.server(), AllowList(keys).find)
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.MAXMSGSIZE, 1 << 20)
        self.authenticator.apply_server(self.socket)
        self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.received: list[tuple[bytes, str]] = []  # each message with its key

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
        with contextlib.suppress(ConnectionError):  # it may be disconnected before it has sent everything
            connection.sendall(data)
        return connection

    def serves(self) -> None:
        """Asserts that a peer with a key is still accepted, and that no other peer was."""
        before = len(self.received)
        credentials = self.keys.client("driver")
        with self.dial(credentials, b"still there?"):
            self.until(lambda: len(self.received) > before)
        assert self.received[before:] == [(b"still there?", credentials.public.decode())]

    def close(self) -> None:
        self.authenticator.close()
        self.context.destroy(0)


@pytest.fixture
def router(tmp_path: Path) -> Iterator[GuardedRouter]:
    router = GuardedRouter(KeyDirectory(tmp_path / "keys"))
    yield router
    router.close()


def unknown_key(router: GuardedRouter, server: bytes = b"") -> ClientCredentials:
    return ClientCredentials(*zmq.curve_keypair(), server or router.keys.server().public)


def test_allowed_keys_are_accepted(router: GuardedRouter) -> None:
    host, driver = router.keys.client("host"), router.keys.client("driver")
    with router.dial(host, b"from a host"), router.dial(driver, b"from a driver"):
        router.until(lambda: len(router.received) == 2)
    came = {message: router.authenticator.role_of(user_id) for message, user_id in router.received}
    assert came == {b"from a host": "host", b"from a driver": "driver"}
    assert router.authenticator.role_of(host.public) == "host"
    assert router.authenticator.role_of(driver.public) == "driver"
    assert router.authenticator.role_of(b"x" * 40) is None and router.authenticator.role_of("") is None
    assert not router.authenticator.refused


def test_a_drivers_key_has_the_role_driver(router: GuardedRouter) -> None:
    with router.dial(router.keys.client("driver"), b"I am a host"):
        router.until(lambda: bool(router.received))
    assert router.authenticator.role_of(router.received[0][1]) == "driver"


def test_no_key(router: GuardedRouter) -> None:
    with router.dial(None):
        router.until_refused(auth.NO_KEY)
        router.serves()


def test_unknown_key(router: GuardedRouter) -> None:
    with router.dial(unknown_key(router)):
        router.until_refused(auth.UNKNOWN_KEY)
        router.serves()
    assert router.authenticator.recent[0].address == "127.0.0.1"
    assert set(router.authenticator.refused) == {auth.UNKNOWN_KEY}


def test_key_of_another_broker(router: GuardedRouter) -> None:
    with router.dial(unknown_key(router, zmq.curve_keypair()[0])):
        router.until_refused(auth.WRONG_SERVER_KEY)
        router.serves()


def test_allowed_key_with_the_key_of_another_broker(router: GuardedRouter) -> None:
    with router.dial(router.keys.client("host")._replace(server=zmq.curve_keypair()[0])):
        router.until_refused(auth.WRONG_SERVER_KEY)
        router.serves()


def test_public_key_alone_is_not_enough(router: GuardedRouter) -> None:
    host = router.keys.client("host")
    with router.dial(host._replace(secret=zmq.curve_keypair()[1])):
        router.until_refused(auth.WRONG_SERVER_KEY)
        router.serves()


def test_revoked_key(router: GuardedRouter) -> None:
    host = router.keys.client("host")
    with router.dial(host):
        router.until(lambda: bool(router.received))
        assert router.authenticator.role_of(host.public)
        router.keys.revoke("host")
        assert router.authenticator.role_of(host.public) is None  # although it is connected
    with router.dial(host):
        router.until_refused(auth.REVOKED_KEY)
        router.received.clear()
        router.serves()


def test_key_made_while_it_runs(router: GuardedRouter) -> None:
    router.keys.add("host", "lab3")
    with router.dial(router.keys.client("host", "lab3")):
        router.until(lambda: bool(router.received))
    assert router.authenticator.role_of(router.received[0][1]) == "host"


STRANGE_BYTES = {
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4, auth.NO_ZEROMQ),
    "oversized frame": (GREETING + b"\x06" + b"\x7f" + b"\xff" * 7 + b"x" * 100, auth.NO_ZEROMQ),
    "oversized command": (GREETING + b"\x06\0\0\0\0\x7f\xff\xff\xff" + b"\x05HELLO" + b"x" * 100, auth.NO_ZEROMQ),
    "garbled hello": (GREETING + b"\x04\xc8" + b"\x05HELLO" + b"x" * 194, auth.MALFORMED),
    "short hello": (GREETING + b"\x04\x06" + b"\x05HELLO", auth.MALFORMED),
    "message before the handshake": (GREETING + b"\x00\x05first", auth.MALFORMED),
    "truncated hello": (GREETING + b"\x04\xc8" + b"\x05HEL", auth.HUNG_UP),
    "truncated greeting": (GREETING[:20], auth.HUNG_UP),
    "nothing": (b"", auth.HUNG_UP),
}


@pytest.mark.parametrize("kind", STRANGE_BYTES)
def test_strange_bytes(router: GuardedRouter, kind: str) -> None:
    data, reason = STRANGE_BYTES[kind]
    with router.plain(data) as connection:
        with contextlib.suppress(OSError):  # it was disconnected already
            connection.shutdown(sockets.SHUT_WR)
        router.until_refused(reason)
    assert router.authenticator.refused == {reason: 1}
    assert router.authenticator.recent[0].address in ("127.0.0.1", "?")
    router.serves()


def test_silent_peer_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "HANDSHAKE_MS", 200)
    router = GuardedRouter(KeyDirectory(tmp_path / "keys"))
    with router.plain(GREETING):
        router.until_refused(auth.HUNG_UP)
        router.serves()
    router.close()


def test_garbage_among_peers_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "HANDSHAKE_MS", 400)
    router = GuardedRouter(KeyDirectory(tmp_path / "keys"))
    host = router.keys.client("host")
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(router.dial(host))
            router.plain(os.urandom(10) * 30).close()
        router.until(lambda: len(router.received) == 20 and sum(router.authenticator.refused.values()) == 20)
    router.serves()
    assert sum(router.authenticator.refused.values()) == 20
    router.close()


def test_replayed_handshake(router: GuardedRouter) -> None:
    """An eavesdropper repeats what a host sent to the router."""
    listener = sockets.create_server(("127.0.0.1", 0))
    with router.dial(router.keys.client("host")) as client, listener:
        client.disconnect(f"tcp://127.0.0.1:{router.port}")
        client.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        client.send(b"overheard")
        heard, sent = _relay(router, listener)
    assert (b"overheard", router.keys.client("host").public.decode()) in router.received
    router.received.clear()
    before = sum(router.authenticator.refused.values())
    with router.plain(heard):
        router.until(lambda: sum(router.authenticator.refused.values()) > before)
    assert sent and not router.received
    router.serves()


def _relay(router: GuardedRouter, listener: sockets.socket) -> tuple[bytes, bytes]:
    """Relays one connection to the router until a message has arrived. Returns what each side sent."""
    near, _ = listener.accept()
    far = router.plain(b"")
    said = {near: b"", far: b""}
    for end in (near, far):
        end.setblocking(False)

    def carry() -> bool:
        for end, other in ((near, far), (far, near)):
            with contextlib.suppress(BlockingIOError):
                data = end.recv(65536)
                said[end] += data
                other.sendall(data)
        return any(message == b"overheard" for message, _ in router.received)

    with near, far:
        router.until(carry)
    return said[near], said[far]


def test_fuzz(router: GuardedRouter) -> None:
    for length in (1, 10, 64, 200, 5000):
        for prefix in (b"", GREETING[:10], GREETING, GREETING + b"\x04\xc8\x05HELLO"):
            router.plain(prefix + os.urandom(length)).close()
    router.until(lambda: sum(router.authenticator.refused.values()) == 20)
    router.serves()


def test_hundreds_at_once(router: GuardedRouter) -> None:
    keys = router.keys.client("host")
    with contextlib.ExitStack() as stack:
        for _ in range(150):
            stack.enter_context(router.dial(keys))
        unknown = [stack.enter_context(router.dial(unknown_key(router))) for _ in range(10)]
        router.until(
            lambda: len(router.received) == 150 and router.authenticator.refused[auth.UNKNOWN_KEY] >= len(unknown)
        )
    assert {user_id for _, user_id in router.received} == {keys.public.decode()}


def test_events_that_are_read_late_hold_nothing_up(router: GuardedRouter) -> None:
    for _ in range(1500):
        router.plain(b"GET / HTTP/1.1\r\n\r\n" * 6).close()
    router.until(lambda: sum(router.authenticator.refused.values()) == 1500)
    assert len(router.authenticator.recent) == auth.MAX_RECENT_REFUSALS
    router.serves()


def test_many_questions_are_answered_in_batches(router: GuardedRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MAX_EVENTS_PER_PUMP", 3)
    with router.context.socket(zmq.DEALER) as asker:
        asker.connect("inproc://zeromq.zap.01")
        for _ in range(8):
            asker.send_multipart([b""] * 9)
        answered = []
        for _ in range(3):
            router.authenticator.pump()
            answered.append(router.authenticator.refused[auth.MALFORMED])
    assert answered == [3, 6, 8]


def test_many_events_do_not_hold_up_the_owner(router: GuardedRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    class Flood(Monitor):
        def events(self) -> Iterator[tuple[int, int]]:
            nonlocal taken
            while True:
                assert taken < 2 * auth.MAX_EVENTS_PER_PUMP
                taken += 1
                yield zmq.EVENT_HANDSHAKE_SUCCEEDED, 0

    monkeypatch.setattr(auth, "Monitor", Flood)
    with router.context.socket(zmq.ROUTER) as another:
        router.authenticator.apply_server(another)
        router.authenticator.pump()
        assert taken == auth.MAX_EVENTS_PER_PUMP
        router.authenticator.close()


def test_no_peer_is_accepted_after_close(router: GuardedRouter) -> None:
    router.authenticator.close()
    events: zmq.Socket[Any] = router.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    with events, router.dial(router.keys.client("host")):
        assert events.poll(10_000)
        assert int.from_bytes(events.recv_multipart()[0][:2], sys.byteorder) == zmq.EVENT_DISCONNECTED
        assert not router.socket.poll(0)
        router.socket.disable_monitor()


def test_closes_at_once(router: GuardedRouter) -> None:
    with contextlib.ExitStack() as stack:
        for credentials in (unknown_key(router), None, router.keys.client("host")):
            stack.enter_context(router.dial(credentials))
        router.until(lambda: bool(router.received))
        started = time.monotonic()
        router.authenticator.close()
        router.socket.close(0)
    router.context.term()
    assert time.monotonic() - started < 0.3


def test_refusals_are_logged_at_a_limited_rate(
    router: GuardedRouter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def knock(times: int) -> list[str]:
        caplog.clear()
        for _ in range(times):
            before = router.authenticator.refused[auth.UNKNOWN_KEY]
            with router.dial(unknown_key(router)):
                router.until_refused(auth.UNKNOWN_KEY, before + 1)
        return [record.getMessage() for record in caplog.records]

    assert knock(4) == ["refused 127.0.0.1: unknown key"]
    monkeypatch.setattr(auth, "LOG_INTERVAL_S", 0.0)
    assert knock(1) == ["refused 127.0.0.1: unknown key (and 3 others since)"]


def test_malformed_questions(router: GuardedRouter) -> None:
    with router.context.socket(zmq.DEALER) as asker:
        asker.connect("inproc://zeromq.zap.01")
        for question in ([b""], [b"", b"1.0"], [b"", b"1.0", b"1", b"", b"1.2.3.4", b"", b"NULL"], [b""] * 9):
            asker.send_multipart(question)
            router.until(lambda: bool(asker.poll(0)))
            assert asker.recv_multipart()[3] == b"400"
    router.serves()


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
def test_the_dialler_gets_the_reason(router: GuardedRouter, who: str, fault: str) -> None:
    known = router.keys.client("host")
    wrong_server = unknown_key(router, zmq.curve_keypair()[0])
    credentials = {"unknown": unknown_key(router), "other broker's": wrong_server, "keyless": None}
    address = f"tcp://127.0.0.1:{router.port}"
    with contextlib.ExitStack() as stack:
        if who == "to keyless":
            keyless = stack.enter_context(router.context.socket(zmq.ROUTER))
            address = f"tcp://127.0.0.1:{keyless.bind_to_random_port('tcp://127.0.0.1')}"
        elif who.startswith("to "):
            web = stack.enter_context(sockets.create_server(("127.0.0.1", 0)))
            address = f"tcp://127.0.0.1:{web.getsockname()[1]}"
            if who == "to nobody":
                web.close()
        socket: zmq.Socket[Any] = stack.enter_context(router.context.socket(zmq.DEALER))
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
            router.until(lambda: watch.fault() != "")
            assert fault in watch.explanation(address)
        else:
            router.until(lambda: bool(router.received) or who == "to nobody")
            assert watch.fault() == ""


def test_without_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    require_curve()
    monkeypatch.setattr(zmq, "has", lambda name: False)
    with pytest.raises(ConfigError, match="without CURVE"):
        require_curve()


# ------------------------------------------------------------------ peers that try again and again


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_peer_that_tries_again_with_the_same_key_counts_once(router: GuardedRouter, clock: list[float]) -> None:
    def ask(key: bytes) -> bytes:
        answer = router.authenticator._answer([b"", b"", b"1.0", b"1", b"zray", b"10.0.0.1", b"", b"CURVE", key * 32])
        return answer[4]

    assert [ask(key) for key in (b"a", b"a", b"b")] == [b"400"] * 3
    assert router.authenticator.refused == {auth.UNKNOWN_KEY: 2}
    clock[0] += auth.REPEAT_S - 1
    ask(b"a")
    clock[0] += auth.REPEAT_S - 1
    ask(b"a")
    assert router.authenticator.refused == {auth.UNKNOWN_KEY: 2}
    clock[0] += auth.REPEAT_S
    ask(b"a")
    assert router.authenticator.refused == {auth.UNKNOWN_KEY: 3}


@pytest.mark.parametrize("addresses", [["10.0.0.1"] * 9, ["?"] * 9, ["?", "10.0.0.1", "?"], ["10.0.0.1", "?"]])
def test_a_peer_that_expects_another_broker_counts_once_per_address(
    router: GuardedRouter, clock: list[float], addresses: list[str]
) -> None:
    for address in addresses:
        router.authenticator._count_address(auth.WRONG_SERVER_KEY, address)
    assert router.authenticator.refused == {auth.WRONG_SERVER_KEY: 1}
    clock[0] += auth.REPEAT_S
    for address in ("10.0.0.2", "10.0.0.3"):
        router.authenticator._count_address(auth.WRONG_SERVER_KEY, address)
    assert router.authenticator.refused == {auth.WRONG_SERVER_KEY: 3}


def test_other_refusals_count_each_time(router: GuardedRouter, clock: list[float]) -> None:
    for _ in range(3):
        router.authenticator._count_address(auth.NO_ZEROMQ, "10.0.0.1")
    assert router.authenticator.refused == {auth.NO_ZEROMQ: 3}


def test_the_remembered_peers_are_limited(router: GuardedRouter, clock: list[float]) -> None:
    for number in range(2 * auth.MAX_TRACKED_ADDRESSES):
        router.authenticator._count_address(auth.WRONG_SERVER_KEY, str(number))
    assert len(router.authenticator._tried) == auth.MAX_TRACKED_ADDRESSES
