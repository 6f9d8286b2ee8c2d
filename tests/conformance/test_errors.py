"""The error that the caller sees for a task that raised, and for each way in which a worker dies."""

from __future__ import annotations

import builtins
import os
import signal
import sys
import threading

import pytest

from .helpers import raises_within


def fails_with(ray, raise_it, **options):
    """Returns the error of a task that is not tried again."""
    return raises_within(ray, ray.remote(max_retries=0, **options)(raise_it).remote())


def test_error_is_an_instance_of_its_own_type_and_of_task_error(ray):
    def f():
        raise ValueError("wrong value")

    error = fails_with(ray, f)
    assert isinstance(error, ValueError)
    assert isinstance(error, ray.exceptions.RayTaskError)
    assert isinstance(error, ray.exceptions.RayError)
    assert "wrong value" in str(error)


def test_error_shows_the_remote_traceback(ray):
    def culprit():
        raise KeyError("lost")

    def f():
        culprit()

    text = str(fails_with(ray, f))
    assert "in culprit" in text
    assert "test_errors.py" in text


def test_cause_is_the_original_exception(ray):
    def f():
        raise LookupError("x", 7)

    cause = fails_with(ray, f).cause
    assert type(cause) is LookupError
    assert cause.args == ("x", 7)


def test_user_exception_with_attributes(ray):
    class Custom(Exception):
        def __init__(self, code):
            super().__init__(f"code {code}")
            self.code = code

        def __reduce__(self):
            return Custom, (self.code,)

    def f():
        raise Custom(7)

    error = fails_with(ray, f)
    assert isinstance(error, Custom)
    assert error.cause.code == 7


def test_builtin_exception_with_attributes(ray):
    def f():
        os.stat("/nonexistent/file")

    error = fails_with(ray, f)
    assert isinstance(error, FileNotFoundError)
    assert error.cause.errno == 2
    assert error.cause.filename == "/nonexistent/file"


def test_chained_exception_shows_both(ray):
    def f():
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("second") from error

    text = str(fails_with(ray, f))
    assert "first" in text
    assert "second" in text


def test_constructor_that_needs_arguments(ray, impl):
    # Ray raises UnserializableException, which has only the text; zray rebuilds the exception.
    class Needs(Exception):
        def __init__(self, a, b):
            super().__init__("original text")

    def f():
        raise Needs(1, 2)

    error = fails_with(ray, f)
    assert isinstance(error, ray.exceptions.RayError)
    assert "original text" in str(error)
    if impl == "zray":
        assert isinstance(error, Needs)


def test_exception_that_cannot_be_pickled(ray):
    class Unpicklable(Exception):
        def __init__(self):
            super().__init__("original text")
            self.lock = threading.Lock()

    def f():
        raise Unpicklable

    error = fails_with(ray, f)
    assert isinstance(error, ray.exceptions.RayTaskError)
    assert "original text" in str(error)


def test_exception_that_cannot_be_unpickled(ray):
    def refuse():
        raise RuntimeError("cannot be loaded")

    class Unloadable(Exception):
        def __reduce__(self):
            return refuse, ()

    def f():
        raise Unloadable("original text")

    error = fails_with(ray, f)
    assert isinstance(error, ray.exceptions.RayError)
    assert "original text" in str(error)


def test_class_that_exists_only_on_the_worker(ray):
    def f():
        kind = type("OnlyThere", (ValueError,), {"__module__": "made_there"})
        sys.modules.setdefault("made_there", type(sys)("made_there")).OnlyThere = kind
        raise kind("original text")

    error = fails_with(ray, f)
    assert isinstance(error, ray.exceptions.RayError)
    assert "original text" in str(error)


def test_exception_without_text(ray):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text")

        __repr__ = __str__

    def f():
        raise Mute

    assert isinstance(fails_with(ray, f), ray.exceptions.RayTaskError)


def test_stop_iteration(ray):
    def f():
        raise StopIteration(5)

    assert isinstance(fails_with(ray, f), StopIteration)


def test_recursion_error(ray):
    def f():
        return f()

    assert isinstance(fails_with(ray, f), RecursionError)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_exception_group(ray):
    exception_group = vars(builtins)["ExceptionGroup"]  # types are checked for 3.10, which does not have it

    def f():
        raise exception_group("several", [ValueError("one"), KeyError("two")])

    error = fails_with(ray, f)
    assert isinstance(error, ray.exceptions.RayTaskError)
    assert isinstance(error, exception_group)
    assert [type(e) for e in error.cause.exceptions] == [ValueError, KeyError]


def test_base_exception_becomes_a_task_error(ray):
    class Base(BaseException):
        pass

    def f():
        raise Base("original text")

    error = fails_with(ray, f)
    assert isinstance(error, ray.exceptions.RayTaskError)
    assert "original text" in str(error)


def test_keyboard_interrupt_in_a_task_does_not_reach_the_driver_as_such(ray):
    def f():
        raise KeyboardInterrupt

    assert isinstance(fails_with(ray, f), (ray.exceptions.TaskCancelledError, ray.exceptions.RayTaskError))


def exit_code_3():
    sys.exit(3)


def exit_code_0():
    sys.exit(0)


def bare_system_exit():
    raise SystemExit


@pytest.mark.parametrize("leave", [exit_code_3, exit_code_0, bare_system_exit], ids=lambda f: f.__name__)
def test_system_exit_ends_the_task_with_an_error(ray, leave):
    # Ray ends the worker (WorkerCrashedError). An error of the task would be as good.
    error = fails_with(ray, leave)
    assert isinstance(error, (ray.exceptions.WorkerCrashedError, ray.exceptions.RayTaskError))


def os_exit_3():
    os._exit(3)


def os_exit_0():
    os._exit(0)


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def segfault():
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize("die", [os_exit_3, os_exit_0, kill_itself, segfault], ids=lambda f: f.__name__)
def test_dead_worker(ray, die):
    assert isinstance(fails_with(ray, die), ray.exceptions.WorkerCrashedError)


def test_dead_worker_takes_no_other_task_with_it(ray):
    poison = ray.remote(max_retries=0, num_cpus=0.25)(os_exit_3)
    echo = ray.remote(num_cpus=0.25)(lambda x: x)
    bad = [poison.remote() for _ in range(2)]
    good = [echo.remote(n) for n in range(20)]
    assert ray.get(good) == list(range(20))
    for ref in bad:
        assert isinstance(raises_within(ray, ref), ray.exceptions.WorkerCrashedError)


def test_all_returns_carry_the_error(ray):
    @ray.remote(num_returns=3)
    def f():
        raise ValueError("x")

    for ref in f.remote():
        with pytest.raises(ValueError):
            ray.get(ref)


def test_generator_that_fails_half_way(ray):
    @ray.remote(num_returns=2)
    def f():
        yield 1
        raise ValueError("half-way")

    with pytest.raises(ValueError):
        ray.get(f.remote()[1])


def test_get_of_a_list_raises_the_error_of_a_member(ray):
    def f():
        raise ValueError("x")

    with pytest.raises(ValueError):
        ray.get([ray.put(1), ray.remote(f).remote(), ray.put(2)])


def test_error_can_be_got_again(ray):
    def f():
        raise ValueError("x")

    ref = ray.remote(f).remote()
    for _ in range(2):
        with pytest.raises(ValueError):
            ray.get(ref)


def test_failed_argument_fails_the_task_without_running_it(ray, tmp_path):
    def fail():
        raise ValueError("first cause")

    @ray.remote
    def touch(path, _):
        path.touch()

    error = raises_within(ray, touch.remote(tmp_path / "ran", ray.remote(fail).remote()))
    assert isinstance(error, ValueError)
    assert "first cause" in str(error)
    assert not (tmp_path / "ran").exists()


def test_first_cause_shows_through_a_chain(ray):
    def fail():
        raise ValueError("first cause")

    follow = ray.remote(lambda x: x)
    refs = [follow.remote(follow.remote(ray.remote(fail).remote())) for _ in range(5)]
    for ref in refs:
        error = raises_within(ray, ref)
        assert isinstance(error, ValueError)
        assert "first cause" in str(error)


def test_error_passed_on_by_a_parent_task(ray):
    def fail():
        raise ValueError("first cause")

    @ray.remote
    def parent():
        return ray.get(ray.remote(fail).remote())

    error = raises_within(ray, parent.remote())
    assert isinstance(error, ValueError)
    assert "first cause" in str(error)
    assert "parent" in str(error)


def test_error_caught_by_a_parent_task(ray):
    def fail():
        raise ValueError("x")

    @ray.remote
    def parent():
        try:
            ray.get(ray.remote(fail).remote())
        except ValueError as error:
            return isinstance(error, ray.exceptions.RayTaskError)

    assert ray.get(parent.remote())


def test_exception_as_a_plain_value(ray):
    value = ray.get(ray.put(ValueError("only a value")))
    assert type(value) is ValueError
    assert type(ray.get(ray.remote(lambda: KeyError("x")).remote())) is KeyError


def test_result_that_cannot_be_pickled(ray):
    def f():
        return {"inner": threading.Lock()}

    error = fails_with(ray, f)
    assert isinstance(error, TypeError)
    assert "lock" in str(error)


def test_module_that_is_not_on_the_worker(ray):
    def f():
        import no_such_module_anywhere  # type: ignore[import-not-found] # noqa: F401

    error = fails_with(ray, f)
    assert isinstance(error, ModuleNotFoundError)
    assert "no_such_module_anywhere" in str(error)


def test_argument_that_cannot_be_unpickled_there(ray):
    def refuse():
        raise RuntimeError("cannot be loaded")

    class Unloadable:
        def __reduce__(self):
            return refuse, ()

    error = raises_within(ray, ray.remote(lambda x: 1).remote(Unloadable()))
    assert isinstance(error, ray.exceptions.RayError)
    assert "cannot be loaded" in str(error)
