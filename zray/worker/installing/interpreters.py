"""Installs the requirements of ``pip`` and ``uv`` into a virtual environment of their own.

The environment sees what the host's own interpreter sees, zray included: a file in it adds those directories behind its
own. So what is installed here has precedence, and what is there already is not installed again.
"""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from zray.system.interpreter import NEEDED, places_of
from zray.worker.installing.errors import InstallError

PIP_OPTIONS = ["--disable-pip-version-check", "--no-cache-dir"]
UV_OPTIONS = ["--no-cache"]
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def python_in(directory: str) -> str:
    """The interpreter of an environment."""
    return os.path.join(directory, "bin", "python")


def install_requirements(kind: str, options: Mapping[str, Any], target: str, env_vars: Mapping[str, str]) -> None:
    """Makes an environment at ``target`` with the requirements of ``kind``, which is ``pip`` or ``uv``.

    ``options``: the field of the runtime environment. ``env_vars``: variables for the installer.
    """
    environ = {**os.environ, **env_vars}
    environ.pop("PYTHONPATH", None)
    _make_environment(target)
    python = python_in(target)
    requirements = os.path.join(target, "requirements.txt")
    with open(requirements, "w") as file:
        file.write("\n".join(_expanded(package, environ) for package in options["packages"]) + "\n")
    if kind == "pip":
        _with_pip(python, requirements, options, target, environ)
    else:
        _with_uv(python, requirements, options, target, environ)


def _expanded(requirement: str, environ: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: environ.get(found[1], found[0]), requirement)


def _make_environment(target: str) -> None:
    import venv

    venv.EnvBuilder(system_site_packages=True, symlinks=True, with_pip=False).create(target)
    own = [path for path in site.getsitepackages() if os.path.isdir(path)]
    seen = dict.fromkeys([*own, *places_of(NEEDED)])
    library = os.path.join(target, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
    with open(os.path.join(library, "zray_parent.pth"), "w") as file:
        file.writelines(f"import site; site.addsitedir({path!r})\n" for path in seen)


def _with_pip(
    python: str, requirements: str, options: Mapping[str, Any], target: str, environ: Mapping[str, str]
) -> None:
    if subprocess.run([python, "-c", "import pip"], capture_output=True, env=environ).returncode:
        _run([python, "-m", "ensurepip"], "pip is not installed on this host, and", target, environ)
    pip = [python, "-m", "pip"]
    if version := options.get("pip_version"):
        _run([*pip, "install", *PIP_OPTIONS[:1], f"pip{version}"], f"pip{version}", target, environ)
    install = [*pip, "install", "-r", requirements, *options.get("pip_install_options", PIP_OPTIONS)]
    _run(install, "the requirements of pip", target, environ)
    if options.get("pip_check"):
        _run([*pip, "check", *PIP_OPTIONS[:1]], "the check of pip", target, environ)


def _with_uv(
    python: str, requirements: str, options: Mapping[str, Any], target: str, environ: Mapping[str, str]
) -> None:
    version = options.get("uv_version")
    uv = [shutil.which("uv") or ""]
    if version or not uv[0]:
        _with_pip(python, _one_line(target, f"uv{version or ''}"), {}, target, environ)
        uv = [python, "-m", "uv"]
    chosen = options.get("uv_pip_install_options", UV_OPTIONS)
    install = [*uv, "pip", "install", "--python", python, "-r", requirements, *chosen]
    _run(install, "the requirements of uv", target, environ)
    if options.get("uv_check"):
        _run([*uv, "pip", "check", "--python", python], "the check of uv", target, environ)


def _one_line(target: str, requirement: str) -> str:
    path = os.path.join(target, "installer.txt")
    with open(path, "w") as file:
        file.write(f"{requirement}\n")
    return path


def _run(command: list[str], what: str, target: str, environ: Mapping[str, str]) -> None:
    """Runs a step. Its output goes to the log. Raises InstallError if it fails."""
    done = subprocess.run(command, cwd=target, env=environ, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    if done.returncode:
        raise InstallError(f"{what} failed: {' '.join(command)} ended with exit code {done.returncode}")
