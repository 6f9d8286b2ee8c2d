"""Applies a runtime environment to a worker's process, before it connects and before any code of the user is imported.

Variables, working directory and search path are set in the forked child. Another interpreter needs another program: the
child then executes it (``standalone``), in the same process.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn
from urllib.parse import urlsplit

from zray.named_tuples import NamedTuple
from zray.protocol.records import JobSettings
from zray.serialization import load_callable
from zray.system.interpreter import NEEDED, PATH_VARIABLE, places_of
from zray.worker.process.search_path import enter_directory, merged_search_path
from zray.worker.start import EnvironmentStart

LIBRARY_DIRECTORIES = ("site-packages", "dist-packages", "lib-dynload")
_STANDARD_LIBRARY = re.compile(r"python3\.?\d+(\.zip)?")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_APPLIED = "ZRAY_WORKER_ENVIRONMENT"
"""Set between ``exec`` and the start of the other program, which has the variables already."""


class Applied(NamedTuple):
    """What was applied. ``places``: entries that the search path begins with; ``directory``: where to work, or empty.

    ``owns_libraries``: the interpreter has libraries of its own, so the driver's do not come first. ``hook``: the name
    of the function that is called first, or empty; ``hook_blob``: that function, pickled, or empty.
    """

    places: list[str]
    directory: str
    owns_libraries: bool
    hook: str
    hook_blob: bytes


def apply(start: EnvironmentStart, payload: bytes, page: int) -> Applied:
    """Applies an environment. Does not return if it needs another interpreter: that one starts again from here.

    ``payload``, ``page``: of the worker, for the other program. Raises SystemExit, with the reason on stderr, if the
    environment cannot be applied.
    """
    fields: dict[str, Any] = json.loads(start.spec.text)
    paths = dict(zip((part.uri for part in start.spec.parts), start.paths, strict=True))
    runs_here = os.environ.pop(_APPLIED, None) is not None
    modules = [_place(uri, paths) for uri in fields.get("py_modules") or ()]
    directory = _place(fields["working_dir"], paths) if fields.get("working_dir") else ""
    places = [*modules, directory] if directory else modules
    if not runs_here:
        for name, value in (fields.get("env_vars") or {}).items():
            os.environ[name] = _VARIABLE.sub(lambda found: os.environ.get(found[1], ""), value)
        if places:
            given = os.environ.get(PATH_VARIABLE)
            os.environ[PATH_VARIABLE] = os.pathsep.join([*places, given] if given else places)
    if directory:
        os.chdir(directory)
    command = _interpreter(fields, start)
    if command and not runs_here:
        _execute(command, start, payload, page)
    return Applied(places, directory, runs_here, fields.get("worker_process_setup_hook") or "", start.spec.hook)


def _place(uri: str, paths: dict[str, str]) -> str:
    """The directory of a package: the one where it is installed, or one that is on the host already."""
    if uri in paths:
        return paths[uri]
    path = urlsplit(uri).path
    if not os.path.isdir(path):
        sys.exit(f"{uri} is no directory on this host")
    return path


def _interpreter(fields: dict[str, Any], start: EnvironmentStart) -> list[str]:
    """The command of the interpreter that the environment asks for; empty if it is this one."""
    if fields.get("py_executable"):
        return shlex.split(fields["py_executable"])
    for part, path in zip(start.spec.parts, start.paths, strict=True):
        if part.kind != "package":
            return [os.path.join(path, "bin", "python")]
    return []


def _execute(command: list[str], start: EnvironmentStart, payload: bytes, page: int) -> NoReturn:
    """Replaces this program by the same one in another interpreter."""
    given = os.memfd_create("zray-start")
    os.write(given, payload)
    fds = [given, page, start.to_file()]
    for fd in fds:
        os.set_inheritable(fd, True)
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "standalone.py")
    later = {"places": places_of(NEEDED), "path": os.environ.pop(PATH_VARIABLE, None), "fds": fds}
    os.environ[_APPLIED] = "1"
    try:
        os.execvp(command[0], [*command, program, json.dumps(later)])
    except OSError as error:
        sys.exit(f"the interpreter {shlex.join(command)} cannot be executed: {error.strerror}")


def enter_job(applied: Applied, job: JobSettings, own_path: list[str]) -> None:
    """Applies a job's search path and working directory beside those of the environment."""
    sys.path[:] = search_path(applied, job, own_path)
    if not applied.directory:
        enter_directory(job.cwd)


def call_hook(applied: Applied) -> None:
    """Calls the environment's setup hook.

    Raises SystemExit if the hook raises: the process ends, and its last output says why.
    """
    try:
        _hook_of(applied)()
    except BaseException as error:
        traceback.print_exc()
        print(
            f"Failed to execute the setup hook method. Function name: {applied.hook}: {error}",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(1) from None


def search_path(applied: Applied, job: JobSettings, own_path: list[str]) -> list[str]:
    """Returns the search path of a worker in an environment. ``own_path``: that of its interpreter."""
    theirs = job.sys_path
    if applied.owns_libraries:  # the driver's libraries would hide those that the environment has installed
        theirs = [entry for entry in theirs if not _is_library(entry)]
    merged = merged_search_path(theirs, own_path, os.path.dirname(os.__file__))
    return list(dict.fromkeys([*applied.places, *merged]))


def _is_library(entry: str) -> bool:
    name = os.path.basename(entry)
    return name in LIBRARY_DIRECTORIES or _STANDARD_LIBRARY.fullmatch(name) is not None


def _hook_of(applied: Applied) -> Callable[[], object]:
    if applied.hook_blob:
        hook: Callable[[], object] = load_callable(applied.hook_blob, _no_references)
        return hook
    module, _, name = applied.hook.rpartition(".")
    if not module:
        raise ValueError(f"{applied.hook!r} is not of the form module.function")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def _no_references(object_id: bytes) -> NoReturn:
    raise ValueError("the setup hook contains an ObjectRef")
