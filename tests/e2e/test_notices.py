"""What the user of a driver, and the broker's log, are told of losses."""

from __future__ import annotations

import signal

from .helpers import by_hand, driver

FAST = {"ZRAY_SILENCE_S": "2", "ZRAY_HEARTBEAT_S": "0.5"}

TWO_INCARNATIONS = """
@ray.remote(max_retries=3)
def fit(path):
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.path.getsize(path)

@ray.remote(max_restarts=1)
class Model:
    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)
    def ping(self):
        return "pong"

ray.init(num_cpus=2)
print(ray.get(fit.remote(sys.argv[1])))
model = Model.remote()
try:
    ray.get(model.die.remote())
except ray.exceptions.RayActorError as error:
    print("caught", str(error)[:60])
print(ray.get(model.ping.remote()))
"""


def test_deaths_with_retries_are_reported(tmp_path):
    with driver(TWO_INCARNATIONS, arguments=[str(tmp_path / "file")]) as program:
        out = program.succeed()
    assert "3\ncaught attempt 1 of 1 of `Model.die`" in out and "pong" in out
    lines = program.err.splitlines()
    (first,) = [line for line in lines if "attempt 1 of 4 of `fit` died and is tried again: the worker" in line]
    assert "SIGKILL" in first
    assert len([line for line in lines if "attempt 2 of 4 of `fit` died" in line]) == 1
    restarts = [line for line in lines if "incarnation 1 of Model" in line and "it is restarted, 0 restarts" in line]
    assert len(restarts) == 1


LONG = """
import socket
@ray.remote(max_retries=2)
def long(path):
    print("runs", flush=True)
    while not os.path.exists(path):
        time.sleep(0.05)
    return os.getppid()

ray.init("auto")
ref = long.remote(sys.argv[1])
print("submitted")
print("done", ray.get(ref) > 0)
"""


def test_a_host_that_is_killed_is_one_line_at_the_driver_and_in_the_log(tmp_path):
    go = tmp_path / "go"
    with by_hand(hosts=1, cpus=1, environ=FAST) as (_, broker, (host,)):
        broker.expect("joined with", stream="err")
        with driver(LONG, arguments=[str(go)], environ=FAST) as program:
            broker.expect("job 00000001", stream="err")
            program.expect("runs")
            host.signal(signal.SIGKILL)
            lost = program.expect("is lost", stream="err")
            assert "of this job it ran 1 task (1 tried again)" in lost and "was not heard for 2 s" in lost
            assert "is lost, with 1 tasks and 0 actors" in broker.expect("is lost", stream="err")
            assert program.err.count("is lost") == 1 and "died and is tried" not in program.err
            program.popen.kill()
        broker.expect("left", stream="err")


def test_a_host_that_is_stopped_says_goodbye(tmp_path):
    patient = {"ZRAY_SILENCE_S": "3600"}  # silence would tell only after an hour
    with (
        by_hand(cpus=1, environ=patient) as (_, _, (host,)),
        driver(LONG, arguments=[str(tmp_path / "never")]) as program,
    ):
        program.expect("runs")
        host.stop()
        assert "the host ends: signal 15" in program.expect("is lost", stream="err")
        program.popen.kill()
