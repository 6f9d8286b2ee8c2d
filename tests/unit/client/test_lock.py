"""The client's lock: no user code runs while it is held, whatever the collector and signals do."""

from __future__ import annotations

import gc
import os
import signal
import threading

import pytest

from zray.client.lock import ClientLock
from zray.exceptions import ZrayError
from zray.system import signals


@pytest.fixture
def guard():
    guard = ClientLock()
    signals.install(guard)
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield guard
    for number, handler in before.items():
        signal.signal(number, handler)
    signals.uninstall(guard)
    assert not signals.deferred


class Ring:
    """A reference cycle, which only the collector frees."""

    def __init__(self, on_end):
        self.me, self.on_end = self, on_end

    def __del__(self):
        self.on_end()


def strike(number=signal.SIGUSR1):
    os.kill(os.getpid(), number)
    for _ in range(100):  # a handler runs at one of the next bytecodes
        len("")


def raiser(error):
    def handler(number, frame):
        raise error

    return handler


def test_a_handler_waits_for_the_end_of_the_section(guard):
    story: list[object] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: story.append(number))
    with guard:
        strike()
        story.append("in the section")
    assert story == ["in the section", signal.SIGUSR1]


def test_outside_of_sections_handlers_run_at_once(guard):
    story: list[object] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: story.append(number))
    strike()
    assert story == [signal.SIGUSR1]


def test_what_a_handler_raises_is_raised_where_the_section_ends(guard):
    signal.signal(signal.SIGUSR1, raiser(TimeoutError("late")))
    passed = []
    with pytest.raises(TimeoutError, match="late") as caught, guard:
        strike()
        passed.append("all of the section")
    assert passed == ["all of the section"]
    assert signals.came_from_handler(caught.value)
    with guard:
        pass


def test_a_handler_may_enter_the_section(guard):
    story: list[object] = []

    def handler(number, frame):
        with guard:
            story.append("handler")

    signal.signal(signal.SIGUSR1, handler)
    with guard:
        strike()
        story.append("section")
    assert story == ["section", "handler"]


def test_all_handlers_that_waited_are_called_even_if_one_raises(guard):
    story: list[object] = []
    signal.signal(signal.SIGUSR1, raiser(ValueError("first")))
    signal.signal(signal.SIGUSR2, lambda number, frame: story.append(number))
    with pytest.raises(ValueError, match="first"), guard:
        strike(signal.SIGUSR1)
        strike(signal.SIGUSR2)
    assert story == [signal.SIGUSR2]


def test_another_thread_that_is_in_the_section_does_not_hold_handlers_back(guard):
    story, inside, leave = [], threading.Event(), threading.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: story.append(number))

    def stay():
        with guard:
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait(60)
    strike()
    assert story == [signal.SIGUSR1]
    leave.set()
    thread.join(60)


def test_the_collector_does_not_run_in_a_section(guard):
    story: list[object] = []
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with guard:
            Ring(lambda: story.append("collected"))
            made: list[list[object]] = [[] for _ in range(1000)]
            story.append("section")
        del made
        [[] for _ in range(1000)]
    finally:
        gc.set_threshold(*threshold)
    assert story == ["section", "collected"]


def test_finalizers_may_enter_the_section(guard):
    story: list[object] = []

    def enter():
        with guard:
            story.append("finalizer")

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(200):
            Ring(enter)
            with guard:
                [[] for _ in range(10)]
        [[] for _ in range(1000)]
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert story == ["finalizer"] * 200


@pytest.mark.parametrize("own", [(700, 10, 10), (0, 10, 10), (1, 2, 3)], ids=str)
def test_the_programs_own_threshold_is_kept(guard, own):
    before = gc.get_threshold()
    gc.set_threshold(*own)
    try:
        with guard:
            assert gc.get_threshold() == (0, *own[1:])
        guard.enter_section()
        with guard:
            pass
        assert gc.get_threshold()[0] == 0
        guard.leave_section()
        assert gc.get_threshold() == own
    finally:
        gc.set_threshold(*before)


def test_a_threshold_that_is_set_meanwhile_stays(guard):
    before = gc.get_threshold()
    try:
        with guard:
            gc.set_threshold(123, 4, 5)
        assert gc.get_threshold() == (123, 4, 5)
    finally:
        gc.set_threshold(*before)


def test_an_object_that_goes_in_the_section_cannot_wait_for_its_own_thread(guard):
    errors = []

    class Last:
        def __del__(self):
            try:
                with guard:
                    errors.append("entered")
            except ZrayError as error:
                errors.append(str(error))

    last = [Last()]
    with guard:
        last.clear()
    assert len(errors) == 1 and "finalizer" in errors[0]
    with guard:
        pass


def test_a_shield_holds_handlers_back_and_a_window_lets_them_through(guard):
    story: list[object] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: story.append("handler"))
    guard.shield()
    strike()
    story.append("shielded")
    guard.open_window()
    story.append("window")
    strike()
    guard.shut_window()
    strike()
    story.append("shielded again")
    guard.unshield()
    assert story == ["shielded", "handler", "window", "handler", "shielded again", "handler"]


def test_an_inner_window_does_not_open_an_outer_shield(guard):
    story: list[object] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: story.append("handler"))
    guard.shield()
    guard.shield()
    guard.open_window()
    strike()
    guard.shut_window()
    guard.unshield()
    story.append("inner is over")
    guard.unshield()
    assert story == ["inner is over", "handler"]


def test_windows_within_windows(guard):
    story: list[object] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: story.append("handler"))
    guard.shield()
    guard.open_window()
    guard.shield()
    strike()
    story.append("inner shield")
    guard.open_window()
    guard.shut_window()
    guard.unshield()
    strike()
    guard.shut_window()
    guard.unshield()
    assert story == ["inner shield", "handler", "handler"]


def test_cleanup_after_a_handler_is_not_interrupted_by_the_next_one(guard):
    story: list[object] = []
    signal.signal(signal.SIGUSR1, raiser(KeyboardInterrupt))
    signal.signal(signal.SIGUSR2, lambda number, frame: story.append("second"))
    with pytest.raises(KeyboardInterrupt):
        guard.shield()
        try:
            guard.open_window()
            strike(signal.SIGUSR1)
            guard.shut_window()
        finally:
            strike(signal.SIGUSR2)
            story.append("cleaned up")
            guard.unshield()
    assert story == ["cleaned up", "second"]


def test_a_finalizer_leaves_handlers_to_a_later_moment(guard):
    """An exception of theirs would be lost in ``__del__``."""
    struck = threading.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: struck.set())
    guard.enter_section()
    strike()
    guard.leave_section(quietly=True)
    for _ in range(10_000):
        if struck.wait(0.001):
            break
    assert struck.is_set()


def test_a_program_sees_its_own_handlers(guard):
    def mine(number, frame):
        return

    imported_before = signal.signal
    imported_before(signal.SIGUSR1, mine)
    assert signal.getsignal(signal.SIGUSR1) is mine
    assert signal.signal(signal.SIGUSR1, signal.SIG_IGN) is mine
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_are_the_programs_own_again_when_the_session_is_over():
    def mine(number, frame):
        return

    before = signal.signal(signal.SIGUSR1, mine)
    guard = ClientLock()
    try:
        signals.install(guard)
        assert signals._get_handler(signal.SIGUSR1) is not mine
        signals.uninstall(guard)
        assert signals._get_handler(signal.SIGUSR1) is mine
        assert signals._c_signal.signal is signals._set_handler
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_another_thread_has_the_main_thread_wrap_its_handlers():
    story: list[object] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: story.append("handler"))
    guard = ClientLock()
    try:
        thread = threading.Thread(target=signals.install, args=(guard,))
        thread.start()
        thread.join(60)
        with guard:
            strike()
            story.append("section")
        assert story == ["section", "handler"]
    finally:
        signals.uninstall(guard)
        signal.signal(signal.SIGUSR1, before)


def test_a_fork_in_the_middle_of_a_section_leaves_the_child_a_collector():
    guard = ClientLock()
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with guard:
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait(60)
    before = gc.get_threshold()
    assert before[0] == 0
    pid = os.fork()
    if not pid:
        guard.left_behind_by_fork()
        os._exit(0 if gc.get_threshold()[0] else 1)
    leave.set()
    thread.join(60)
    assert os.waitpid(pid, 0)[1] == 0
