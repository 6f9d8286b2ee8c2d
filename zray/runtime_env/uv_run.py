"""``uv run``: what makes workers run in the environment that uv has made for the driver.

Such a driver has ``uv run OPTIONS COMMAND`` among the command lines of its ancestors. Workers start with ``uv run
OPTIONS python``, in a copy of the driver's directory, where uv finds the same project. Options that name files name
them by their place in that copy. This module is pure, except that it reads the script and looks for ``pyproject.toml``.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

from zray.named_tuples import NamedTuple
from zray.runtime_env.checks import is_address

_SHORT = {"-w": "--with", "-i": "--index-url", "-f": "--find-links", "-P": "--upgrade-package",
          "-C": "--config-setting", "-p": "--python", "-m": "--module", "-s": "--script"}  # fmt: skip
WITH_VALUE = frozenset(
    ("--allow-insecure-host", "--cache-dir", "--color", "--config-file", "--config-setting",
     "--config-settings-package", "--default-index", "--directory", "--env-file", "--exclude-newer",
     "--exclude-newer-package", "--extra", "--extra-index-url", "--find-links", "--fork-strategy", "--group", "--index",
     "--index-strategy", "--index-url", "--keyring-provider", "--link-mode", "--no-binary-package",
     "--no-build-isolation-package", "--no-build-package", "--no-editable-package", "--no-extra", "--no-group",
     "--no-sources-package", "--only-group", "--package", "--prerelease", "--prerelease-package", "--project",
     "--python", "--python-platform", "--python-preference", "--refresh-package", "--reinstall-package", "--resolution",
     "--upgrade-group", "--upgrade-package", "--with", "--with-editable", "--with-requirements")
)  # fmt: skip
"""The options of ``uv run`` that take a value. All others are flags."""
_FILES = frozenset(("--config-file", "--env-file", "--project", "--with-editable", "--with-requirements"))
"""Options that name a file or directory, which workers must have."""
_OF_THE_COMMAND = frozenset(("--directory", "--module", "--script", "--gui-script"))
"""Options that say how the driver's own command starts. ``--directory`` has become its working directory."""
_SCRIPT_METADATA = re.compile(rb"^# /// script\s*$", re.MULTILINE)
_REMEDY = (
    "name a directory in runtime_env['working_dir'] that has it, start the driver in that directory, or set "
    "ZRAY_UV_RUN=0 if workers are not to run in uv's environment"
)


class UvRun(NamedTuple):
    """A command line of uv: ``program OPTIONS run OPTIONS COMMAND``.

    ``options``: names, always long if uv has a long one, with their values; a flag has None.
    """

    program: str
    options: list[tuple[str, str | None]]
    command: list[str]


def parsed(line: list[str]) -> UvRun | None:
    """Reads the command line of a process; None if it is not ``uv run``."""
    if not line or os.path.basename(line[0]) != "uv":
        return None
    before, rest = _options(line[1:])
    if rest[:1] != ["run"]:
        return None
    options, command = _options(rest[1:])
    return UvRun(line[0], before + options, command)


def _options(words: list[str]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """The options that ``words`` begin with, and the rest."""
    found: list[tuple[str, str | None]] = []
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] != "-":  # "-" is a program on standard input
        word = words[at]
        at += 1
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
        else:
            name, value = _SHORT.get(word[:2], word), word[2:].removeprefix("=")
            equals = value if name in WITH_VALUE else ""
            if name not in WITH_VALUE and value:  # several flags in one word
                found += [(_SHORT.get(f"-{flag}", f"-{flag}"), None) for flag in word[1:]]
                continue
        if name not in WITH_VALUE:
            found.append((name, None))
        elif equals:
            found.append((name, value))
        elif at < len(words):
            found.append((name, words[at]))
            at += 1
    return found, words[at:]


def with_uv_run(given: Mapping[str, Any], run: UvRun, directory: str, python: str) -> dict[str, Any]:
    """The runtime environment of a job whose driver was started by ``run``.

    ``given``: the environment that the user asks for. ``directory``: the driver's working directory. ``python``: the
    version of Python that workers need, as "3.11".

    Raises RuntimeError if workers could not make uv's environment, or if ``given`` asks for another.
    """
    fields = dict(given)
    if fields.get("py_executable"):
        return fields
    for name in ("pip", "uv", "conda"):
        if fields.get(name):
            raise RuntimeError(
                f"runtime_env[{name!r}] cannot be used in a driver that was started with 'uv run', as workers run in "
                "the environment of 'uv run': add the requirements to it, in pyproject.toml or by --with, or set "
                "ZRAY_UV_RUN=0"
            )
    fields.setdefault("working_dir", directory)
    root = fields["working_dir"]
    places = None if is_address(str(root)) else _Places(os.path.join(directory, root), directory)
    names = {name for name, _ in run.options}
    options = [(name, value) for name, value in run.options if name not in _OF_THE_COMMAND]
    if places is not None:
        options = [(name, places.inside(value, name) if value and name in _FILES else value) for name, value in options]
        script = _script_with_metadata(run, directory)
        if script:  # uv then knows of no project, and takes what the script itself asks for
            options += [("--no-project", None), ("--with-requirements", places.inside(script, "the script"))]
        elif "--no-project" not in names and "--project" not in names:
            places.check_project()
    if "--python" not in names:
        options.append(("--python", python))
    if not names & {"--verbose", "-v", "--quiet", "-q"}:
        options.append(("--quiet", None))
    words = [word for option in options for word in option if word is not None]
    fields["py_executable"] = shlex.join([run.program, "run", *words, "python"])
    return fields


def _script_with_metadata(run: UvRun, directory: str) -> str:
    """The driver's script if it has inline metadata, with which uv makes an environment for it alone; else empty."""
    if not run.command or ("--module", None) in run.options:
        return ""
    path = os.path.join(directory, run.command[0])
    if not os.path.isfile(path) or not (path.endswith(".py") or ("--script", None) in run.options):
        return ""
    with open(path, "rb") as file:
        return path if _SCRIPT_METADATA.search(file.read()) else ""


class _Places:
    """Where files of the driver are in the copy of its directory."""

    def __init__(self, root: str, directory: str) -> None:
        self._root = os.path.realpath(root)
        self._directory = os.path.realpath(directory)

    def inside(self, path: str, what: str) -> str:
        """Returns a path as it is from the copy's top directory. Raises RuntimeError if the copy does not have it."""
        real = os.path.realpath(os.path.join(self._directory, path))
        if real != self._root and not real.startswith(os.path.join(self._root, "")):
            raise RuntimeError(
                f"the driver was started with 'uv run', and workers would not have {path} ({what}): it is not in their "
                f"working directory, {self._root}. Either {_REMEDY}"
            )
        return os.path.relpath(real, self._root)

    def check_project(self) -> None:
        """Raises RuntimeError if uv has found the project in a directory that workers do not have."""
        at = self._directory
        while not os.path.isfile(os.path.join(at, "pyproject.toml")):
            above = os.path.dirname(at)
            if above == at:
                return
            at = above
        self.inside(os.path.join(at, "pyproject.toml"), "the project")
