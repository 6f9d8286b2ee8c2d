"""In a Jupyter kernel: cells that define and redefine, interrupts, and all kinds of restarts."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from .helpers import eventually

jupyter_client = pytest.importorskip("jupyter_client", reason="jupyter_client and ipykernel are not installed")
pytest.importorskip("ipykernel", reason="jupyter_client and ipykernel are not installed")

CELL_S = 30.0
START = """
import os, time
import zray as ray
ray.init(num_cpus=2)

@ray.remote
def which():
    return "first"

@ray.remote
class Counter:
    n = 0
    def add(self):
        self.n += 1
        return self.n

counter = Counter.remote()
print(ray.get(which.remote()), ray.get(counter.add.remote()), len(ray.get(ray.put(bytes(1_000_000)))))
"""


class Notebook:
    """A kernel, and a client that sends cells to it."""

    def __init__(self, sockets: Path) -> None:
        self.manager = jupyter_client.KernelManager(kernel_name="python3", transport="ipc", ip=str(sockets))
        self.manager.start_kernel()
        self.connect()

    def connect(self) -> None:
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=CELL_S)

    def send(self, cell: str) -> str:
        return str(self.client.execute(cell))

    def answer(self, cell_id: str) -> str:
        """Returns the output of a cell; for an error, its name."""
        text = ""
        deadline = time.monotonic() + CELL_S
        while time.monotonic() < deadline:
            message: dict[str, Any] = self.client.get_iopub_msg(timeout=CELL_S)
            if message["parent_header"].get("msg_id") != cell_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                text += content["text"]
            elif kind == "error":
                text += content["ename"]
            elif kind == "status" and content["execution_state"] == "idle":
                return text.strip()
        raise AssertionError(f"the cell has not ended after {CELL_S} s; so far {text!r}")

    def run(self, cell: str) -> str:
        return self.answer(self.send(cell))

    def restart(self, now: bool) -> None:
        self.client.stop_channels()
        self.manager.restart_kernel(now=now)
        self.connect()

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture
def notebook(sandbox, monkeypatch):
    for variable in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(sandbox.directory / variable))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    made = Notebook(sandbox.directory / "kernel")
    yield made
    made.close()


def test_cells(notebook):
    assert notebook.run(START) == "first 1 1000000"
    assert notebook.run("@ray.remote\ndef which():\n    return 'second'\nprint(ray.get(which.remote()))") == "second"
    redefined = "@ray.remote\nclass Counter:\n    def add(self):\n        return 'another'\n"
    assert notebook.run(redefined + "print(ray.get(Counter.remote().add.remote()))") == "another"
    assert notebook.run("print(ray.get(counter.add.remote()))") == "2"
    assert notebook.run("print(await which.remote())") == "second"
    assert notebook.run("ref = which.remote()") == ""
    assert notebook.run("print(ray.get(ref))") == "second"
    assert notebook.run("ray.get(ray.remote(lambda: 1 / 0).remote())") == "RayTaskError(ZeroDivisionError)"
    assert "RuntimeError" in notebook.run("ray.init(num_cpus=1)")
    assert notebook.run("ray.shutdown(); ray.init(num_cpus=1); print(ray.get(which.remote()))") == "second"


def test_what_workers_print_is_shown_in_the_notebook(notebook):
    notebook.run(START)
    shown = notebook.run("ray.get(ray.remote(lambda: print('from afar')).remote()); ray.shutdown()")
    assert "from afar" in shown


def test_the_interrupt_button(notebook, sandbox):
    notebook.run(START)
    gate = sandbox.directory / "gate"
    cell = notebook.send(f"open({str(gate)!r}, 'w').close(); ray.get(ray.remote(time.sleep).remote(1000))")
    eventually(gate.exists)
    notebook.manager.interrupt_kernel()
    assert notebook.answer(cell) == "KeyboardInterrupt"
    assert notebook.run("print(ray.get(which.remote()), ray.get(counter.add.remote()))") == "first 2"


@pytest.mark.parametrize("how", ["restart", "restart without asking", "kill -9"])
def test_a_restarted_kernel(notebook, sandbox, how):
    notebook.run(START)
    kernel = int(notebook.run("print(os.getpid())"))
    before = set(sandbox.processes()) - {kernel}
    sessions, segments = sandbox.sessions(), sandbox.segments()
    assert len(before) >= 4 and len(sessions) == len(segments) == 1
    notebook.send("refs = [which.remote() for _ in range(1000)] + [ray.remote(time.sleep).remote(1000)]")
    if how == "kill -9":
        os.kill(kernel, signal.SIGKILL)
    notebook.restart(now=how != "restart")
    assert notebook.run(START) == "first 1 1000000"
    eventually(lambda: not before & set(sandbox.processes()))
    eventually(lambda: not set(sessions) & set(sandbox.sessions()) and not set(segments) & set(sandbox.segments()))
    assert notebook.run("print(ray.get(which.remote()), ray.get(counter.add.remote()))") == "first 2"


def test_a_cell_that_writes_to_a_read_only_value_is_told_what_to_do(notebook):
    notebook.run(START)
    assert "ValueError" in notebook.run("import numpy; array = ray.get(ray.put(numpy.zeros(9))); array[0] = 1")
    assert "hint: values from zray.get() are read-only" in notebook.run("array[0] = 1")
    assert "hint" not in notebook.run("1 / 0")
    assert notebook.run("ray.shutdown()") == ""
    assert "hint" not in notebook.run("array[0] = 1")
