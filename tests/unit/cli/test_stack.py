"""What ``zray stack`` makes of what py-spy prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from zray.cli import stack as module
from zray.cli.stack import Frame, Stack, Thread, explain_failure, find_py_spy, render, threads_of, user_frames
from zray.exceptions import ZrayError

OUTER = [Frame("Worker.serve", "zray/worker/process/worker.py", 2), Frame("<module>", "<string>", 1)]
USER = [Frame("wait", "threading.py", 9), Frame("fit", "program.py", 5)]


def shown(stacks: list[Stack], full: bool = False) -> list[str]:
    return [str(line) for line in render(stacks, full, Console())]


def stack(*threads: Thread, **fields: Any) -> Stack:
    return Stack(
        **{"pid": 7, "worker_id": "ab", "host": "a", "runs": "fit for 2.0 s", "threads": list(threads), **fields}
    )


def test_what_py_spy_prints() -> None:
    frame = {"name": "fit", "filename": "/x/program.py", "short_filename": "program.py", "line": 5, "locals": None}
    thread = {"thread_name": None, "os_thread_id": 9, "active": True, "owns_gil": False, "frames": [frame]}
    assert threads_of([thread]) == [Thread("thread 9", True, False, [Frame("fit", "program.py", 5)])]
    (named,) = threads_of([{**thread, "thread_name": "Main", "frames": [{**frame, "short_filename": None}]}])
    assert (named.name, named.frames[0].file) == ("Main", "/x/program.py")
    with pytest.raises(KeyError):
        threads_of([{"pid": 1}])


def test_the_frames_of_users() -> None:
    assert user_frames(Thread("Main", False, False, [*USER, *OUTER])) == USER
    assert user_frames(Thread("io", False, False, [OUTER[0], Frame("run", "threading.py", 1)])) == []
    inside = [Frame("get", "zray/api/objects.py", 3), USER[1]]
    assert user_frames(Thread("Main", False, False, [*inside, *OUTER])) == inside


def test_showing() -> None:
    main, background = Thread("Main", False, True, [*USER, *OUTER]), Thread("io", False, False, OUTER)
    assert shown([stack(main, background)]) == [
        "pid 7 on a: fit for 2.0 s", "  Main (has the GIL)", "    wait (threading.py:9)", "    fit (program.py:5)",
    ]  # fmt: skip
    assert "    Worker.serve (zray/worker/process/worker.py:2)" in shown([stack(main, background)], full=True)
    idle = shown([stack(background, runs="")])
    assert idle[0] == "pid 7 on a: idle" and "no code of a task runs" in idle[1]
    assert shown([stack(error="it has\x1b[2J ended")])[1] == "  it has?[2J ended"
    assert shown([]) == ["no worker runs on this machine"]


def test_why_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = os.getpid()
    assert explain_failure(2**22 + 1, "Error: no such process") == f"pid {2**22 + 1} has ended meanwhile"
    assert explain_failure(pid, "\nError: bad\nmore") == f"py-spy could not read pid {pid}: Error: bad"
    scope = tmp_path / "scope"
    scope.write_text("1\n")
    monkeypatch.setattr(module, "PTRACE_SCOPE", str(scope))
    refused = explain_failure(pid, "Permission Denied\nReason: Operation not permitted (os error 1)")
    assert f"({scope} is 1; 0 permits it to the same user)" in refused and "SYS_PTRACE" in refused and "sudo" in refused
    monkeypatch.setattr(module, "PTRACE_SCOPE", str(tmp_path / "none"))
    assert "does not permit to read" in explain_failure(pid, "Error: EPERM: Operation not permitted")


def test_where_py_spy_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(ZrayError, match=r"pip install 'zray\[stack\]'"):
        find_py_spy()
    for directory in ("path", "bin"):  # the one beside Python is preferred
        (tmp_path / directory).mkdir()
        program = tmp_path / directory / "py-spy"
        program.write_text("")
        program.chmod(0o755)
        assert find_py_spy() == str(program)
