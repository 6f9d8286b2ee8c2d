"""The program that starts a cluster may block or ignore every signal, as threads of some application servers do."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import pytest

from .helpers import Process, driver, eventually

SPOILED = """
    import threading
    everything = signal.valid_signals()
    def run():
        signal.pthread_sigmask(signal.SIG_BLOCK, everything)
        ray.init(num_cpus=2)
    thread = threading.Thread(target=run)
    {ignore}
    thread.start()
    thread.join()
"""
IGNORE = "[signal.signal(number, signal.SIG_IGN) for number in everything - {signal.SIGKILL, signal.SIGSTOP}]"

CALLS = """
    @ray.remote
    def signals():
        ignored = {number.name for number in signal.Signals if signal.getsignal(number) is signal.SIG_IGN}
        return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), sorted(ignored)
    assert ray.get(signals.remote()) == ([], ["SIGPIPE", "SIGXFSZ"]), ray.get(signals.remote())

    @ray.remote
    class Actor:
        def signals(self):
            return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        def die(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1000)
    actor = Actor.remote()
    assert ray.get(actor.signals.remote()) == []
    try:
        ray.get(actor.die.remote(), timeout=10)
    except ray.exceptions.RayActorError as error:
        assert "SIGTERM" in str(error), error

    @ray.remote(max_retries=0)
    def dies():
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        ray.get(dies.remote(), timeout=10)
    except ray.exceptions.WorkerCrashedError:
        print("death noticed")

    @ray.remote
    def sleeps():
        print("sleeping", flush=True)
        time.sleep(1000)
    for force in (False, True):
        ref = sleeps.remote()
        ray.wait([ref], timeout=0.5)
        ray.cancel(ref, force=force)
        try:
            ray.get(ref, timeout=10)
        except (ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError):
            print("cancelled")
"""


@pytest.mark.parametrize("ignore", ["", IGNORE])
def test_a_local_cluster_notices_deaths_and_cancels(sandbox, ignore):
    with driver(SPOILED.format(ignore=ignore) + CALLS + "    ray.shutdown()\n    print('down')") as process:
        out = process.succeed(40)
        assert "death noticed" in out and out.count("cancelled") == 2 and "down" in out
        assert not sandbox.leftovers()


@pytest.mark.parametrize("title", ["zray: host", "zray: broker"])
def test_parts_of_a_local_cluster_can_be_asked_to_end(sandbox, title):
    source = SPOILED.format(ignore="") + "    print('up')\n    sys.stdin.readline()\n"
    with driver(source) as process:
        process.expect("up")
        os.kill(sandbox.one(title), signal.SIGTERM)
        eventually(lambda: sandbox.processes() == [process.pid])


def _block_all() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def test_commands(sandbox):
    """Started by such a thread, they work and end as from a shell."""
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Process([sys.executable, "-m", "zray.cli.broker"], preexec_fn=_block_all))
        broker.expect("ready at")  # a worker without an address looks for it once
        command = [sys.executable, "-m", "zray.cli.worker", "--num-cpus", "2"]
        worker = stack.enter_context(Process(command, preexec_fn=_block_all))
        worker.expect("host is ready")
        with driver("ray.init('auto')\n" + CALLS.replace("\n    ", "\n")) as process:
            process.succeed(40)
        with Process([sys.executable, "-m", "zray.cli.main", "stop"], preexec_fn=_block_all) as stop:
            assert stop.succeed().count("ended the") == 2
        assert broker.wait() == 0 and worker.wait() == 0
