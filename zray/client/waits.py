"""Waits for objects: for all of them or an error (``get``); for some, on any machine or on this one (``wait``)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from zray.client.context import current_task
from zray.client.core.references import Entry
from zray.client.core.states import ERROR, PENDING, STORED
from zray.client.prefetch import Prefetch, Prefetches
from zray.client.shell import ClientShell
from zray.client.waiter import Waiter
from zray.exceptions import ClusterUnavailableError, GetTimeoutError
from zray.object_ref import ObjectRef

EXPLAINED_FROM_S = 0.5
"""A timeout of at least this many seconds is explained. Code with a shorter one polls, and must not wait for that."""
ASKING_S = 0.005
"""The time, in seconds, that a question to an object's owner may take before the task counts as waiting."""
FEW = 64
"""A wait for the next of at most this many objects registers with each of them."""


class _FirstError(Waiter):
    """A wait for objects that ends as soon as one of them is an error. Then it is ``woken``.

    ``entries``: the table of their entries.
    """

    __slots__ = ("_entries",)

    def __init__(self, shell: ClientShell, left: int, entries: dict[bytes, Entry]) -> None:
        super().__init__(shell, left)
        self._entries = entries

    def ready(self, object_id: bytes) -> None:
        self.left -= 1
        if self._entries[object_id].status is ERROR:
            self.wake()
        elif not self.left:
            self._shell.alert(self)


class Waits:
    """The waits of one session. ``lending``: a context in which a waiting task lends its CPUs."""

    def __init__(
        self,
        shell: ClientShell,
        prefetches: Prefetches,
        lending: Callable[[], contextlib.AbstractContextManager[None]],
        check_usable: Callable[[], None],
        explain: Callable[[list[bytes]], str],
    ) -> None:
        """``explain`` says why objects do not exist yet."""
        self._explain = explain
        self._shell = shell
        self._references = shell.core.references
        self._entries = shell.core.references.entries
        self._awaited = shell.core.awaited
        self._prefetches = prefetches
        self._lending = lending
        self._check_usable = check_usable

    def first_error(self, ids: list[bytes], timeout_s: float | None) -> bytes:
        """Waits until all of the objects are ready, or one is an error. Returns the first error; empty if none is one.
        Raises GetTimeoutError if that does not happen in time, ClusterUnavailableError, KeyError for a reference of
        another cluster.
        """
        entries = self._entries
        statuses = {entries[object_id].status for object_id in ids}
        if PENDING in statuses and ERROR not in statuses:
            pending = [object_id for object_id in ids if entries[object_id].status is PENDING]
            waiter = _FirstError(self._shell, len(pending), entries)
            self._await(pending, waiter, timeout_s)
            if not waiter.left and not waiter.woken:
                return b""
            statuses = {entries[object_id].status for object_id in ids}
        if ERROR in statuses:
            return next(object_id for object_id in ids if entries[object_id].status is ERROR)
        if PENDING in statuses:
            self._check_open()
            self._check_usable()
            left = [object_id for object_id in ids if entries[object_id].status is PENDING]
            why = self._explain(left) if timeout_s is not None and timeout_s >= EXPLAINED_FROM_S else ""
            raise GetTimeoutError(
                f"Get timed out, {len(left)} of {len(ids)} object(s) were not ready within {timeout_s:g} s"
                + (f": {why}" if why else "")
            )
        return b""

    def _await(self, pending: list[bytes], waiter: Waiter, timeout_s: float | None) -> None:
        """Waits for objects until the waiter is done or the time is up. Afterwards no entry refers to the waiter."""
        references = self._references
        still = len(pending) - waiter.left  # the number that may still be pending when the waiter is done
        waiting = []
        try:  # an interrupt may come at the end of any critical section
            with self._shell.lock:
                for object_id in pending:
                    if references.wait_for(object_id, waiter):
                        waiting.append(object_id)
                    else:  # it has become ready meanwhile
                        waiter.ready(object_id)
            if not waiter.is_done():
                self._awaited[waiter] = waiting
                self._block_for(pending, waiter, timeout_s)
        finally:
            self._awaited.pop(waiter, None)
            if still + waiter.left > 0:
                with self._shell.lock:
                    for object_id in waiting:
                        references.stop_waiting(object_id, waiter)

    def _check_open(self) -> None:
        if self._shell.closed:
            raise ClusterUnavailableError("zray.shutdown() was called before the values were ready")

    def _block(self, waiter: Waiter, timeout_s: float | None) -> None:
        """Waits. A task lends its CPUs meanwhile."""
        if timeout_s == 0:
            self._shell.wait(waiter, timeout_s)
        else:
            with self._lending():
                self._shell.wait(waiter, timeout_s)

    def _block_for(self, pending: list[bytes], waiter: Waiter, timeout_s: float | None) -> None:
        """As ``_block``. If other processes own all of the objects, waits ``ASKING_S`` before it lends: they may have
        the values already."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if not any(map(self._references.owns, pending)):
            self._shell.wait(waiter, ASKING_S if timeout_s is None else min(timeout_s, ASKING_S))
        if not waiter.is_done():
            self._block(waiter, None if deadline is None else max(0.0, deadline - time.monotonic()))

    def wait(
        self, refs: list[ObjectRef], num_returns: int, timeout_s: float | None, fetch_local: bool
    ) -> list[ObjectRef]:
        """Returns at most ``num_returns`` ready references, in order; with ``fetch_local`` only objects that are here.

        Raises KeyError for a reference of another cluster.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        ready = self._ready(refs, num_returns)
        if len(ready) < num_returns:
            if timeout_s == 0:
                self._shell.run(lambda: self._shell.core.collect(time.monotonic()))
                self._poll(refs)
            else:
                self._until(refs, num_returns, timeout_s)
            ready = self._ready(refs, num_returns)
        for ref in ready if self._references.unseen else ():  # an error that a program waits for counts as seen
            self._references.seen(ref._id)
        if fetch_local and not all(map(self._is_here, ready)):
            return self._wait_here(refs, num_returns, deadline)
        return ready

    # ------------------------------------------------------------------ on any machine

    def _ready(self, refs: list[ObjectRef], most: int) -> list[ObjectRef]:
        entries = self._entries
        ready = []
        for ref in refs:
            if entries[ref._id].status is not PENDING:
                ready.append(ref)
                if len(ready) == most:
                    break
        return ready

    def _until(self, refs: list[ObjectRef], needed: int, timeout_s: float | None) -> None:
        """Waits until ``needed`` of the references are ready, or the time is up."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if len(refs) > FEW and self._until_next(refs, needed, timeout_s):
            return
        pending = [ref._id for ref in refs if self._entries[ref._id].status is PENDING]
        left = needed - (len(refs) - len(pending))
        if left > 0:
            waiter = Waiter(self._shell, left)
            self._await(pending, waiter, None if deadline is None else max(0.0, deadline - time.monotonic()))
            if waiter.left > 0:
                self._check_open()

    def _until_next(self, refs: list[ObjectRef], needed: int, timeout_s: float | None) -> bool:
        """As ``_until``, if one reference is missing and this process owns all objects. Returns whether it is over.

        Programs call ``wait`` in a loop, for the next of thousands of tasks. To register with each of them takes longer
        than all the rest. So this waits for the next object of this process, whichever it is. That may be another than
        is waited for. Then the caller registers, so that others cannot wake the thread again and again.
        """
        waiter = Waiter(self._shell)
        references, entries = self._references, self._entries
        try:  # an interrupt may come at the end of any critical section
            with self._shell.lock:
                if references.borrows:  # the owner of a borrowed object has to be asked for it
                    return False
                pending = [ref._id for ref in refs if entries[ref._id].status is PENDING]
                left = needed - (len(refs) - len(pending))
                if left != 1:
                    return left <= 0
                references.listeners.add(waiter)
            self._awaited[waiter] = pending
            self._block(waiter, timeout_s)
        finally:
            self._awaited.pop(waiter, None)
            with self._shell.lock:
                references.listeners.discard(waiter)
        if not waiter.is_done():
            self._check_open()
            return True
        return len(self._ready(refs, needed)) == needed

    def _poll(self, refs: list[ObjectRef]) -> None:
        """Reads the socket once, and asks the owners of borrowed objects, without waiting."""
        waiter = Waiter(self._shell, len(refs))
        with self._shell.lock:
            asked = refs if self._references.borrows else []
            for ref in asked:
                self._references.wait_for(ref._id, waiter)
            self._shell.turn()
            for ref in asked:
                self._references.stop_waiting(ref._id, waiter)
        self._shell.settle()

    # ------------------------------------------------------------------ on this machine

    def _is_here(self, ref: ObjectRef) -> bool:
        entry = self._entries[ref._id]
        return entry.status is not STORED or self._prefetches.is_here(entry.host, ref._id)

    def _wait_here(self, refs: list[ObjectRef], num_returns: int, deadline: float | None) -> list[ObjectRef]:
        """Brings as many objects here as are wanted, and waits until as many are here; others may arrive first."""
        been_here: set[bytes] = set()  # these count even if a full store has dropped the copy again
        while True:
            here: list[ObjectRef] = []
            coming: list[Prefetch] = []
            for ref in self._ready(refs, len(refs)):
                if ref._id in been_here or self._is_here(ref):
                    been_here.add(ref._id)
                    here.append(ref)
                    if len(here) == num_returns:
                        return here
                elif len(here) + len(coming) < num_returns:
                    entry = self._entries[ref._id]
                    coming.append(self._prefetches.bring(entry.host, ref._id, entry.size))
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return here
            self._await_change(refs, coming, left_s)
            self._check_open()
            self._check_usable()

    def _await_change(self, refs: list[ObjectRef], coming: list[Prefetch], timeout_s: float | None) -> None:
        """Waits until one more of the objects exists, or has been brought here."""
        waiter = Waiter(self._shell)
        with self._shell.lock:
            for prefetch in coming:
                prefetch.waiters.append(waiter)
            pending = [ref for ref in refs if self._references.wait_for(ref._id, waiter)]
            is_over = any(prefetch.over for prefetch in coming)
        try:
            if not is_over:
                self._block(waiter, timeout_s)
        finally:
            with self._shell.lock:
                for prefetch in coming:
                    prefetch.waiters.remove(waiter)
                for ref in pending:
                    self._references.stop_waiting(ref._id, waiter)


@contextlib.contextmanager
def lending(shell: ClientShell) -> Iterator[None]:
    """A context in which a waiting task lends its CPUs. An actor keeps its own."""
    lock, execution = shell.lock, shell.core.execution
    lends = False
    lock.shield()
    try:
        with lock:
            # Not for a thread that has outlived its task: it holds no CPUs to lend.
            lends = not execution.actor_id and execution.is_running(current_task.get().task_id)
            if lends:
                execution.block()
        lock.open_window()
        yield
        lock.shut_window()
    finally:
        if lends:
            with lock:
                execution.unblock()
        lock.unshield()
