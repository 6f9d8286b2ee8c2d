"""Starts a program of zray's own so that modules in its surroundings cannot replace its own.

``python -c`` and ``-m`` look for modules in the working directory first, and ``PYTHONPATH`` comes before the standard
library: a ``json.py`` there would be imported instead of Python's. So such a program starts without both. Its search
path is the interpreter's own. The places from which this process has zray and its dependencies follow the standard
library. Only workers add the users' own places.

Python's own isolated mode (``-I``) does not fit, as it ignores all variables: ``PYTHONHASHSEED`` is meant for tasks,
and ``PYTHONHOME`` for the interpreter.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping

from zray.system.processes import TITLE_PADDING

NEEDED = ("zray", "zmq", "msgpack", "cloudpickle", "setproctitle", "lz4", "xxhash", "click", "tomli")
PATH_VARIABLE = "PYTHONPATH"

FORGET_WORKING_DIRECTORY = "import sys; sys.path[:] = filter(None, sys.path)"
"""The beginning of a program for ``python -c``, before anything is imported from the working directory."""
_START = (
    FORGET_WORKING_DIRECTORY
    + """
import json, os
library = os.path.dirname(os.__file__)
given = json.loads(sys.argv[1])
own = [entry for entry in sys.path if entry == library or entry.endswith((".zip", "lib-dynload"))]
sys.path[:] = dict.fromkeys([*own, *given["places"], *sys.path])
if given["path"] is not None:
    os.environ["PYTHONPATH"] = given["path"]
sys.argv[:] = sys.argv[2:]
"""
)


def command(module: str, *arguments: str) -> list[str]:
    """Returns the command that runs ``main`` of ``module``, to be used with ``environment``.

    ``sys.argv`` is then the module and its arguments.
    """
    given = json.dumps({"places": places_of(NEEDED), "path": os.environ.get(PATH_VARIABLE)})
    start = f"{_START}from {module} import main\nsys.exit(main())"
    return [sys.executable, TITLE_PADDING, "-c", start, given, module, *arguments]


def environment(environ: Mapping[str, str], **more: str) -> dict[str, str]:
    """Returns the environment for ``command``. It lacks ``PYTHONPATH``, which tasks get back."""
    return {name: value for name, value in {**environ, **more}.items() if name != PATH_VARIABLE}


def places_of(packages: tuple[str, ...]) -> list[str]:
    """Returns the directories, or archives, in which this process finds these packages; skips packages not found."""
    places: dict[str, None] = {}
    for name in packages:
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # a module that a program has made without a spec
            continue
        if spec is None or not spec.origin:
            continue
        directory = os.path.dirname(os.path.abspath(spec.origin))
        places[os.path.dirname(directory) if spec.submodule_search_locations is not None else directory] = None
    return list(places)
