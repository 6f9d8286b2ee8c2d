from __future__ import annotations

import errno
import os
import resource
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zray.system import processes
from zray.system.processes import killing

UNTIL_EOF = "import sys; sys.stdin.read()"


@pytest.fixture
def session() -> Iterator[str]:
    """A session's name. Every process with it is killed afterwards, also when the test fails."""
    name = f"test-{secrets.token_hex(8)}"
    yield name
    processes.kill_session(name)


def start(session: str, code: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts a Python process of the session that has printed a line, so its exec is over."""
    process = subprocess.Popen(
        [sys.executable, processes.TITLE_PADDING, "-c", f"print('up', flush=True)\n{code}", *arguments],
        env={**os.environ, processes.SESSION_VARIABLE: session},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def finish(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=10)
    return process.returncode


class TestDescribeExit:
    @pytest.mark.parametrize(
        ("status", "text"),
        [
            (signal.SIGSEGV, "killed by SIGSEGV (segmentation fault)"),
            (signal.SIGSEGV | 0x80, "killed by SIGSEGV (segmentation fault)"),  # 0x80: with a core dump
            (signal.SIGKILL, "killed by SIGKILL (out of memory, or killed by hand)"),
            (signal.SIGUSR1, "killed by SIGUSR1 (user defined signal 1)"),
            (40, "killed by signal 40"),
            (3 << 8, "exit code 3"),
            (0, "exit code 0"),
        ],
    )
    def test_each_status_in_words(self, status: int, text: str) -> None:
        assert processes.describe_exit(status) == text


class TestTitle:
    def test_long_title_leaves_the_environment_alone(self, session: str) -> None:
        titled = start(session, "from zray.system.processes import set_title; set_title('t' * 5000); print(); input()")
        assert titled.stdout is not None
        titled.stdout.readline()
        environ = Path(f"/proc/{titled.pid}/environ").read_bytes()
        assert f"{processes.SESSION_VARIABLE}={session}".encode() in environ.split(b"\0")
        assert environ.count(b"\0") == len({**os.environ, processes.SESSION_VARIABLE: session})
        assert b"t" * 120 in Path(f"/proc/{titled.pid}/cmdline").read_bytes()
        assert processes.processes_of_session(session) == [titled.pid]
        assert finish(titled) == 1  # its input ends

    @pytest.mark.parametrize(
        ("title", "name"),
        [
            ("zray::square", "zray::square"),
            ("zray: host 504d4a53", "zray:_host_504d"),
            ("zray-zygote of 4710", "zray-zygote_of_"),
            ("zray-zygote-of 4710", "zray-zygote-of_"),
            ("zray-zygote-of- 4710", "zray-zygote-of-"),
            ("zray::load\tthe\ndata", "zray::load_the_"),
            ("zray::f) (x", "zray::f___x"),
            ("größe ", "größe_"),
        ],
    )
    def test_process_name_can_be_split_at_blanks(self, session: str, title: str, name: str) -> None:
        code = f"from zray.system.processes import set_title; set_title({title!r}); print(flush=True); input()"
        with start(session, code) as titled:
            assert titled.stdout is not None
            titled.stdout.readline()
            assert Path(f"/proc/{titled.pid}/comm").read_text() == name + "\n"
            assert Path(f"/proc/{titled.pid}/stat").read_text().split()[3] == str(os.getpid())
            assert Path(f"/proc/{titled.pid}/cmdline").read_bytes().startswith(title.encode())
            finish(titled)

    def test_padding_is_one_argument_of_120_characters(self) -> None:
        assert len(processes.TITLE_PADDING) == 120
        command = [sys.executable, processes.TITLE_PADDING, "-c", "import sys; print(sys.argv)", "a"]
        assert subprocess.check_output(command, text=True) == "['-c', 'a']\n"


class TestSession:
    def test_finds_by_exact_entry_only(self, session: str) -> None:
        own = start(session, UNTIL_EOF)
        others = [start(session + "-longer", UNTIL_EOF), start("x" + session, UNTIL_EOF)]
        try:
            assert processes.processes_of_session(session) == [own.pid]
            assert processes.processes_of_session(session, {own.pid}) == []
        finally:
            for process in (own, *others):
                finish(process)

    def test_kills_daemons_too(self, session: str) -> None:
        # A classic daemon: two forks and a session of its own; afterwards its parent is init.
        daemonise = "import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\n"
        process = start(session, f"{daemonise}os.write(1, b'ready\\n')\nimport signal\nsignal.pause()")
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == ["ready\n"] * 3
        assert len(processes.processes_of_session(session)) == 3
        assert processes.kill_session(session) == 3
        assert processes.processes_of_session(session) == []
        assert finish(process) == -signal.SIGKILL

    def test_resource_trackers_clean_up_first(self, session: str) -> None:
        code = """
import os, signal
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=100)
os.fork()
os.write(1, memory.name.encode() + b"\\n")
signal.pause()
"""
        process = start(session, code)
        assert process.stdout is not None
        name = {process.stdout.readline() for _ in range(2)}.pop().strip()
        processes.kill_session(session)
        assert not Path("/dev/shm", name).exists()
        assert finish(process) == -signal.SIGKILL

    def test_a_resource_tracker_that_does_not_end_is_killed(
        self, session: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(killing, "TRACKER_GRACE_S", 0.01)
        code = "import signal\nif 0:\n    from multiprocessing.resource_tracker import main\nsignal.pause()"
        process = start(session, code)
        assert processes.kill_session(session) == 1
        assert finish(process) == -signal.SIGKILL

    def test_spares_the_excluded(self, session: str) -> None:
        spared, other = start(session, UNTIL_EOF), start(session, UNTIL_EOF)
        assert processes.kill_session(session, {spared.pid}) == 1
        assert finish(other) == -signal.SIGKILL
        assert finish(spared) == 0

    def test_ignores_zombies(self, session: str) -> None:
        process = start(session, "")
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert processes.processes_of_session(session) == []
        assert processes.kill_session(session) == 0
        assert processes.process_start_time(process.pid) is None
        finish(process)

    def test_outruns_processes_that_fork(self, session: str) -> None:
        hydra = (  # for half a minute: a process that escapes this test must not go on for ever
            "import os, time\nos.close(0)\nend = time.monotonic() + 30\n"
            "while time.monotonic() < end:\n    if os.fork():\n        time.sleep(0.01); os._exit(0)\n"
        )
        process = start(session, hydra)
        assert processes.kill_session(session) >= 1
        assert processes.processes_of_session(session) == []
        finish(process)

    @pytest.mark.parametrize("limit", [6, 7, 8, 9])
    def test_works_with_hardly_any_descriptors(self, session: str, limit: int) -> None:
        children = [start(session, UNTIL_EOF) for _ in range(4)]
        code = (
            "import resource; from zray.system.processes import kill_session\n"
            f"resource.setrlimit(resource.RLIMIT_NOFILE, {(limit, limit)})\n"
            f"print(kill_session({session!r}))"
        )
        assert subprocess.check_output([sys.executable, "-c", code], text=True) == "4\n"
        assert [finish(child) for child in children] == [-signal.SIGKILL] * 4


class TestOrderlyEnd:
    @pytest.mark.usefixtures("hangups")
    @pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
    def test_a_second_signal_does_not_interrupt_the_cleanup(self, session: str, number: str) -> None:
        code = f"""
import os, signal
from zray.system.processes import end_orderly
end_orderly()
try:
    print("ready", flush=True)
    signal.pause()
finally:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.{number})
    print("cleaned up", flush=True)
"""
        with start(session, code) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.Signals[number])
            assert process.stdout.readline() == "cleaned up\n"
            assert finish(process) == 0

    def test_what_nohup_has_ignored_stays_ignored(self, session: str) -> None:
        code = """
import signal
from zray.system.processes import end_orderly
signal.signal(signal.SIGHUP, signal.SIG_IGN)
end_orderly()
print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, flush=True)
"""
        with start(session, code) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            assert finish(process) == 0


class TestFamily:
    def test_descendants_parents_first(self, session: str) -> None:
        code = "import os\npid = os.fork()\nos.write(1, b'%d\\n' % os.getpid())\nimport sys; sys.stdin.read()\n"
        process = start(session, code + "if pid: os.waitpid(pid, 0)")
        assert process.stdout is not None
        lines = {int(process.stdout.readline()) for _ in range(2)}
        assert set(processes.descendants(process.pid)) == lines - {process.pid}
        mine = processes.descendants(os.getpid())
        assert lines <= set(mine)
        assert mine.index(process.pid) < mine.index((lines - {process.pid}).pop())
        finish(process)

    def test_children_of_this_process_zombies_too(self, session: str, monkeypatch: pytest.MonkeyPatch) -> None:
        code = """
import os
from zray.system.processes import children_of_this
before = children_of_this()
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
zombie = children_of_this()
os.waitpid(pid, 0)
lists = before is not None  # the kernel may be built without
print(not lists or (before == set() and zombie == {pid} and children_of_this() == set()), flush=True)
"""
        with start(session, code) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            assert finish(process) == 0

        def no_such_file(pid: int, name: str) -> bytes:
            raise FileNotFoundError(name)

        monkeypatch.setattr("zray.system.processes.proc.read", no_such_file)
        assert processes.children_of_this() is None

    def test_parent_death_signal(self) -> None:
        alive_read, alive_write = os.pipe()
        parent = os.fork()
        if parent == 0:
            me = os.getpid()
            ready_read, ready_write = os.pipe()
            if os.fork() == 0:
                processes.set_parent_death_signal(signal.SIGKILL, me)
                os.write(ready_write, b"x")
                signal.pause()
            os.read(ready_read, 1)
            os._exit(0)
        os.close(alive_write)
        os.waitpid(parent, 0)
        assert select.select([alive_read], [], [], 5)[0], "the child outlived its parent"
        assert os.read(alive_read, 1) == b""
        os.close(alive_read)

    def test_parent_that_is_gone_already(self) -> None:
        pid = os.fork()
        if pid == 0:
            processes.set_parent_death_signal(signal.SIGKILL, 1 << 22)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL

    def test_subreaper_adopts_orphans(self) -> None:
        code = (
            "import os; from zray.system import processes; processes.set_child_subreaper()\n"
            "hold, end = os.pipe()\n"
            "if os.fork() == 0:\n"
            "    if os.fork() == 0: os.close(end); os.read(hold, 1); os._exit(7)\n"
            "    os._exit(0)\n"
            "os.wait(); os.close(end); print(processes.describe_exit(os.wait()[1]))\n"
        )
        assert subprocess.check_output([sys.executable, "-c", code], text=True) == "exit code 7\n"


class TestFigures:
    def test_own_process(self) -> None:
        assert processes.resident_bytes(os.getpid()) > 1_000_000
        assert (processes.process_start_time(os.getpid()) or 0) > 0

    def test_process_that_is_gone(self) -> None:
        pid = subprocess.Popen(["true"])
        pid.wait()
        assert processes.resident_bytes(pid.pid) == 0
        assert processes.process_start_time(pid.pid) is None


class TestLimits:
    @pytest.fixture
    def eight_cpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    def machine(self, tmp_path: Path, cgroup: str, files: dict[str, str]) -> tuple[str, str]:
        proc, fs = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        (proc / "self" / "cgroup").write_text(cgroup)
        for name, text in files.items():
            (fs / name).parent.mkdir(parents=True, exist_ok=True)
            (fs / name).write_text(text)
        return str(proc), str(fs)

    @pytest.mark.parametrize(
        ("cgroup", "files", "cpus"),
        [
            ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, 8),
            ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 2),
            ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
            ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
            ("0::/../..\n", {"cpu.max": "400000 100000\n"}, 4),
            ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"}, 2),
            ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, 8),
            # Inside a container the path is the machine's and does not exist: the root is the container's group.
            ("4:cpu:/docker/1\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "10000"}, 5),
            ("0::/a\n", {"a/cpu.max": "nonsense"}, 8),
            ("", {}, 8),
        ],
    )
    def test_cpus(self, eight_cpus: None, tmp_path: Path, cgroup: str, files: dict[str, str], cpus: int) -> None:
        assert processes.cpu_count(*self.machine(tmp_path, cgroup, files)) == cpus

    @pytest.mark.parametrize(
        ("variables", "cpus"),
        [
            ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "3"}, 3),
            ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "64"}, 8),
            ({"SLURM_CPUS_ON_NODE": "3"}, 8),
            ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "many"}, 8),
        ],
    )
    def test_cpus_of_a_slurm_job(
        self,
        eight_cpus: None,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        variables: dict[str, str],
        cpus: int,
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert processes.cpu_count(*self.machine(tmp_path, "", {})) == cpus

    @pytest.mark.parametrize(
        ("cgroup", "files", "limit"),
        [
            ("0::/a\n", {"a/memory.max": "4194304\n", "memory.max": "max"}, 4194304),
            ("0::/a\n", {"a/memory.max": "max", "memory.max": "8388608"}, 8388608),
            ("3:memory:/m\n0::/\n", {"memory/m/memory.limit_in_bytes": "2097152"}, 2097152),
        ],
    )
    def test_memory(self, tmp_path: Path, cgroup: str, files: dict[str, str], limit: int) -> None:
        assert processes.memory_limit_bytes(*self.machine(tmp_path, cgroup, files)) == limit

    def test_without_groups_it_is_the_machine(self, tmp_path: Path) -> None:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        assert processes.memory_limit_bytes(str(tmp_path), str(tmp_path)) == machine
        assert processes.memory_limit_bytes() <= machine
        assert 1 <= processes.cpu_count() <= len(os.sched_getaffinity(0))


class TestAcceptSignals:
    CODE = """
import signal, sys
from zray.system import processes
processes.{function}()
print(len(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
print(*sorted(number.name for number in signal.Signals if signal.getsignal(number) is signal.SIG_IGN))
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""

    @pytest.mark.parametrize(
        "function, ignored",
        [("accept_signals", "SIGPIPE SIGXFSZ"), ("accept_signals_of_a_command", "SIGHUP SIGPIPE SIGXFSZ")],
    )
    def test_what_was_inherited_is_undone(self, function: str, ignored: str) -> None:
        def spoil() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)

        command = [sys.executable, "-c", self.CODE.format(function=function)]
        done = subprocess.run(command, preexec_fn=spoil, stdout=subprocess.PIPE, text=True)
        assert done.stdout.splitlines() == ["0", ignored, "True"]


class TestDescribeError:
    @pytest.mark.parametrize(
        "number, limit, text",
        [
            (
                errno.EFBIG,
                resource.RLIMIT_FSIZE,
                "may write files of at most 5,000 bytes; raise that limit (ulimit -f)",
            ),
            (errno.EMFILE, resource.RLIMIT_NOFILE, "may have 5,000 files open; raise that limit (ulimit -n)"),
            (errno.EAGAIN, resource.RLIMIT_NPROC, "with all others of its user; raise that limit (ulimit -u)"),
        ],
    )
    def test_limits(self, monkeypatch: pytest.MonkeyPatch, number: int, limit: int, text: str) -> None:
        limits = {limit: (5_000, 6_000)}
        monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
        assert processes.describe_error(OSError(number, "reason")).endswith(text)
        limits[limit] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        assert processes.describe_error(OSError(number, "reason")) == "reason"

    def test_others(self) -> None:
        assert processes.describe_error(OSError(errno.ENOENT, "No such file")) == "No such file"
        assert processes.describe_error(OSError("without a number")) == "without a number"


def test_descriptors_left() -> None:
    gaps = [os.dup(0) for _ in range(200)]  # descriptors that other tests have closed
    before = processes.descriptors_left()
    held = [os.dup(0) for _ in range(5)]
    assert processes.descriptors_left() == before - 5
    for fd in held:
        os.close(fd)
    assert processes.descriptors_left() == before
    for fd in gaps:
        os.close(fd)


def test_command_lines_of_ancestors() -> None:
    code = "from zray.system.processes import commands_of_ancestors as a; print([line[-1] for line in a()][:2])"
    shell = ["sh", "-c", '"$@"; true', "outer", sys.executable, "-c", code]
    done = subprocess.run(shell, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.startswith(f"[{code!r}"), "the shell comes first: its last argument is the program"
