"""``zray.util.state`` in a process that is not part of the cluster: it asks as an observer."""

from __future__ import annotations

import zray
from zray.util.state import list_tasks

from .helpers import by_hand, driver, error_of

ASK = """
import sys
from zray.util.state import StateApiClient, list_actors, list_jobs, list_tasks, summarize_tasks

address = sys.argv[1]
print([row.state for row in list_actors(address=address)])
print([row.name for row in list_tasks(address=address, filters=[("state", "=", "FINISHED")])])
print(summarize_tasks(address)["cluster"]["total_actor_tasks"])
print(len(list_jobs(address=address)))
"""

NOTHING_THERE = """
from zray.util.state import list_actors
from zray.util.state.exception import ServerUnavailable

try:
    list_actors()
except ServerUnavailable as error:
    print("unavailable", "zray.init()" in str(error))
"""


def test_a_process_outside_asks(sandbox):
    source = f"""
    import subprocess
    from zray.client.session import current

    ray.init(num_cpus=1)

    @ray.remote
    class Counter:
        def count(self):
            return 1

    counter = Counter.remote()
    ray.get(counter.count.remote())

    def outside(program, *arguments):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert outside({ASK!r}, current().address) == ["['ALIVE']", "['Counter.__init__', 'Counter.count']", "1", "1"]
    assert outside({ASK!r}, "auto") == ["['ALIVE']", "['Counter.__init__', 'Counter.count']", "1", "1"]
    ray.shutdown()
    assert outside({NOTHING_THERE!r}) == ["unavailable True"]
    """
    with driver(source) as process:
        process.succeed()


def test_tasks_of_a_driver_that_has_left(sandbox):
    with by_hand() as (address, _, _):
        with zray.init(address):

            @zray.remote
            def work(n):
                return n

            @zray.remote
            def fails():
                raise ValueError("no luck")

            zray.get([work.remote(n) for n in range(3)])
            error_of(zray, fails.remote())
            unfinished = zray.remote(resources={"nowhere": 1})(lambda: None).options(name="unfinished").remote()
            job_id = zray.get_runtime_context().get_job_id()
        del unfinished
        with zray.init(address):
            rows = [row for row in list_tasks(detail=True) if row.job_id == job_id]
    found = {row.name: row for row in rows}
    assert len(rows) == 5
    assert (found["work"].state, found["fails"].state) == ("FINISHED", "FAILED")
    assert "no luck" in (found["fails"].error_message or "")
    times = [found["work"].creation_time_ms, found["work"].start_time_ms, found["work"].end_time_ms]
    assert None not in times and times == sorted(times, key=lambda ms: ms or 0)
    assert (found["unfinished"].state, found["unfinished"].error_type) == ("FAILED", "WORKER_DIED")
