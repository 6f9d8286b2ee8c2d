"""A host drops malformed or false messages about transfers, or handles them, and goes on."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.unit.protocol.nonsense import Nonsense
from tests.unit.transfer.test_core import ME, OBJECT, OTHER, OWNER, SOURCE, Ask, Host, Tell, running
from tests.unit.transfer.test_shell import MIB, World
from zray.protocol import messages as m
from zray.protocol.codec import pack_body, unpack_messages
from zray.protocol.contract import BROKER
from zray.protocol.messages import FROM_PEER, FROM_PEER_TO_HOST, ProtocolError
from zray.transfer.chunks import CHUNK_BYTES
from zray.worker.host.core import HostCore, PeerSaid

STEPS = 300
KINDS = {m.Pull, m.Chunk, m.PullFailed, m.Located}


def near_miss(nonsense: Nonsense, host: Host) -> object:
    """Returns a message of which most fields are as they were asked for."""
    rng = nonsense.random
    message = nonsense.message(KINDS)
    changes: dict[str, object] = {}
    if isinstance(message, (m.Chunk, m.Pull)):
        changes = {"offset": rng.randrange(6) * CHUNK_BYTES, "pull": 1}
    elif isinstance(message, m.Located):
        changes = {"object_id": OBJECT, "question": rng.randrange(3), "size": len(host.value), "kind": ""}
    else:
        changes = {"pull": 1}
    if isinstance(message, m.Chunk):
        changes["total"] = len(host.value)
    return message._replace(**{name: value for name, value in changes.items() if rng.random() < 0.7})


@pytest.mark.parametrize("seed", range(40))
def test_nonsense_about_a_pull(seed):
    nonsense = Nonsense(seed, [ME, SOURCE, OTHER, OWNER, OBJECT])
    rng = nonsense.random
    host = running(6, SOURCE, OTHER)
    for step in range(STEPS):
        message = near_miss(nonsense, host)
        source = rng.choice([SOURCE, OTHER, OWNER, nonsense.identifier(16)])
        with contextlib.suppress(ProtocolError):
            host.core.receive(source, message, host.now)
        if isinstance(message, m.Pull):
            host.core.received_by_channel(source, b"channel", message, host.now)
        if rng.random() < 0.05:
            host.now += 1.0
            host.core.tick(host.now)
        for effect in host.take(Tell):
            assert unpack_messages(pack_body([effect.message]), FROM_PEER | FROM_PEER_TO_HOST)
        if step % 20 == 0 and (asked := host.take(Ask)):
            host.answer(asked[0])
        host.core.check()
    host.core.lose_cluster("the end", host.now)


@pytest.mark.parametrize("seed", range(3))
def test_nonsense_to_a_host(seed, tmp_path: Path):
    """Sends nonsense to a host's shell with a store: it is dropped, and objects are still transferred.

    All messages that hosts may be sent are unpacked, including pulls of objects that exist.
    """
    world = World(tmp_path, "tcp://127.0.0.1:*")
    core = HostCore("host")
    try:
        data = world.put(world.a, 2 * MIB)
        nonsense = Nonsense(seed, [world.a.process_id, world.b.process_id, OWNER, OBJECT])
        for _ in range(STEPS):
            row = nonsense.row(nonsense.random.choice(sorted(FROM_PEER_TO_HOST, key=lambda kind: kind.__name__)))
            with contextlib.suppress(ProtocolError, OverflowError):
                core.receive(BROKER, m.Delivered(nonsense.identifier(16), pack_rows([row])), 0.0)
            for effect in core.take_output().effects:
                if isinstance(effect, PeerSaid) and not isinstance(effect.message, m.KeepCopies):
                    with contextlib.suppress(ProtocolError):
                        world.a.transfers.receive(effect.source, effect.message)
            world.post.clear()
        assert world.read(world.b) == ("", "", data)
    finally:
        world.close()


def pack_rows(rows: list[object]) -> bytes:
    import msgpack

    packed: bytes = msgpack.packb(rows)
    return packed
