"""``wait`` in a loop over many references: what it remembers for the next call keeps no object alive."""

from __future__ import annotations

import weakref

from .helpers import current_session, eventually

N = 1000


def test_references_that_wait_has_left_are_freed_soon(ray):
    refs = [ray.put(n) for n in range(N)]
    left = [weakref.ref(ref) for ref in refs]
    ids = [ref.binary() for ref in refs]
    _, rest = ray.wait(refs)
    assert len(rest) == N - 1
    del refs, rest, _
    eventually(lambda: not any(ref() for ref in left))
    eventually(lambda: not current_session().core.references.entries.keys() & set(ids))


def test_references_that_wait_has_left_are_freed_before_a_large_object_needs_their_room(ray):
    refs = [ray.put(n) for n in range(N)]
    left = [weakref.ref(ref) for ref in refs]
    _, rest = ray.wait(refs)
    del refs, rest, _
    ray.put(bytes(1 << 20))
    assert not any(ref() for ref in left)


def test_references_that_wait_has_left_are_freed_with_their_task(ray):
    @ray.remote
    class Actor:
        def wait(self):
            refs = [ray.put(n) for n in range(N)]
            self.left = [weakref.ref(ref) for ref in refs]
            return len(ray.wait(refs)[1])

        def count(self):
            return sum(ref() is not None for ref in self.left)

    actor = Actor.remote()
    assert ray.get(actor.wait.remote()) == N - 1
    assert ray.get(actor.count.remote()) == 0


def test_a_wait_for_the_next_of_many_registers_with_none(ray, monkeypatch):
    references = current_session().core.references
    registered = []
    wait_for = references.wait_for

    def counted(object_id, waiter):
        registered.append(object_id)
        return wait_for(object_id, waiter)

    monkeypatch.setattr(references, "wait_for", counted)
    identity = ray.remote(lambda n: n)
    refs = [identity.remote(n) for n in range(N)]
    pending, seen = refs, []
    while len(pending) > N // 2:
        ready, pending = ray.wait(pending)
        seen += ready
    assert not registered and not references.listeners
    assert sorted(ray.get(seen + pending)) == list(range(N))
