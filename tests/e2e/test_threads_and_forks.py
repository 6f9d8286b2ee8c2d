"""What threads, callbacks, forks and odd exceptions can do to a session: never a hang, never an answer lost."""

from __future__ import annotations

from tests.e2e.helpers import driver

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


def test_a_task_that_breaks_stdout_hurts_nobody_else(sandbox):
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
