"""``zray stack`` shows the stacks of workers. A program of the tests stands for py-spy, which is an extra."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .helpers import by_hand, driver, eventually

COMMAND = [sys.executable, "-m", "zray.cli.main", "stack"]
PY_SPY = f"""#!{sys.executable}
import json, sys
command, form, option, pid = sys.argv[1:]
assert (command, form, option) == ("dump", "--json", "--pid")
frame = {{"name": "fit", "filename": "/x/program.py", "short_filename": "program.py", "line": int(pid)}}
thread = {{"thread_name": "MainThread", "os_thread_id": 1, "active": False, "owns_gil": False, "frames": [frame]}}
print(json.dumps([thread]))
"""
PROGRAM = """
ray.init(%r)

@ray.remote(num_cpus=0)
def fit():
    time.sleep(600)

@ray.remote(num_cpus=0)
class Keeper:
    def pid(self):
        return os.getpid()

keeper = Keeper.options(name='keeper').remote()
ref = fit.remote()
print('up', ray.get(keeper.pid.remote()), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def py_spy(sandbox, tmp_path, monkeypatch) -> Path:
    """The only py-spy on the PATH."""
    if os.path.exists(os.path.join(os.path.dirname(sys.executable), "py-spy")):
        pytest.skip("py-spy is installed beside Python")
    program = tmp_path / "bin" / "py-spy"
    program.parent.mkdir()
    install(program, PY_SPY)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def install(program: Path, text: str) -> None:
    program.write_text(text)
    program.chmod(0o755)


def stack(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def running() -> dict[str, Any]:
    return {row["runs"].partition(" for ")[0]: row for row in json.loads(stack("--json").stdout)}


def test_stacks(py_spy):
    with driver(PROGRAM % "local") as program:
        pid = program.expect("up").split()[1]
        rows = eventually(lambda: "fit" in (found := running()) and found)
        assert rows["Keeper 'keeper'"]["pid"] == int(pid)
        (thread,) = rows["fit"]["threads"]
        assert thread["frames"] == [{"function": "fit", "file": "program.py", "line": rows["fit"]["pid"]}]
        shown = stack("keeper").stdout
        assert stack("Keeper", pid).stdout == shown
        host = json.loads(stack("keeper", "--json").stdout)[0]["host"]
        assert shown.splitlines() == [
            f"pid {pid} on {host}: Keeper 'keeper'", "  MainThread (waits)", f"    fit (program.py:{pid})",
        ]  # fmt: skip
        assert stack(str(program.pid)).stdout.startswith(f"pid {program.pid} on ")
        assert "no worker that runs has this PID" in stack("1", code=1).stderr
        assert "`zray list actors` show" in stack("nosuch", code=1).stderr

        install(py_spy, "#!/bin/sh\necho 'Error: Operation not permitted (os error 1)' >&2\nexit 1\n")
        failed = stack("keeper", code=1)
        assert "the kernel does not permit to read pid" in failed.stdout and "1 of 1 stacks" in failed.stderr
        install(py_spy, "#!/bin/sh\necho '[{}]'\n")
        assert "printed something else than stacks" in stack("keeper", code=1).stderr
        install(py_spy, "#!/nosuch\n")
        assert "cannot be run: No such file" in stack("keeper", code=1).stderr
        py_spy.unlink()
        assert "pip install 'zray[stack]'" in stack(code=1).stderr
        program.popen.kill()


def test_a_worker_on_another_machine(py_spy, monkeypatch):
    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with by_hand(environ={"ZRAY_TEST_MACHINE": "far"}) as (address, _, _), driver(PROGRAM % address) as program:
        program.expect("up")
        assert "run `zray stack` there" in stack("keeper", code=1).stderr
        assert stack().stdout == "no worker runs on this machine\n"
        program.popen.kill()


def test_no_cluster(py_spy):
    assert "no cluster of yours runs on this machine" in stack(code=2).stderr
