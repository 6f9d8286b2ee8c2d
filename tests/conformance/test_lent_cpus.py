"""Tasks that wait lend their CPUs; actors keep theirs."""

from __future__ import annotations

import os
import time


def test_nested_tasks_take_few_processes(ray):
    @ray.remote
    def child():
        time.sleep(0.05)  # the work that the outer task waits for
        return os.getpid()

    @ray.remote
    def parent():
        return os.getpid(), ray.get(child.remote())

    pids = ray.get([parent.remote() for _ in range(16)])
    assert len({pid for pair in pids for pid in pair}) < 10  # 4, unless the machine is slow


def test_no_more_run_at_once_than_there_are_cpus_though_they_look_for_values(ray):
    """A ``get`` of a value that exists lends no CPUs, wherever the value is."""
    there = ray.put("x")

    @ray.remote
    def look(refs):
        for _ in range(20):
            assert ray.get(refs[0]) == "x"
            assert ray.get(ray.put(1)) == 1
        begin = time.time()
        time.sleep(0.1)  # the work
        return begin, time.time()

    spans = ray.get([look.remote([there]) for _ in range(8)])
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    assert most <= 2


def test_an_actor_keeps_its_cpus_while_it_waits(ray):
    @ray.remote
    def task():
        return 1

    @ray.remote(num_cpus=2)
    class Actor:
        def wait(self):
            ready, left = ray.wait([task.remote()], timeout=1)
            return len(ready), len(left)

    assert ray.get(Actor.remote().wait.remote()) == (0, 1)
