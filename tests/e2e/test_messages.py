"""Unsendable values are refused where they are made, large ones go through the store, and slow peers are waited for."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .helpers import by_hand, current_session, driver, error_of, eventually, store_of

MIB = 1 << 20


class Large(Exception):
    """A value of any size."""

    def __init__(self, data):
        super().__init__("large")
        self.data = data


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": "file-\udcff"}, ValueError),
        ({"name": "a", "namespace": "\ud800"}, ValueError),
        ({"max_restarts": 2**70}, ValueError),
        ({"max_task_retries": 2**31}, ValueError),
        ({"name": "x" * (12 * MIB)}, ValueError),
        ({"resources": {"\udcff": 1}}, ValueError),
        ({"num_cpus": 1e300}, ValueError),
        ({"memory": 2**80}, ValueError),
    ],
    ids=lambda value: next(reversed(value)) if isinstance(value, dict) else "",
)
def test_options_that_cannot_travel_are_refused_at_the_call_by_name(ray, options, error):
    @ray.remote
    def number(n):
        return n

    @ray.remote(num_cpus=0)
    class Actor:
        def number(self, n):
            return n

    refs = [number.remote(n) for n in range(500)]
    with pytest.raises(error, match=next(reversed(options))) as caught:
        Actor.options(**options).remote()
    assert len(str(caught.value)) < 1000
    assert ray.get(refs, timeout=30) == list(range(500))
    assert ray.get(Actor.remote().number.remote(7), timeout=30) == 7


def test_lookups_of_names_that_cannot_travel(ray):
    for name, namespace in (("\udcff", None), ("a", "\udcff"), ("x" * MIB, None)):
        with pytest.raises(ValueError, match=r"name|namespace"):
            ray.get_actor(name, namespace)
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor("a")


def test_keywords_and_function_names_need_not_be_utf8(ray):
    @ray.remote
    def keyword(**given):
        return given

    keyword._function.__qualname__ = "\udcff"
    one = ray.put(1)
    assert ray.get(keyword.remote(**{"\udcff": one, "b\ud800": 2})) == {"\udcff": 1, "b\ud800": 2}


def test_a_working_directory_that_is_not_utf8(sandbox):
    directory = os.fsencode(sandbox.directory) + b"/\xff\xfe"
    os.mkdir(directory)
    source = """
    ray.init(num_cpus=1)
    assert ray.get(ray.remote(os.getcwd).remote()) == os.getcwd()
    print("fine")
    """
    with driver(source, cwd=directory) as process:
        process.expect("fine", 20)
        process.succeed()


# ------------------------------------------------------------------------------------------------ large errors


@pytest.fixture
def small_messages(monkeypatch):
    monkeypatch.setenv("ZRAY_MAX_MESSAGE_BYTES", str(8 * MIB))


@pytest.mark.parametrize("n_returns", [1, 3])
def test_a_large_error_travels_through_the_store(small_messages, ray, n_returns):
    @ray.remote(num_returns=n_returns, max_retries=0)
    def fail():
        raise Large(bytes(20 * MIB))

    @ray.remote
    def needs(*args):
        return args

    refs = [fail.remote()] if n_returns == 1 else fail.remote()
    behind = needs.remote(refs[-1])
    far_behind = needs.remote(needs.remote(behind), 1)
    for ref in [*refs, behind, far_behind]:
        error = error_of(ray, ref, 20)
        assert isinstance(error, Large) and isinstance(error, ray.exceptions.TaskError)
        assert len(error.data) == 20 * MIB
        del error
    assert ray.get(needs.remote(1)) == (1,)


def test_a_large_error_is_in_the_store_once_and_goes_with_its_references(small_messages, ray):
    @ray.remote(num_returns=20, max_retries=0)
    def fail():
        raise Large(bytes(MIB))

    def used():
        usage = store_of(current_session()).usage()
        return usage.used - usage.recyclable

    refs = fail.remote()
    kept = refs[7]  # not the one whose object has the bytes
    assert isinstance(error_of(ray, kept, 20), Large)
    assert MIB <= used() < 3 * MIB
    del refs
    assert isinstance(error_of(ray, kept, 20), Large)
    del kept
    eventually(lambda: used() == 0)


def test_a_large_error_when_only_a_later_return_is_fetched(small_messages, ray):
    @ray.remote(num_returns=3, max_retries=0)
    def fail(gate):
        raise Large(bytes(MIB))

    gate = ray.remote(lambda: __import__("time").sleep(0.3)).remote()
    *_, wanted = fail.remote(gate)
    del _
    assert isinstance(error_of(ray, wanted, 20), Large)


def test_a_large_error_reaches_borrowers(small_messages, ray):
    @ray.remote(num_returns=2, max_retries=0)
    def fail():
        raise Large(bytes(MIB))

    @ray.remote
    def look(refs):
        import zray

        seen = []
        for ref in refs:
            try:
                zray.get(ref)
            except zray.exceptions.TaskError as error:
                seen.append(len(error.data))
        return seen

    assert ray.get(look.remote(fail.remote()), timeout=20) == [MIB, MIB]


def test_an_error_of_a_command_with_much_output(small_messages, ray):
    @ray.remote
    def command():
        import subprocess

        subprocess.run(["sh", "-c", "head -c 20000000 /dev/zero; exit 3"], check=True, capture_output=True)

    error = error_of(ray, command.remote(), 20)
    assert error.returncode == 3 and len(error.stdout) == 20_000_000


def test_a_large_error_of_a_method_and_of_a_constructor(small_messages, ray):
    @ray.remote(num_cpus=0)
    class Actor:
        def __init__(self, size=0):
            if size:
                raise Large(bytes(size))

        def fail(self):
            raise Large(bytes(20 * MIB))

        async def wait(self):
            return 1

    actor = Actor.remote()
    assert len(error_of(ray, actor.fail.remote(), 20).data) == 20 * MIB
    assert ray.get(actor.wait.remote()) == 1
    assert "large" in str(error_of(ray, Actor.remote(20 * MIB).wait.remote(), 20))


def test_an_error_that_is_larger_than_the_store(sandbox):
    """It goes to disk, like any value."""
    source = """
    ray.init(num_cpus=1, object_store_memory=32 << 20)

    class Large(Exception):
        pass

    @ray.remote(max_retries=0)
    def fail():
        raise Large(bytes(64 << 20))

    try:
        ray.get(fail.remote(), timeout=30)
    except Large as error:
        assert error.args == (bytes(64 << 20),)
        print("fine")
    """
    with driver(source) as process:
        process.expect("fine", 30)
        process.succeed()


# ------------------------------------------------------------------------------------------------ slow peers


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_driver_that_is_stopped_does_not_make_the_broker_grow(sandbox):
    """What was sent is not sent again, and no more than the bound on work under way is run for it."""
    source = """
    ray.init()
    f = ray.remote(max_retries=0)(lambda n: bytes(90_000))
    refs = [f.remote(n) for n in range(6000)]  # 540 MB
    print("submitted")
    assert all(len(value) == 90_000 for value in ray.get(refs))
    print("fine")
    """
    with by_hand() as (address, broker, _), driver(source, environ={"ZRAY_ADDRESS": address}) as process:
        process.expect("submitted", 60)
        process.signal(signal.SIGSTOP)
        sizes = []

        def has_settled():
            sizes.append(resident_bytes(broker.pid))
            return len(sizes) > 100 and max(sizes[-100:]) - min(sizes[-100:]) < 4 * MIB

        eventually(has_settled, 60, 0.1)
        assert max(sizes) < 300 * MIB, [size >> 20 for size in sizes[::10]]
        process.signal(signal.SIGCONT)
        process.expect("fine", 60)
        process.succeed()


def test_a_driver_waits_for_a_broker_that_does_not_read(sandbox):
    """``remote`` blocks the driver when 64 MiB are under way, instead of letting it grow."""
    source = """
    import resource
    ray.init()
    f = ray.remote(lambda data: len(data))
    ray.get(f.remote(b""))
    print("going")
    sys.stdin.readline()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refs = [f.remote(bytes(90_000)) for n in range(4000)]  # 360 MB
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 700_000, (before, after)
    assert ray.get(refs, timeout=60) == [90_000] * 4000
    print("fine")
    """
    environ = {"ZRAY_SILENCE_S": "60"}
    with by_hand(environ=environ) as (address, broker, _):
        environ["ZRAY_ADDRESS"] = address
        with driver(source, environ=environ) as process:
            process.expect("going", 30)
            broker.signal(signal.SIGSTOP)
            process.say("\n")
            eventually(lambda: resident_bytes(process.pid) > 100 * MIB, 30)
            sizes = []

            def has_settled():
                sizes.append(resident_bytes(process.pid))
                return len(sizes) > 30 and sizes[-1] == sizes[-30]

            eventually(has_settled, 30, 0.1)
            broker.signal(signal.SIGCONT)
            process.expect("fine", 60)
            process.succeed()
