"""What brokers and hosts log: each event, with the identifiers that a program knows."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import zmq

from zray import version
from zray.protocol.codec import pack_handshake
from zray.protocol.messages import PROTOCOL_VERSION, WORKER, Hello
from zray.protocol.records import JoinInfo

from .helpers import Process, Sandbox, by_hand, driver, eventually

FAST = {"ZRAY_SILENCE_S": "2", "ZRAY_HEARTBEAT_S": "0.5", "ZRAY_INFEASIBLE_WARN_S": "0.1"}

PROGRAM = """
import os, signal
ray.init(ADDRESS)
me = lambda: ray.get_runtime_context()
@ray.remote(max_retries=1)
def task(path):
    if not os.path.exists(path):
        print("ids task", me().get_task_id(), me().get_worker_id(), me().get_node_id(), flush=True)
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
@ray.remote(max_restarts=1)
class Actor:
    def ids(self):
        return me().get_actor_id(), me().get_worker_id(), me().get_node_id()
    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)
ray.get(task.remote(sys.argv[1]))
actor = Actor.remote()
print("ids actor", *ray.get(actor.ids.remote()))
try:
    ray.get(actor.die.remote())
except ray.exceptions.RayActorError:
    print("it has died")
print("ids again", *ray.get(actor.ids.remote()))
ray.kill(actor)
ref = ray.remote(num_gpus=77)(lambda: 1).remote()
sys.stdin.readline()
"""


def lines(text: str, *wanted: str) -> list[str]:
    """Returns the lines of a log that contain all of these words."""
    return [line for line in text.splitlines() if all(word in line for word in wanted)]


def ids(process: Process, what: str) -> list[str]:
    return process.expect(f"ids {what}").partition(f"ids {what}")[2].split()


def logged(sandbox: Sandbox, name: str) -> str:
    """Returns the contents of all files with that name."""
    return "".join(path.read_text() for path in sandbox.logs(name))


def test_what_happens_to_a_task_and_an_actor_is_found_by_their_identifiers(sandbox: Sandbox, tmp_path: Path) -> None:
    with by_hand(cpus=2, environ={**FAST, "ZRAY_LOG_LEVEL": "debug"}) as (address, broker, (host,)):
        program = PROGRAM.replace("ADDRESS", repr(address))
        with driver(program, arguments=[str(tmp_path / "ran")], environ=FAST) as process:
            task, worker, node = ids(process, "task")
            actor, served, _ = ids(process, "actor")
            _, again, _ = ids(process, "again")
            broker.expect("cannot be scheduled", stream="err")
            process.say("\n")
            process.succeed()
            broker.expect(" left", stream="err")
    log = broker.err
    assert lines(log, "INFO", f"host {node} (", "joined with")
    assert lines(log, "DEBUG", f"worker {worker}", f"is started on host {node}")
    assert lines(log, "WARNING", f"worker {worker} on host {node} is gone", "SIGKILL")
    (failed,) = lines(log, "WARNING", f"task {task} (attempt 1) failed with worker {worker}")
    assert failed.endswith("WorkerCrashedError, it was running")
    assert lines(log, "INFO", f"task {task} (attempt 2) is queued again")
    assert lines(log, "INFO", f"actor {actor} (Actor) runs on worker {served} of host {node}")
    assert lines(log, "WARNING", f"actor {actor} (Actor) restarts", "SIGKILL")
    assert lines(log, "INFO", f"actor {actor} (Actor) runs on worker {again} of host {node}")
    assert lines(log, "INFO", f"actor {actor} (Actor) is dead", "ray.kill")
    assert lines(log, "WARNING", "job 00000001", "77", "cannot be scheduled")
    assert lines(host.err, "WARNING", f"worker {worker}", "SIGKILL", f"it was running task {task}")
    assert lines(host.err, "INFO", f"host {node} has joined") and lines(host.err, f"host {node} ends: signal 15")
    assert lines(logged(sandbox, "broker.log"), f"task {task}") == lines(log, f"task {task}")
    assert lines(logged(sandbox, "host.log"), task) == lines(host.err, task)


def test_refused_processes_are_logged_with_the_reason(sandbox: Sandbox) -> None:
    with by_hand(hosts=0) as (address, broker, _):
        name = b"x" * 16
        hello = Hello(PROTOCOL_VERSION - 1, "2.7", version.VERSION, WORKER, name, JoinInfo(pid=77))
        context: zmq.Context[Any] = zmq.Context()
        with context, context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.ROUTING_ID, name)
            socket.connect(address)
            socket.send(pack_handshake(hello))
            line = broker.expect("refused", stream="err")
    assert f"WARNING zray.broker.membership: refused worker {name.hex()}" in line
    assert f"versions differ: protocol {PROTOCOL_VERSION - 1} there, {PROTOCOL_VERSION} here; python 2.7 there" in line


def test_only_lines_of_the_wanted_level() -> None:
    with (
        by_hand("--log-level", "error", environ={"ZRAY_LOG_LEVEL": "warning"}) as (address, broker, (host,)),
        driver(f"ray.init({address!r})") as process,
    ):
        process.succeed()
    assert not broker.err and not host.err


@pytest.mark.parametrize("command", ["broker", "worker"])
def test_no_such_level(command: str) -> None:
    import subprocess
    import sys

    line = [sys.executable, "-m", f"zray.cli.{command}", "--log-level", "loud"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "--log-level 'loud' cannot be used: needed: DEBUG, INFO, WARNING, ERROR" in done.stderr


@pytest.mark.parametrize("level", ["", "info"])
def test_a_local_cluster_logs_to_files_and_says_nothing(sandbox: Sandbox, level: str) -> None:
    """By default only failures are logged: the user that has started the cluster knows the rest."""
    source = """
    ray.init(num_cpus=1)
    crash = ray.remote(max_retries=0)(lambda: os.abort())
    ref = crash.remote()
    ray.wait([ref])
    print("ids node", ray.nodes()[0]["NodeID"])
    """
    with driver(source, environ={"ZRAY_LOG_LEVEL": level} if level else {}) as process:
        (node,) = ids(process, "node")
        process.succeed()
        assert "zray.broker" not in process.err
    broker, host = logged(sandbox, "broker.log"), logged(sandbox, "host.log")
    assert lines(broker, "WARNING zray.broker", f"on host {node} is gone", "SIGABRT")
    assert lines(host, "WARNING zray.host", "SIGABRT")
    assert bool(lines(broker, "INFO", f"host {node}", "joined with {CPU: 1, ")) == bool(level)
    assert bool(lines(host, "INFO", f"host {node} has joined")) == bool(level)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in sandbox.logs("*.log"))


def test_a_log_that_cannot_be_written_stops_nothing(sandbox: Sandbox) -> None:
    source = "ray.init(num_cpus=1); print('up'); sys.stdin.readline(); print(ray.get(ray.remote(lambda: 7).remote()))"
    with driver(source) as process:
        process.expect("up")
        (session,) = sandbox.sessions()
        logs = session.parent / "logs" / session.name
        for path in logs.iterdir():
            path.unlink()
        logs.rmdir()
        process.say("\n")
        assert process.succeed().endswith("7")


def test_a_host_that_is_killed_is_in_the_log_with_all_that_it_ran() -> None:
    source = """
    ray.init({address!r})
    @ray.remote(max_retries=0)
    def stay():
        print("ids task", ray.get_runtime_context().get_task_id(), flush=True)
        time.sleep(1000)
    ref = stay.remote()
    sys.stdin.readline()
    """
    with by_hand(cpus=1, environ=FAST) as (address, broker, (host,)), driver(source.format(address=address)) as process:
        (task,) = ids(process, "task")
        host.signal(signal.SIGKILL)
        broker.expect("is lost", stream="err")
        eventually(lambda: lines(broker.err, "WARNING", f"task {task} (attempt 1) failed with", "NodeDiedError"))
        process.popen.kill()


def test_each_of_many_processes_has_one_line(sandbox: Sandbox) -> None:
    """Refusals are summed up: a process that dials again and again does not fill the log."""
    with by_hand(hosts=0) as (address, broker, _):
        context: zmq.Context[Any] = zmq.Context()
        with context:
            for number in range(50):
                name = number.to_bytes(16, "big")
                hello = Hello(0, "2.7", version.VERSION, WORKER, name, JoinInfo(pid=os.getpid()))
                with context.socket(zmq.DEALER) as socket:
                    socket.setsockopt(zmq.ROUTING_ID, name)
                    socket.connect(address)
                    socket.send(pack_handshake(hello))
                    assert socket.poll(10_000)
        summary = broker.expect("49 processes were refused (worker 49x), the last:", stream="err")
    assert "refused worker" in summary and len(lines(broker.err, "refused")) == 2
