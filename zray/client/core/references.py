"""Who holds what: the reference rule of SPEC.md as a table, for owners and borrowers alike.

Holds one ``Entry`` per object that this process owns or has heard of, and nothing about tasks. Reports by calling
back (``Waiting.ready``) and by appending to ``peers`` (rows for other processes) and ``freed`` (segments that can go).

An entry of the *owner* lives while any of these is non-zero: ``local`` (Python references), ``pins`` (arguments of
unanswered tasks, outer objects), ``covers`` (running tasks that were given it), ``holders`` (registrations by process),
``announced`` (registrations that a third process asked for, and whose holder has not confirmed yet that it was told:
the announcer may die in between).
An entry of a *borrower* lives while one of the first three is, and then gives back its ``registered`` registrations.
A borrower that holds something is registered or covered. A borrower that has a value holds the references inside, as
the owner does: the value is used here after its owner has died, and so are they.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from zray.client.core.states import ERROR, HANDLE, INLINE, OBJECT, PENDING, STORED, ObjectStatus
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
"""So many references inside a value are handed over with it. Of a value with more, none are: a message has a largest
size. Who unpickles it registers for each of them then, which comes to nothing if the value's owner has died before."""


class Waiting(Protocol):
    """Something that waits for objects."""

    def ready(self, object_id: bytes) -> None:
        """The object has a value or an error now."""


class Entry:
    """What this process knows of one object. See the module's text for the invariants.

    ``status`` tells where the value is: in ``data``, or in the store of ``host``. An error is in ``data``, or in the
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
        self.covers = 0  # running tasks that were given the reference: their submitters hold it
        self.holders: dict[bytes, int] | None = None  # owner: registrations by process
        self.announced: dict[tuple[bytes, bytes], int] | None = None  # owner: by (holder, announcer), not confirmed yet
        self.registered = 0  # borrower: registrations that the owner holds for this process
        self.requested = False  # borrower: the owner has been asked for the value
        self.requesters: list[bytes] | None = None  # owner: processes that asked before the value was there
        self.waiters: list[Waiting] | None = None
        self.ref: Any = None  # weak reference to the process's ObjectRef, kept by the session

    def enter(self, status: int) -> None:
        """Changes the status; raises IllegalTransition if it is none that may follow."""
        self.status = OBJECT.after[self.status][status]


def is_stored(status: int, data: bytes) -> bool:
    """Whether the value, or the error, is in a store."""
    return status == STORED or (status == ERROR and not data)


def _is_elsewhere(entry: Entry) -> bool:
    """Whether there is something to free beside the entry: a segment, be it half written, or an actor."""
    being_written = entry.host and entry.status is PENDING
    return entry.status is HANDLE or bool(being_written) or is_stored(entry.status, entry.data)


class ReferenceTable:
    """All objects of one process.

    ``peers(dest, message)`` sends to another process; ``watch(process)`` asks for notice of its death;
    ``freed(host, object_id)`` is told of stored objects and actor handles that nobody can reach any more.
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
        self._peers = peers
        self._watch = watch
        self._freed = freed
        self.unseen: dict[bytes, tuple[int, str]] = {}
        """Tasks of this process that ended with an error of which nobody has heard: how many values they were to
        return, and their names."""
        self.on_unseen: Callable[[str, bytes, int], None] = lambda name, data, size: None
        """Told of such an error that nobody can hear of any more: the task's name, the error (empty if it is in a
        store) and its size."""
        self._watched: set[bytes] = set()
        self._dead: set[bytes] = set()
        self._tokens = 0
        # token -> (object, owner that has to acknowledge, outer object held until then, gates that wait)
        self._unacked: dict[int, tuple[bytes, bytes, bytes, list[_Gate]]] = {}

    # ------------------------------------------------------------------ entries

    def own(self, object_id: bytes, host: bytes = b"") -> Entry:
        """A new entry for an object of this process, with one local reference.

        ``host``: in whose store it is being written. It is freed there also if it is never resolved.
        """
        entry = self.entries[object_id] = Entry()
        entry.local = 1
        entry.host = host
        return entry

    def owns(self, object_id: bytes) -> bool:
        """Whether this process is the object's owner."""
        return object_id.startswith(self.process_id)

    def check_own(self, object_id: bytes) -> None:
        """Raises ProtocolError for an object of somebody else: only its owner keeps its books."""
        if not object_id.startswith(self.process_id):
            raise ProtocolError("asked for, or told of, an object of somebody else")

    def owned_reachable(self) -> bool:
        """Whether some object of this process can still be reached, here or elsewhere."""
        return any(object_id.startswith(self.process_id) for object_id in list(self.entries))

    def _entry(self, object_id: bytes) -> Entry:
        """The entry of any object, made when it is not there."""
        entry = self.entries.get(object_id)
        if entry is None:
            entry = self.entries[object_id] = Entry()
            if self.owns(object_id):
                self._set_error(
                    entry, "ObjectFreedError", "the object was freed: no reference to it was known any more"
                )
            elif owner_of(object_id) in self._dead:
                self._set_error(entry, "OwnerDiedError", "the process that owned the object is gone")
        return entry

    @staticmethod
    def _set_error(entry: Entry, kind: str, message: str) -> None:
        entry.data = encode_failure(kind, message)
        entry.enter(ERROR)

    # ------------------------------------------------------------------ counting

    def load(self, object_id: bytes, outer: bytes = b"") -> Entry:
        """A reference was unpickled here: counts it. ``outer``: the object in whose value it was, if any.

        A borrower that is neither registered nor covered by a running task registers, and holds ``outer`` until the
        owner has acknowledged.
        """
        entry = self._entry(object_id)
        entry.local += 1
        if not entry.registered and not entry.covers and not self.owns(object_id):
            self.register(object_id, outer)
        return entry

    def load_covered(self, object_id: bytes) -> Entry:
        """As ``load``, for arguments of a running task: covered by their submitter until ``uncover``."""
        entry = self._entry(object_id)
        entry.local += 1
        entry.covers += 1
        return entry

    def uncover(self, object_ids: Iterable[bytes], submitter: bytes) -> list[bytes]:
        """A task ends. What is left of its arguments is registered, or returned if the submitter owns it."""
        kept = []
        for object_id in object_ids:
            entry = self.entries[object_id]
            entry.covers -= 1
            if self.owns(object_id) or not (entry.local or entry.pins or entry.covers):
                self._collect(object_id, entry)
            elif not entry.registered and (entry.pins or not entry.covers):
                # Also while another task here is given it, if something hangs on this process's own hold: the submitter
                # of that other task may in turn rely on it.
                if owner_of(object_id) == submitter:
                    entry.registered += 1
                    self.watch_once(submitter)
                    kept.append(object_id)
                else:
                    self.register(object_id)
        return kept

    def drop(self, object_id: bytes) -> None:
        """A local reference is gone."""
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
        """Frees the entry if nothing holds it, and what it held, however deep, without recursion."""
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
            elif entry.registered and owner_of(object_id) not in self._dead:
                self._peers(owner_of(object_id), BorrowEnd(object_id, entry.registered))
            for inner_id in entry.inner:
                inner = self.entries[inner_id]
                inner.pins -= 1
                stack.append((inner_id, inner))

    # ------------------------------------------------------------------ errors that nobody hears of

    def seen(self, object_id: bytes) -> None:
        """Somebody has heard of an object's outcome, who can tell if it is an error."""
        if self.unseen:
            self.unseen.pop(task_of(object_id), None)

    def tell_unseen(self, task_id: bytes, data: bytes, size: int) -> None:
        """Tells of a task's error if nobody has heard of it, and no reference to one of its values is left."""
        n_returns, name = self.unseen.get(task_id, (0, ""))
        if n_returns and not any(return_id(task_id, index) in self.entries for index in range(1, n_returns + 1)):
            del self.unseen[task_id]
            self.on_unseen(name, data, size)

    # ------------------------------------------------------------------ hand-over

    def register(self, object_id: bytes, outer: bytes = b"") -> None:
        """Has the owner register this process."""
        self.entries[object_id].registered += 1
        self._announce(object_id, self.process_id, outer)

    def _announce(self, object_id: bytes, holder: bytes, outer: bytes = b"") -> int:
        """Has the owner register ``holder``. ``when_acknowledged`` waits for it; ``outer`` is pinned until then.

        Returns the token that will be acknowledged, 0 if the owner is dead.
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
        """References travel to ``receiver`` inside a value: makes sure that their owners know.

        Returns the tokens of what has to be acknowledged before the value may leave.
        """
        tokens = []
        for object_id in object_ids:
            if self.owns(object_id):
                self._add_holder(object_id, receiver)  # itself, too: nothing else holds it while the result travels
            elif owner_of(object_id) != receiver and (token := self._announce(object_id, receiver)):
                tokens.append(token)
        return tokens

    def adopt(self, object_ids: Iterable[bytes], source: bytes) -> None:
        """References arrived from ``source`` inside a value that this process has now: pinned; registered already."""
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
        """``holder`` says in a result which of this process's objects it keeps."""
        for object_id in object_ids:
            if not self.owns(object_id):
                raise ProtocolError("kept a reference of somebody else")
            self._add_holder(object_id, holder)

    def _add_holder(self, object_id: bytes, holder: bytes) -> None:
        entry = self.entries.get(object_id)
        if entry is None or holder in self._dead:
            return  # the holder learns of it when it asks for the value
        self._count(object_id, entry, holder, 1)
        self.watch_once(holder)

    def _count(self, object_id: bytes, entry: Entry, holder: bytes, change: int) -> None:
        # Below zero for a moment is right: a holder may give back what a delayed result is still to announce.
        if entry.holders is None:
            entry.holders = {}
        left = entry.holders.get(holder, 0) + change
        if left:
            entry.holders[holder] = left
        else:
            entry.holders.pop(holder, None)
            self._collect(object_id, entry)

    @property
    def acknowledged(self) -> bool:
        """Whether no registration is under way."""
        return not self._unacked

    def when_acknowledged(self, action: Callable[[], None]) -> None:
        """Calls ``action`` once every registration that was asked for so far is acknowledged."""
        self._after(self._unacked, action)

    def _after(self, tokens: Collection[int], action: Callable[[], None]) -> None:
        """Calls ``action`` once all of these are acknowledged."""
        if not tokens:
            action()
            return
        gate = _Gate(len(tokens), action)
        for token in tokens:
            self._unacked[token][3].append(gate)

    def stored_at(self, host: bytes) -> list[bytes]:
        """This process's objects that are in the store of ``host``."""
        return [
            object_id for object_id, entry in list(self.entries.items())  # a ``put`` adds some without the lock
            if entry.host == host and is_stored(entry.status, entry.data) and self.owns(object_id)
        ]  # fmt: skip

    def watch_once(self, process_id: bytes) -> None:
        """Asks for notice of a process's death, unless that was done."""
        if process_id not in self._watched and process_id != self.process_id:
            self._watched.add(process_id)
            self._watch(process_id)

    # ------------------------------------------------------------------ values

    def resolve(
        self, object_id: bytes, status: int, data: bytes, host: bytes, size: int, inner: tuple[bytes, ...] = ()
    ) -> None:
        """The object has a value or an error now. ``inner`` must have been adopted or pinned by the caller.

        For an object that nobody holds any more the value is let go at once.
        """
        entry = self.entries.get(object_id)
        if entry is None or entry.status is not PENDING:
            self._let_go(entry, object_id, is_stored(status, data), host, inner)
            return
        entry.data = data
        entry.host = host
        entry.size = size
        entry.inner = inner
        entry.enter(status)  # last: others look at it without the lock
        waiters = entry.waiters
        if waiters is not None:
            entry.waiters = None
            for waiter in waiters:
                waiter.ready(object_id)
        requesters = entry.requesters
        if requesters is not None:
            entry.requesters = None
            for process in requesters:
                self._tell(process, object_id, entry)

    def _tell(self, process: bytes, object_id: bytes, entry: Entry) -> None:
        """Sends a value to a borrower, once the owners of the references inside know that it holds them as well.

        Not only the value's owner may hold them: they would go with its process, and the borrower uses the value on.
        """
        inner = entry.inner if len(entry.inner) <= MAX_HANDED_OVER else ()
        if entry.status is ERROR:
            self.seen(object_id)

        def send() -> None:
            state = ObjectState(object_id, entry.status, entry.data, entry.host, entry.size, b"".join(inner))
            self._peers(process, state)
            for inner_id in inner:
                self.unpin(inner_id)

        # The object may be freed meanwhile. But giving a registration back must not overtake the value.
        for inner_id in inner:
            self.pin(inner_id)
        self._after(self.hand_over(inner, process), send)

    def _let_go(
        self, entry: Entry | None, object_id: bytes, stored: bool, host: bytes, inner: tuple[bytes, ...]
    ) -> None:
        # A second result of the same object is in the same segment: only an unreachable one's is freed.
        if entry is None and stored and self.owns(object_id):
            self._freed(host, object_id)
        for inner_id in inner:
            self.unpin(inner_id)

    def release_segment(self, host: bytes, object_id: bytes) -> None:
        """A stored value that no entry stands for can go."""
        self._freed(host, object_id)

    def await_return(self, object_id: bytes) -> None:
        """An object that a task is about to return is held from elsewhere, though its reference may be gone already."""
        if object_id not in self.entries:
            self.entries[object_id] = Entry()

    def fail(self, object_id: bytes, kind: str, message: str) -> None:
        """Resolves with a failure that travels by name."""
        self.resolve(object_id, ERROR, encode_failure(kind, message), b"", 0)

    def wait_for(self, object_id: bytes, waiter: Waiting) -> bool:
        """Has ``waiter`` told when the object is ready; False: it is ready already. Asks the owner when borrowed."""
        entry = self.entries.get(object_id) or self._entry(object_id)
        if entry.status is not PENDING:
            return False
        if entry.waiters is None:
            entry.waiters = [waiter]
        else:
            entry.waiters.append(waiter)
        if not entry.requested and not self.owns(object_id):
            entry.requested = True
            self.watch_once(owner_of(object_id))
            self._peers(owner_of(object_id), ObjectRequest(object_id))
        return True

    def has_value(self, object_id: bytes) -> bool:
        """Whether the value of a known object is known here, and no error."""
        return self.entries[object_id].status not in (PENDING, ERROR)

    def stop_waiting(self, object_id: bytes, waiter: Waiting) -> None:
        """Undoes ``wait_for``; fine if it is ready meanwhile."""
        entry = self.entries.get(object_id)
        if entry is not None and entry.waiters is not None and waiter in entry.waiters:
            entry.waiters.remove(waiter)

    # ------------------------------------------------------------------ from other processes

    def on_request(self, source: bytes, message: ObjectRequest) -> None:
        """Somebody asks for the value of an object of this process."""
        self.check_own(message.object_id)
        entry = self.entries.get(message.object_id)
        if entry is None:
            failure = encode_failure(
                "ObjectFreedError", "the object was freed: its owner knew of no reference any more"
            )
            self._peers(source, ObjectState(message.object_id, ERROR, failure, b"", 0, b""))
        elif entry.status is not PENDING:
            self._tell(source, message.object_id, entry)
        elif entry.requesters is None:
            entry.requesters = [source]
        else:
            entry.requesters.append(source)

    def on_state(self, source: bytes, message: ObjectState) -> None:
        """The owner answers."""
        right_host = len(message.host) == PROCESS_ID_BYTES or message.status != STORED
        if owner_of(message.object_id) != source or not (PENDING < message.status <= HANDLE and right_host):
            raise ProtocolError("an object's state comes from its owner, when it has one")
        if len(message.inner) % OBJECT_ID_BYTES:
            raise ProtocolError("an identifier has its exact size")
        inner = tuple(
            message.inner[start : start + OBJECT_ID_BYTES] for start in range(0, len(message.inner), OBJECT_ID_BYTES)
        )
        self.adopt(inner, source)  # also if the object is not held any more: what was registered is given back
        self.resolve(message.object_id, message.status, message.data, message.host, message.size, inner)

    def on_borrow_add(self, source: bytes, message: BorrowAdd) -> None:
        """A holder is announced by whoever hands the reference on, or by itself."""
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
        self.watch_once(holder)
        self.watch_once(announcer)

    def on_borrow_confirm(self, source: bytes, message: BorrowConfirm) -> None:
        """A holder has been told of a registration that was announced for it."""
        self.check_own(message.object_id)
        entry = self.entries.get(message.object_id)
        key = (source, message.announcer)
        if entry is None or entry.announced is None or key not in entry.announced:
            return
        entry.announced[key] -= 1
        if not entry.announced[key]:
            del entry.announced[key]
        self._count(message.object_id, entry, source, 1)

    def on_borrow_check(self, source: bytes, message: BorrowCheck) -> None:
        """An owner wants to know that everything an announcer had sent has been confirmed."""
        self._peers(source, BorrowChecked(message.object_id, message.announcer))

    def on_borrow_checked(self, source: bytes, message: BorrowChecked) -> None:
        """What a dead announcer announced and the holder has not confirmed never reached it."""
        self.check_own(message.object_id)
        if message.announcer not in self._dead:
            raise ProtocolError("an answer to what was not asked: the announcer lives")
        entry = self.entries.get(message.object_id)
        if entry is not None and entry.announced is not None:
            entry.announced.pop((source, message.announcer), None)
            self._collect(message.object_id, entry)

    def on_borrow_ack(self, source: bytes, message: BorrowAck) -> None:
        """An owner has registered what this process announced."""
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
        """A holder gives registrations back."""
        self.check_own(message.object_id)
        entry = self.entries.get(message.object_id)
        if entry is not None and source not in self._dead:
            self._count(message.object_id, entry, source, -message.registrations)
            if entry.holders and source in entry.holders:
                # It has given back what a result, which waits for others, is still to announce: it may die before.
                self.watch_once(source)

    def on_process_died(self, process_id: bytes) -> None:
        """Its registrations are void; its objects are gone."""
        self._dead.add(process_id)
        self._watched.discard(process_id)
        for token in [token for token, row in self._unacked.items() if row[1] == process_id]:
            self._acknowledged(token)
        for object_id, entry in list(self.entries.items()):
            if entry.announced:
                self._check_announcements(object_id, entry, process_id)
            if entry.holders is not None and entry.holders.pop(process_id, None) is not None:
                self._collect(object_id, entry)
            elif entry.status is PENDING and object_id.startswith(process_id):
                self.fail(
                    object_id, "OwnerDiedError", "the process that owned the object died before its value was known"
                )

    def _check_announcements(self, object_id: bytes, entry: Entry, dead: bytes) -> None:
        assert entry.announced is not None
        for holder, announcer in list(entry.announced):
            if holder == dead:
                del entry.announced[holder, announcer]
            elif announcer == dead:
                self._peers(holder, BorrowCheck(object_id, announcer))
        self._collect(object_id, entry)

    def is_dead(self, process_id: bytes) -> bool:
        """Whether this process has been told of that one's death."""
        return process_id in self._dead


class _Gate:
    """Counts acknowledgements down to an action."""

    __slots__ = ("_action", "_left")

    def __init__(self, left: int, action: Callable[[], None]) -> None:
        self._left = left
        self._action = action

    def open_one(self) -> None:
        self._left -= 1
        if not self._left:
            self._action()
