"""What the workers of a job are told of its driver: search path, working directory, namespace, logging."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from zray.config import Config
from zray.protocol.records import JobSettings

if TYPE_CHECKING:
    from zray.api.init_arguments import JobArguments


def job_settings(job: JobArguments, config: Config, own_directory: bool) -> JobSettings:
    """Returns what the job's workers need: namespace, search path, working directory, ...

    ``own_directory``: workers run in a copy of a directory, and import from it. As in Ray, they then import neither
    from this process's working directory nor from its script's.
    """
    path = _search_path()
    path[:0] = [directory for directory in map(os.path.abspath, job.code_search_path) if directory not in path]
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    directory = os.path.dirname(os.path.abspath(main)) if main else ""
    if own_directory:
        path = [entry for entry in path if entry not in (directory, working_directory())]
    elif directory and directory not in path:
        path.insert(0, directory)
    assert job.namespace is not None
    ray_name = sys.modules.get("zray.ray_name")  # loaded by ``install_as_ray`` only
    return JobSettings(
        job.namespace,
        path,
        working_directory(),
        config.ignore_unhandled_errors,
        job.actors_are_detached,
        "" if job.logging_config is None else job.logging_config.to_json(),
        ray_name is not None and ray_name.is_installed(),
    )


def working_directory() -> str:
    """The working directory; empty if it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _search_path() -> list[str]:
    """The driver's search path, made absolute, so that other processes can use it."""
    here = working_directory()
    return [os.path.join(here, entry) if here else entry for entry in sys.path if entry or here]
