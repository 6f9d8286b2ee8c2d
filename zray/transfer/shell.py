"""A host's transfers: its core, its channels, its readers, and room in its store.

Making room may take long (making pages, spilling other objects, waiting for space). So a thread does it, one object
after the other, and the host's loop never waits. An object that is being sent stays mapped, and so pinned, a moment
longer.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray.config import TUNE_MALLOC, Config
from zray.exceptions import ConfigError, ZrayError
from zray.ids import owner_of
from zray.memory import malloc
from zray.protocol.contract import BROKER
from zray.protocol.messages import (
    ChannelOffer,
    ChannelRefusals,
    ChannelWanted,
    Chunk,
    KeepCopies,
    ProcessDied,
    ProtocolError,
    Pull,
    PullFailed,
)
from zray.store import SegmentMissing, Store, Writing
from zray.system.machine import ip_address
from zray.system.streams import say
from zray.system.threads import signals_left_to_main
from zray.transfer.chunks import chunk_length, is_intact, make_chunk, unpack_chunk
from zray.transfer.core import TransferCore
from zray.transfer.effects import Ask, Dial, Finished, GiveUp, Origin, Refuse, Reserve, Seal, Serve
from zray.transfer.local_readers import LocalReaders, Request
from zray.transport.channels import Channels

if TYPE_CHECKING:
    from zray.transport.security.keys import ClientCredentials

STEP_BYTES = 32 << 20
"""How much room is made at a time: some tens of milliseconds, while the room made before is filled."""
MAX_OPEN = 16
"""The most objects that stay mapped while they are being sent."""
REST_S = 1.0


class Outgoing:
    """Objects of the store that are being sent: mapped, and so pinned, until a moment after the last request."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: OrderedDict[bytes, memoryview] = OrderedDict()
        self._used: set[bytes] = set()

    def view(self, object_id: bytes) -> memoryview:
        """Returns the bytes of an object. Raises SegmentMissing, OSError."""
        self._used.add(object_id)
        view = self._open.get(object_id)
        if view is None:
            view = self._open[object_id] = self._store.read(object_id)
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(object_id)
        return view

    def rest(self) -> None:
        """Releases the objects that were not asked for since the last call; called regularly."""
        for object_id in self._open.keys() - self._used:
            del self._open[object_id]
        self._used.clear()

    def forget(self, object_ids: list[bytes]) -> None:
        """Releases objects that are freed: their data have been sent."""
        for object_id in object_ids:
            self._open.pop(object_id, None)


class _RoomMaker:
    """The thread that makes room.

    ``done``: (number, room or error), again with each step; ``fileno`` tells of it.
    """

    def __init__(self, store: Store) -> None:
        self.done: deque[tuple[int, Writing | Exception]] = deque()
        self._store = store
        self._wanted: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._wake

    def want(self, number: int, size: int) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="zray-room", daemon=True)
            with signals_left_to_main():
                self._thread.start()
        self._wanted.put((number, size))

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            number, size = wanted
            try:
                writing = self._store.begin(size, gradually=True)
                self._tell(number, writing)
                while writing.prepare(STEP_BYTES):
                    self._tell(number, writing)
            except Exception as error:
                self._tell(number, error)

    def _tell(self, number: int, made: Writing | Exception) -> None:
        self.done.append((number, made))
        os.eventfd_write(self._wake, 1)

    def wakened(self) -> None:
        """Clears the descriptor: ``done`` has new entries."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def close(self) -> None:
        self._wanted.put(None)  # the thread ends after its present work; the process does not wait for it


class Transfers:
    """What a host does for objects between machines. The attribute ``send(dest, message)`` takes messages for others.

    Poll ``fileno`` for input. Call ``turn`` when there is some, and after every other call: a message may have come in
    the meantime, and the descriptor reports it only once. An ``epoll`` combines all the descriptors.
    """

    def __init__(
        self,
        host_id: bytes,
        store: Store,
        fetch_path: str,
        listen: str,
        config: Config,
        credentials: ClientCredentials | None,
    ) -> None:
        self.send: Callable[[bytes, Any], None] = _nowhere
        self.core = TransferCore(host_id, is_host=True)
        self._store = store
        self._outgoing = Outgoing(store)
        self._room_maker = _RoomMaker(store)
        self._rooms: dict[int, Writing] = {}
        self._pinned: dict[int, memoryview] = {}  # objects that a reader was told of, until it hangs up
        self._wanted_by: dict[int, Request] = {}
        self._channels = Channels(
            host_id, listen, config, credentials, self.core.place_for, self._arrived,
            lambda peer: self.core.channel_up(peer, time.monotonic()),
            lambda peer: self.core.channel_down(peer, time.monotonic()),
        )  # fmt: skip
        try:
            self._readers = LocalReaders(fetch_path)
        except BaseException:
            self._channels.close()
            raise
        self._epoll = select.epoll()
        self._polled: set[int] = set()
        self._watched_state = (-1, -1)
        self._refusals: dict[str, int] = {}
        self._rested = 0.0
        self._tunes_malloc = config.optimizes(TUNE_MALLOC)
        self._keeps_memory = False
        self._watch_descriptors()

    # ------------------------------------------------------------------ the loop

    def fileno(self) -> int:
        """Returns a descriptor that is ready for reading when there is work."""
        return self._epoll.fileno()

    def _watch_descriptors(self) -> None:
        state = self._channels.opened, self._readers.opened
        if state == self._watched_state:
            return
        self._watched_state = state
        wanted = {self._room_maker.fileno(), *self._readers.filenos, *self._channels.filenos}
        for fd in self._polled - wanted:
            with contextlib.suppress(OSError):  # it was closed, which has removed it
                self._epoll.unregister(fd)
        for fd in wanted:
            with contextlib.suppress(FileExistsError):  # tried for all: its number may be another socket's by now
                self._epoll.register(fd, select.EPOLLIN)
        self._polled = wanted

    def _local_readers(self) -> None:
        for fd, _ in self._epoll.poll(0):
            if fd == self._room_maker.fileno():
                self._room_maker.wakened()
            if (event := self._readers.ready(fd)) is None:
                continue
            reader, request = event
            self._withdrawn(reader)
            if request is not None:
                self._wanted(reader, request)
            self._perform()

    def _wanted(self, reader: int, request: Request) -> None:
        object_id, hint, size = request
        try:  # another reader's pull may have brought it, or this host keeps it now
            self._pinned[reader] = self._store.read(object_id)
        except SegmentMissing:
            self._wanted_by[reader] = request
            self.core.fetch(reader, object_id, hint, size, time.monotonic())
        except (OSError, ZrayError) as error:
            self._readers.answer(reader, "ObjectLostError", f"the object store cannot be read: {error}")
        else:
            self._readers.answer(reader, "", "")

    def _withdrawn(self, reader: int) -> None:
        self._pinned.pop(reader, None)
        if self._wanted_by.pop(reader, None) is not None:
            self.core.withdraw(reader, time.monotonic())

    def turn(self) -> bool:
        """Handles what has arrived from readers and by channels. Returns whether there is more."""
        self._local_readers()
        while self._room_maker.done:
            self._room_made(*self._room_maker.done.popleft())
        self._perform()
        for source, channel, message in self._channels.receive():
            if isinstance(message, (Pull, PullFailed)):
                self.core.received_by_channel(source, channel, message, time.monotonic())
            self._perform()
        self._perform()
        self._store.settle()  # what readers and channels have released
        self._watch_descriptors()
        return self._channels.readable

    def listen_again(self) -> None:
        """Makes the socket for readers again if its file has been removed."""
        self._readers.listen_again()
        self._watch_descriptors()

    def tick(self, now: float) -> None:
        """Called several times a second."""
        self.core.tick(now)
        self._channels.tick(now)
        for peer in self._channels.idle(now):
            if self.core.is_at_rest(peer):
                self._channels.hang_up(peer)
                self.core.hung_up(peer, now)
        if now - self._rested >= REST_S:
            self._rested = now
            self._outgoing.rest()
            if self._keeps_memory and not self.core.pulls:
                self._keeps_memory = False
                malloc.give_back()
        refusals = self._channels.refusals
        if refusals != self._refusals:
            self._refusals = refusals
            self.send(BROKER, ChannelRefusals(refusals))
        self._perform()

    # ------------------------------------------------------------------ from others, through the broker

    def receive(self, source: bytes, message: Any) -> None:
        """Handles a message of another process."""
        if isinstance(message, KeepCopies):
            if any(owner_of(object_id) != source for object_id in message.object_ids):
                raise ProtocolError("KeepCopies of objects that the sender does not own")
            self._keep(message.object_ids)
        elif isinstance(message, ChannelWanted):
            self.core.admitted(source, time.monotonic())  # its key is accepted as long as it lives
            self.send(source, self._channels.offer(source, message))
        elif isinstance(message, ChannelOffer):
            self._channels.dial(source, message)
        else:
            self.core.receive(source, message, time.monotonic())
        self._perform()

    def process_died(self, message: ProcessDied) -> None:
        """A watched process has died."""
        self._channels.forget(message.process_id)
        self.core.receive(BROKER, message, time.monotonic())
        self._perform()

    def _keep(self, object_ids: list[bytes]) -> None:
        for object_id in object_ids:
            try:
                self._store.keep(object_id)
            except (OSError, ValueError, ZrayError) as error:
                say(f"zray: a copy could not replace the lost original: {error}")

    def freed(self, object_ids: list[bytes]) -> None:
        """Releases objects that their owners have freed."""
        self._outgoing.forget(object_ids)

    # ------------------------------------------------------------------ effects

    def _perform(self) -> None:
        while output := self.core.take_output():
            for dest, messages in output.sends.items():
                for message in messages:
                    self.send(dest, message)
            for effect in output.effects:
                _PERFORM[type(effect)](self, effect)

    def _ask(self, effect: Ask) -> None:
        if not self._channels.ask(effect.source, effect.request):
            self.core.channel_down(effect.source, time.monotonic())

    def _dial(self, effect: Dial) -> None:
        self.send(effect.peer, self._channels.ask_for_offer(effect.peer))

    def _serve(self, effect: Serve) -> None:
        origin, request, room = effect
        try:
            data = self._outgoing.view(request.object_id) if room is None else room
        except (SegmentMissing, OSError, ZrayError) as error:
            self._answer_no(origin, request.pull, f"its host cannot read it: {error}")
            return
        total = len(data)
        if request.offset >= total:
            self._answer_no(origin, request.pull, "the requested piece is behind the end of the object")
            return
        length = min(request.length, chunk_length(total, request.offset))
        head, packed = make_chunk(request, total, data[request.offset : request.offset + length])
        if origin.channel:
            self._channels.answer(origin.channel, head, packed, copy=room is not None)
        else:
            self.send(origin.process_id, head._replace(data=bytes(packed)))

    def _answer_no(self, origin: Origin, pull: int, reason: str) -> None:
        if origin.channel:
            self._refuse(Refuse(origin.channel, pull, reason))
        else:
            self.send(origin.process_id, PullFailed(pull, reason))

    def _refuse(self, effect: Refuse) -> None:
        self._channels.answer(effect.channel, PullFailed(effect.pull, effect.reason), None, copy=True)

    def _arrived(self, source: bytes, head: Chunk, wire_bytes: int) -> None:
        """Handles a chunk that came by a channel; its data are in their place, unless they are in ``head``."""
        place = self.core.place_for(source, head)
        intact = place is not None and (unpack_chunk(head, head.data, place) if head.data else is_intact(head, place))
        self.core.chunk_arrived(source, head, intact, wire_bytes, time.monotonic())

    # ------------------------------------------------------------------ room

    def _reserve(self, effect: Reserve) -> None:
        if self._tunes_malloc and not self._keeps_memory:
            self._keeps_memory = True
            malloc.keep_what_is_freed()
        self._room_maker.want(effect.number, effect.size)

    def _room_made(self, number: int, made: Writing | Exception) -> None:
        now = time.monotonic()
        if isinstance(made, ZrayError):
            self.core.failed(number, type(made).__name__, str(made), now)
        elif isinstance(made, Exception):
            self.core.failed(number, "ObjectLostError", f"it has no room in the object store of this host: {made}", now)
        elif number in self._rooms:
            self.core.prepared(number, made.prepared, now)
        elif number in self.core.pulls:
            self._rooms[number] = made
            self.core.reserved(number, made.view, made.prepared, now)
        else:  # the pull has ended
            made.give_up()

    def _seal(self, effect: Seal) -> None:
        writing = self._rooms.pop(effect.number)
        self.core.pulls[effect.number].room = None
        try:
            writing.publish(effect.object_id, copy=True)
        except (OSError, BufferError, ZrayError) as error:
            self.core.failed(effect.number, "ObjectLostError", f"it cannot be stored here: {error}", time.monotonic())
        else:
            self.core.sealed(effect.number, time.monotonic())

    def _give_up(self, effect: GiveUp) -> None:
        writing = self._rooms.pop(effect.number, None)
        if writing is not None:
            writing.give_up()

    def _finished(self, effect: Finished) -> None:
        _, kind, message = effect
        request = self._wanted_by.pop(effect.reader)
        if not kind:
            try:
                self._pinned[effect.reader] = self._store.read(request.object_id)
            except SegmentMissing:  # evicted before it could be pinned: others need the room too
                self._wanted(effect.reader, request)
                return
            except (OSError, ZrayError) as error:
                kind, message = "ObjectLostError", f"it was pulled to this host, and is gone: {error}"
        self._readers.answer(effect.reader, kind, message)

    def close(self) -> None:
        """Ends everything that is under way."""
        self.core.lose_cluster("the host of this machine ends", time.monotonic())
        self._perform()
        self._readers.close()
        self._channels.close()
        self._room_maker.close()
        self._pinned.clear()
        self._epoll.close()


_PERFORM: dict[Any, Callable[[Transfers, Any], None]] = {
    Ask: Transfers._ask,
    Dial: Transfers._dial,
    Serve: Transfers._serve,
    Refuse: Transfers._refuse,
    Reserve: Transfers._reserve,
    Seal: Transfers._seal,
    GiveUp: Transfers._give_up,
    Finished: Transfers._finished,
}


def _nowhere(dest: bytes, message: Any) -> None:
    raise AssertionError("Transfers.send has not been set")


def listening_address(broker: str, wanted: str) -> str:
    """Returns where a host listens for channels.

    That is ``wanted``, or, at a free port, the address of this machine by which it reaches the broker. Empty if
    ``wanted`` is "off", or if the broker is not on TCP. Raises ConfigError if ``wanted`` is malformed.
    """
    if wanted == "off" or not broker.startswith("tcp://"):
        return ""
    if wanted:
        host, _, port = wanted.removeprefix("tcp://").rpartition(":")
        if not wanted.startswith("tcp://") or host in ("", "0.0.0.0", "*") or not (port.isdecimal() or port == "*"):
            raise ConfigError(
                f"transfer_address {wanted!r} cannot be used: needed: an address of this machine that other hosts "
                'can dial, as tcp://IP:PORT or tcp://IP:*, or "off"'
            )
        return wanted
    here = ip_address(broker)
    return f"tcp://{here}:*" if here else ""
