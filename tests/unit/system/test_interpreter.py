"""zray's own programs start so that modules in their surroundings cannot replace their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zray.system import interpreter

PROGRAM = """
import json, os, sys, enum, re, zmq, zray
def main():
    print(json.dumps([sys.argv, sys.path, os.environ.get("PYTHONPATH"), json.__file__, zray.__file__]))
    return 3
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A directory with modules that must not be imported."""
    for name in ("json", "enum", "re", "os", "zmq"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not this one')")
    return tmp_path


def run(
    monkeypatch: pytest.MonkeyPatch, places: list[str], environ: dict[str, str], cwd: Path
) -> tuple[int, list[object]]:
    monkeypatch.setattr(interpreter, "places_of", lambda names: places)
    command = interpreter.command("a_program", "x", "y")
    environment = interpreter.environment({**os.environ, **environ})
    done = subprocess.run(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("path", ["", ".", "{}", ":{}:", None])
def test_modules_of_others_are_not_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hostile: Path, path: str | None
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a_program.py").write_text(PROGRAM)
    environ = {} if path is None else {"PYTHONPATH": path.replace("{}", str(hostile))}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    places = [str(mine), *interpreter.places_of(interpreter.NEEDED)]
    code, (argv, search_path, variable, *files) = run(monkeypatch, places, environ, hostile)
    assert code == 3
    assert argv == ["a_program", "x", "y"]
    assert variable == environ.get("PYTHONPATH")  # programs that tasks start have it again
    assert isinstance(search_path, list)
    assert str(hostile) not in search_path and "" not in search_path
    assert search_path.index(os.path.dirname(os.__file__)) < search_path.index(str(mine))
    assert not any(str(file).startswith(str(hostile)) for file in files)


def test_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "single_file.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    import zray

    places = interpreter.places_of(("zray", "single_file", "no_such_module_anywhere"))
    assert places == [os.path.dirname(os.path.dirname(zray.__file__)), str(tmp_path)]
    assert sys.modules.get("single_file") is None
