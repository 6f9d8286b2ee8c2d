"""References without a session: a tracker that makes each one on demand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from zray.object_ref import ObjectRef, set_tracker


class FakeTracker:
    """Interns references. Fails the test if a reference is pickled in the way that is meant for users' own pickles."""

    def __init__(self) -> None:
        self.known: dict[bytes, ObjectRef] = {}

    def intern(self, object_id: bytes) -> ObjectRef:
        return self.known.setdefault(object_id, ObjectRef._make(object_id, self))

    def make(self) -> ObjectRef:
        return self.intern(os.urandom(28))

    def dropped(self, object_id: bytes) -> None:
        pass

    def future_of(self, object_id: bytes) -> Future[Any]:
        raise NotImplementedError

    def current_job(self) -> bytes:
        raise NotImplementedError

    def pickled_by_user(self, object_id: bytes) -> None:
        raise AssertionError("ObjectRef.__reduce__ was called")


@pytest.fixture
def tracker() -> Iterator[FakeTracker]:
    made = FakeTracker()
    before = set_tracker(made)
    yield made
    set_tracker(before)
