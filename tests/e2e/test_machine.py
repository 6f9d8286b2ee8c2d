"""Effects of the machine: shared memory of all sizes, reused PIDs, a wall clock that jumps.

File systems and PIDs are real. The drivers of these tests run in Linux namespaces of their own, where another
``/dev/shm`` can be mounted and the next PID can be chosen. Where the kernel forbids namespaces, the tests are skipped
and say so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .helpers import Process, program

IN_NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private"]
if os.geteuid():
    IN_NAMESPACES += ["--user", "--map-current-user", "--keep-caps"]

LITTLE = "mount -t tmpfs -o size=1m none /dev/shm"

# A file system that is mounted over the machine's /dev, without a directory for shared memory.
WITHOUT_SHARED_MEMORY = """
    mount -t tmpfs none /mnt
    for name in null zero full random urandom tty; do touch /mnt/$name; mount --bind /dev/$name /mnt/$name; done
    ln -s /proc/self/fd /mnt/fd
    mount --move /mnt /dev
"""


@pytest.fixture(scope="module", autouse=True)
def namespaces():
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare(1), which makes namespaces")
    tried = subprocess.run([*IN_NAMESPACES, "mount", "-t", "tmpfs", "none", "/dev/shm"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"the kernel allows no namespaces: {tried.stderr.strip()}")


def driver_in_namespaces(source: str, setup: str = ":", environ: dict[str, str] | None = None) -> Process:
    """Runs a driver after the shell commands ``setup``, as root of its file systems and PIDs."""
    command = ["sh", "-c", f'set -e\n{setup}\nexec "$0" -u -c "$1"', sys.executable, program(source)]
    # The shell is PID 1, so what it becomes is too: processes that PID 1 leaves would end with it, and prove nothing.
    keeper = ["sh", "-c", '"$@"; exit $?', "keeper", *command]
    return Process([*IN_NAMESPACES, *keeper], env={**os.environ, **(environ or {})})


def test_namespaces_leave_the_machine_alone():
    """Otherwise the mounts below would affect every program that runs beside these tests."""
    mounts = Path("/proc/self/mountinfo").read_text()
    with driver_in_namespaces("print(os.statvfs('/dev/shm').f_blocks)", LITTLE) as process:
        assert process.succeed() == "256"
    assert Path("/proc/self/mountinfo").read_text() == mounts


# ---- shared memory

WORK = """
    import numpy
    ray.init(num_cpus=2, object_store_memory=int(os.environ["STORE_BYTES"]))
    make = ray.remote(lambda n: numpy.full(3 << 20, n, dtype="uint8"))
    total = ray.remote(lambda array: int(array.sum()))
    refs = [make.remote(n) for n in range(20)] + [ray.put(numpy.full(3 << 20, n, dtype="uint8")) for n in range(20)]
    assert ray.get([total.remote(ref) for ref in refs], timeout=15) == [n * (3 << 20) for n in range(20)] * 2
    print(len(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else "none", "in shared memory")
    print(len([name for name in os.listdir(os.environ["TMPDIR"]) if name.endswith("-store")]), "on disk")
"""
FULL = "mount -t tmpfs -o size=16m none /dev/shm; cat /dev/zero > /dev/shm/others 2> /dev/null || :"


@pytest.mark.parametrize(
    "setup, store_mib, where, warning",
    [
        (WITHOUT_SHARED_MEMORY, 64, "none in shared memory\n1 on disk", "missing, full or not writable"),
        (LITTLE, 64, "0 in shared memory\n1 on disk", "only 1,048,576 bytes free"),
        ("mount -t tmpfs -o size=64m none /dev/shm", 32, "1 in shared memory\n0 on disk", ""),
        ("mount -t tmpfs -o size=64m none /dev/shm", 256, "0 in shared memory\n1 on disk", "only 67,108,864 bytes"),
        (
            "mount -t tmpfs -o size=160m none /dev/shm",
            256,
            "1 in shared memory\n0 on disk",
            "and 268,435,456 were asked",
        ),
        (FULL, 64, "1 in shared memory\n1 on disk", "missing, full or not writable"),
        ("mount -t tmpfs -o ro none /dev/shm", 64, "0 in shared memory\n1 on disk", "missing, full or not writable"),
    ],
    ids=["absent", "1 MiB", "64 MiB for 32", "64 MiB for 256", "160 MiB for 256", "full", "read-only"],
)
def test_shared_memory(sandbox, setup, store_mib, where, warning):
    environ = {"STORE_BYTES": str(store_mib << 20), "TMPDIR": str(sandbox.directory)}
    with driver_in_namespaces(WORK, setup, environ) as process:
        assert process.succeed() == where, process.report()
        told = [line for line in process.err.splitlines() if "the object store is full" not in line]  # 120 MiB are much
        assert warning in process.err and bool(told) == bool(warning), process.report()
    assert not list(sandbox.directory.glob("*-store"))


def test_shared_memory_that_others_fill_afterwards(sandbox):
    """Writing a page without memory would be SIGBUS."""
    source = """
    import numpy
    ray.init(num_cpus=1, object_store_memory=96 << 20)
    kept = ray.put(numpy.full(8 << 20, 1, dtype="uint8"))
    with open("/dev/shm/others", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            pass
    make = ray.remote(lambda n: numpy.full(4 << 20, n, dtype="uint8"))
    for n in range(20):
        assert (ray.get(ray.put(numpy.full(4 << 20, n, dtype="uint8"))) == n).all()
        assert (ray.get(make.remote(n), timeout=15) == n).all()
    assert (ray.get(kept) == 1).all()
    print("fine")
    """
    with driver_in_namespaces(source, "mount -t tmpfs -o size=128m none /dev/shm") as process:
        assert process.succeed() == "fine"


# ---- PIDs

REUSE = """
    import subprocess
    from pathlib import Path

    def await_that(predicate):
        end = time.monotonic() + 10
        while not predicate():
            assert time.monotonic() < end
            time.sleep(0.01)

    def process_with_pid(pid):
        # A process outside of the session, with the PID of a process that has ended.
        await_that(lambda: not os.path.exists(f"/proc/{pid}"))
        time.sleep(0.02)  # start times have a resolution of 10 ms, in which no machine uses all its PIDs
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ZRAY_SESSION")}
        for _ in range(100):
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
            successor = subprocess.Popen(["sleep", "1000"], env=environ)
            if successor.pid == pid:
                return successor
            successor.kill()
            successor.wait()
        raise AssertionError("another process always got the PID")
"""


def test_killing_a_session_spares_a_process_with_a_reused_pid():
    source = (
        REUSE
        + """
    from zray.system import processes
    victim = subprocess.Popen(["sleep", "1000"], env={**os.environ, "ZRAY_SESSION": "0123abcd"})
    await_that(lambda: processes.processes_of_session("0123abcd"))
    successors, genuine = [], os.pidfd_open

    def in_the_worst_moment(pid):
        # The process was found, and ends; its PID is reused before it can be held.
        if pid == victim.pid and not successors:
            victim.kill()
            victim.wait()
            successors.append(process_with_pid(pid))
        return genuine(pid)

    os.pidfd_open = in_the_worst_moment
    assert processes.kill_session("0123abcd") == 0
    try:
        successors[0].wait(0.1)
    except subprocess.TimeoutExpired:
        print("spared")
    successors[0].kill()
    successors[0].wait()
    """
    )
    with driver_in_namespaces(source) as process:
        assert process.succeed() == "spared"


def test_killing_a_process_spares_one_with_its_reused_pid():
    """As a host kills its workers: the zygote reaps them, and the host may not know of their end yet."""
    source = (
        REUSE
        + """
    from zray.system import processes
    worker = subprocess.Popen(["sleep", "1000"])
    started = processes.process_start_time(worker.pid)
    processes.kill_process(worker.pid, started)
    assert worker.wait(10) == -signal.SIGKILL
    processes.kill_process(worker.pid, started)
    successor = process_with_pid(worker.pid)
    processes.kill_process(worker.pid, started)
    try:
        successor.wait(0.1)
    except subprocess.TimeoutExpired:
        print("spared")
    processes.kill_process(successor.pid, processes.process_start_time(successor.pid))
    assert successor.wait(10) == -signal.SIGKILL
    """
    )
    with driver_in_namespaces(source) as process:
        assert process.succeed() == "spared"


def test_killing_a_worker_spares_a_process_with_its_reused_pid():
    """The host does not know of its worker's death yet when it is told to kill the worker."""
    source = (
        REUSE
        + """
    ray.init(num_cpus=1)

    @ray.remote
    class Actor:
        def pids(self):
            zygote = Path(f"/proc/{os.getppid()}/stat").read_text()
            return os.getpid(), int(zygote.rpartition(")")[2].split()[1])

    for attempt in range(3):
        actor = Actor.remote()
        pid, host = ray.get(actor.pids.remote())
        os.kill(host, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        successor = process_with_pid(pid)
        ray.kill(actor)
        try:
            ray.get(actor.pids.remote(), timeout=1)
        except (ray.exceptions.ActorDiedError, ray.exceptions.GetTimeoutError):
            pass
        os.kill(host, signal.SIGCONT)
        assert ray.get(ray.remote(lambda: 1).remote(), timeout=10) == 1
        assert successor.poll() is None, f"killed in attempt {attempt}"
        successor.kill()
        successor.wait()
    print("spared")
    """
    )
    with driver_in_namespaces(source) as process:
        assert process.succeed() == "spared"


def test_address_auto_does_not_take_a_reused_pid_for_the_broker(sandbox):
    source = (
        REUSE
        + """
    broker = subprocess.Popen([sys.executable, "-m", "zray.cli.broker"], stdout=subprocess.PIPE, text=True)
    assert "ready" in broker.stdout.readline()
    broker.kill()
    broker.wait()
    successor = process_with_pid(broker.pid)
    started = time.monotonic()
    try:
        ray.init(address="auto")
    except ray.exceptions.ClusterUnavailableError:
        # At once: it has not waited for an answer at the dead broker's address.
        print("refused", "at once" if time.monotonic() - started < 2 else "after trying")
    ray.init(num_cpus=1)      # sweeps the dead broker's session
    assert successor.poll() is None
    successor.kill()
    successor.wait()
    """
    )
    with driver_in_namespaces(source) as process:
        assert process.succeed() == "refused at once"


# ---- the wall clock

JUMPING_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t shift(void) {
    return access(getenv("CLOCK_GATE"), F_OK) == 0 ? atol(getenv("CLOCK_SHIFT_S")) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*genuine)(clockid_t, struct timespec *);
    if (!genuine) genuine = dlsym(RTLD_NEXT, "clock_gettime");
    int result = genuine(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    static int (*genuine)(sem_t *, const struct timespec *);
    if (!genuine) genuine = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec unshifted = {until->tv_sec - shift(), until->tv_nsec};
    return genuine(semaphore, &unshifted);
}
"""


@pytest.fixture(scope="module")
def clock_library(tmp_path_factory):
    """A library that, loaded before the C library, shifts the wall clock of a process when a certain file appears."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler, which makes the library that shifts a process's clock")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"],
        input=JUMPING_CLOCK, text=True, check=True,
    )  # fmt: skip
    return library


@pytest.mark.parametrize("shift_s", [3600, -3600], ids=["forward", "back"])
def test_the_wall_clock_jumps_an_hour(sandbox, clock_library, shift_s):
    """In driver, broker, host, zygote and workers, C libraries included, while all of them wait for something."""
    source = """
    import threading
    gate, shift_s = os.environ["CLOCK_GATE"], float(os.environ["CLOCK_SHIFT_S"])
    difference = lambda: time.time() - time.monotonic()
    ray.init(num_cpus=2)

    @ray.remote(max_restarts=0)
    class Actor:
        def __init__(self):
            self.started = difference()
        def jumped_s(self):
            return round(difference() - self.started)

    @ray.remote(max_retries=0)
    def slow(go_on):
        while not os.path.exists(go_on):
            time.sleep(0.02)
        return os.getpid()

    actor, go_on, before = Actor.remote(), gate + "-go-on", difference()
    assert ray.get(actor.jumped_s.remote()) == 0
    running, queued = slow.remote(go_on), [slow.options(num_cpus=2).remote(go_on) for _ in range(3)]
    waited = []

    def wait():
        started = time.monotonic()
        try:
            ray.get(queued, timeout=4)
        except ray.exceptions.GetTimeoutError:
            waited.append(time.monotonic() - started)

    waiting = threading.Thread(target=wait)
    waiting.start()
    print("up")
    sys.stdin.readline()
    assert round(difference() - before) == shift_s == ray.get(actor.jumped_s.remote(), timeout=5)
    waiting.join()
    assert 3.9 < waited[0] < 8, waited
    assert ray.wait([running], timeout=0.3) == ([], [running])
    open(go_on, "w").close()
    assert len(ray.get([running, *queued], timeout=10)) == 4
    assert ray.get(actor.jumped_s.remote(), timeout=5) == shift_s
    print("fine")
    sys.stdin.readline()
    """
    gate = sandbox.directory / "clock"
    environ = {
        **os.environ,
        "LD_PRELOAD": str(clock_library), "CLOCK_GATE": str(gate), "CLOCK_SHIFT_S": str(shift_s),
        "ZRAY_HEARTBEAT_S": "0.3", "ZRAY_SILENCE_S": "1.5",
    }  # fmt: skip
    with Process([sys.executable, "-u", "-c", program(source)], env=environ) as one:
        one.expect("up")
        gate.touch()
        one.say("go\n")
        one.expect("fine")
        # The next start sweeps dead sessions, with a clock that differs by an hour.
        other = "ray.init(num_cpus=1); assert ray.get(ray.remote(lambda: 42).remote()) == 42; ray.shutdown()"
        with Process([sys.executable, "-u", "-c", program(other)], env=environ) as process:
            process.succeed()
        assert len(sandbox.sessions()) == 1
        one.say("end\n")
        one.succeed()
