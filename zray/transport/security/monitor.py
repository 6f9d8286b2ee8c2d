"""Reads libzmq's events about the connections of a socket, without blocking."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

import zmq

_EVENT = struct.Struct("=HI")


class Monitor:
    """The events (``zmq.EVENT_*``) of one socket. ``socket`` can be polled for input."""

    def __init__(self, watched: zmq.Socket[Any], events: int) -> None:
        endpoint = f"inproc://zray-monitor-{os.urandom(8).hex()}"
        watched.monitor(endpoint, events)
        self._watched = watched
        self.socket: zmq.Socket[Any] = watched.context.socket(zmq.PAIR)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, 0)  # a full queue would hold up libzmq's I/O thread
        self.socket.connect(endpoint)

    def events(self) -> Iterator[tuple[int, int]]:
        """Yields the events since the last call, each with its value, as in zmq_socket_monitor(3)."""
        while (message := receive_waiting(self.socket)) is not None:
            event, value = _EVENT.unpack(message[0])
            yield event, value

    def close(self) -> None:
        """Ends monitoring. May be called before or after the watched socket is closed."""
        if not self._watched.closed:
            self._watched.disable_monitor()
        self.socket.close(0)


def receive_waiting(socket: zmq.Socket[Any]) -> list[bytes] | None:
    """Returns a message that has arrived; None if there is none. Does not wait."""
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
