"""The sockets of lanes: who is let in, whole frames, sockets that are full, and what is left behind."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM
from socket import socket as UnixSocket

import pytest

from zray.sessions.directories import MAX_SOCKET_NAME_BYTES
from zray.transport import lanes
from zray.transport.lanes import MAX_STRANGERS, OFFER_S, Accepted, Arrived, Broken, Expired, Lanes, socket_path

LIMIT = 1 << 20


@pytest.fixture
def directory() -> Iterator[Path]:
    """Its name is short, since paths of sockets are limited."""
    with tempfile.TemporaryDirectory(prefix="zray-") as made:
        yield Path(made)


@pytest.fixture
def path(directory: Path) -> str:
    return socket_path(str(directory), b"w" * 16)


@pytest.fixture
def worker(path: str) -> Iterator[Lanes]:
    made = Lanes(path, LIMIT)
    yield made
    made.close()
    assert not os.path.exists(path)


@pytest.fixture
def caller() -> Iterator[Lanes]:
    made = Lanes("", LIMIT)
    yield made
    made.close()


@pytest.fixture
def name(worker: Lanes, caller: Lanes, path: str) -> bytes:
    """The name of an open lane."""
    token = worker.offer(0.0)
    assert caller.dial(path, token)
    assert worker.receive() == [Accepted(token)]
    return token


@pytest.fixture
def stranger(path: str) -> Iterator[Callable[[], UnixSocket]]:
    """Makes connections that no token was given to."""
    with contextlib.ExitStack() as stack:

        def connect() -> UnixSocket:
            connection = stack.enter_context(UnixSocket(AF_UNIX, SOCK_STREAM))
            connection.connect(path)
            return connection

        yield connect


def is_closed(connection: UnixSocket) -> bool:
    connection.settimeout(5)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def frames(events: list[lanes.LaneEvent]) -> list[bytes]:
    return [bytes(event.frame) for event in events if isinstance(event, Arrived)]


def everything(end: Lanes) -> list[lanes.LaneEvent]:
    """All that has arrived, for a test that has sent more than is received at once."""
    events: list[lanes.LaneEvent] = []
    while more := end.receive():
        events += more
    return events


# ------------------------------------------------------------------ frames


def test_frames_travel_both_ways_whole_and_in_order(worker: Lanes, caller: Lanes, name: bytes) -> None:
    sent = [b"a", b"bb", bytes(70_000), b"", b"c"]
    assert caller.send(name, sent) == ()
    assert worker.send(name, sent[::-1]) == ()
    assert frames(everything(worker)) == sent
    assert frames(everything(caller)) == sent[::-1]
    assert worker.receive() == [] == caller.receive()


def test_its_descriptor_says_when_something_has_come(worker: Lanes, caller: Lanes, name: bytes) -> None:
    assert select.select([worker.fileno()], [], [], 0)[0] == []
    caller.send(name, [b"frame"])
    assert select.select([worker.fileno()], [], [], 5)[0] == [worker.fileno()]
    worker.receive()
    assert select.select([worker.fileno()], [], [], 0)[0] == []


def test_a_frame_that_came_with_the_token(worker: Lanes, caller: Lanes, path: str) -> None:
    token = worker.offer(0.0)
    assert caller.dial(path, token)
    caller.send(token, [b"first"])
    events = worker.receive()
    assert events[0] == Accepted(token) and frames(events) == [b"first"]


def test_what_a_full_socket_does_not_take_is_returned(worker: Lanes, caller: Lanes, name: bytes) -> None:
    sent = [bytes([number]) * 50_000 for number in range(100)]
    left = caller.send(name, sent)
    assert 0 < len(left) < 100 and list(left) == sent[-len(left) :]
    assert list(caller.send(name, [b"more"])) == [b"more"], "a frame that was begun is in front"
    arrived = frames(everything(worker))
    assert arrived == sent[: -len(left)]
    assert caller.send(name, [b"again"]) == (), "there is room again"
    begun = frames(everything(worker))
    assert begun in ([left[0], b"again"], [b"again"]), "the frame that was begun is complete, and so is the next"


def test_a_frame_above_the_limit_ends_the_lane(worker: Lanes, caller: Lanes, name: bytes) -> None:
    caller.send(name, [b"fine", bytes(LIMIT + 100)])
    events = everything(worker)
    assert frames(events) == [b"fine"] and events[-1] == Broken(name)


def test_frames_before_the_end_of_a_peer_arrive(worker: Lanes, caller: Lanes, name: bytes) -> None:
    caller.send(name, [b"last"])
    caller.close()
    events = everything(worker)
    assert frames(events) == [b"last"] and events[-1] == Broken(name)
    assert list(worker.send(name, [b"too late"])) == [b"too late"]
    assert worker.receive() == []


def test_a_send_to_a_peer_that_is_gone_raises_nothing(worker: Lanes, caller: Lanes, name: bytes) -> None:
    worker.close()
    assert list(caller.send(name, [b"x", b"y"])) == [b"x", b"y"]
    assert caller.receive() == [Broken(name)]


def test_hanging_up_breaks_the_lane_at_the_other_end(worker: Lanes, caller: Lanes, name: bytes) -> None:
    caller.hang_up(name)
    caller.hang_up(name)
    assert worker.receive() == [Broken(name)]


# ------------------------------------------------------------------ who is let in


def test_nothing_listens_before_an_offer_or_after_it_was_taken(
    worker: Lanes, caller: Lanes, path: str, directory: Path
) -> None:
    assert list(directory.iterdir()) == []
    token = worker.offer(0.0)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert caller.dial(path, token)
    worker.receive()
    assert list(directory.iterdir()) == []
    assert not caller.dial(path, token)


def test_a_token_admits_one_caller_once(
    worker: Lanes, caller: Lanes, path: str, stranger: Callable[[], UnixSocket]
) -> None:
    token, other = worker.offer(0.0), worker.offer(0.0)
    assert token != other
    assert caller.dial(path, token)
    second = stranger()
    second.send(token)
    assert worker.receive() == [Accepted(token)]
    assert is_closed(second)
    assert caller.dial(path, other)
    assert worker.receive() == [Accepted(other)]


def test_strangers_behind_the_last_caller_are_shown_out(
    worker: Lanes, caller: Lanes, path: str, stranger: Callable[[], UnixSocket]
) -> None:
    token = worker.offer(0.0)
    assert caller.dial(path, token)
    behind = [stranger(), stranger()]
    assert worker.receive() == [Accepted(token)]
    assert all(map(is_closed, behind)) and worker.receive() == []


def test_a_stranger_is_shown_out(worker: Lanes, path: str, stranger: Callable[[], UnixSocket]) -> None:
    worker.offer(0.0)
    guess = stranger()
    guess.send(b"x" * 16)
    assert worker.receive() == []
    assert is_closed(guess)


def test_strangers_who_say_nothing_go_with_the_offer(
    worker: Lanes, path: str, stranger: Callable[[], UnixSocket]
) -> None:
    token = worker.offer(0.0)
    silent = stranger()
    silent.send(token[:8])
    assert worker.receive() == []
    assert worker.tick(OFFER_S - 1) == []
    assert worker.tick(OFFER_S + 1) == [Expired(token)]
    assert is_closed(silent) and not os.path.exists(path)
    assert worker.tick(2 * OFFER_S) == []


def test_so_many_strangers_at_a_time(worker: Lanes, path: str, stranger: Callable[[], UnixSocket]) -> None:
    worker.offer(0.0)
    for _ in range(MAX_STRANGERS):
        stranger()
        worker.receive()
    one_more = stranger()
    worker.receive()
    assert is_closed(one_more)


@pytest.mark.parametrize("at", ["worker", "caller"])
def test_another_user_is_not_a_peer(
    worker: Lanes, caller: Lanes, path: str, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    token = worker.offer(0.0)
    if at == "worker":
        assert caller.dial(path, token)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    monkeypatch.setattr(lanes, "ROOT", -1)
    if at == "worker":
        assert worker.receive() == []
    else:
        assert not caller.dial(path, token)


def test_dialling_what_is_not_there(caller: Lanes, path: str) -> None:
    assert not caller.dial(path, b"t" * 16)


def test_who_cannot_listen_makes_no_offer(directory: Path) -> None:
    for path in ("", str(directory / "gone" / "lane.sock")):
        end = Lanes(path, LIMIT)
        assert end.offer(0.0) == b""
        end.close()


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_there_are_no_lanes(worker: Lanes, caller: Lanes, path: str) -> None:
    with no_descriptors():
        assert worker.offer(0.0) == b""
        assert not caller.dial(path, b"t" * 16)
        with pytest.raises(OSError):
            Lanes(path, LIMIT)
    assert worker.offer(0.0)


def test_without_descriptors_all_offers_are_taken_back(worker: Lanes, caller: Lanes, path: str) -> None:
    tokens = [worker.offer(0.0), worker.offer(0.0)]
    assert caller.dial(path, tokens[0])
    with no_descriptors():
        assert worker.receive() == [Expired(token) for token in tokens]
        assert worker.receive() == [], "nothing is readable any more"
    assert caller.receive() == [Broken(tokens[0])] and not os.path.exists(path)


def test_a_file_left_by_an_earlier_listener_is_replaced(worker: Lanes, caller: Lanes, path: str) -> None:
    with UnixSocket(AF_UNIX, SOCK_STREAM) as left:
        left.bind(path)
    token = worker.offer(0.0)
    assert token and caller.dial(path, token)


def test_the_name_fits_into_a_session_directory() -> None:
    assert len(socket_path("", b"w" * 16)) - 1 <= MAX_SOCKET_NAME_BYTES
