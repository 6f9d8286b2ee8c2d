"""The relay: the workers of a host on TCP reach the broker through the host's connection.

Workers connect to a socket in the session's directory, as they would to a broker. The relay passes their frames on to
the broker, with the worker's ID in front, and those of the broker back. So a host needs only one outbound TCP
connection, whatever the number of its workers, and workers need neither keys nor encryption. Frames are passed on
unread. They may be lost when the connection breaks: the links between workers and broker send them again.
"""

from __future__ import annotations

from typing import Any

import zmq

from zray.config import Config
from zray.transport.sockets import SocketFile, bind_socket, is_readable, make_socket, receive, send

MAX_FRAMES_PER_TURN = 200


class Relay:
    """A relay bound to ``address`` (``ipc://``). ``uplink``: the socket of the host's connection to the broker."""

    def __init__(self, address: str, uplink: zmq.Socket[Any], config: Config) -> None:
        self.address = address
        self.dropped_frames = 0
        self._uplink = uplink
        self._context: zmq.Context[Any] = zmq.Context(io_threads=1)
        self._socket = make_socket(self._context, zmq.ROUTER, address, config)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        bind_socket(self._socket, address)
        self._file = SocketFile(self._socket, address)

    def fileno(self) -> int:
        """The descriptor to poll for reading: it is ready when there may be something to pass on."""
        return int(self._socket.fileno())

    @property
    def readable(self) -> bool:
        """Whether something has arrived. Check this after a send, which may consume the signal of the descriptor."""
        return is_readable(self._socket)

    def pass_up(self) -> None:
        """Passes frames of workers on to the broker, up to ``MAX_FRAMES_PER_TURN``."""
        for _ in range(MAX_FRAMES_PER_TURN):
            parts = receive(self._socket)
            if parts is None:
                return
            if len(parts) == 2:
                try:
                    send(self._uplink, *parts)
                except zmq.Again:  # the connection is gone: links send lost frames again, or the host ends
                    self.dropped_frames += 1
            else:
                self.dropped_frames += 1

    def pass_down(self, process_id: bytes, frame: bytes) -> None:
        """Passes a frame of the broker on to a worker. If the worker is gone, the frame is dropped."""
        try:
            send(self._socket, process_id, frame)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self.dropped_frames += 1

    def keep(self) -> None:
        """Maintains the socket's file, see ``SocketFile``. Must be called at least once a second."""
        self._file.keep()

    def close(self) -> None:
        """Closes the socket and removes its file."""
        self._socket.close(0)
        self._context.term()
        self._file.remove()
