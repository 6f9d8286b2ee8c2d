"""The output of workers: at the driver as ``(name pid=123) text``, and in files."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from .helpers import Process, driver, eventually, program


def shown(process: Process, stream: str = "out") -> list[str]:
    """Returns the texts of lines that workers printed, without their prefixes."""
    text = process.out if stream == "out" else process.err
    return [match[2] for match in re.finditer(r"^\((\w+) pid=\d+\) ?(.*)$", text, re.M)]


def run(body: str, *, environ: dict[str, str] | None = None) -> Process:
    """Runs a driver with ``body`` as a task, and waits until its last output has arrived."""
    lines = "".join(f"        {line}\n" for line in body.strip("\n").split("\n"))
    source = f"""
    import ctypes, threading
    ray.init(num_cpus=1)
    @ray.remote
    def talk():
{lines}
        sys.stdout.flush(); sys.stderr.flush()
        os.write(1, b"\\nthe end of out\\n"); os.write(2, b"\\nthe end of err\\n")
        return os.getpid()
    sys.stdout.write("pid %d\\n" % ray.get(talk.remote()))  # in one piece: what workers print comes in between
    sys.stdin.readline()
    """
    process = driver(source, environ=environ)
    process.expect("the end of out")
    process.expect("the end of err", stream="err")
    process.say("\n")
    return process


def test_prefix_and_streams():
    with run('print("hello")\nprint("oh no", file=sys.stderr)') as process:
        process.succeed()
        (pid,) = re.findall(r"^pid (\d+)$", process.out, re.M)
        assert f"(talk pid={pid}) hello" in process.out
        assert f"(talk pid={pid}) oh no" in process.err
        assert "zray-name" not in process.out + process.err


def test_actor_output_is_named_after_its_class():
    source = """
    ray.init(num_cpus=1)
    @ray.remote
    class Painter:
        def __init__(self):
            print("in the constructor")
        def paint(self):
            print("in the method")
    painter = Painter.remote()
    ray.get(painter.paint.remote())
    sys.stdin.readline()
    """
    with driver(source) as process:
        assert process.expect("in the constructor").startswith("(Painter pid=")
        assert process.expect("in the method").startswith("(Painter pid=")
        process.say("\n")
        process.succeed()


def test_output_without_newline_and_with_carriage_returns():
    with run('print("part", end="")\nsys.stdout.flush()\nprint("ial")\nprint("10%\\r20%\\r30%")') as process:
        process.succeed()
        texts = shown(process)
        assert "partial" in texts
        assert any("30%" in text for text in texts)


def test_the_last_words_without_newline():
    source = """
    ray.init(num_cpus=1)
    @ray.remote(max_retries=0)
    def die():
        os.write(1, b"no newline at the end")
        os._exit(1)
    try:
        ray.get(die.remote())
    except ray.exceptions.WorkerCrashedError:
        pass
    sys.stdin.readline()
    """
    with driver(source) as process:
        process.expect("no newline at the end")
        process.say("\n")
        process.succeed()


def test_megabytes_in_a_line_and_many_lines():
    with run('print("x" * 3_000_000)\nfor n in range(3000):\n    print("line", n)\nprint("after")') as process:
        process.succeed()
        texts = shown(process)
        assert "after" in texts and "line 0" in texts
        assert sum(text.count("x") for text in texts) >= 10_000


def test_invalid_utf8():
    with run('os.write(1, b"caf\\xe9 \\xff\\xfe\\n")\nprint("after \\udc80 surrogate, \\u4e2d")') as process:
        process.succeed()
        texts = shown(process)
        assert any(text.startswith("caf") for text in texts)
        assert any(text.startswith("after") and "\u4e2d" in text for text in texts)


def test_c_prints_threads_and_children():
    body = """
libc = ctypes.CDLL(None)
libc.puts(b"from C")
thread = threading.Thread(target=print, args=("from a thread",))
thread.start(); thread.join()
os.system("echo from a child; echo from a child of err >&2")
"""
    with run(body) as process:
        process.succeed()
        texts = shown(process)
        assert {"from C", "from a thread", "from a child"} <= set(texts)
        assert "from a child of err" in shown(process, "err")


def test_same_lines_of_many_are_shown_once():
    source = """
    ray.init(num_cpus=2)
    @ray.remote(num_cpus=0)
    class Speaker:
        def say(self):
            print("the same")
    speakers = [Speaker.remote() for _ in range(8)]
    ray.get([speaker.say.remote() for speaker in speakers])
    """
    with driver(source) as process:
        assert process.succeed().count("the same") <= 3
        process.expect("repeated")


def test_what_is_printed_just_before_the_end_is_shown():
    with driver("ray.init(num_cpus=1); ray.get(ray.remote(lambda: print('last words')).remote())") as process:
        process.succeed()
        assert "last words" in process.out


def test_log_to_driver_off():
    with driver(
        "ray.init(num_cpus=1, log_to_driver=False); ray.get(ray.remote(lambda: print('quiet')).remote())"
    ) as process:
        assert "quiet" not in process.succeed()


def test_files_in_the_logs_directory(sandbox):
    source = """
    context = ray.init(num_cpus=1)
    print("logs", context["logs_dir"])
    ray.get(ray.remote(lambda: [print("to the file"), print("to the other", file=sys.stderr)] and None).remote())
    """
    with driver(source) as process:
        assert str(sandbox.root) in process.expect("logs ")
        process.succeed()
    texts = [path.read_text() for path in sandbox.logs() if path.is_file()]
    assert any("to the file" in text for text in texts) and any("to the other" in text for text in texts)


def test_log_files_are_capped(sandbox):
    source = """
    ray.init(num_cpus=1)
    @ray.remote
    def talk():
        for n in range(20_000):
            print("a line of some sixty characters, to fill the file quickly", n)
    ray.get(talk.remote())
    """
    with driver(source, environ={"ZRAY_LOG_FILE_MAX_BYTES": "100000"}) as process:
        process.succeed()
    sizes = {path.name: path.stat().st_size for path in sandbox.logs() if path.is_file()}
    assert sizes and max(sizes.values()) < 250_000, sizes
    assert sum(sizes.values()) < 600_000, sizes


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_task_that_closes_its_streams(name):
    source = f"""
    ray.init(num_cpus=1)
    @ray.remote
    def close():
        sys.{name}.close()
        os.close({1 if name == "stdout" else 2})
    pid = ray.remote(os.getpid)
    ray.get(close.remote())
    print("pid", ray.get(pid.remote()) > 0)
    """
    with driver(source) as process:
        assert "pid True" in process.succeed()


def test_a_driver_that_has_closed_its_streams(sandbox):
    result = sandbox.directory / "result"
    source = f"""
    ray.init(num_cpus=1)
    sys.stdout.close()
    sys.stderr.close()
    ray.get(ray.remote(lambda: print("to nobody")).remote())
    open({str(result)!r}, "w").write("fine")
    ray.shutdown()
    os._exit(0)
    """
    with driver(source) as process:
        process.succeed()
    assert result.read_text() == "fine"


def test_titles(sandbox):
    source = """
    ray.init(num_cpus=3)
    @ray.remote(num_cpus=0)
    class Counter:
        def increment(self):
            time.sleep(1000)
    @ray.remote(num_cpus=0)
    def long_task():
        time.sleep(1000)
    counter = Counter.remote()
    counter.increment.remote()
    long_task.remote()
    print("up")
    sys.stdin.readline()
    """
    with driver(source) as process:
        process.expect("up")
        for title in ("zray::Counter.increment", "zray::long_task", "zray::IDLE", "zray: host", "zray: broker"):
            eventually(partial(sandbox.processes, title))
        process.say("\n")
        process.succeed()


# ------------------------------------------------------------------------- output blocks and fails nothing else


@contextlib.contextmanager
def unread_pipe() -> Iterator[int]:
    """The write end of a full pipe that no process reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("stream", ["out", "err"])
def test_a_driver_whose_stream_is_not_read_goes_on_and_ends(sandbox, stream):
    source = f"""
    ray.init(num_cpus=1)
    @ray.remote
    def talk(n):
        for number in range(n):
            print("a line of some sixty characters, to fill every pipe", number, file=sys.std{stream})
        print("y" * 200_000, file=sys.std{stream})
        return n
    assert ray.get(talk.remote(5000)) == 5000
    assert ray.get([talk.remote(3) for _ in range(5)]) == [3] * 5
    open({str(sandbox.directory / "result")!r}, "w").write("fine")
    """
    with unread_pipe() as pipe:
        # Not Process, which reads what it starts.
        environ = {**os.environ, "PYTHONUNBUFFERED": ""}
        command = [sys.executable, "-c", program(source)]
        done = subprocess.run(
            command,
            env=environ,
            timeout=60,
            stdout=pipe if stream == "out" else None,
            stderr=pipe if stream == "err" else None,
        )
    assert done.returncode == 0
    assert (sandbox.directory / "result").read_text() == "fine"


def test_a_driver_that_reads_late_gets_everything_in_order(sandbox):
    source = """
    ray.init(num_cpus=1)
    @ray.remote
    def talk():
        for number in range(20_000):
            print("number", number)
    ray.get(talk.remote())
    """
    command = [sys.executable, "-c", program(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        sandbox.one("zray::IDLE")  # the task is done, and its lines are unread
        rest = process.stdout.read()
    assert process.returncode == 0
    numbers = re.findall(r"number (\d+)$", (first + rest).decode(), re.M)
    assert numbers == [str(number) for number in range(20_000)]


@pytest.mark.parametrize(
    "error", ["ValueError('no')", "OSError(28, 'no space')", "KeyboardInterrupt()", "SystemExit(3)"]
)
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_raises_fails_nothing(name, error):
    source = f"""
    ray.init(num_cpus=1)
    class Touchy:
        def __init__(self, stream):
            self.stream = stream
        def write(self, text):
            if "bad" in text:
                raise {error}
            return self.stream.write(text)
        def flush(self):
            self.stream.flush()
    sys.{name} = Touchy(sys.{name})
    @ray.remote
    def talk(*words):
        for word in words:
            print(word, file=sys.{name})
        return len(words)
    assert ray.get(talk.remote("one", "bad two", "three")) == 3
    assert ray.get(talk.remote("bad four", "five")) == 2
    sys.stdin.readline()
    """
    with driver(source) as process:
        process.expect("five", stream=name[3:])
        process.say("\n")
        process.succeed()
        assert shown(process, name[3:]) == ["one", "three", "five"]


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_driver_without_a_stream(name):
    other = {"stdout": "stderr", "stderr": "stdout"}[name]
    source = f"""
    sys.{name} = None
    ray.init(num_cpus=1)
    @ray.remote
    def talk():
        print("to nobody", file=sys.{name})
        print("to somebody", file=sys.{other})
    ray.get(talk.remote())
    ray.shutdown()
    """
    with driver(source) as process:
        process.succeed()
        assert shown(process, other[3:]) == ["to somebody"]


def test_an_ascii_terminal_shows_every_line():
    body = 'for text in ("one", "caf\\u00e9 \\u4e2d", "three"):\n    print(text)'
    with run(body, environ={"PYTHONIOENCODING": "ascii"}) as process:
        process.succeed()
        assert shown(process)[:3] == ["one", "caf\\xe9 \\u4e2d", "three"]


def test_a_reader_that_has_gone_fails_nothing(sandbox):
    source = f"""
    ray.init(num_cpus=1)
    @ray.remote
    def talk():
        print("to nobody")
        return 5
    assert ray.get([talk.remote() for _ in range(50)]) == [5] * 50
    open({str(sandbox.directory / "result")!r}, "w").write("fine")
    """
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", program(source)], stdout=writer, timeout=60)
    os.close(writer)
    assert done.returncode == 0
    assert (sandbox.directory / "result").read_text() == "fine"


def memory_mb(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) // 1024


def test_memory_is_bounded_while_a_driver_stands_still(sandbox):
    begun, printed = sandbox.directory / "begun", sandbox.directory / "printed"
    source = f"""
    ray.init(num_cpus=1)
    @ray.remote
    def talk():
        open({str(begun)!r}, "w").close()
        for _ in range(1500):
            print("x" * 60_000)
        open({str(printed)!r}, "w").close()
    ref = talk.remote()
    sys.stdin.readline()
    ray.get(ref)
    """
    with driver(source) as process:
        eventually(begun.exists, pause_s=0.001)
        process.signal(signal.SIGSTOP)
        host, broker = sandbox.one("zray: host"), sandbox.one("zray: broker")
        before = memory_mb(host), memory_mb(broker)
        eventually(printed.exists, timeout_s=60)  # 90 MB
        grown = memory_mb(host) - before[0], memory_mb(broker) - before[1]
        process.signal(signal.SIGCONT)
        process.say("\n")
        process.succeed(timeout_s=60)
        assert max(grown) < 60, grown
        assert "lines of workers are not shown" in process.err


def test_a_fork_of_a_driver_that_shows_lines_can_print():
    source = """
    ray.init(num_cpus=1)
    @ray.remote
    def talk():
        for number in range(20_000):
            print("number", number)
    ref = talk.remote()
    for _ in range(50):
        pid = os.fork()
        if not pid:
            print("from the child")
            sys.stdout.flush()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    ray.get(ref)
    """
    with driver(source) as process:
        process.succeed(timeout_s=60)
        assert process.out.count("from the child") == 50


def test_no_thread_is_started_before_a_line_comes():
    source = """
    def threads():
        return len(os.listdir("/proc/self/task"))
    ray.init(num_cpus=1)
    ray.get(ray.remote(lambda: 1).remote())
    before = threads()
    ray.get(ray.remote(lambda: 1).remote())
    assert threads() == before
    ray.get(ray.remote(lambda: print("hello")).remote())
    sys.stdin.readline()
    assert threads() == before + 1
    ray.shutdown()
    """
    with driver(source) as process:
        process.expect("hello")
        process.say("\n")
        process.succeed()


# ---------------------------------------------------------------------- only text, and only under one's own name


def at_a_terminal(source: str) -> str:
    """Returns what a driver shows at a terminal, with only ``\\n`` at the ends of lines."""
    ours, theirs = os.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", program(source)], stdout=theirs, stderr=theirs, start_new_session=True
        ) as process:
            os.close(theirs)
            text = b""
            with contextlib.suppress(OSError):  # EIO: it has ended
                while chunk := os.read(ours, 65536):
                    text += chunk
        assert process.returncode == 0, text
    finally:
        os.close(ours)
    return text.decode().replace("\r\n", "\n")


def test_control_sequences_do_nothing_at_a_terminal():
    source = r"""
    ray.init(num_cpus=1)
    @ray.remote(max_retries=0)
    def talk(name):
        stream = getattr(sys, name)
        print("\x1b[31mred\x1b[0m and \x1b[1mbold", file=stream)
        print("erase \x1b[2J\x1b[Hup \x1b[A", file=stream)
        print("title \x1b]0;mine\x07 \x9b2J \x08\x08\x08 \u202egnp", file=stream)
        print("the end of", name, file=stream)
    ray.get(talk.remote("stdout"))
    ray.get(talk.remote("stderr"))
    """
    text = re.sub(r"pid=\d+", "pid=1", at_a_terminal(source))
    for name in ("stdout", "stderr"):
        assert f"(talk pid=1) the end of {name}\n" in text
    for line in (
        "(talk pid=1) \x1b[31mred\x1b[0m and \x1b[1mbold\x1b[0m\n",
        "(talk pid=1) erase up \n",
        "(talk pid=1) title \\x1b]0;mine\\x07 \\x9b2J \\x08\\x08\\x08 \\u202egnp\n",
    ):
        assert text.count(line) == 2, text


def test_control_sequences_stay_without_a_terminal():
    with run(r'print("erase \x1b[2J\x1b[H")') as process:
        process.succeed()
        assert "erase \x1b[2J\x1b[H" in process.out


def test_the_last_words_of_a_worker_in_an_error_do_nothing_at_a_terminal():
    source = r"""
    ray.init(num_cpus=1)
    @ray.remote(max_retries=0)
    def die():
        os.write(2, b"\x1b[2J\x1b]0;mine\x07last words\n")
        os._exit(1)
    try:
        ray.get(die.remote())
    except ray.exceptions.WorkerCrashedError as error:
        assert "last words" in str(error)
        assert "\x1b" not in str(error), str(error)
    """
    with driver(source) as process:
        process.succeed()


def test_nobody_prints_under_the_name_of_another(sandbox):
    source = r"""
    ray.init(num_cpus=1)
    @ray.remote
    def forger():
        for text in ("\x1ezray-name:victim", "\x1ezray-name:" + "0" * 32 + ":victim", "\x1ezray-name::victim"):
            print(text)
            print("forged")
            os.write(1, text.encode() + b"\n")
            os.write(1, b"forged\n")
        os.write(1, b"no end")
    @ray.remote
    def honest():
        print("mine")
        print("mine", file=sys.stderr)
    ray.get(forger.options(name="a\nvictim pid=1) forged (").remote())
    ray.get(honest.remote())
    ray.get(forger.remote())
    sys.stdin.readline()
    """
    with driver(source) as process:
        process.expect("mine")
        process.expect("mine", stream="err")
        process.say("\n")
        process.succeed()
        assert not re.search(r"^\(victim pid", process.out, re.M)
        assert (
            re.findall(r"^\((.*) pid=\d+\) forged$", process.out, re.M)
            == ["a?victim_pid=1) forged ("] * 6 + ["forger"] * 6
        )
        assert re.findall(r"^\((.*) pid=\d+\) no end$", process.out, re.M) == ["a?victim_pid=1) forged (", "forger"]
        assert re.findall(r"^\((.*) pid=\d+\) mine$", process.out, re.M) == ["honest"]
        assert re.findall(r"^\((.*) pid=\d+\) mine$", process.err, re.M) == ["honest"]
    files = "".join(path.read_text() for path in sandbox.logs("*.out"))
    assert files.count("zray-name") == 12 and files.count("\nmine\n") == 1  # what was printed, and no markers


def test_a_task_that_puts_a_file_in_the_place_of_its_output(sandbox):
    path = sandbox.directory / "file"
    source = f"""
    ray.init(num_cpus=1)
    @ray.remote
    class Redirected:
        def redirect(self):
            self.saved = os.dup(1)
            os.dup2(os.open({str(path)!r}, os.O_WRONLY | os.O_CREAT), 1)
        def restore(self):
            os.dup2(self.saved, 1)
            print("back")
    @ray.remote
    def redirect():
        os.dup2(os.open({str(path)!r}, os.O_WRONLY | os.O_CREAT), 1)
    @ray.remote
    def talk():
        print("to the file")
    actor = Redirected.remote()
    ray.get(actor.redirect.remote())
    ray.get(actor.restore.remote())
    del actor
    ray.get(redirect.remote())
    ray.get(talk.remote())
    sys.stdin.readline()
    """
    with driver(source) as process:
        assert process.expect("back").startswith("(Redirected pid=")
        process.say("\n")
        process.succeed()
    assert path.read_text() == "to the file\n"


UNFINISHED = """
@ray.remote
def work(path, text, end):
    print(text, end=end, flush=True)
    while not os.path.exists(path):
        time.sleep(0.02)
    print("done", flush=True)

@ray.remote
def next_one():
    print("next", flush=True)

ray.init(num_cpus=1)
ref = work.remote(sys.argv[1], sys.argv[2], sys.argv[3].encode().decode("unicode_escape"))
ray.get(ref)
ray.get(next_one.remote())
"""


@pytest.mark.parametrize(("text", "end"), [("working...", ""), (" 10%", "\\r"), ("\r 20%", "")])
def test_a_line_without_an_end_appears_while_the_task_runs(text, end, tmp_path):
    go = tmp_path / "go"
    with driver(UNFINISHED, arguments=[str(go), text, end]) as program:
        program.expect(f"{text.strip()}")
        go.touch()
        program.expect("next")
        program.succeed()
        assert [line.partition(") ")[2].strip() for line in program.out.splitlines()] == [text.strip(), "done", "next"]
        assert "zray-name" not in program.out


SAME = """
@ray.remote
def work(n):
    open(f"{sys.argv[1]}/{n}", "w").close()
    while len(os.listdir(sys.argv[1])) < 3:  # each has a worker of its own
        time.sleep(0.02)
    print("same", flush=True)
    print("epoch", n, flush=True)

ray.init(num_cpus=3)
ray.get([work.remote(n) for n in range(3)])
"""


@pytest.mark.parametrize(("setting", "shown"), [({}, 2), ({"RAY_DEDUP_LOGS": "0"}, 3), ({"ZRAY_DEDUP_LOGS": "0"}, 3)])
def test_only_equal_lines_are_shown_once_and_not_even_those_if_that_is_not_wanted(setting, shown, tmp_path):
    with driver(SAME.replace("sys.argv[1]", repr(str(tmp_path))), environ=setting) as program:
        out = program.succeed()
    assert sum("same" in line for line in out.splitlines()) == shown
    assert ("[repeated 2x across cluster]" in out) == (shown == 2)
    assert all(f"epoch {n}" in out for n in range(3)) and out.count("epoch") == 3
