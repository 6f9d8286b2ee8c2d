"""Drivers over TCP that are stopped, as by Ctrl-Z: their job goes on as long as their machine answers."""

from __future__ import annotations

import signal
import threading

import pytest

from .helpers import by_hand, driver, free_port

QUICK = {"ZRAY_SILENCE_S": "1", "ZRAY_HEARTBEAT_S": "0.2"}
STOPPED_S = 11.0
"""Longer than a machine may acknowledge nothing, with the settings above."""

QUIET = """
ray.init(sys.argv[1], insecure=True)
@ray.remote(num_cpus=0)
class Counter:
    n = 0
    def add(self):
        self.n += 1
        return self.n
counter = Counter.remote()
assert ray.get(counter.add.remote()) == 1
print("ready to stop")
sys.stdin.readline()
assert ray.get(counter.add.remote()) == 2
ray.shutdown()
"""
# More arrives meanwhile than the kernel's buffers hold: nothing can be sent, and only its probes are answered.
BUSY = """
ray.init(sys.argv[1], insecure=True)
@ray.remote(num_cpus=0)
def noise(n):
    time.sleep(0.1)
    print("x" * 1000)
    return bytes([n]) * 90_000
refs = [noise.remote(n) for n in range(100)]
print("ready to stop")
sys.stdin.readline()
assert ray.get(refs) == [bytes([n]) * 90_000 for n in range(100)]
ray.shutdown()
"""


def test_a_driver_that_is_stopped_keeps_its_job():
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        by_hand("--bind", address, "--insecure", environ=QUICK) as (address, _, _),
        driver(QUIET, arguments=[address], environ=QUICK) as quiet,
        driver(BUSY, arguments=[address], environ=QUICK) as busy,
    ):
        for process in (quiet, busy):
            process.expect("ready to stop")
            process.signal(signal.SIGSTOP)
        threading.Event().wait(STOPPED_S)  # the test is about this time
        for process in (quiet, busy):
            process.signal(signal.SIGCONT)
            process.say("go\n")
        for process in (quiet, busy):
            process.succeed(40)


@pytest.mark.parametrize("address", ["tcp", "ipc"])
def test_the_job_of_a_driver_that_was_killed_ends(address):
    import zray as ray

    options = ("--bind", f"tcp://127.0.0.1:{free_port()}", "--insecure") if address == "tcp" else ()
    source = """
    ray.init(sys.argv[1], insecure=sys.argv[1].startswith("tcp"))
    @ray.remote
    def for_ever():
        print("begun")
        time.sleep(1000)
    ref = for_ever.remote()
    ray.get(ref)
    """
    with by_hand(*options, cpus=1, environ=QUICK) as (address, _, _):
        with driver(source, arguments=[address], environ=QUICK) as process:
            process.expect("begun")
        ray.init(address, insecure=address.startswith("tcp"))
        assert ray.get(ray.remote(lambda: "free").remote(), timeout=15) == "free"
        ray.shutdown()
