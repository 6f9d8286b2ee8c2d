"""The holders of objects: the reference rule of SPEC.md as a table, for owners and borrowers.

The table has one ``Entry`` for each object that this process owns or knows of, and nothing about tasks. It calls
``Waiting.ready`` when an object has a value, ``peers`` to send to other processes, and ``freed`` when a segment can be
freed.

The entry of an *owner* exists while any of these is non-zero: ``local`` (Python references), ``pins`` (arguments of
unanswered tasks, outer objects), ``covers`` (running tasks that were given it), ``holders`` (registrations by process),
``announced`` (registrations that a third process asked for, and whose holder has not confirmed yet: the announcer may
die before the reference reaches the holder).

The entry of a *borrower* exists while one of the first three is non-zero. When it goes, it gives back its
``registered`` registrations. A borrower that holds an object is registered or covered. A borrower that has a value also
holds the references inside, as the owner does, because both the value and they may be used after the owner has died.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable
from typing import Any

from zray.client.core.holders import ObjectsByProcess
from zray.client.core.states import ERROR, HANDLE, INLINE, OBJECT, PENDING, STORED, ObjectStatus
from zray.client.core.waiters import Waiters, Waiting, all_waiters, remove_waiter, with_waiter
from zray.failures import encode_failure
from zray.ids import OBJECT_ID_BYTES, PROCESS_ID_BYTES, owner_of, return_id, task_of
from zray.protocol.messages import (
    BorrowAck,
    BorrowAdd,
    BorrowCheck,
    BorrowChecked,
    BorrowConfirm,
    BorrowEnd,
    ObjectRequest,
    ObjectState,
    ProtocolError,
)

MAX_HANDED_OVER = 1 << 16
"""The largest number of references that are handed over with the value that contains them. If there are more, none are
handed over, because the size of a message is limited. Then the process that unpickles the value registers for each of
them, which fails if the value's owner has died before."""


RECONSTRUCTION_FAILED = "ObjectReconstructionFailedError"


def lost_text(object_id: bytes, why: str) -> str:
    """The text of the error for a lost value. ``why``: why it cannot be made again."""
    return f"object {object_id.hex()} is lost with the host that kept it, and no other has a copy; {why}"


class Entry:
    """What this process knows of one object. The module's docstring has the invariants.

    ``status`` says where the value is: in ``data``, or in the store of ``host``. An error is in ``data``, or in the
    store if ``data`` is empty.
    """

    __slots__ = ("announced", "covers", "data", "holders", "host", "inner", "local", "pins", "ref", "registered",
                 "requested", "requesters", "size", "status", "waiters")  # fmt: skip

    def __init__(self, status: ObjectStatus = PENDING) -> None:
        self.status = status
        self.data = b""
        self.host = b""
        self.size = 0
        self.inner: tuple[bytes, ...] = ()  # references inside the value, each pinned by this entry
        self.local = 0
        self.pins = 0
        self.covers = 0  # number of running tasks that were given the reference; their submitters hold it
        self.holders: dict[bytes, int] | None = None  # owner: registrations by process
        self.announced: dict[tuple[bytes, bytes], int] | None = None  # owner: by (holder, announcer), not confirmed yet
        self.registered = 0  # borrower: registrations that the owner holds for this process
        self.requested = False  # borrower: the owner has been asked for the value
        self.requesters: list[bytes] | None = None  # owner: processes that asked before the value existed
        self.waiters: Waiters | None = None
        self.ref: Any = None  # weak reference to the process's ObjectRef, kept by the session

    def enter(self, status: int) -> None:
        """Changes the status. Raises IllegalTransition if ``status`` may not follow."""
        self.status = OBJECT.after[self.status][status]


def is_stored(status: int, data: bytes) -> bool:
    """Whether the value, or the error, is in a store."""
    return status == STORED or (status == ERROR and not data)


def _is_elsewhere(entry: Entry) -> bool:
    """Whether more than the entry has to be freed: a segment, which may be half written, or an actor."""
    being_written = entry.host and entry.status is PENDING
    return entry.status is HANDLE or bool(being_written) or is_stored(entry.status, entry.data)


class ReferenceTable:
    """All objects of one process.

    ``peers(dest, message)`` sends to another process. ``watch(process)`` asks for notice of its death.
    ``freed(host, object_id)`` is called for stored objects and actor handles that can no longer be reached.
    """

    def __init__(
        self,
        process_id: bytes,
        peers: Callable[[bytes, Any], None],
        watch: Callable[[bytes], None],
        freed: Callable[[bytes, bytes], None],
    ) -> None:
        self.process_id = process_id
        self.entries: dict[bytes, Entry] = {}
        self.listeners: set[Waiting] = set()
        """They are told of every object that becomes ready. One of them costs less than ``wait_for`` of thousands."""
        self._peers = peers
        self._watch = watch
        self._freed = freed
        self.unseen: dict[bytes, tuple[range, str]] = {}
        """Tasks of this process that ended with an error that no process has seen: the indices of the objects that are
        the error, and their names."""
        self.on_unseen: Callable[[str, bytes, int], None] = lambda name, data, size: None
        """Called for such an error when it can no longer be seen, with the task's name, the error (empty if it is in a
        store) and its size."""
        self.recover: Callable[[bytes, bytes], str] = lambda object_id, missing: "it cannot be made again"
        """Called for a stored value of this process that is needed, and is not at ``missing`` any more.

        Afterwards it has another place, or none until it is made again. Returns why it cannot be made again; empty if
        it can."""
        self._watched: set[bytes] = set()
        self._dead: set[bytes] = set()
        # What a death concerns. There may be a million entries, and a hundred deaths.
        self._held = ObjectsByProcess()  # by holder or announcer
        self._borrowed = ObjectsByProcess()  # by owner
        self.lost_hosts: set[bytes] = set()
        """Dead hosts that had values of this process."""
        self._stores: set[bytes] = set()  # hosts that have, or had, a value of this process
        self._tokens = 0
        # token -> (object, owner that must acknowledge, outer object pinned until then, gates that wait)
        self._unacked: dict[int, tuple[bytes, bytes, bytes, list[_Gate]]] = {}

    # ------------------------------------------------------------------ entries

    def own(self, object_id: bytes, host: bytes = b"") -> Entry:
        """Makes an entry for a new object of this process, with one local reference.

        ``host``: the host in whose store it is being written. It is freed there even if it is never resolved.
        """
        entry = self.entries[object_id] = Entry()
        entry.local = 1
        if host:
            entry.host = host
            if host not in self._stores:
                self._keeps(host)
        return entry

    def _keeps(self, host: bytes) -> None:
        """Notes that a host has values. What it keeps is lost with it, so it is watched."""
        self._stores.add(host)
        self.watch_once(host)
        if host in self._dead:
            self.lost_hosts.add(host)

    def owns(self, object_id: bytes) -> bool:
        """Whether this process is the object's owner."""
        return object_id.startswith(self.process_id)

    @property
    def borrows(self) -> bool:
        """Whether this process knows of an object that another process owns."""
        return bool(self._borrowed)

    def check_own(self, object_id: bytes) -> None:
        """Raises ProtocolError for an object of another process: only the owner has records of an object."""
        if not object_id.startswith(self.process_id):
            raise ProtocolError("asked for, or told of, an object that another process owns")

    def owned_reachable(self) -> bool:
        """Whether some object of this process can still be reached, here or elsewhere."""
        return any(object_id.startswith(self.process_id) for object_id in list(self.entries))

    def _entry(self, object_id: bytes) -> Entry:
        """Returns the entry of an object; makes it if it does not exist."""
        entry = self.entries.get(object_id)
        if entry is None:
            entry = self.entries[object_id] = Entry()
            if self.owns(object_id):
                self._set_error(
                    entry, "ObjectFreedError", "the object was freed: no reference to it was known any more"
                )
                return entry
            owner = owner_of(object_id)
            self._borrowed.add(owner, object_id)
            if owner in self._dead:
                self._set_error(entry, "OwnerDiedError", "the process that owned the object is gone")
        return entry

    @staticmethod
    def _set_error(entry: Entry, kind: str, message: str) -> None:
        entry.data = encode_failure(kind, message)
        entry.enter(ERROR)

    # ------------------------------------------------------------------ counting

    def load(self, object_id: bytes, outer: bytes = b"") -> Entry:
        """Counts a reference that was unpickled here. ``outer``: the object in whose value it was, if any.

        A borrower that is neither registered nor covered by a running task registers. It holds ``outer`` until the
        owner has acknowledged.
        """
        entry = self._entry(object_id)
        entry.local += 1
        if not entry.registered and not entry.covers and not self.owns(object_id):
            self.register(object_id, outer)
        return entry

    def load_covered(self, object_id: bytes) -> Entry:
        """As ``load``, for arguments of a running task. The submitter holds them until ``uncover``."""
        entry = self._entry(object_id)
        entry.local += 1
        entry.covers += 1
        return entry

    def uncover(self, object_ids: Iterable[bytes], submitter: bytes) -> list[bytes]:
        """Ends the cover of a task's arguments when the task ends.

        Registers this process for the arguments that it still holds. Returns those of them that the submitter owns; the
        task's result tells the submitter of these.
        """
        kept = []
        for object_id in object_ids:
            entry = self.entries[object_id]
            entry.covers -= 1
            if self.owns(object_id) or not (entry.local or entry.pins or entry.covers):
                self._collect(object_id, entry)
            elif not entry.registered and (entry.pins or not entry.covers):
                # Also while another task here has it, if this process pins it: the submitter of that other task may
                # itself rely on this process's hold.
                if owner_of(object_id) == submitter:
                    entry.registered += 1
                    self.watch_once(submitter)
                    kept.append(object_id)
                else:
                    self.register(object_id)
        return kept

    def drop(self, object_id: bytes) -> None:
        """Counts a local reference that is gone."""
        entry = self.entries[object_id]
        entry.local -= 1
        self._collect(object_id, entry)

    def pin(self, object_id: bytes) -> None:
        """Holds an object that this process can reach."""
        self._entry(object_id).pins += 1

    def unpin(self, object_id: bytes) -> None:
        """Undoes one ``pin``."""
        entry = self.entries[object_id]
        entry.pins -= 1
        self._collect(object_id, entry)

    def _collect(self, object_id: bytes, entry: Entry) -> None:
        """Frees the entry if nothing holds it, and then the entries that it held, to any depth, without recursion."""
        stack = [(object_id, entry)]
        while stack:
            object_id, entry = stack.pop()
            if entry.local or entry.pins or entry.covers or entry.holders or entry.announced:
                continue
            if self.entries.get(object_id) is not entry:
                continue
            del self.entries[object_id]
            if object_id.startswith(self.process_id):
                if entry.status is not INLINE:
                    if self.unseen and entry.status is ERROR:
                        self.tell_unseen(task_of(object_id), entry.data, entry.size)
                    if _is_elsewhere(entry):
                        self._freed(entry.host, object_id)
            else:
                owner = owner_of(object_id)
                self._borrowed.discard(owner, object_id)
                if entry.registered and owner not in self._dead:
                    self._peers(owner, BorrowEnd(object_id, entry.registered))
            for inner_id in entry.inner:
                inner = self.entries[inner_id]
                inner.pins -= 1
                stack.append((inner_id, inner))

    # ------------------------------------------------------------------ errors that no process has seen

    def seen(self, object_id: bytes) -> None:
        """Notes that code has seen an object's outcome, so that an error need not be shown."""
        if self.unseen:
            self.unseen.pop(task_of(object_id), None)

    def tell_unseen(self, task_id: bytes, data: bytes, size: int) -> None:
        """Reports a task's error if no code has seen it, and no reference to one of its values is left."""
        indices, name = self.unseen.get(task_id, (range(0), ""))
        if indices and not any(return_id(task_id, index) in self.entries for index in indices):
            del self.unseen[task_id]
            self.on_unseen(name, data, size)

    # ------------------------------------------------------------------ hand-over

    def register(self, object_id: bytes, outer: bytes = b"") -> None:
        """Asks the owner to register this process."""
        self.entries[object_id].registered += 1
        self._announce(object_id, self.process_id, outer)

    def _announce(self, object_id: bytes, holder: bytes, outer: bytes = b"") -> int:
        """Asks the owner to register ``holder``. ``when_acknowledged`` waits for that; ``outer`` is pinned until then.

        Returns the token that will be acknowledged; 0 if the owner is dead.
        """
        owner = owner_of(object_id)
        if owner in self._dead:
            return 0
        self.watch_once(owner)
        if outer:
            self.pin(outer)
        self.pin(object_id)
        self._tokens += 1
        self._unacked[self._tokens] = (object_id, owner, outer, [])
        self._peers(owner, BorrowAdd(object_id, holder, self._tokens))
        return self._tokens

    def hand_over(self, object_ids: Iterable[bytes], receiver: bytes) -> list[int]:
        """Makes sure that owners know that their references travel to ``receiver`` inside a value.

        Returns the tokens that must be acknowledged before the value may leave.
        """
        tokens = []
        for object_id in object_ids:
            if self.owns(object_id):
                self._add_holder(object_id, receiver)  # even if that is this process: the result on its way holds it
            elif owner_of(object_id) != receiver and (token := self._announce(object_id, receiver)):
                tokens.append(token)
        return tokens

    def adopt(self, object_ids: Iterable[bytes], source: bytes) -> None:
        """Pins references that arrived from ``source`` inside a value. This process is registered for them already."""
        for object_id in object_ids:
            entry = self._entry(object_id)
            entry.pins += 1
            if self.owns(object_id):
                if source == self.process_id:
                    self._count(object_id, entry, source, -1)
            else:
                entry.registered += 1
                owner = owner_of(object_id)
                self.watch_once(owner)
                if owner != source != self.process_id and owner not in self._dead:
                    self._peers(owner, BorrowConfirm(object_id, source))

    def keep(self, object_ids: Iterable[bytes], holder: bytes) -> None:
        """Registers ``holder`` for objects of this process that it keeps, as its result says."""
        for object_id in object_ids:
            if not self.owns(object_id):
                raise ProtocolError("kept a reference that another process owns")
            self._add_holder(object_id, holder)

    def _add_holder(self, object_id: bytes, holder: bytes) -> None:
        entry = self.entries.get(object_id)
        if entry is None or holder in self._dead:
            return  # the object is freed: the holder learns that when it asks for the value
        self._count(object_id, entry, holder, 1)
        self.watch_once(holder)

    def _count(self, object_id: bytes, entry: Entry, holder: bytes, change: int) -> None:
        # The count may be negative for a time: a holder may give back a registration before a delayed result adds it.
        if entry.holders is None:
            entry.holders = {}
        left = entry.holders.get(holder, 0) + change
        if left:
            entry.holders[holder] = left
            self._held.add(holder, object_id)
        else:
            entry.holders.pop(holder, None)
            self._held_no_more(object_id, entry, holder)
            self._collect(object_id, entry)

    def _held_no_more(self, object_id: bytes, entry: Entry, process_id: bytes) -> None:
        """Updates the index after a registration has gone."""
        if entry.holders is not None and process_id in entry.holders:
            return
        if not entry.announced or not any(process_id in key for key in entry.announced):
            self._held.discard(process_id, object_id)

    @property
    def acknowledged(self) -> bool:
        """Whether no registration is under way."""
        return not self._unacked

    def when_acknowledged(self, action: Callable[[], None]) -> None:
        """Calls ``action`` once every registration requested so far is acknowledged."""
        self._after(self._unacked, action)

    def _after(self, tokens: Collection[int], action: Callable[[], None]) -> None:
        """Calls ``action`` once all ``tokens`` are acknowledged."""
        if not tokens:
            action()
            return
        gate = _Gate(len(tokens), action)
        for token in tokens:
            self._unacked[token][3].append(gate)

    def stored_at(self, host: bytes) -> list[bytes]:
        """This process's objects that are in the store of ``host``."""
        if host not in self._stores:
            return []
        return [
            object_id for object_id, entry in list(self.entries.items())  # a list: ``put`` adds some without the lock
            if entry.host == host and is_stored(entry.status, entry.data) and self.owns(object_id)
        ]  # fmt: skip

    def moved(self, object_id: bytes, host: bytes) -> None:
        """Notes that another host has the value of an object of this process now."""
        self.entries[object_id].host = host
        self._keeps(host)

    def watch_once(self, process_id: bytes) -> None:
        """Asks for notice of a process's death, once."""
        if process_id not in self._watched and process_id != self.process_id:
            self._watched.add(process_id)
            self._watch(process_id)

    # ------------------------------------------------------------------ values

    def resolve(
        self, object_id: bytes, status: int, data: bytes, host: bytes, size: int, inner: tuple[bytes, ...] = ()
    ) -> None:
        """Sets the value or the error of an object. The caller must have adopted or pinned ``inner``.

        If nothing holds the object any more, the value is freed at once.
        """
        entry = self.entries.get(object_id)
        if entry is None or entry.status is not PENDING:
            self._let_go(entry, object_id, is_stored(status, data), host, inner)
            return
        entry.data = data
        entry.host = host
        if host and status != INLINE and host not in self._stores:
            self._keeps(host)
        entry.size = size
        entry.inner = inner
        entry.enter(status)  # last, because other threads read it without the lock
        waiters = entry.waiters
        if waiters is not None:
            entry.waiters = None
            for waiter in waiters if type(waiters) is list else all_waiters(waiters):
                waiter.ready(object_id)
        if self.listeners:
            for listener in self.listeners:
                listener.ready(object_id)
        requesters = entry.requesters
        if requesters is not None:
            entry.requesters = None
            for process in requesters:
                self._tell(process, object_id, entry)

    def _tell(self, process: bytes, object_id: bytes, entry: Entry) -> None:
        """Sends a value to a borrower, once the owners of the references inside know that the borrower holds them too.

        If only the value's owner held them, they would be freed when it dies, while the borrower still uses the value.
        """
        inner = entry.inner if len(entry.inner) <= MAX_HANDED_OVER else ()
        if entry.status is ERROR:
            self.seen(object_id)

        def send() -> None:
            state = ObjectState(object_id, entry.status, entry.data, entry.host, entry.size, b"".join(inner))
            self._peers(process, state)
            for inner_id in inner:
                self.unpin(inner_id)

        # The object may be freed meanwhile. With these pins, giving a registration back does not overtake the value.
        for inner_id in inner:
            self.pin(inner_id)
        self._after(self.hand_over(inner, process), send)

    def _let_go(
        self, entry: Entry | None, object_id: bytes, stored: bool, host: bytes, inner: tuple[bytes, ...]
    ) -> None:
        # A second result of the same object is in the same segment. So the segment is freed only if there is no entry.
        if entry is None and stored and self.owns(object_id):
            self._freed(host, object_id)
        for inner_id in inner:
            self.unpin(inner_id)

    def release_segment(self, host: bytes, object_id: bytes) -> None:
        """Frees a stored value that has no entry."""
        self._freed(host, object_id)

    def await_return(self, object_id: bytes) -> None:
        """Makes an entry, if there is none, for an object that will have a value, and to which others refer."""
        if object_id not in self.entries:
            self.entries[object_id] = Entry()
            if not self.owns(object_id):
                self._borrowed.add(owner_of(object_id), object_id)

    def fail(self, object_id: bytes, kind: str, message: str) -> None:
        """Resolves an object with a failure, which travels by name."""
        self.resolve(object_id, ERROR, encode_failure(kind, message), b"", 0)

    def wait_for(self, object_id: bytes, waiter: Waiting) -> bool:
        """Tells ``waiter`` when the object is ready. Returns False if it is ready already.

        Asks the owner for the value if the object is borrowed.
        """
        entry = self.entries.get(object_id) or self._entry(object_id)
        if entry.status is not PENDING and not (entry.status is STORED and self._is_lost(object_id, entry)):
            return False
        entry.waiters = [waiter] if entry.waiters is None else with_waiter(entry.waiters, waiter)
        if not entry.requested and not self.owns(object_id):
            self._ask(object_id, entry, b"")
        return True

    def _ask(self, object_id: bytes, entry: Entry, missing: bytes) -> None:
        """Asks the owner of a borrowed object for its value."""
        entry.requested = True
        owner = owner_of(object_id)
        self.watch_once(owner)
        self._peers(owner, ObjectRequest(object_id, missing))

    def _is_lost(self, object_id: bytes, entry: Entry) -> bool:
        """Whether a stored value of this process was lost with its host, and has no value until it is made again."""
        if entry.host in self._dead and self.owns(object_id) and not self.recover(object_id, entry.host):
            return entry.status is PENDING  # its task may have failed already, as an argument is an error
        return False

    def lose(self, object_id: bytes) -> None:
        """Notes that a stored value is lost, and will be replaced."""
        entry = self.entries[object_id]
        entry.enter(PENDING)
        entry.requested = False
        inner, entry.inner = entry.inner, ()
        for inner_id in inner:
            self.unpin(inner_id)

    def ask_again(self, object_id: bytes, missing: bytes) -> None:
        """Asks the owner of a value that could not be read once more.

        ``missing``: the host of this machine that does not have it; empty if that is not known for sure.
        """
        entry = self.entries[object_id]
        if entry.status is STORED:
            self.lose(object_id)
        if entry.status is PENDING and not entry.requested:
            self._ask(object_id, entry, missing)

    def has_value(self, object_id: bytes) -> bool:
        """Whether the outcome of an object is known here, and is not an error."""
        entry = self.entries[object_id]
        return entry.status not in (PENDING, ERROR) and not (entry.status is STORED and self._is_lost(object_id, entry))

    def recover_lost(self, object_ids: Iterable[bytes]) -> bool:
        """Has those of the objects made again that were lost with a host, all at once.

        Returns whether there are any.
        """
        lost = False
        for object_id in object_ids:
            entry = self.entries.get(object_id)
            if entry is not None and entry.status is STORED and self._is_lost(object_id, entry):
                lost = True
        return lost

    def stop_waiting(self, object_id: bytes, waiter: Waiting) -> None:
        """Undoes ``wait_for``. Does nothing if the object has become ready meanwhile."""
        entry = self.entries.get(object_id)
        if entry is not None and entry.waiters is not None:
            remove_waiter(entry.waiters, waiter)

    # ------------------------------------------------------------------ from other processes

    def on_request(self, source: bytes, message: ObjectRequest) -> None:
        """Answers a process that asks for the value of an object of this process."""
        self.check_own(message.object_id)
        entry = self.entries.get(message.object_id)
        if entry is None:
            failure = encode_failure(
                "ObjectFreedError", "the object was freed: its owner knew of no reference any more"
            )
            self._peers(source, ObjectState(message.object_id, ERROR, failure, b"", 0, b""))
            return
        if entry.status is STORED and (entry.host in self._dead or entry.host == message.missing):
            why = self.recover(message.object_id, entry.host)
            if why:
                failure = encode_failure(RECONSTRUCTION_FAILED, lost_text(message.object_id, why))
                self._peers(source, ObjectState(message.object_id, ERROR, failure, b"", 0, b""))
                return
        if entry.status is not PENDING:
            self._tell(source, message.object_id, entry)
        elif entry.requesters is None:
            entry.requesters = [source]
        else:
            entry.requesters.append(source)

    def on_state(self, source: bytes, message: ObjectState) -> None:
        """Handles the owner's answer to a request for a value."""
        right_host = len(message.host) == PROCESS_ID_BYTES or message.status != STORED
        if owner_of(message.object_id) != source or not (PENDING < message.status <= HANDLE and right_host):
            raise ProtocolError("an object's state must come from its owner, and be complete")
        if len(message.inner) % OBJECT_ID_BYTES:
            raise ProtocolError("the identifiers in a value do not have their exact size")
        inner = tuple(
            message.inner[start : start + OBJECT_ID_BYTES] for start in range(0, len(message.inner), OBJECT_ID_BYTES)
        )
        self.adopt(inner, source)  # even if the object is not held any more: then the registrations are given back
        self.resolve(message.object_id, message.status, message.data, message.host, message.size, inner)

    def on_borrow_add(self, source: bytes, message: BorrowAdd) -> None:
        """Registers a holder, which announces itself, or is announced by a process that hands the reference on."""
        self.check_own(message.object_id)
        if source == message.holder:
            self._add_holder(message.object_id, source)
        else:
            self._announced(message.object_id, message.holder, source)
        self._peers(source, BorrowAck(message.token))

    def _announced(self, object_id: bytes, holder: bytes, announcer: bytes) -> None:
        entry = self.entries.get(object_id)
        if entry is None or holder in self._dead:
            return
        if entry.announced is None:
            entry.announced = {}
        entry.announced[holder, announcer] = entry.announced.get((holder, announcer), 0) + 1
        self._held.add(holder, object_id)
        self._held.add(announcer, object_id)
        self.watch_once(holder)
        self.watch_once(announcer)

    def on_borrow_confirm(self, source: bytes, message: BorrowConfirm) -> None:
        """Handles a holder's confirmation of a registration that was announced for it."""
        self.check_own(message.object_id)
        entry = self.entries.get(message.object_id)
        key = (source, message.announcer)
        if entry is None or entry.announced is None or key not in entry.announced:
            return
        entry.announced[key] -= 1
        if not entry.announced[key]:
            self._announced_no_more(message.object_id, entry, key)
        self._count(message.object_id, entry, source, 1)

    def _announced_no_more(self, object_id: bytes, entry: Entry, key: tuple[bytes, bytes]) -> None:
        """Removes what one process has announced for another."""
        if entry.announced is not None and entry.announced.pop(key, None) is not None:
            for process_id in key:
                self._held_no_more(object_id, entry, process_id)

    def on_borrow_check(self, source: bytes, message: BorrowCheck) -> None:
        """Answers an owner that checks whether everything from a dead announcer has been confirmed."""
        self._peers(source, BorrowChecked(message.object_id, message.announcer))

    def on_borrow_checked(self, source: bytes, message: BorrowChecked) -> None:
        """Drops the registrations of a dead announcer that the holder has not confirmed: they never reached it."""
        self.check_own(message.object_id)
        if message.announcer not in self._dead:
            raise ProtocolError("an answer without a question: the announcer is alive")
        entry = self.entries.get(message.object_id)
        if entry is not None and entry.announced is not None:
            self._announced_no_more(message.object_id, entry, (source, message.announcer))
            self._collect(message.object_id, entry)

    def on_borrow_ack(self, source: bytes, message: BorrowAck) -> None:
        """Handles an owner's acknowledgement of a registration that this process requested."""
        waiting = self._unacked.get(message.token)
        if waiting is not None and waiting[1] == source:
            self._acknowledged(message.token)

    def _acknowledged(self, token: int) -> None:
        object_id, _, outer, gates = self._unacked.pop(token)
        for gate in gates:
            gate.open_one()
        self.unpin(object_id)
        if outer:
            self.unpin(outer)

    def on_borrow_end(self, source: bytes, message: BorrowEnd) -> None:
        """Handles a holder that gives registrations back."""
        self.check_own(message.object_id)
        entry = self.entries.get(message.object_id)
        if entry is not None and source not in self._dead:
            self._count(message.object_id, entry, source, -message.registrations)
            if entry.holders and source in entry.holders:
                # It has given back a registration that a delayed result has not announced yet: it may die before that.
                self.watch_once(source)

    def on_process_died(self, process_id: bytes) -> None:
        """Removes the registrations of a dead process, and fails its objects that are pending here."""
        self._dead.add(process_id)
        if process_id in self._stores:
            self.lost_hosts.add(process_id)
        self._watched.discard(process_id)
        for token in [token for token, row in self._unacked.items() if row[1] == process_id]:
            self._acknowledged(token)
        for object_id in self._held.of(process_id):
            entry = self.entries.get(object_id)
            if entry is None:  # it was inside one of the others, which is freed now
                continue
            if entry.holders is not None:
                entry.holders.pop(process_id, None)
            for holder, announcer in list(entry.announced or ()):
                if holder == process_id:
                    self._announced_no_more(object_id, entry, (holder, announcer))
                elif announcer == process_id:
                    self._peers(holder, BorrowCheck(object_id, announcer))
            self._held_no_more(object_id, entry, process_id)
            self._collect(object_id, entry)
        for object_id in self._borrowed.of(process_id):
            entry = self.entries.get(object_id)
            if entry is not None and entry.status is PENDING:
                self.fail(
                    object_id, "OwnerDiedError", "the process that owned the object died before its value was known"
                )

    def check(self) -> None:
        """Raises AssertionError if an index is not what the entries say. For tests."""
        held, borrowed = ObjectsByProcess(), ObjectsByProcess()
        for object_id, entry in self.entries.items():
            for process_id in (*(entry.holders or ()), *itertools.chain.from_iterable(entry.announced or ())):
                held.add(process_id, object_id)
            if not self.owns(object_id):
                borrowed.add(owner_of(object_id), object_id)
        assert self._held.as_dict() == held.as_dict(), "the index of objects by holder"
        assert self._borrowed.as_dict() == borrowed.as_dict(), "the index of objects by owner"
        stores = {entry.host for entry in self.entries.values() if is_stored(entry.status, entry.data)}
        assert stores <= self._stores, "the hosts that have values"

    def is_dead(self, process_id: bytes) -> bool:
        """Whether this process has been told of the death of ``process_id``."""
        return process_id in self._dead


class _Gate:
    """Calls an action after a number of acknowledgements."""

    __slots__ = ("_action", "_left")

    def __init__(self, left: int, action: Callable[[], None]) -> None:
        self._left = left
        self._action = action

    def open_one(self) -> None:
        self._left -= 1
        if not self._left:
            self._action()
