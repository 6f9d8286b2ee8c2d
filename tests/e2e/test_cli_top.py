"""``zray top`` shows a cluster again and again at a terminal, and once elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from .helpers import driver, eventually

COMMAND = [sys.executable, "-m", "zray.cli.main", "top"]
PROGRAM = """
ray.init('local', num_cpus=2)

@ray.remote
def fit():
    time.sleep(600)

@ray.remote(num_cpus=0)
class Keeper:
    def ping(self):
        return 1

keeper = Keeper.options(name='keeper').remote()
ray.get(keeper.ping.remote())
refs = [fit.remote() for _ in range(4)]
ray.nodes()  # asked by the way that tasks go: they have arrived
print('up', flush=True)
sys.stdin.read()
"""
SCREEN, BACK = "\x1b[?1049h", "\x1b[?1049l"
"""What changes to a terminal's other screen, and back."""


def top(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "COLUMNS": "20"}  # has no effect on a pipe
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env=environ)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


class Terminal:
    """A command at a terminal of 100 columns. ``text``: what it has written."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self.ours, self.theirs = pty.openpty()
        inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdin=self.theirs, stdout=self.theirs, stderr=self.theirs,
            env={**inherited, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", **environ},
        )  # fmt: skip
        self.text = ""

    def read_until(self, text: str, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.text:
            assert time.monotonic() < deadline, f"no {text!r} in {self.text!r}"
            if select.select([self.ours], [], [], 0.1)[0]:
                self.text += os.read(self.ours, 65536).decode(errors="replace")


@contextlib.contextmanager
def at_terminal(*arguments: str, **environ: str) -> Iterator[Terminal]:
    terminal = Terminal(*arguments, **environ)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.ours)
        os.close(terminal.theirs)


def test_one_look(sandbox):
    with driver(PROGRAM) as program:
        program.expect("up")
        found = eventually(lambda: (now := json.loads(top("--json").stdout))["functions"][0]["running"] == 2 and now)
        fit, ping = found["functions"]
        assert (fit["name"], fit["running"], fit["waiting"]) == ("fit", 2, 2)
        assert (ping["name"], ping["finished"]) == ("Keeper.ping", 1)
        assert found["actors"]["ALIVE"] == 1 and len(found["hosts"]) == 1
        shown = top().stdout
        assert "Tasks and calls: 2 running, 2 waiting, 1 finished, 0 failed\n" in shown
        assert "\n  Keeper 'keeper'  " in shown and "\x1b" not in shown
        assert "Waiting for a place: 2; `zray why` says for what" in shown
        program.popen.kill()


@pytest.mark.parametrize("end", ["q", "ctrl-c", "sigterm"])
def test_again_and_again_until_the_user_ends_it(sandbox, end):
    with driver(PROGRAM) as program:
        program.expect("up")
        with at_terminal("--interval", "0.2") as terminal:
            before = termios.tcgetattr(terminal.theirs)
            terminal.read_until("Keeper 'keeper'")
            seen = len(re.findall("Tasks and calls", terminal.text))
            while len(re.findall("Tasks and calls", terminal.text)) < seen + 2:  # it goes on
                terminal.read_until("Tasks and calls")
                terminal.text += os.read(terminal.ours, 65536).decode(errors="replace")
            assert SCREEN in terminal.text and BACK not in terminal.text
            if end == "q":
                os.write(terminal.ours, b"xq")
            else:
                terminal.process.send_signal(signal.SIGINT if end == "ctrl-c" else signal.SIGTERM)
            terminal.read_until(BACK)
            assert terminal.process.wait(30) == 0
            assert "Traceback" not in terminal.text
            assert termios.tcgetattr(terminal.theirs) == before
        program.popen.kill()


def test_without_colours(sandbox):
    with driver(PROGRAM) as program:
        program.expect("up")
        with at_terminal(NO_COLOR="1") as terminal:
            terminal.read_until("Waiting for a place")
            assert not re.search(r"\x1b\[[0-9;]*3[1-7]m", terminal.text)
            os.write(terminal.ours, b"q")
            terminal.read_until(BACK)
            assert terminal.process.wait(30) == 0
        program.popen.kill()


def test_the_cluster_ends(sandbox):
    with driver(PROGRAM) as program:
        program.expect("up")
        with at_terminal("--interval", "0.2", ZRAY_CONNECT_TIMEOUT_S="0.5") as terminal:
            terminal.read_until("Tasks and calls")
            program.popen.kill()
            terminal.read_until("Error: no zray broker answered at")
            assert terminal.text.index(BACK) < terminal.text.index("Error: ")
            assert terminal.process.wait(30) == 2


def test_no_cluster(sandbox):
    assert "no cluster of yours runs on this machine" in top(code=2).stderr
    assert "--interval" in top("--interval", "0", code=2).stderr
