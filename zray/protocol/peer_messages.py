"""Messages that processes send to each other, through the broker or a channel. It passes them on unread.

``messages`` has all others, and says which process may send which.
"""

from __future__ import annotations

from zray.ids import ObjectId, ProcessId, TaskId
from zray.named_tuples import NamedTuple
from zray.protocol.records import ObjectLocation

TOKEN_BYTES = 16
"""The size of a token, in bytes. A process shows the one that it was offered to the listener of a lane or channel."""

# -------------------------------------------------------------------------------------- client to client


class ObjectRequest(NamedTuple):
    """From a borrower to the owner: what is the value? Answer: ``ObjectState``, as soon as there is one.

    ``missing``: the host on the borrower's machine that should have it, and has not; empty if there is none.
    """

    object_id: ObjectId
    missing: bytes


class ObjectState(NamedTuple):
    """The owner's answer to an ``ObjectRequest``.

    ``status``: see ``zray.client.core.states``; ``data``: the value or error, if it is inline; ``inner``: the
    identifiers of the references inside, joined. The receiver has been registered for each of them.
    """

    object_id: ObjectId
    status: int
    data: bytes
    host: bytes
    size: int
    inner: bytes


class CancelObject(NamedTuple):
    """From any holder of a reference to the owner: cancel the task or call that makes the object."""

    object_id: ObjectId
    mode: int


class LocationsAsked(NamedTuple):
    """To the owner of objects: where are they? Answer: ``LocationsTold`` with the same ``request``."""

    request: int
    object_ids: list[bytes]


class LocationsTold(NamedTuple):
    """The owner's answer. Objects that it does not know are left out."""

    request: int
    found: list[ObjectLocation]


class BorrowAdd(NamedTuple):
    object_id: ObjectId
    holder: ProcessId
    token: int


class BorrowAck(NamedTuple):
    token: int


class BorrowEnd(NamedTuple):
    object_id: ObjectId
    registrations: int


class BorrowConfirm(NamedTuple):
    """The holder that ``announcer`` announced has the reference."""

    object_id: ObjectId
    announcer: ProcessId


class BorrowCheck(NamedTuple):
    """Asks a holder for its confirmations: ``announcer`` is dead. The answer comes behind all confirmations."""

    object_id: ObjectId
    announcer: ProcessId


class BorrowChecked(NamedTuple):
    object_id: ObjectId
    announcer: ProcessId


class StreamCredit(NamedTuple):
    """From the owner of a stream to the worker that runs its generator: send up to ``limit`` items in all."""

    task_id: TaskId
    attempt: int
    limit: int


# ------------------------------------------------------------------- between clients and hosts, see transfer


class Pull(NamedTuple):
    """Asks for ``length`` bytes of a stored object, from ``offset`` on.

    ``pull``: the asker's number for the pull; ``pack``: compress the bytes if that makes them fewer.
    """

    object_id: ObjectId
    pull: int
    offset: int
    length: int
    pack: bool


class Chunk(NamedTuple):
    """The answer to a ``Pull``.

    ``total``: the object's size; ``checksum``: XXH3 (64 bits) of the bytes, taken before they were compressed if they
    are ``packed``. On a channel ``data`` is empty, and the bytes are a part of their own of the ZeroMQ message.
    """

    pull: int
    offset: int
    total: int
    checksum: bytes
    packed: bool
    data: bytes


class PullFailed(NamedTuple):
    pull: int
    reason: str


class Locate(NamedTuple):
    """Asks the owner which processes have an object. The sender is about to pull it.

    ``serves``: the sender can pass it on meanwhile; ``lost``: processes that turned out not to have it; ``question``:
    the asker's number for the question.
    """

    object_id: ObjectId
    question: int
    serves: bool
    lost: list[bytes]


class Located(NamedTuple):
    """The owner's answer to a ``Locate``: the processes to ask.

    If there are none, ``kind`` (the name of an exception) and ``message`` give the reason.
    """

    object_id: ObjectId
    question: int
    size: int
    sources: list[bytes]
    kind: str
    message: str


class CopyMade(NamedTuple):
    """Tells the owner that the sender, a host, has a copy."""

    object_id: ObjectId


class CopyGone(NamedTuple):
    """Tells the owner that the sender did not get the object after all, or no longer keeps it."""

    object_id: ObjectId


class KeepCopies(NamedTuple):
    """From the owner to a host: its copies of these objects are the originals now, since their host is gone."""

    object_ids: list[bytes]


class FreeObjects(NamedTuple):
    """From the owner to a host on another machine: free these objects."""

    object_ids: list[bytes]


class LeftBehind(NamedTuple):
    """From a host to an owner: return values in its store, of a worker that has died, maybe before it answered."""

    object_ids: list[bytes]


class ChannelWanted(NamedTuple):
    """A host asks another for a channel. ``key``: its public key (Z85); empty if the cluster has no keys."""

    key: bytes


class ChannelOffer(NamedTuple):
    """The answer to a ``ChannelWanted``: the address, the token to show, and the listener's public key.

    An empty ``address`` means that there is no channel.
    """

    address: str
    token: bytes
    key: bytes


class ChannelHello(NamedTuple):
    """The first message on a channel."""

    process_id: ProcessId
    token: bytes


class ChannelWelcome(NamedTuple):
    """The answer to a ``ChannelHello``: the channel can be used."""

    process_id: ProcessId


# ------------------------------------------------- between a caller and an actor's worker, see zray.client.core.lanes


class LaneWanted(NamedTuple):
    """A caller asks the worker of an actor for a lane, or an owner a worker that runs its tasks.

    ``actor``: empty for tasks; ``machine``: the caller's; ``max_message_bytes``: the largest message that it accepts.
    """

    actor: bytes
    machine: str
    max_message_bytes: int


class LaneOffer(NamedTuple):
    """The answer to a ``LaneWanted``: the path of a Unix socket, and the token to show there.

    An empty ``address`` means that there is no lane. ``max_message_bytes``: the largest that both accept.
    """

    address: str
    token: bytes
    max_message_bytes: int


class LaneSwitched(NamedTuple):
    """From the caller: the calls that follow come by the lane with this token."""

    lane: bytes


class LaneFrame(NamedTuple):
    """A frame of a lane that its socket did not take."""

    frame: bytes
