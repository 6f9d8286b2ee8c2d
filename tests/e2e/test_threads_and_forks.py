"""What threads, callbacks, forks and odd exceptions do to a session: no call hangs, and no answer is lost."""

from __future__ import annotations

import pytest

from tests.e2e.helpers import driver, eventually

PREAMBLE = """
    import threading
    ray.init(num_cpus=2)
    @ray.remote
    def one():
        return 1
"""


def succeeds(sandbox, body: str) -> str:
    with driver(PREAMBLE + body) as process:
        return process.succeed()


def test_a_callback_of_a_future_may_get(sandbox):
    succeeds(
        sandbox,
        """
    done = threading.Event()
    one.remote().future().add_done_callback(lambda _: (ray.get(one.remote()), done.set()))
    assert ray.get(one.remote()) == 1
    assert done.wait(5)
    """,
    )


def test_a_child_that_a_task_forks_ends_by_itself(sandbox):
    succeeds(
        sandbox,
        """
    @ray.remote
    def forks(how):
        pid = os.fork()
        if pid == 0:
            if how == "exit":
                sys.exit(3)
            if how == "raise":
                raise ValueError("in the child")
            return "from the child"
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert ray.get([forks.remote("exit"), forks.remote("raise"), forks.remote("return")], timeout=8) == [3, 1, 0]
    """,
    )


def test_any_exception_of_an_async_method_is_an_answer(sandbox):
    succeeds(
        sandbox,
        """
    class Odd(BaseException):
        pass
    @ray.remote
    class Actor:
        async def fail(self):
            raise Odd("odd")
    try:
        ray.get(Actor.remote().fail.remote(), timeout=8)
    except ray.exceptions.RayTaskError as error:
        assert "odd" in str(error)
    else:
        raise AssertionError
    """,
    )


def test_references_made_while_pickling_a_result_live(sandbox):
    succeeds(
        sandbox,
        """
    class Lazy:
        def __reduce__(self):
            return list, ([ray.put(5)],)
    @ray.remote
    def make():
        return Lazy()
    assert ray.get(ray.get(make.remote())[0]) == 5
    assert ray.get(ray.get(ray.put(Lazy()))[0]) == 5
    """,
    )


def test_a_task_that_breaks_stdout_affects_no_other_task(sandbox):
    succeeds(
        sandbox,
        """
    @ray.remote
    def breaks():
        sys.stdout = None
    ray.get([breaks.remote() for _ in range(4)])
    assert ray.get([one.options(max_retries=0).remote() for _ in range(20)]) == [1] * 20
    """,
    )


def test_shutdown_ends_the_waits_of_other_threads(sandbox):
    succeeds(
        sandbox,
        """
    @ray.remote
    def forever():
        threading.Event().wait()
    ended, begun = [], threading.Barrier(4)
    def wait(call):
        ref = forever.options(num_cpus=0).remote()
        begun.wait()
        try:
            call(ref)
        except ray.exceptions.RayError as error:
            ended.append(str(error))
    calls = (ray.get, ray.get, lambda ref: ray.get(ref, timeout=60))
    threads = [threading.Thread(target=wait, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    begun.wait()
    ray.shutdown()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
    assert len(ended) == 3, ended
    """,
    )


INTERRUPTED = """
    def interrupted():
        try:
            signal.raise_signal(signal.SIGINT)
            ray.get(ray.remote(time.sleep).remote(1000))
        except KeyboardInterrupt:
            return True
    def in_thread(call):
        import concurrent.futures
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(call).result(30)
    def here(call):
        return call()
"""


@pytest.mark.parametrize("start", ["here", "in_thread"])
@pytest.mark.parametrize("end", ["here", "in_thread"])
def test_any_thread_may_start_and_end_a_session(sandbox, start, end):
    """And afterwards Ctrl-C is Python's own again, in that session and in the next."""
    with driver(
        INTERRUPTED
        + f"""
    for _ in range(2):
        {start}(lambda: ray.init(num_cpus=1))
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
        assert interrupted()
        assert ray.get(ray.remote(lambda: 2).remote()) == 2
        {end}(ray.shutdown)
        assert not ray.is_initialized()
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print("interrupted")
    if {end!r} == "here":
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    """
    ) as process:
        assert process.succeed(30).count("interrupted") == 2
        assert not sandbox.leftovers()


@pytest.mark.parametrize("end", ["here", "in_thread"])
@pytest.mark.parametrize("handler", ["print_it", "signal.SIG_IGN", "signal.SIG_DFL", "signal.default_int_handler"])
def test_a_handler_set_after_the_start_stays(sandbox, end, handler):
    with driver(
        INTERRUPTED
        + f"""
    def print_it(number, frame):
        print("mine", flush=True)
    ray.init(num_cpus=1)
    signal.signal(signal.SIGINT, {handler})
    {end}(ray.shutdown)
    assert signal.getsignal(signal.SIGINT) is {handler}
    ray.init(num_cpus=1)
    assert {handler!r} == "signal.default_int_handler" or signal.getsignal(signal.SIGINT) is {handler}
    {end}(ray.shutdown)
    """
    ) as process:
        process.succeed(30)


def test_many_threads_end_a_session_at_once(sandbox):
    with driver(
        """
    import concurrent.futures
    for _ in range(3):
        ray.init(num_cpus=1)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for ended in [pool.submit(ray.shutdown) for _ in range(8)]:
                ended.result(30)
        assert not ray.is_initialized()
    """
    ) as process:
        process.succeed(40)


def test_a_callback_in_the_background_may_end_the_session(sandbox):
    with driver(
        PREAMBLE
        + """
    ended = threading.Event()
    one.remote().future().add_done_callback(lambda _: (ray.shutdown(), ended.set()))
    assert ended.wait(15)
    assert not ray.is_initialized()
    ray.init(num_cpus=1)
    assert ray.get(one.remote()) == 1
    """
    ) as process:
        process.succeed(30)


def test_an_interrupted_end_is_an_end(sandbox):
    """Ctrl-C while ``shutdown`` waits: it is raised, and nothing is left."""
    with driver(
        PREAMBLE
        + """
    from zray.api import cluster
    cluster._await_last_output = lambda session: signal.raise_signal(signal.SIGINT)
    try:
        ray.shutdown()
    except KeyboardInterrupt:
        print("interrupted")
    sys.stdin.readline()
    """
    ) as process:
        process.expect("interrupted")
        eventually(lambda: sandbox.processes() == [process.pid])
        assert not sandbox.segments() and not sandbox.sessions()
        process.say("go")
        process.say("\n")
        process.succeed()


FORKED = """
    ray.init(num_cpus=1)
    ref = ray.put(5)
    pid = os.fork()
    if pid == 0:
        for read in (lambda: ray.get(ref), lambda: ray.wait([ref]), lambda: ray.remote(abs).remote(ref)):
            try:
                read()
            except ray.exceptions.ObjectLostError as error:
                print("child:", error, flush=True)
        ray.shutdown()
        os._exit(0)
    os.waitpid(pid, 0)
    print("parent:", ray.get(ref))
"""


def test_a_forked_child_is_told_that_its_parents_references_are_not_its_own(sandbox):
    with driver(FORKED) as process:
        lines = process.succeed().splitlines()
    assert len(lines) == 4
    assert all("made before this process was forked" in line for line in lines[:3])
    assert lines[3] == "parent: 5"
