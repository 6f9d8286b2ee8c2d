"""The ZeroMQ sockets of both sides of the protocol, with every option that matters set deliberately."""

from __future__ import annotations

from typing import Any

import zmq

from zray.config import Config


def make_socket(context: zmq.Context[Any], kind: int, config: Config) -> zmq.Socket[Any]:
    """A socket that never blocks at its end, drops no message for want of room, and refuses oversized ones."""
    socket: zmq.Socket[Any] = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)  # flow control is by credit; a full pipe would drop or block
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, config.max_message_bytes)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt(zmq.RECONNECT_IVL, 20)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.BACKLOG, 1024)
    return socket
