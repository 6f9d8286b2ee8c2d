"""What the workers of a driver that was started with ``uv run`` are started with."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from zray.runtime_env.uv_run import UvRun, parsed, with_uv_run


def run(line: str) -> UvRun:
    found = parsed(shlex.split(line))
    assert found is not None
    return found


def workers(line: str, directory: Path, **given: object) -> str:
    command = with_uv_run(given, run(line), str(directory), "3.11")["py_executable"]
    assert isinstance(command, str)
    return command


@pytest.mark.parametrize(
    ("line", "options", "command"),
    [
        ("uv run a.py --with b", [], ["a.py", "--with", "b"]),
        ("/opt/uv run --with numpy python a.py", [("--with", "numpy")], ["python", "a.py"]),
        ("uv run --with=numpy -w six -- -x", [("--with", "numpy"), ("--with", "six")], ["-x"]),
        ("uv run -p3.11 -p=3.12 a.py", [("--python", "3.11"), ("--python", "3.12")], ["a.py"]),
        ("uv run -qm package", [("-q", None), ("--module", None)], ["package"]),
        ("uv run --frozen -q -vv -", [("--frozen", None), ("-q", None), ("-v", None), ("-v", None)], ["-"]),
        ("uv --offline --directory d run a.py", [("--offline", None), ("--directory", "d")], ["a.py"]),
        ("uv run --an-option-to-come a.py", [("--an-option-to-come", None)], ["a.py"]),
        ("uv run", [], []),
        ("uv run --with", [], []),
    ],
)
def test_the_command_line_of_uv(line: str, options: list[tuple[str, str | None]], command: list[str]) -> None:
    assert run(line)[1:] == (options, command)


@pytest.mark.parametrize("line", ["python a.py", "uv sync", "uv pip run", "uv --offline pip", "uvx run", "uv", ""])
def test_other_command_lines(line: str) -> None:
    assert parsed(shlex.split(line)) is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("uv run a.py", "uv run --python 3.11 --quiet python"),
        ("/opt/bin/uv run --with 'numpy < 3' a.py", "/opt/bin/uv run --with 'numpy < 3' --python 3.11 --quiet python"),
        ("uv run -p 3.12 -v a.py", "uv run --python 3.12 -v python"),
        ("uv --directory d run --extra x -m a", "uv run --extra x --python 3.11 --quiet python"),
        ("uv run --no-project -s a", "uv run --no-project --python 3.11 --quiet python"),
    ],
)
def test_what_workers_start_with(line: str, expected: str, tmp_path: Path) -> None:
    assert workers(line, tmp_path) == expected


def test_workers_run_in_a_copy_of_the_drivers_directory_or_of_the_one_that_was_given(tmp_path: Path) -> None:
    given = {"env_vars": {"A": "1"}}
    fields = with_uv_run(given, run("uv run a.py"), str(tmp_path), "3.11")
    assert (fields["working_dir"], fields["env_vars"]) == (str(tmp_path), {"A": "1"})
    assert given == {"env_vars": {"A": "1"}}
    fields = with_uv_run({"working_dir": "https://a/b.zip"}, run("uv run --project ../c a.py"), str(tmp_path), "3.11")
    assert fields["working_dir"] == "https://a/b.zip"
    assert "--project ../c" in fields["py_executable"]


def test_files_are_named_by_their_place_in_the_copy(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "pyproject.toml").touch()
    files = f"--with-requirements {inner}/a.txt --env-file ../b.env --with-editable ."
    expected = (
        "uv run --with-requirements inner/a.txt --env-file b.env --with-editable inner --python 3.11 --quiet python"
    )
    assert workers(f"uv run {files} a.py", inner, working_dir=tmp_path) == expected
    assert workers(f"uv run {files} a.py", inner, working_dir="..") == expected
    with pytest.raises(RuntimeError, match=r"b\.env \(--env-file\): it is not in their working directory.*ZRAY_UV_RUN"):
        workers(f"uv run {files} a.py", inner)


def test_a_project_that_workers_would_not_have(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "pyproject.toml").touch()
    with pytest.raises(RuntimeError, match=r"pyproject\.toml \(the project\)"):
        workers("uv run a.py", inner)
    with pytest.raises(RuntimeError, match=r"\(--project\)"):
        workers("uv run --project .. a.py", inner)
    assert workers("uv run --no-project a.py", inner).startswith("uv run --no-project")
    assert workers("uv run a.py", inner, working_dir=str(tmp_path)).startswith("uv run --python")
    assert workers("uv run --project .. a.py", inner, working_dir=str(tmp_path)).startswith("uv run --project . ")


def test_a_script_with_metadata_has_an_environment_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "a.py").write_text('# /// script\n# dependencies = ["numpy"]\n# ///\nprint()\n')
    (tmp_path / "scripts" / "plain.py").write_text("print('# /// script')\n")
    (tmp_path / "scripts" / "a").write_text("# /// script\n# ///\n")
    own = "uv run --no-project --with-requirements scripts/{} --python 3.11 --quiet python"
    assert workers("uv run scripts/a.py", tmp_path) == own.format("a.py")
    assert workers("uv run -s scripts/a", tmp_path) == own.format("a")
    for line in ("uv run scripts/plain.py", "uv run scripts/a", "uv run python scripts/a.py", "uv run -m scripts/a.py"):
        assert workers(line, tmp_path) == "uv run --python 3.11 --quiet python"
    with pytest.raises(RuntimeError, match=r"a\.py \(the script\)"):
        workers("uv run ../scripts/a.py", tmp_path / "scripts", working_dir=str(tmp_path / "else"))


def test_an_interpreter_that_was_given_stays(tmp_path: Path) -> None:
    given = {"py_executable": "python"}
    assert with_uv_run(given, run("uv run a.py"), str(tmp_path), "3.11") == given


@pytest.mark.parametrize("name", ["pip", "uv", "conda"])
def test_requirements_exclude_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=rf"'{name}'.*pyproject\.toml or by --with, or set ZRAY_UV_RUN=0"):
        workers("uv run a.py", tmp_path, **{name: ["numpy"]})
