"""Where a worker looks for modules, and where it works."""

from __future__ import annotations

import os

from zray.system.streams import say


def merged_search_path(jobs: list[str], own: list[str], library: str) -> list[str]:
    """Returns a worker's search path.

    If driver and worker have the same standard ``library``, the order is the driver's, and the library keeps its place
    there. Otherwise the entries that only the driver has come first, and the worker's own follow.
    """
    if library in jobs:
        return list(dict.fromkeys([*jobs, *own]))
    mine = set(own)
    return list(dict.fromkeys([*(entry for entry in jobs if entry not in mine), *own]))


def enter_directory(directory: str) -> None:
    """Changes to the driver's working directory, if it has one. Says so if that is not possible."""
    if directory:
        try:
            os.chdir(directory)
        except OSError as error:
            say(f"zray: the driver's working directory {directory!r} cannot be entered: {error}")
