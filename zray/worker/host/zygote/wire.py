"""The messages between a host and its zygote, over a Unix socket of kind SEQPACKET: one packet, one message.

Messages are msgpack arrays. From host to zygote, and from zygote to the child that will serve the request:
``[worker_id, payload, count of descriptors]``, descriptors attached. From zygote to host: an index in ``_EVENTS``, then
the fields of that event. Anything else counts as the end of the stream, since the other side can no longer be trusted.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections.abc import Iterable
from typing import Any

import msgpack

from zray.named_tuples import NamedTuple

MAX_PAYLOAD_BYTES = 16 * 1024
MAX_FDS = 8
MAX_PACKET_BYTES = MAX_PAYLOAD_BYTES + 1024


class Request(NamedTuple):
    """A request for a worker.

    ``fds``: stdout, stderr, then those for its main function; ``sent``: how many were sent.
    """

    worker_id: bytes
    payload: bytes
    fds: list[int]
    sent: int

    def check_complete(self) -> None:
        """Raises OSError if descriptors are missing: the kernel drops those that do not fit in the table."""
        if len(self.fds) < self.sent:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class ForkReply(NamedTuple):
    """The worker runs."""

    worker_id: bytes
    pid: int


class ForkFailed(NamedTuple):
    """The worker could not be forked; ``reason`` is the system's."""

    worker_id: bytes
    reason: str


class ChildExited(NamedTuple):
    """The worker has ended: its wait status (see ``processes.describe_exit``) and the most memory that it ever used."""

    worker_id: bytes
    pid: int
    status: int
    maxrss_bytes: int


class ZygoteGone(NamedTuple):
    """The zygote has ended or has sent malformed data; no event follows this one."""

    reason: str


WireEvent = ForkReply | ForkFailed | ChildExited
Event = WireEvent | ZygoteGone

_EVENTS: tuple[tuple[type[WireEvent], tuple[type, ...]], ...] = (
    (ForkReply, (bytes, int)),
    (ForkFailed, (bytes, str)),
    (ChildExited, (bytes, int, int, int)),
)
"""Each event that is sent, with the types of its fields."""
_EVENT_INDEX = {kind: index for index, (kind, _) in enumerate(_EVENTS)}


def send_request(control: socket.socket, request: Request) -> None:
    """Sends a request. Raises BlockingIOError if the socket is full, ConnectionError if its other end is closed."""
    packet = msgpack.packb([request.worker_id, request.payload, request.sent], use_bin_type=True)
    control.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", request.fds))])


def receive_request(control: socket.socket) -> Request:
    """Returns the next request; waits for it if the socket blocks.

    Raises ValueError at the end of the stream and for malformed data. A request has fewer ``fds`` than ``sent`` if this
    process had no room for them in its table.
    """
    room = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
    packet, ancillary, _, _ = control.recvmsg(MAX_PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    try:
        worker_id, payload, fds_sent = _unpack_row(packet)
        if type(worker_id) is not bytes or type(payload) is not bytes or type(fds_sent) is not int:
            raise ValueError("malformed request")
        if not max(2, len(fds)) <= fds_sent <= MAX_FDS:
            raise ValueError("wrong number of descriptors")
    except ValueError:
        close_all(fds)
        raise
    return Request(worker_id, payload, list(fds), fds_sent)


def pack_event(event: WireEvent) -> bytes:
    """Returns the packet for an event."""
    packet: bytes = msgpack.packb([_EVENT_INDEX[type(event)], *event], use_bin_type=True)
    return packet


def unpack_event(packet: bytes) -> Event:
    """Returns the event in a packet. Raises ValueError if it is malformed."""
    index, *fields = _unpack_row(packet)
    if type(index) is not int or not 0 <= index < len(_EVENTS):
        raise ValueError("unknown event")
    kind, types = _EVENTS[index]
    if tuple(type(field) for field in fields) != types:
        raise ValueError(f"malformed {kind.__name__}")
    return kind(*fields)


def _unpack_row(packet: bytes) -> list[Any]:
    """Returns the array in a packet. Raises ValueError if it is not an array, or empty."""
    try:
        row = msgpack.unpackb(packet, raw=False)
    except msgpack.exceptions.UnpackException as error:
        raise ValueError(str(error)) from None
    if type(row) is not list or not row:
        raise ValueError("not an array")
    return row


def close_all(fds: Iterable[int]) -> None:
    """Closes descriptors."""
    for fd in fds:
        os.close(fd)
