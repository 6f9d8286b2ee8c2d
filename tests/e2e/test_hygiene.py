"""Within ten seconds after any process ends in any way, nothing of the session is left. (The fixture checks it too.)"""

from __future__ import annotations

import os
import signal

import pytest

from .helpers import Sandbox, alive, driver, eventually

BUSY = """
    import subprocess
    ray.init(num_cpus=2)

    @ray.remote
    def start_processes():
        import array
        plain = subprocess.Popen(["sleep", "1000"])
        read, write = os.pipe()
        if os.fork() == 0:            # a classic daemon: forks twice, has a session of its own
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                os.write(write, b"%d" % os.getpid())
                os.execvp("sleep", ["sleep", "1001"])
            os._exit(0)
        os.wait()
        return plain.pid, int(os.read(read, 100))

    @ray.remote
    class Holder:
        def hold(self, value):
            self.value = value
            return len(value)

    holder = Holder.options(name="holder").remote()
    data = ray.put(b"x" * 3_000_000)
    assert ray.get(holder.hold.remote(data)) == 3_000_000
    pids = ray.get(start_processes.remote())
    print("pids", *pids)

    @ray.remote
    def forever():
        time.sleep(1000)
"""


def processes_of_tasks(line: str) -> list[int]:
    """Returns the PIDs that ``BUSY`` printed; they run."""
    pids = [int(word) for word in line.split()[1:]]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    return pids


def assert_gone(sandbox: Sandbox, pids: list[int]) -> None:
    sandbox.assert_clean()
    assert not any(alive(pid) for pid in pids)


def test_shutdown(sandbox):
    with driver(BUSY + "    sys.stdin.readline(); ray.shutdown(); print('down'); sys.stdin.read()") as process:
        pids = processes_of_tasks(process.expect("pids"))
        process.say("go\n")
        process.expect("down")
        eventually(lambda: sandbox.processes() == [process.pid])
        assert not sandbox.segments() and not sandbox.sockets() and not sandbox.sessions()
        assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize(
    "ending, code",
    [
        ("pass", 0),
        ("raise ValueError('mine')", 1),
        ("sys.exit(7)", 7),
        ("os._exit(9)", 9),
        ("os.abort()", -signal.SIGABRT),
    ],
)
def test_however_the_driver_ends(sandbox, ending, code):
    with driver(BUSY + f"    forever.remote(); sys.stdin.readline(); {ending}") as process:
        pids = processes_of_tasks(process.expect("pids"))
        process.say("go\n")
        assert process.wait() == code, process.report()
        assert_gone(sandbox, pids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_to_the_driver(sandbox, number):
    default = "    import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored\n"
    with driver(BUSY + default + "    print('waiting'); ray.get(forever.remote())") as process:
        pids = processes_of_tasks(process.expect("pids"))
        process.expect("waiting")
        process.signal(number)
        process.wait(10.0)
        assert_gone(sandbox, pids)


@pytest.mark.parametrize(
    "title, number",  # the zygote ignores signals that ask it to end: it ends with its host
    [
        ("zray: host", signal.SIGKILL),
        ("zray: host", signal.SIGTERM),
        ("zray: broker", signal.SIGKILL),
        ("zray: broker", signal.SIGTERM),
        ("zray-zygote", signal.SIGKILL),
    ],
)
def test_the_end_of_a_part_ends_waits_and_leaves_nothing(sandbox, title, number):
    source = (
        BUSY
        + """
    print("waiting")
    try:
        ray.get(forever.remote())
    except ray.exceptions.ClusterUnavailableError as error:
        print("caught", error)
    for call in (lambda: ray.put(1), lambda: forever.remote(), lambda: holder.hold.remote(b""), ray.cluster_resources):
        try:
            ray.get(call(), timeout=5)
        except ray.exceptions.ClusterUnavailableError:
            print("refused")
        except TypeError:
            pass
    ray.shutdown()
    print("ready to go on")
    """
    )
    with driver(source) as process:
        pids = processes_of_tasks(process.expect("pids"))
        process.expect("waiting")
        os.kill(sandbox.one(title), number)
        process.expect("caught", 10.0)
        process.expect("ready to go on", 10.0)
        assert process.succeed().count("refused") >= 3
        assert_gone(sandbox, pids)


def test_init_after_the_cluster_died(sandbox):
    source = """
    ray.init(num_cpus=1)
    f = ray.remote(lambda: os.getpid())
    ray.get(f.remote())
    print("up")
    try:
        ray.get(ray.remote(time.sleep).remote(1000))
    except ray.exceptions.ClusterUnavailableError:
        ray.shutdown()
    ray.init(num_cpus=1)
    assert ray.get(f.remote()) > 0
    """
    with driver(source) as process:
        process.expect("up")
        os.kill(sandbox.one("zray: host"), signal.SIGKILL)
        process.succeed()


def test_a_dead_session_is_swept_by_the_next(sandbox):
    """Host and zygote are killed together: the next start of a cluster cleans up."""
    with driver(BUSY + "    sys.stdin.readline(); os._exit(0)") as process:
        pids = processes_of_tasks(process.expect("pids"))
        victims = [sandbox.one("zray-zygote"), sandbox.one("zray: host"), process.pid]
        for pid in victims:
            os.kill(pid, signal.SIGSTOP)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        process.wait()
    with driver("ray.init(num_cpus=1); print('up'); sys.stdin.readline()") as process:
        process.expect("up")
        eventually(lambda: not any(alive(pid) for pid in pids))
        eventually(lambda: len(sandbox.sessions()) == 1 and len(sandbox.segments()) == 1)


def test_two_clusters_of_one_user_do_not_touch_each_other(sandbox):
    source = BUSY + "    print('up'); sys.stdin.readline(); assert ray.get(holder.hold.remote(data)) == 3_000_000"
    with driver(source) as one, driver(source) as other:
        mine, theirs = (processes_of_tasks(process.expect("pids")) for process in (one, other))
        one.signal(signal.SIGKILL)
        eventually(lambda: not any(alive(pid) for pid in mine))
        assert all(alive(pid) for pid in theirs)
        other.say("go\n")
        other.succeed()


def test_a_driver_stopped_for_longer_than_the_silence_goes_on(sandbox):
    source = """
    ray.init(num_cpus=1)
    @ray.remote
    def slow(path):
        while not os.path.exists(path):
            time.sleep(0.02)
        return "done"
    ref = slow.remote(sys.argv[1] if len(sys.argv) > 1 else os.environ["GATE"])
    print("waiting")
    print(ray.get(ref))
    """
    gate = sandbox.directory / "gate"
    with driver(source, environ={"GATE": str(gate), "ZRAY_SILENCE_S": "3", "ZRAY_HEARTBEAT_S": "0.5"}) as process:
        process.expect("waiting")
        host = sandbox.one("zray: host")
        os.kill(host, signal.SIGSTOP)
        broker = sandbox.one("zray: broker")
        os.kill(broker, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGSTOP)
        _let_pass(4.0)
        for pid in (broker, host, process.pid):
            os.kill(pid, signal.SIGCONT)
        gate.touch()
        process.expect("done")
        process.succeed()


def test_a_driver_that_holds_the_interpreter_lock_or_is_stopped_keeps_its_job(sandbox):
    """Silence alone is not a death: Ctrl-Z, and code that holds the GIL, last longer than any heartbeat."""
    source = """
    import ctypes
    ray.init(num_cpus=1)
    @ray.remote
    class Counter:
        n = 0
        def add(self):
            self.n += 1
            return self.n
    counter = Counter.remote()
    assert ray.get(counter.add.remote()) == 1
    ctypes.PyDLL(None).usleep(3_500_000)
    assert ray.get(counter.add.remote()) == 2
    print("ready to stop")
    sys.stdin.readline()
    assert ray.get(counter.add.remote()) == 3
    """
    with driver(source, environ={"ZRAY_SILENCE_S": "1.5", "ZRAY_HEARTBEAT_S": "0.3"}) as process:
        process.expect("ready to stop", 15)
        process.signal(signal.SIGSTOP)
        _let_pass(3.0)
        process.signal(signal.SIGCONT)
        process.say("go\n")
        process.succeed()


def _let_pass(seconds: float) -> None:
    """Waits: the test is about the time for which the processes are stopped."""
    import threading

    threading.Event().wait(seconds)
