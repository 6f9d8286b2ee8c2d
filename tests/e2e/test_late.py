"""The reasons that ``GetTimeoutError`` gives for a missing value."""

from __future__ import annotations

import os
import signal
import time

import pytest

from .helpers import by_hand, eventually


@pytest.fixture
def ray(sandbox):
    import zray as ray

    ray.init(num_cpus=2)
    yield ray
    ray.shutdown()


def why(ray, refs, *expected: str) -> str:
    """Returns an error's text once it has all of these parts: what runs is known a quarter of a second later."""

    def text() -> str:
        with pytest.raises(ray.exceptions.GetTimeoutError) as caught:
            ray.get(refs, timeout=0.5)
        return str(caught.value)

    return eventually(lambda: (now := text()) and all(part in now for part in expected) and now)


def test_a_task_that_runs_and_one_that_waits_for_it(ray, tmp_path):
    @ray.remote(num_cpus=0)
    def load(path, *_):
        while not os.path.exists(path):
            time.sleep(0.05)

    ref = load.remote(tmp_path / "go")
    why(ray, ref, "1 of 1 object(s)", "`load` runs for ", " s (pid ")
    merge = load.options(name="merge").remote(tmp_path / "go", ref)
    why(ray, merge, "`merge` waits for an argument: `load` runs for ")
    (tmp_path / "go").touch()
    ray.get([ref, merge])
    ray.get(merge, timeout=0.5)


def test_no_place(ray, tmp_path):
    @ray.remote(num_cpus=8)
    def large():
        return 1

    ref = large.remote()
    why(ray, ref, "`large` has not been started: it cannot be scheduled: each asks for {CPU: 8}")
    ray.cancel(ref)

    @ray.remote(num_cpus=64)
    class Large:
        def fit(self):
            return 1

    why(ray, Large.remote().fit.remote(), "`Large.fit` waits for its actor Large, which has not been started: ")


def test_no_host(sandbox):
    import zray as ray

    with by_hand(hosts=0) as (address, _, _):
        ray.init(address)
        why(ray, ray.remote(lambda: 1).remote(), "there is no host")
        ray.shutdown()


def test_everything_is_in_use_also_by_actors(ray, tmp_path):
    @ray.remote(num_cpus=1)
    class Holder:
        def ping(self):
            return 1

    holders = [Holder.options(name=f"h{number}").remote() for number in range(2)]
    ray.get([holder.ping.remote() for holder in holders])
    text = why(ray, ray.remote(lambda: 1).remote(), "it asks for {CPU: 1}, which is in use, some of it by 2 actor(s)")
    assert "Holder 'h0', Holder 'h1'" in text
    for holder in holders:
        ray.kill(holder)


@pytest.fixture
def person(ray):
    @ray.remote(num_cpus=0)
    class Person:
        def meet(self, other):
            self.other = other

        def slow(self, path):
            while not os.path.exists(path):
                time.sleep(0.05)

        def ask(self):
            return ray.get(self.other.answer.remote())

        def answer(self):
            return ray.get(self.other.ask.remote())

        def stop(self):
            os.kill(os.getpid(), signal.SIGSTOP)

    return Person


def test_an_actor_that_is_busy(ray, person, tmp_path):
    one = person.options(name="one").remote()
    slow, behind = one.slow.remote(tmp_path / "go"), one.meet.remote(None)
    why(ray, behind, "actor Person 'one' is busy with `Person.slow` for ")
    (tmp_path / "go").touch()
    ray.get([slow, behind])


def test_actors_that_wait_for_each_other(ray, person):
    one, two = person.options(name="one").remote(), person.options(name="two").remote()
    ray.get([one.meet.remote(two), two.meet.remote(one)])
    why(ray, one.ask.remote(), "actor Person 'one' and actor Person 'two' wait for each other: this never ends")
    for each in (one, two):
        ray.kill(each)


def test_an_actor_that_waits_for_itself(ray, person):
    one = person.options(name="self").remote()
    ray.get(one.meet.remote(one))
    why(ray, one.ask.remote(), "actor Person 'self' waits for itself: this never ends")
    ray.kill(one)


def test_a_worker_that_does_not_answer(ray, person):
    one = person.remote()
    ref = one.stop.remote()
    why(ray, ref, "which does not answer: what it runs holds the interpreter's lock, or it is stopped")
    ray.kill(one)


def test_what_a_task_waits_for_is_followed(ray, tmp_path):
    @ray.remote(num_cpus=0)
    def inner(path):
        while not os.path.exists(path):
            time.sleep(0.05)

    @ray.remote(num_cpus=0)
    def outer(path):
        return ray.get(inner.remote(path))

    ref = outer.remote(tmp_path / "go")
    why(ray, ref, "`outer` runs for ", " and waits for `inner`: `inner` runs for ")
    (tmp_path / "go").touch()
    ray.get(ref)


def test_an_attempt_that_is_not_the_first_says_so(ray, tmp_path):
    @ray.remote(max_retries=3)
    def fit(path):
        if not os.path.exists(path / "again"):
            (path / "again").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        while not os.path.exists(path / "go"):
            time.sleep(0.05)

    ref = fit.remote(tmp_path)
    why(ray, ref, "`fit` (attempt 2 of 4) runs for ")
    (tmp_path / "go").touch()
    ray.get(ref)


def test_a_call_that_waits_behind_one_whose_argument_is_missing(ray, person, tmp_path):
    @ray.remote(num_cpus=0)
    def load(path):
        while not os.path.exists(path):
            time.sleep(0.05)

    one = person.remote()
    first = one.meet.remote(load.remote(tmp_path / "go"))
    behind = one.meet.remote(None)
    why(ray, first, "`Person.meet` waits for an argument: `load` runs for ")
    why(ray, behind, "`Person.meet` has not been sent: 2 calls of this process are pending")
    (tmp_path / "go").touch()
    ray.get([first, behind])


def test_many_objects_take_no_longer_than_one(ray):
    """Of twenty thousand that wait for the same, a few are looked at."""
    refs = [ray.remote(num_cpus=64)(abs).remote(number) for number in range(2000)]
    text = why(ray, refs, "cannot be scheduled")
    assert text.count("cannot be scheduled") == 1
