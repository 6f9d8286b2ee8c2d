"""Which interpreters CI finds, and what it says and does when dependencies cannot be installed."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def ci() -> ModuleType:
    spec = importlib.util.spec_from_file_location("interpreters", ROOT / ".ci" / "interpreters.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def interpreter(path: Path, answer: str, code: int = 0) -> str:
    """A program that answers as an interpreter of that version does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{answer}'\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def test_those_on_path_and_those_of_pyenv(ci: ModuleType, tmp_path: Path) -> None:
    in_path = tmp_path / "bin" / "python3.12"
    interpreter(in_path, "3 12 1 -")
    interpreter(tmp_path / "bin" / "python3.13", "not chosen here", code=127)  # as a shim of pyenv's
    newer = tmp_path / "pyenv" / "versions" / "3.12.7" / "bin" / "python"
    interpreter(newer, "3 12 7 -")
    interpreter(newer.parents[2] / "3.13.2t" / "bin" / "python", "3 13 2 t")
    old = interpreter(newer.parents[2] / "2.7.18" / "bin" / "python", "2 7 18 -")
    broken = newer.parents[2] / "3.10.1" / "bin" / "python"
    interpreter(broken, "")
    broken.chmod(0o644)
    environ = {"PATH": str(in_path.parent), "PYENV_ROOT": str(tmp_path / "pyenv")}
    found = ci.newest(ci.probe(ci.candidates(environ)))
    assert found == {(3, 12): (str(newer), (3, 12, 7)), (2, 7): (old, (2, 7, 18))}


def test_a_machine_that_has_none(ci: ModuleType, tmp_path: Path) -> None:
    environ = {"PATH": str(tmp_path), "PYENV_ROOT": str(tmp_path)}
    assert list(ci.candidates(environ)) == []


def test_every_file_that_is_chosen_is_there(ci: ModuleType) -> None:
    assert all((ROOT / each).exists() for each in ci.ON_EACH)


@pytest.mark.parametrize(
    ("output", "has_it_here", "tolerated", "told"),
    [
        ("ERROR: No matching distribution found for lz4>=4.3", True, True, "lz4>=4.3 has no wheel for it yet"),
        ("ERROR: No matching distribution found for lz4>=4.3", False, False, "cannot be installed on Python 3.14"),
        ("ERROR: no space left", True, False, "no space left"),
    ],
    ids=["no wheel", "no index", "another error"],
)
def test_dependencies_that_cannot_be_installed(
    ci: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    output: str, has_it_here: bool, tolerated: bool, told: str,
) -> None:  # fmt: skip
    asked: list[tuple[str, ...]] = []

    def pip(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        asked.append(arguments)
        return subprocess.CompletedProcess([], 0 if has_it_here else 1, "")

    monkeypatch.setattr(ci, "pip", pip)
    assert ci._lacks_only_a_wheel("3.14", output) is tolerated
    assert told in capsys.readouterr().out
    assert all(arguments[-1] == "lz4>=4.3" and "--dry-run" in arguments for arguments in asked)
