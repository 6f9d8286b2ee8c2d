"""The cluster starts with any files in the working directory, and any modules that the interpreter loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .helpers import Process, by_hand, eventually, program

USE = """
ray.init(num_cpus=2)
@ray.remote
def state():
    return os.getcwd(), sys.path, os.environ.get("PYTHONPATH")
cwd, path, variable = ray.get(state.remote())
"""


@pytest.fixture
def hostile(sandbox) -> Path:
    """A directory with modules of the same names as those of the standard library and of zray's own needs."""
    directory = sandbox.directory / "hostile"
    directory.mkdir()
    for name in ("json", "enum", "re", "typing", "signal", "socket", "msgpack", "click", "logging"):
        (directory / f"{name}.py").write_text("raise RuntimeError('not this one')")
    return directory


def script(sandbox, source: str) -> list[str]:
    """A program in a directory of its own: the working directory is not on its path."""
    file = sandbox.directory / "program.py"
    file.write_text(program(source))
    return [sys.executable, str(file)]


@pytest.mark.parametrize("init", ["ray.init(num_cpus=1)", "pass"])  # or by the first call
def test_foreign_modules_in_the_working_directory(sandbox, hostile, init):
    source = f"{init}\nassert ray.get(ray.remote(os.getcwd).remote()) == {str(hostile)!r}"
    with Process(script(sandbox, source), cwd=hostile) as process:
        process.succeed()


def test_commands_among_foreign_modules(sandbox, hostile, monkeypatch):
    """Their interpreter was started again, and looked there when it was."""
    begin = "import sys; sys.path.remove(''); sys.argv[0] = {0!r}; from zray.cli.{0} import main; main()"
    with Process([sys.executable, "-c", begin.format("broker")], cwd=hostile) as broker:
        broker.expect("ready at")
        with Process([sys.executable, "-c", begin.format("worker"), "--num-cpus", "1"], cwd=hostile) as worker:
            worker.expect("host is ready")
            with Process(script(sandbox, "ray.init('auto')\nprint(ray.get(ray.remote(len).remote('abc')))")) as process:
                assert process.succeed() == "3"
            worker.stop()
        broker.stop()


def test_modules_of_the_driver_are_found_in_its_order(sandbox):
    before, behind = sandbox.directory / "before", sandbox.directory / "behind"
    for directory in (before, behind):
        directory.mkdir()
        (directory / "mine.py").write_text(f"where = {directory.name!r}")
    (behind / "colorsys.py").write_text("where = 'behind'")  # the library's comes first
    source = f"""
    sys.path.append({str(behind)!r})
    ray.init(num_cpus=1)
    @ray.remote
    def where():
        import colorsys, mine
        return mine.where, hasattr(colorsys, "where"), sys.path
    mine, shadowed, path = ray.get(where.remote())
    assert (mine, shadowed) == ("before", False)
    assert path[:len(sys.path)] == sys.path, (path, sys.path)
    """
    with Process(script(sandbox, source), env={**os.environ, "PYTHONPATH": str(before)}) as process:
        process.succeed()


def test_tasks_have_the_drivers_variables(sandbox):
    source = """
    import subprocess
    ray.init(num_cpus=1)
    @ray.remote
    def state():
        child = [sys.executable, "-c", "import sys; print(sys.path)"]
        return hash("text"), os.environ["PYTHONPATH"], subprocess.check_output(child, text=True)
    there, variable, path = ray.get(state.remote())
    assert there == hash("text")
    assert variable == os.environ["PYTHONPATH"] and variable in path
    """
    environ = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(sandbox.directory)}
    with Process(script(sandbox, source), env={**os.environ, **environ}) as process:
        process.succeed()


def test_a_host_by_hand_has_its_own_python_path(sandbox):
    (sandbox.directory / "library").mkdir()
    (sandbox.directory / "library" / "only_there.py").write_text("value = 42")
    source = """
    ray.init("auto")
    @ray.remote
    def use():
        import only_there
        return only_there.value
    assert ray.get(use.remote()) == 42
    """
    environ = {"PYTHONPATH": str(sandbox.directory / "library")}
    with by_hand(environ=environ), Process(script(sandbox, source)) as process:
        process.succeed()


@pytest.mark.parametrize("text", ["print('hello')", "print('x' * 100_000)", "import os; os.write(1, b'{}\\n')"])
def test_a_sitecustomize_that_prints(sandbox, text):
    """Found by every interpreter, as it is in the environment's own library."""
    environment = sandbox.directory / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    library = next((environment / "lib").glob("python*/site-packages"))
    (library / "sitecustomize.py").write_text(text)
    places = [entry for entry in sys.path if entry.endswith("site-packages")] + [os.getcwd()]
    (library / "others.pth").write_text("\n".join(places))
    command = script(sandbox, "ray.init(num_cpus=1)\nprint('\\n', ray.get(ray.remote(len).remote('abc')))")
    with Process([str(environment / "bin" / "python"), *command[1:]]) as process:
        assert process.succeed().split("\n")[-1].strip() == "3"


def test_a_long_search_path(sandbox):
    longer = "sys.path.extend(f\"/nowhere/{'x' * 100}/{number}\" for number in range(1500))"
    with Process(script(sandbox, f"{longer}\n{USE}\nassert path[:len(sys.path)] == sys.path")) as process:
        process.succeed()


def test_a_deleted_working_directory(sandbox):
    gone = sandbox.directory / "gone"
    gone.mkdir()
    source = f"os.rmdir({str(gone)!r})\n{USE}\nassert cwd == '/'\nprint(ray.get(ray.put(b'x' * 1_000_000))[:1])"
    with Process(script(sandbox, source), cwd=gone) as process:
        process.succeed()


def test_deleted_before_the_interpreter_starts(sandbox):
    gone = sandbox.directory / "gone"
    gone.mkdir()
    command = script(sandbox, USE + "ray.shutdown(); print('down')")
    shell = f'cd {gone} && rmdir {gone} && exec "$@"'
    with Process(["sh", "-c", shell, "sh", *command]) as process:
        assert "down" in process.succeed()


def test_a_relative_spill_directory(sandbox):
    here = sandbox.directory / "here"
    here.mkdir()
    source = """
    ray.init(num_cpus=1)
    print("up")
    sys.stdin.readline()
    """
    with Process(script(sandbox, source), cwd=here, env={**os.environ, "ZRAY_SPILL_DIR": "spilled"}) as process:
        process.expect("up")
        assert [entry.name.startswith("zray-spill-") for entry in (here / "spilled").iterdir()] == [True]
        process.say("\n")
        process.succeed()
    gone = sandbox.directory / "gone"
    gone.mkdir()
    source = f"os.rmdir({str(gone)!r})\nray.init(num_cpus=1)"
    with Process(script(sandbox, source), cwd=gone, env={**os.environ, "ZRAY_SPILL_DIR": "spilled"}) as process:
        assert process.wait() == 1
        assert "ZRAY_SPILL_DIR" in process.err


def test_settings_are_not_shown_to_others(sandbox):
    """Arguments can be read by every user of the machine."""
    environ = {**os.environ, "ZRAY_LABELS": "secret=swordfish"}
    with Process(script(sandbox, "ray.init(num_cpus=1)\nprint('up')\nsys.stdin.readline()"), env=environ) as process:
        process.expect("up")
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in eventually(sandbox.processes)]
        assert not any(b"swordfish" in line for line in lines)
        process.say("\n")
        process.succeed()
