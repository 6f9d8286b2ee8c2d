"""Ways to start programs, and the surroundings that they run in."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from .helpers import Process, driver, error_of, eventually, program

BODY = program("""
    ray.init(num_cpus=2)
    offset = 40

    class Point:
        def __init__(self, x):
            self.x = x

    def helper(n):
        return n + offset

    @ray.remote
    def shift(point):
        return Point(helper(point.x))

    @ray.remote
    class Counter:
        def __init__(self):
            self.points = []
        def add(self, point):
            assert isinstance(point, Point)
            self.points.append(point)
            return len(self.points)

    counter = Counter.remote()
    result = ray.get(shift.remote(Point(2)))
    assert type(result) is Point
    ray.get([counter.add.remote(shift.remote(result)) for _ in range(5)])
    print("answer", result.x, ray.get((lambda: ray.remote(lambda: sys.argv).remote())()) is not None)
""")


def test_python_c():
    with Process([sys.executable, "-c", BODY]) as process:
        assert process.succeed() == "answer 42 True"


def test_script_without_a_guard(sandbox):
    script = sandbox.directory / "script.py"
    script.write_text(BODY)
    with Process([sys.executable, str(script)]) as process:
        assert process.succeed() == "answer 42 True"


def test_script_with_a_guard(sandbox):
    script = sandbox.directory / "script.py"
    script.write_text("def main():\n" + textwrap.indent(BODY, "    ") + "\nif __name__ == '__main__':\n    main()\n")
    with Process([sys.executable, str(script)]) as process:
        assert process.succeed() == "answer 42 True"


def test_module_of_a_package(sandbox):
    package = sandbox.directory / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "sibling.py").write_text("def double(n):\n    return 2 * n\n")
    (package / "__main__.py").write_text(
        "import zray as ray\nfrom package.sibling import double\nray.init(num_cpus=1)\n"
        "print('answer', ray.get(ray.remote(double).remote(21)))\n"
    )
    with Process([sys.executable, "-m", "package"], cwd=sandbox.directory) as process:
        assert process.succeed() == "answer 42"


def test_script_on_stdin():
    with Process([sys.executable, "-"], stdin=BODY) as process:
        assert process.succeed() == "answer 42 True"


def test_interactive():
    lines = """
import zray as ray
_ = ray.init(num_cpus=1)
@ray.remote
def f(x):
    return x + 1

print("first", ray.get(f.remote(1)))
@ray.remote
def f(x):
    return x + 10

print("second", ray.get(f.remote(1)))
1 / 0
print("third", ray.get(f.remote(2)))
"""
    with Process([sys.executable, "-i", "-u"], stdin=lines) as process:
        output = process.succeed()
        assert "first 2" in output and "second 11" in output and "third 12" in output


def test_without_init_and_without_shutdown():
    with Process([sys.executable, "-c", "import zray; print(zray.get(zray.remote(lambda: 42).remote()))"]) as process:
        assert process.succeed() == "42"


def test_optimised_and_isolated_interpreters():
    for flags in (["-O"], ["-I"], ["-W", "error"], ["-X", "dev"]):
        with Process([sys.executable, *flags, "-c", BODY]) as process:
            assert process.succeed() == "answer 42 True", flags


# ------------------------------------------------------------------------------------------------ modules


def test_local_modules_beside_the_script(sandbox):
    place = sandbox.directory / "project"
    place.mkdir()
    (place / "tools.py").write_text(
        "class Tool:\n    def __init__(self, n):\n        self.n = n\ndef use(tool):\n    return tool.n + 1\n"
    )
    (place / "script.py").write_text(
        "import zray as ray, tools\nray.init(num_cpus=1)\n"
        "print('answer', ray.get(ray.remote(tools.use).remote(tools.Tool(41))))\n"
        "print('open', ray.get(ray.remote(lambda: open('data.txt').read()).remote()))\n"
    )
    elsewhere = sandbox.directory / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "data.txt").write_text("beside the driver")
    with Process([sys.executable, str(place / "script.py")], cwd=elsewhere) as process:
        output = process.succeed()
        assert "answer 42" in output and "open beside the driver" in output


def test_path_extended_before_init(sandbox):
    place = sandbox.directory / "more"
    place.mkdir()
    (place / "found_late.py").write_text("def f():\n    return 42\n")
    source = f"""
    sys.path.insert(0, {str(place)!r})
    ray.init(num_cpus=1)
    import found_late
    print(ray.get(ray.remote(found_late.f).remote()))
    """
    with driver(source) as process:
        assert process.succeed() == "42"


def test_a_module_that_is_missing_on_the_worker_is_named(sandbox):
    place = sandbox.directory / "late"
    place.mkdir()
    (place / "too_late.py").write_text("def f():\n    return 42\n")
    source = f"""
    ray.init(num_cpus=1)
    sys.path.insert(0, {str(place)!r})
    import too_late
    try:
        print("value", ray.get(ray.remote(too_late.f).remote()))
    except ModuleNotFoundError as error:
        print("message", str(error).replace(chr(10), " | "))
    try:
        print("value", ray.get(ray.remote(lambda g: g()).remote(too_late.f)))
    except ModuleNotFoundError as error:
        print("message", str(error).replace(chr(10), " | "))
    """
    import socket

    with driver(source) as process:
        for line in process.succeed().splitlines():
            assert line.startswith("message"), line
            assert "too_late" in line and socket.gethostname() in line and "site-packages" in line, line


def test_get_while_a_module_is_imported_by_a_worker(sandbox):
    place = sandbox.directory / "project"
    place.mkdir()
    (place / "asks_early.py").write_text(
        "import zray\nVALUE = zray.get(zray.remote(lambda: 41).remote()) + 1\ndef f():\n    return VALUE\n"
    )
    source = f"""
    sys.path.insert(0, {str(place)!r})
    ray.init(num_cpus=1)
    @ray.remote
    def load():
        import asks_early
        return asks_early.f()
    print(ray.get(load.remote(), timeout=8))
    """
    with driver(source) as process:
        assert process.succeed() == "42"


# ------------------------------------------------------------------------------------------------ once and again


def test_init_twice(ray):
    with pytest.raises(RuntimeError, match="twice"):
        ray.init()
    ray.init(ignore_reinit_error=True)
    assert ray.get(ray.remote(lambda: 1).remote()) == 1


def test_shutdown_twice_and_init_again(ray):
    ref = ray.put(1)
    ray.shutdown()
    ray.shutdown()
    assert not ray.is_initialized()
    ray.init(num_cpus=1)
    with pytest.raises(ray.exceptions.RayError):
        ray.get(ref, timeout=1)
    assert ray.get(ray.remote(lambda: 1).remote()) == 1


def test_context_manager():
    import zray as ray

    with ray.init(num_cpus=1) as context:
        assert Path(context["session_dir"]).exists()
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
    assert not ray.is_initialized()


def test_init_many_times_without_growth():
    import zray as ray

    def cycle() -> tuple[int, int]:
        ray.init(num_cpus=1)
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
        ray.shutdown()
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    counts = [cycle() for _ in range(20)]
    # What is closed in the background may take a moment.
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= counts[1][0])
    eventually(lambda: len(os.listdir("/proc/self/task")) <= counts[1][1])


def test_init_in_a_thread():
    source = """
    import threading
    results = []
    def body():
        ray.init(num_cpus=1)
        results.append(ray.get(ray.remote(lambda: 42).remote()))
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    print(results[0], ray.get(ray.remote(lambda: 43).remote()))
    """
    with driver(source) as process:
        assert process.succeed() == "42 43"


def test_many_threads(ray):
    square = ray.remote(lambda n: n * n)
    results: dict[int, list[int]] = {}

    def body(me: int) -> None:
        results[me] = [ray.get(square.remote(n)) for n in range(me, me + 20)]

    threads = [threading.Thread(target=body, args=(me,)) for me in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == {me: [n * n for n in range(me, me + 20)] for me in range(16)}


def test_init_after_fork_in_the_child():
    source = """
    ray.init(num_cpus=1)
    f = ray.remote(lambda: os.getpid())
    ref = f.remote()
    ray.get(ref)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert not ray.is_initialized()
            ray.init(num_cpus=1)
            assert ray.get(f.remote()) > 0
            ray.shutdown()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert ray.get(f.remote()) > 0
    child = os.fork()
    if child == 0:
        sys.exit(0)   # its atexit handlers must leave the parent's cluster alone
    assert os.waitpid(child, 0)[1] == 0
    assert ray.get(f.remote()) > 0
    print("fine")
    """
    with driver(source) as process:
        assert process.succeed() == "fine"


def test_multiprocessing_beside_zray():
    source = """
    import multiprocessing
    ray.init(num_cpus=1)
    f = ray.remote(lambda: 1)
    assert ray.get(f.remote()) == 1
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(abs, [-1, -2]))
    print(ray.get(f.remote()))
    """
    with driver(source) as process:
        assert process.succeed() == "[1, 2]\n1"


def test_children_that_are_terminated_as_soon_as_they_are_forked():
    """SIGTERM has its default effect in them again, at whatever moment it comes."""
    source = """
    import signal
    ray.init(num_cpus=1)
    for _ in range(200):
        child = os.fork()
        if child == 0:
            while True:
                signal.pause()
        os.kill(child, signal.SIGTERM)
        status = os.waitpid(child, 0)[1]
        assert os.WTERMSIG(status) == signal.SIGTERM, status
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    print("fine")
    """
    with driver(source) as process:
        assert process.succeed() == "fine"


@pytest.mark.parametrize("handler", ["signal.SIG_IGN", "print"])
def test_a_program_keeps_its_own_handler_of_sigterm(handler):
    source = f"""
    import signal
    signal.signal(signal.SIGTERM, {handler})
    ray.init(num_cpus=1)
    assert signal.getsignal(signal.SIGTERM) is {handler}
    ray.shutdown()
    assert signal.getsignal(signal.SIGTERM) is {handler}
    print("fine")
    """
    with driver(source) as process:
        assert process.succeed() == "fine"


def test_several_sigterm_are_one_and_atexit_can_use_the_cluster():
    source = """
    import atexit, signal
    ray.init(num_cpus=1)
    f = ray.remote(lambda: 1)
    atexit.register(lambda: print("at exit", ray.get(f.remote()), flush=True))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("finally", flush=True)
    """
    with driver(source) as process:
        assert process.wait() == 15, process.report()
        assert process.out.split("\n")[:2] == ["finally", "at exit 1"]


def test_use_in_atexit_and_del():
    source = """
    import atexit
    ray.init(num_cpus=1)
    f = ray.remote(lambda n: n)

    class Late:
        def __del__(self):
            print("del", ray.get(f.remote(1)))

    Late()
    atexit.register(lambda: print("atexit", ray.get(f.remote(2))))
    """
    with driver(source) as process:
        assert process.succeed() == "del 1\natexit 2"


# ------------------------------------------------------------------------------------------------ surroundings

SMALL = "ray.init(num_cpus=1); print(ray.get(ray.remote(lambda: 42).remote()), len(ray.get(ray.put(b'x' * 1_000_000))))"


def test_tmpdir_too_long(sandbox, monkeypatch):
    long = sandbox.directory / ("d" * 150)
    long.mkdir()
    with driver(SMALL, environ={"ZRAY_TMPDIR": str(long)}) as process:
        assert process.wait() == 1 and "ZRAY_TMPDIR" in process.err and "too long" in process.err
    with driver(SMALL, environ={"TMPDIR": str(long)}) as process:
        assert process.succeed() == "42 1000000"


def test_directory_that_is_not_private(sandbox):
    sandbox.root.mkdir(mode=0o777)
    sandbox.root.chmod(0o777)
    with driver(SMALL) as process:
        assert process.wait() == 1 and "is accessible to other users" in process.err
    sandbox.root.chmod(0o700)


@pytest.mark.parametrize("variable", ["HOME", "USER", "LOGNAME", "PATH", "LANG", "TMPDIR"])
def test_without_a_variable(variable, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    with driver(SMALL) as process:
        assert process.succeed() == "42 1000000"


def test_working_directory_that_cannot_be_written_or_is_gone(sandbox):
    gone = sandbox.directory / "gone"
    gone.mkdir()
    with driver(SMALL, cwd="/proc/self") as process:
        assert process.succeed() == "42 1000000"
    source = f"os.rmdir({str(gone)!r})\n    {SMALL}"
    with driver("    " + source, cwd=gone) as process:
        assert process.succeed() == "42 1000000"


def test_few_descriptors():
    source = """
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    ray.init(num_cpus=2)

    @ray.remote(num_cpus=0)
    class Actor:
        def pid(self):
            return os.getpid()

    f = ray.remote(lambda n: n)
    assert ray.get([f.remote(n) for n in range(500)]) == list(range(500))
    actors = [Actor.remote() for _ in range(20)]
    print(len(set(ray.get([actor.pid.remote() for actor in actors], timeout=15))))
    arrays = [ray.get(ray.put(b"x" * 200_000)) for _ in range(300)]
    print(sum(map(len, arrays)))
    """
    with driver(source) as process:
        assert process.succeed() == "20\n60000000"


def test_more_workers_than_descriptors_ends_in_an_error_and_no_hang():
    source = """
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    ray.init(num_cpus=1)

    @ray.remote(num_cpus=0)
    class Actor:
        def pid(self):
            return os.getpid()

    actors = [Actor.remote() for _ in range(100)]
    refs = [actor.pid.remote() for actor in actors]
    outcomes = {"pid": 0, "error": 0}
    for ref in refs:
        try:
            ray.get(ref, timeout=15)
            outcomes["pid"] += 1
        except ray.exceptions.ActorDiedError as error:
            assert "Too many open files" in str(error) or "could not be started" in str(error), error
            outcomes["error"] += 1
    print(outcomes)
    """
    with driver(source) as process:
        output = process.succeed(40)
        assert "'pid': 0" not in output


@pytest.mark.parametrize("fds", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_streams(fds, sandbox):
    result = sandbox.directory / "result"
    source = program(f"""
    ray.init(num_cpus=1)
    def talk():
        print("out")
        print("err", file=sys.stderr)
        return 42
    value = ray.get(ray.remote(talk).remote())
    ray.shutdown()
    open({str(result)!r}, "w").write(str(value))
    """)
    close = " ".join(f"{fd}{'<' if fd == 0 else '>'}&-" for fd in fds)
    command = ["sh", "-c", f'exec "$0" -c "$1" {close}', sys.executable, source]
    done = subprocess.run(command, timeout=20, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and result.read_text() == "42"


def test_a_reader_that_goes_away():
    """As in ``driver | head -1``: the pipe breaks while workers print."""
    source = program("""
    ray.init(num_cpus=1)
    talk = ray.remote(lambda n: print("line", n))
    try:
        ray.get([talk.remote(n) for n in range(200)])
        print("done", file=sys.stderr)
    finally:
        ray.shutdown()
        os._exit(0)
    """)
    command = ["sh", "-c", '"$0" -u -c "$1" | head -1', sys.executable, source]
    done = subprocess.run(command, timeout=20, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1 and "done" in done.stderr


def test_gevent_style_import_orders_do_not_matter():
    """zray imported late, numpy first, threads already running."""
    source = """
    import threading
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    ray.init(num_cpus=1)
    print(ray.get(ray.remote(lambda: threading.active_count()).remote()) >= 1)
    """
    with driver(source) as process:
        assert process.succeed() == "True"


def test_unsuitable_settings_are_named():
    with driver(SMALL, environ={"ZRAY_SILENCE_S": "soon"}) as process:
        assert process.wait() == 1 and "ZRAY_SILENCE_S='soon'" in process.err


def test_get_in_async_code(ray):
    import asyncio

    f = ray.remote(lambda n: n)

    async def body() -> list[int]:
        return await asyncio.gather(*(f.remote(n) for n in range(20)))

    assert asyncio.run(body()) == list(range(20))
    error = error_of(ray, ray.remote(lambda: 1 / 0).remote())
    assert isinstance(error, ZeroDivisionError)


def test_futures_after_shutdown():
    source = """
    import asyncio
    ray.init(num_cpus=1)
    @ray.remote
    def wait(for_s):
        time.sleep(for_s)
        return "value"
    ready, never = wait.remote(0), wait.remote(1000)
    assert ray.get(ready) == "value"
    before, called_back = never.future(), []
    before.add_done_callback(lambda future: called_back.append(type(future.exception()).__name__))
    cancelled = never.future()
    assert cancelled.cancel()

    def outcome(wait):
        try:
            return wait()
        except Exception as error:
            return type(error).__name__

    async def wait_for(ref):
        return await ref

    def outcomes():
        return [outcome(lambda: before.result(20)), outcome(lambda: never.future().result(20)),
                outcome(lambda: asyncio.run(wait_for(never))), outcome(lambda: ready.future().result(20))]

    ray.shutdown()
    expected = ["ClusterUnavailableError"] * 3 + ["value"]
    assert outcomes() == expected, outcomes()
    assert called_back == ["ClusterUnavailableError"]
    ray.init(num_cpus=1)
    assert outcomes() == expected, outcomes()
    """
    with driver(source) as process:
        process.succeed()
