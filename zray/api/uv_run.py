"""Drivers that were started with ``uv run``, and join a cluster: their workers run in the same environment.

The workers of a cluster that the driver itself starts are forks of its own interpreter, so nothing is to be done there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from zray.system.processes import commands_of_ancestors
from zray.version import python_version


def environment_of_job(given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Returns the runtime environment of the job: ``given``, and if uv runs this process, what makes workers the same.

    Raises RuntimeError if workers could not make that environment, or if ``given`` asks for another.
    """
    for line in commands_of_ancestors():
        if os.path.basename(line[0]) == "uv":
            from zray.runtime_env.uv_run import parsed, with_uv_run  # few programs need it

            run = parsed(line)
            if run is not None:
                return with_uv_run(given or {}, run, os.getcwd(), python_version())
    return given
