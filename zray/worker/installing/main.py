"""The process that installs a part of a runtime environment, or removes one."""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback

from zray.worker.installing.errors import InstallError
from zray.worker.start import REMOVAL, InstallOrder

PACKAGE = "package"
"""The kind of a part that is an archive of files. The other kinds, ``pip`` and ``uv``, are lists of requirements."""


def install(fd: int) -> None:
    """Carries out the order in a file. Raises SystemExit with the exit code."""
    order = InstallOrder.from_file(fd)
    try:
        if order.part.kind == REMOVAL:
            shutil.rmtree(order.target, ignore_errors=True)
        else:
            os.mkdir(order.target, 0o700)
            _install(order)
    except InstallError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except Exception:
        print(f"{order.part.uri} cannot be installed:\n{traceback.format_exc()}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _install(order: InstallOrder) -> None:
    if order.part.kind == PACKAGE:
        from zray.worker.installing.packages import install_package

        install_package(order)
    else:
        from zray.worker.installing.interpreters import install_requirements

        env_vars = json.loads(order.text).get("env_vars") or {}
        install_requirements(order.part.kind, json.loads(order.part.details), order.target, env_vars)
