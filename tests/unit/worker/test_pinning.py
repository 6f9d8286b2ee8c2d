"""Pinning: which hosts pin, what a worker pins, and the number of threads of numerical libraries."""

from __future__ import annotations

import os
import sys
import threading
import types
from collections.abc import Iterator

import pytest

from zray.system import cpus
from zray.worker.host import pinning
from zray.worker.host.pinning import PinningClaim
from zray.worker.process import cpus as worker_cpus
from zray.worker.process.cpus import Pinning
from zray.worker.process.thread_counts import VARIABLES, ThreadCounts

UNIT = 10_000


# ---------------------------------------------------------------------- hosts


@pytest.fixture
def three_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that no real host of this machine has, so that its claims do not matter."""
    monkeypatch.setattr(pinning, "usable_cpus", lambda: [os.getpid() + 10**6, 5 * 10**7, 5 * 10**7 + 1])


@pytest.mark.usefixtures("three_cpus")
@pytest.mark.parametrize(
    ("setting", "amount", "pins", "warns"),
    [
        ("auto", 3 * UNIT, True, False),
        ("auto", 2 * UNIT, False, False),
        ("auto", 4 * UNIT, False, False),
        ("off", 3 * UNIT, False, False),
        ("on", 2 * UNIT, True, False),
        ("on", 3 * UNIT, True, False),
        ("on", 4 * UNIT, False, True),
        ("on", UNIT // 2, False, True),
        ("on", 0, False, True),
    ],
)
def test_which_hosts_pin(setting: str, amount: int, pins: bool, warns: bool) -> None:
    claim = PinningClaim(setting, amount)
    assert (claim.pins, bool(claim.warning)) == (pins, warns)
    claim.close()


@pytest.mark.usefixtures("three_cpus")
def test_one_host_pins_to_the_same_cpus() -> None:
    first = PinningClaim("auto", 3 * UNIT)
    assert not PinningClaim("auto", 3 * UNIT).pins
    assert PinningClaim("on", 3 * UNIT).pins
    first.close()
    last = PinningClaim("auto", 3 * UNIT)
    assert last.pins
    last.close()


def test_a_machine_with_many_ranges_of_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinning, "usable_cpus", lambda: list(range(10**6, 10**6 + 400, 2)))
    claim = PinningClaim("auto", 200 * UNIT)
    assert claim.pins
    claim.close()


def test_ranges() -> None:
    assert pinning.ranges([]) == ""
    assert pinning.ranges([3]) == "3"
    assert pinning.ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


# ---------------------------------------------------------------------- workers


@pytest.fixture
def affinities(monkeypatch: pytest.MonkeyPatch) -> dict[int, frozenset[int]]:
    """What threads are pinned to, in place of the kernel."""
    pinned: dict[int, frozenset[int]] = {}
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cpus: pinned.update({thread: frozenset(cpus)}))
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {4, 2, 9})
    return pinned


@pytest.fixture
def parked() -> Iterator[list[threading.Thread]]:
    """Threads that wait until the test has ended; the first exists already."""
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(2)]
    threads[0].start()
    yield threads
    end.set()
    for thread in threads:
        if thread.ident is not None:
            thread.join()


def test_all_threads_but_those_that_are_spared(
    affinities: dict[int, frozenset[int]], parked: list[threading.Thread]
) -> None:
    pinning_of_worker = Pinning()
    pinning_of_worker.apply([])
    parked[1].start()
    pinning_of_worker.apply([0, 2])
    assert affinities[os.getpid()] == affinities[parked[1].native_id or 0] == {2, 9}
    assert parked[0].native_id not in affinities
    pinning_of_worker.apply([])
    assert affinities[os.getpid()] == affinities[parked[1].native_id or 0] == {2, 4, 9}


def test_only_a_change_is_applied(affinities: dict[int, frozenset[int]]) -> None:
    pinning_of_worker = Pinning()
    pinning_of_worker.apply([])
    assert not affinities
    pinning_of_worker.apply([1])  # what the first task gets, however early the broker has told it
    assert affinities.pop(os.getpid()) == {4}
    pinning_of_worker.apply([1])
    assert not affinities


def test_an_actor_without_cpus_looks_for_no_threads(
    affinities: dict[int, frozenset[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[set[int]] = []

    def look() -> set[int]:
        looked.append({os.getpid()})
        return looked[-1]

    monkeypatch.setattr(worker_cpus, "thread_ids", look)
    actor, task = Pinning(), Pinning()
    for _ in range(2):
        actor.apply([], for_life=True)
    assert not looked and not affinities
    for _ in range(2):
        task.apply([])  # the next task may be pinned, and threads that this one starts with it
    assert len(looked) == 1
    actor.apply([1], for_life=True)
    assert len(looked) == 2 and affinities[os.getpid()] == {4}


def test_a_thread_that_has_ended_does_no_harm(affinities: dict[int, frozenset[int]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpus, "thread_ids", lambda: {1})

    def gone(thread: int, cpus: frozenset[int]) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "sched_setaffinity", gone)
    cpus.pin_threads([0], set())


def test_cpus_that_were_taken_away(affinities: dict[int, frozenset[int]]) -> None:
    worker = Pinning()
    worker.apply([2, 3])
    assert affinities[os.getpid()] == {9}
    worker.apply([3])
    assert affinities[os.getpid()] == {2, 4, 9}


def test_cpus_that_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {2**15})
    pinning_of_worker = Pinning()
    pinning_of_worker.apply([0])
    pinning_of_worker.apply([])
    pinning_of_worker.apply([0])
    assert capfd.readouterr().err.count("does not let this worker use the CPUs [32768]") == 1


# ---------------------------------------------------------------------- threads of libraries


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """The calls of threadpoolctl. Without variables of the user."""
    calls: list[dict[str, int]] = []
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is restored, also if it was not set
        monkeypatch.delenv(name)
    fake = types.ModuleType("threadpoolctl")
    fake.threadpool_limits = calls.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "threadpoolctl", fake)
    monkeypatch.setitem(sys.modules, "numpy", types.ModuleType("numpy"))
    return calls


def test_variables_are_set_and_loaded_libraries_corrected(limits: list[dict[str, int]]) -> None:
    counts = ThreadCounts()
    counts.apply(2)
    assert {os.environ[name] for name in VARIABLES} == {"2"}
    assert limits == []  # nothing is loaded before the first task
    counts.apply(2)
    counts.apply(3)
    assert {os.environ[name] for name in VARIABLES} == {"3"}
    assert limits == [{"openmp": 3, "blas": 3}]


def test_what_the_user_has_set_stays(limits: list[dict[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    counts = ThreadCounts()
    counts.apply(1)
    counts.apply(4)
    assert (os.environ["MKL_NUM_THREADS"], os.environ["OMP_NUM_THREADS"]) == ("7", "4")
    assert limits == [{"openmp": 4}]


@pytest.mark.parametrize("missing", ["threadpoolctl", "numpy"])
def test_without_a_library(limits: list[dict[str, int]], monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    if missing == "numpy":
        for name in ("numpy", "torch"):
            monkeypatch.delitem(sys.modules, name, raising=False)
    else:
        monkeypatch.setitem(sys.modules, missing, None)
    counts = ThreadCounts()
    counts.apply(1)
    counts.apply(4)
    assert limits == []
