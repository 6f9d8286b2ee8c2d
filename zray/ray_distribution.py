"""The distribution ``ray``, as ``importlib.metadata`` shows it while ``ray`` means zray (``zray.ray_name``).

Libraries ask whether Ray is installed, and in which version, before they offer what they have for it.
"""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from zray.version import RAY_VERSION

_FILES = {
    "METADATA": f"Metadata-Version: 2.1\nName: ray\nVersion: {RAY_VERSION}\nSummary: zray, under the name of Ray\n",
    "top_level.txt": "ray\n",
}


class RaysDistribution(importlib.metadata.Distribution):
    """Ray, of the version whose interface zray has. It has no files of its own and requires nothing."""

    def read_text(self, filename: str) -> str | None:
        """Returns the text of a file of the metadata; None if there is no such file."""
        return _FILES.get(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        """Returns where a file would be that the distribution names."""
        return Path(__file__).parents[1] / path
