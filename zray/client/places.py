"""Where objects are, for the session's process: the question to the client core, and the wait for its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from zray.client.core.client_core import ClientCore
from zray.client.shell import ClientShell
from zray.client.stores import Stores
from zray.client.waiter import Waiter
from zray.exceptions import ClusterUnavailableError, GetTimeoutError
from zray.protocol.records import ObjectLocation


class Asker(Protocol):
    """The parts of a session that are used here."""

    core: ClientCore
    shell: ClientShell
    stores: Stores

    def check_usable(self) -> None:
        """Raises if the cluster is gone or this is a forked child."""


def locations_of(session: Asker, object_ids: Sequence[bytes], timeout_s: float | None) -> list[ObjectLocation]:
    """Asks the owners of objects where these are. Objects whose owner is dead, or does not know them, are left out.

    Raises GetTimeoutError if an owner has not answered within ``timeout_s`` seconds; ClusterUnavailableError.
    """
    session.check_usable()
    waiter = Waiter(session.shell)
    answers: list[list[ObjectLocation]] = []

    def on_answer(found: list[ObjectLocation]) -> None:
        answers.append(found)
        waiter.wake()

    places = session.core.places
    number: int = session.shell.run(lambda: places.ask(object_ids, on_answer))
    try:
        session.shell.wait(waiter, timeout_s)
    finally:
        with session.shell.lock:
            places.give_up(number)
    if session.shell.lost:
        raise ClusterUnavailableError(session.shell.lost)
    if not answers:
        raise GetTimeoutError(f"the owners of the objects did not tell within {timeout_s} s where these are")
    return answers[0]


def own_locations_of(session: Asker, object_ids: Sequence[bytes]) -> list[ObjectLocation]:
    """Where objects are as far as this process knows, without asking any other process."""
    session.check_usable()
    with session.shell.lock:
        return session.core.places.own(object_ids)


def is_spilled(session: Asker, location: ObjectLocation) -> bool:
    """Whether an object is on the disk of this machine. Stores of other machines cannot be looked into."""
    stores = [session.stores.of(host) for host in location.hosts]
    return any(store.is_spilled(location.object_id) for store in stores if store is not None)
