"""Runs tests on each supported version of Python that this machine has, besides the one that runs everything.

    python3 .ci/interpreters.py                       # what ON_EACH names
    ZRAY_CI_ALL_TESTS=1 python3 .ci/interpreters.py   # all tests on each

Interpreters are looked for on PATH (``python3.12``) and among those of pyenv; of several with one version the newest
counts.  For each an environment is made in a temporary folder.  Versions that are not found are told.

The exit code is 1 if a test fails, or if dependencies cannot be installed although there are wheels of them for that
version.  If one has a wheel for the interpreter that runs this and none for the other, that is told and is no failure:
it is for others to publish it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ((3, 10), (3, 11), (3, 12), (3, 13), (3, 14))
ALL_TESTS = "ZRAY_CI_ALL_TESTS"
ON_EACH = (
    "tests/unit",
    "tests/conformance",
    # What depends on the interpreter in whole clusters: forks and the zygote, signals, how processes end, pickling.
    "tests/e2e/test_by_value.py",
    "tests/e2e/test_child_processes.py",
    "tests/e2e/test_hygiene.py",
    "tests/e2e/test_inherited_signals.py",
    "tests/e2e/test_interruption.py",
    "tests/e2e/test_loading_failures.py",
    "tests/e2e/test_optimizations.py",
    "tests/e2e/test_redefinitions.py",
    "tests/e2e/test_threads_and_forks.py",
    "tests/e2e/test_user_code_inside.py",
    "tests/e2e/test_worker_deaths.py",
)
"""The tests that run on each further interpreter: eight to ten minutes of them on two cores with a load of five."""
LIMIT_S = 1800.0
"""One interpreter's tests are given up after this long; times four if all tests run."""
_NO_WHEEL = re.compile(r"No matching distribution found for (\S+)")
_TELL_VERSION = "import sys, venv, ensurepip; print(*sys.version_info[:3], sys.abiflags or '-')"

Version = tuple[int, int]


class Interpreter(NamedTuple):
    """One that works. ``release``: its version in full."""

    path: str
    release: tuple[int, int, int]

    @property
    def version(self) -> Version:
        return self.release[:2]

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.release))} at {self.path}"


def main() -> int:
    """Tests on all of them; returns the exit code."""
    own = sys.version_info[:2]
    found = newest(probe(candidates(os.environ)))
    for version in SUPPORTED:
        told = (
            "runs all tests elsewhere"
            if version == own
            else found.get(version, "NOT FOUND, with venv and pip, on this machine")
        )
        print(f"Python {name(version)}: {told}", flush=True)
    failed = []
    for version in SUPPORTED:
        if version != own and version in found:
            with tempfile.TemporaryDirectory(prefix="interpreter-") as environment:  # half a gigabyte each
                if not passes(found[version], Path(environment)):
                    failed.append(name(version))
    if failed:
        print(f"FAILED on Python {', '.join(failed)}")
    return 1 if failed else 0


def name(version: Version) -> str:
    """As in ``python3.12``."""
    return ".".join(map(str, version))


# ---- which there are


def candidates(environ: Mapping[str, str]) -> Iterator[str]:
    """Paths at which an interpreter may be."""
    for version in SUPPORTED:
        if path := shutil.which(f"python{name(version)}", path=environ.get("PATH")):
            yield path
    pyenv = Path(environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from map(str, sorted(pyenv.glob("versions/*/bin/python")))


def probe(paths: Iterable[str]) -> Iterator[Interpreter]:
    """Those that run, can make environments, and have a GIL. A shim of pyenv's does not run where it is not chosen."""
    for path in paths:
        try:
            done = subprocess.run([path, "-c", _TELL_VERSION], capture_output=True, text=True, check=False)
        except OSError:  # it may not be executed, or is of another machine's kind
            continue
        if done.returncode == 0:
            major, minor, micro, flags = done.stdout.split()
            if "t" not in flags:
                yield Interpreter(path, (int(major), int(minor), int(micro)))


def newest(interpreters: Iterable[Interpreter]) -> dict[Version, Interpreter]:
    """The newest release of each version; of equals the first."""
    found: dict[Version, Interpreter] = {}
    for each in interpreters:
        if each.version not in found or each.release > found[each.version].release:
            found[each.version] = each
    return found


# ---- one of them


def passes(interpreter: Interpreter, environment: Path) -> bool:
    """Whether its tests pass, or cannot be run for want of a wheel."""
    began = time.monotonic()
    print(f"\n---- Python {interpreter}", flush=True)
    python = str(environment / "bin" / "python")
    subprocess.run([interpreter.path, "-m", "venv", str(environment)], check=True)
    installed = pip(python, "--editable", f"{ROOT}[test]")
    if installed.returncode:
        return _lacks_only_a_wheel(name(interpreter.version), installed.stdout)
    everything = os.environ.get(ALL_TESTS, "") not in ("", "0")
    tests = ["tests"] if everything else list(ON_EACH)
    try:
        code = subprocess.run(
            [python, "-m", "pytest", "--durations=5", *tests],
            cwd=ROOT,
            timeout=LIMIT_S * (4 if everything else 1),
            check=False,
        ).returncode
    except subprocess.TimeoutExpired as error:
        print(f"given up after {error.timeout:.0f} s")
        code = 1
    passed = "passed" if code == 0 else "FAILED"
    print(f"Python {interpreter}: {passed} in {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


def pip(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Installs, of what is published no sources: to build them would be a test of their build systems."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    return subprocess.run(
        [*command, "--only-binary", ":all:", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _lacks_only_a_wheel(version: str, output: str) -> bool:
    missing = _NO_WHEEL.search(output)
    # The index may be out of reach: then this interpreter does not find it, either.
    if missing and pip(sys.executable, "--dry-run", "--ignore-installed", "--no-deps", missing[1]).returncode == 0:
        print(f"NOT TESTED on Python {version}: {missing[1]} has no wheel for it yet", flush=True)
        return True
    print(f"{output}\nthe dependencies cannot be installed on Python {version}", flush=True)
    return False


if __name__ == "__main__":
    sys.exit(main())
