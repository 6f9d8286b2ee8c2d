"""Processes that tasks and actors start end with their worker; resource trackers get time to clean up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .helpers import SHARED_MEMORY, Sandbox, alive, driver, eventually

ENDS = {
    "kill": lambda ray, actor: ray.kill(actor),
    "exit": lambda ray, actor: actor.leave.remote(),
    "terminate": lambda ray, actor: actor.__ray_terminate__.remote(),
    "sys.exit": lambda ray, actor: actor.system_exit.remote(),
    "SIGKILL": lambda ray, actor: actor.signal.remote(signal.SIGKILL),
    "SIGSEGV": lambda ray, actor: actor.signal.remote(signal.SIGSEGV),
    "drop": lambda ray, actor: None,
}


def parent_class(ray: ModuleType) -> Any:
    @ray.remote
    class Parent:
        def start(self, **options):
            """Starts a child, its child, and one that the shell leaves behind."""
            script = "sleep 1000 & echo $! $$; (sleep 1000 & echo $!); exec sleep 1000"
            child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, **options)
            assert child.stdout is not None
            return [int(word) for _ in range(2) for word in child.stdout.readline().split()]

        def leave(self):
            ray.actor.exit_actor()

        def system_exit(self):
            sys.exit(0)

        def signal(self, number):
            os.kill(os.getpid(), number)

    return Parent


@pytest.mark.parametrize("end", ENDS)
def test_children_of_an_actor_go_with_it(ray: ModuleType, end: str) -> None:
    parent, other = (parent_class(ray).options(num_cpus=0).remote() for _ in range(2))
    pids = ray.get(parent.start.remote())
    of_other = ray.get(other.start.remote())
    assert len(pids) == 3 and all(map(alive, pids))
    ENDS[end](ray, parent)
    del parent
    eventually(lambda: not any(map(alive, pids)))
    assert all(map(alive, of_other))


def test_children_in_a_session_of_their_own_stay(ray: ModuleType, sandbox: Sandbox) -> None:
    parent = parent_class(ray).remote()
    own = ray.get(parent.start.remote(start_new_session=True))
    pids = ray.get(parent.start.remote())
    ray.kill(parent)
    eventually(lambda: not any(map(alive, pids)))
    assert all(map(alive, own))
    ray.shutdown()
    sandbox.assert_clean()
    assert not any(map(alive, own))


def test_children_of_a_task_go_with_its_worker(ray: ModuleType) -> None:
    @ray.remote(max_calls=1)
    def start():
        apart: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}
        return subprocess.Popen(["sleep", "1000"], **apart).pid

    pid = ray.get(start.remote())
    eventually(lambda: not alive(pid))


def test_the_children_of_an_actors_last_incarnation_have_ended(ray: ModuleType, tmp_path: Path) -> None:
    @ray.remote(max_restarts=1, max_task_retries=1)
    class Restarted:
        def __init__(self):
            last = tmp_path / "pid"
            self.was_alive = last.exists() and alive(int(last.read_text()))
            last.write_text(str(subprocess.Popen(["sleep", "1000"]).pid))

        def look(self):
            return self.was_alive

        def die(self):
            if not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)

    restarted = Restarted.remote()
    assert not ray.get(restarted.look.remote())
    ray.get(restarted.die.remote())
    assert not ray.get(restarted.look.remote())


TRACKED = """
    import multiprocessing
    from multiprocessing import shared_memory
    ray.init(num_cpus=1)

    @ray.remote
    class Tracked:
        def track(self):
            memory = shared_memory.SharedMemory(create=True, size=1000)
            lock = multiprocessing.get_context("spawn").Lock()
            self.kept = memory, lock
            # A child that would hold the tracker's pipe open.
            if os.fork() == 0:
                signal.pause()
            return memory.name, lock._semlock.name

    tracked = Tracked.remote()
    print("names", *ray.get(tracked.track.remote()))
"""


@pytest.mark.parametrize("end", ["shutdown", "kill", "driver", "host", "zygote"])
def test_shared_memory_and_semaphores_go_with_the_worker(sandbox: Sandbox, end: str) -> None:
    last = {"shutdown": "ray.shutdown()", "kill": "ray.kill(tracked); sys.stdin.readline()"}.get(end, "")
    with driver(f"{TRACKED}    sys.stdin.readline(); {last}") as process:
        _, memory, semaphore = process.expect("names").split()
        files = [SHARED_MEMORY / memory, SHARED_MEMORY / f"sem.{semaphore.lstrip('/')}"]
        assert all(file.exists() for file in files)
        if end == "driver":
            process.signal(signal.SIGKILL)
        elif end in ("host", "zygote"):
            os.kill(sandbox.one("zray: host" if end == "host" else "zray-zygote"), signal.SIGKILL)
        else:
            process.say("go\n")
        eventually(lambda: not any(file.exists() for file in files))
        process.signal(signal.SIGKILL)
    sandbox.assert_clean()
