"""Ray's public names: which of them zray has, and the page of the documentation that lists them.

``ray_names.json`` has the names of Ray's public interface, by module, and the members of classes that programs use.
``python -m zray.testing.compatibility`` looks each of them up in zray and writes ``docs/ray-compatibility.md``; with
``--check`` it reports whether the page is up to date; with ``--read-ray`` it reads the names from an installed Ray
first. ``zray/testing/remarks.py`` says in which way a name differs, and why one is missing.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zray.named_tuples import NamedTuple
from zray.testing.remarks import DIFFERS, INIT, MISSING, NOT_YET, OUT
from zray.version import RAY_VERSION

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ray-compatibility.md"
NAMES = Path(__file__).with_name("ray_names.json")
HEAD = f"""\
# Ray's names

<!-- Made by `python -m zray.testing.compatibility` from the code and from zray/testing/remarks.py. Do not edit it. -->

This page lists the public names of Ray Core {RAY_VERSION}, and what zray has of them. "works": the name exists and does
what Ray's does, as far as the tests compare the two. "differs" and "missing" say how and why. [Features](features.md)
describes behaviour, with the tests that prove it.
"""
WORKS, DIFFERENT, ABSENT = "works", "differs", "missing"

MODULES = (
    "ray", "ray.actor", "ray.autoscaler.sdk", "ray.client_builder", "ray.cloudpickle", "ray.cluster_utils",
    "ray.cross_language", "ray.dag", "ray.exceptions", "ray.experimental", "ray.experimental.internal_kv",
    "ray.experimental.tqdm_ray", "ray.job_config", "ray.job_submission", "ray.remote_function", "ray.runtime_context",
    "ray.runtime_env", "ray.types", "ray.util", "ray.util.accelerators", "ray.util.annotations",
    "ray.util.client_connect", "ray.util.dask", "ray.util.joblib", "ray.util.metrics", "ray.util.multiprocessing",
    "ray.util.placement_group", "ray.util.queue", "ray.util.scheduling_strategies", "ray.util.serialization",
    "ray.util.state",
)  # fmt: skip
"""The modules of Ray Core that programs import."""
CLASSES = (
    "ray.ObjectRef", "ray.ActorID", "ray.JobID", "ray.NodeID", "ray.TaskID", "ray.LoggingConfig",
    "ray.actor.ActorClass", "ray.actor.ActorMethod", "ray.cluster_utils.Cluster", "ray.dag.DAGNode",
    "ray.job_config.JobConfig", "ray.remote_function.RemoteFunction", "ray.runtime_context.RuntimeContext",
    "ray.runtime_env.RuntimeEnv", "ray.util.ActorPool", "ray.util.metrics.Counter", "ray.util.metrics.Gauge",
    "ray.util.metrics.Histogram", "ray.util.multiprocessing.Pool", "ray.util.placement_group.PlacementGroup",
    "ray.util.queue.Queue",
)  # fmt: skip
"""The classes whose members are listed, too."""


class Row(NamedTuple):
    """A name of Ray, without its module or class, and what zray has of it."""

    name: str
    status: str
    remark: str


def names_of_module(module: types.ModuleType) -> list[str]:
    """Returns a module's public names: ``__all__``, else what it defines itself.

    The functions of ``internal_kv`` begin with an underscore, and programs use them all the same.
    """
    listed = getattr(module, "__all__", None)
    if listed is None:
        listed = [name for name, value in vars(module).items() if _is_own(module, name, value)]
    return sorted({name for name in listed if not name.startswith("_") or name.startswith("_internal_kv_")})


def _is_own(module: types.ModuleType, name: str, value: Any) -> bool:
    home = "cloudpickle" if module.__name__.endswith(".cloudpickle") else module.__name__
    defined = inspect.isclass(value) or inspect.isfunction(value)
    return defined and str(getattr(value, "__module__", "")).endswith(home.rpartition(".")[2])


def members_of_class(kind: type) -> list[str]:
    """Returns the names of a class's methods, properties and fields that begin with no underscore."""
    return sorted(name for name in {*dir(kind), *getattr(kind, "__dataclass_fields__", ())} if not name.startswith("_"))


def read_ray() -> dict[str, list[str]]:
    """Returns the names of the installed Ray. Modules that need another library are left out."""
    found: dict[str, list[str]] = {}
    for name in MODULES:
        try:
            found[name] = names_of_module(importlib.import_module(name))
        except ImportError:
            continue
    for name in CLASSES:
        found[name] = members_of_class(look_up(name))
    return found


def names() -> dict[str, list[str]]:
    """Returns the names in ``ray_names.json``."""
    found: dict[str, list[str]] = json.loads(NAMES.read_text())
    return found


def look_up(path: str) -> Any:
    """Returns the object that a dotted name means: the longest module in it, and attributes of that.

    Raises ImportError or AttributeError if there is none.
    """
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            fields = getattr(found, "__dataclass_fields__", {})  # not all of them are attributes of the class
            found = fields[part] if part in fields else getattr(found, part)
        return found
    raise ImportError(path)


def exists(name: str) -> bool:
    """Whether zray has what Ray has under ``name``."""
    try:
        look_up("zray" + name.removeprefix("ray"))
    except (ImportError, AttributeError):
        return False
    return True


def rows_of(group: str, listed: list[str]) -> Iterator[Row]:
    """Returns a row for each name of a module or class."""
    for name in listed:
        path = f"{group}.{name}"
        if path in OUT or group in OUT:
            yield Row(name, ABSENT, OUT.get(path, OUT.get(group, "")))
        elif not exists(path):
            yield Row(name, ABSENT, MISSING.get(path, MISSING.get(group, NOT_YET)))
        elif path in DIFFERS:
            yield Row(name, DIFFERENT, DIFFERS[path])
        else:
            yield Row(name, WORKS, "")


def page() -> str:
    """Returns the text of ``docs/ray-compatibility.md``."""
    return "\n".join([HEAD, *_arguments(), *_sections()])


def _arguments() -> Iterator[str]:
    yield "## Arguments of `init`\n"
    yield from _table(("argument", "", "remark"), [(_code(name), *INIT[name]) for name in INIT])
    yield ""


def _code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _sections() -> Iterator[str]:
    for group, listed in names().items():
        rows = list(rows_of(group, listed))
        yield f"## `{group}`\n"
        working = ", ".join(f"`{row.name}`" for row in rows if row.status == WORKS)
        if working:
            yield f"Works: {working}.\n"
        others = [(f"`{row.name}`", row.status, row.remark) for row in rows if row.status != WORKS]
        if others:
            yield from _table(("name", "", "remark"), others)
            yield ""


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    for row in [head, tuple("---" for _ in head), *rows]:
        yield "| " + " | ".join(row) + " |"


def main(arguments: list[str]) -> int:
    """Writes the page, or checks whether it is up to date. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m zray.testing.compatibility", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the page is out of date")
    parser.add_argument("--read-ray", action="store_true", help="read the names from the installed Ray")
    options = parser.parse_args(arguments)
    if options.read_ray:
        NAMES.write_text(json.dumps({**names(), **read_ray()} if NAMES.exists() else read_ray(), indent=1) + "\n")
    if not options.check:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        print(f"{PAGE} is out of date: run python -m zray.testing.compatibility", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
