"""The name ``ray`` for zray's modules: ``import ray.util.queue`` gives ``zray.util.queue``.

A finder in ``sys.meta_path`` answers for ``ray`` and every name below it, before Ray itself could be found. The modules
are zray's own and not copies. Only the top one is an object of its own, because libraries compare ``ray.__version__``
with the version of Ray that they need. What it does not have, it takes from ``zray``. The finder also answers for the
installed distribution ``ray`` (``importlib.metadata.version("ray")``), because libraries look for it too.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from zray.version import RAY_COMMIT, RAY_VERSION

if TYPE_CHECKING:
    from importlib.metadata import Distribution, DistributionFinder

RAY, ZRAY = "ray", "zray"
_PRIVATE = ("state", "worker")


class _Loader:
    """Puts a module of zray in the place of the new one. Only ``ray`` itself stays, and takes from zray what it has."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Leaves the new module to the import system."""

    def exec_module(self, module: types.ModuleType) -> None:
        own = importlib.import_module(_own_name(module.__name__))
        if module.__name__ != RAY:
            sys.modules[module.__name__] = own
            return
        module.__doc__ = own.__doc__
        module.__path__ = own.__path__
        vars(module).update(
            __version__=RAY_VERSION,
            __commit__=RAY_COMMIT,
            __all__=own.__all__,
            __file__=own.__file__,
            __getattr__=functools.partial(_attribute, own),
            __dir__=functools.partial(dir, own),
        )


class _Finder:
    """Finds ``ray`` and the modules below it, where zray has them, and the distribution of that name."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != RAY and not name.startswith(f"{RAY}."):
            return None
        found = importlib.util.find_spec(_own_name(name))
        if found is None:
            return None
        package = found.submodule_search_locations is not None
        return importlib.machinery.ModuleSpec(name, _Loader(), origin=found.origin, is_package=package)  # type: ignore[arg-type]

    def find_distributions(self, context: DistributionFinder.Context) -> Iterable[Distribution]:
        """Finds ``ray`` if it is asked for, or if all distributions are. ``importlib.metadata`` calls this."""
        if context.name is not None and context.name.lower() != RAY:
            return ()
        from zray.ray_distribution import RaysDistribution  # few programs need it

        return (RaysDistribution(),)


def _attribute(own: types.ModuleType, name: str) -> object:
    """Returns what ``ray`` takes from zray. Ray has two of its private modules at the top, too."""
    return importlib.import_module(f"{ZRAY}._private.{name}") if name in _PRIVATE else getattr(own, name)


def _own_name(name: str) -> str:
    return ZRAY + name.removeprefix(RAY)


def is_installed() -> bool:
    """Whether ``ray`` means zray in this process."""
    return any(type(finder) is _Finder for finder in sys.meta_path)


def install() -> None:
    """Makes ``ray`` mean zray from now on. May be called again.

    Raises RuntimeError if Ray itself has been imported already.
    """
    if is_installed():
        return
    if RAY in sys.modules:
        raise RuntimeError(
            "Ray itself has been imported already: call zray.install_as_ray() before the first import of ray"
        )
    sys.meta_path.insert(0, _Finder())
    _tell_children()


def _tell_children() -> None:
    """Has the processes that this one starts find zray under the name: as a module, and as the command ``ray``."""
    alias = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ray_alias")
    os.environ["_ZRAY_PYTHON"] = sys.executable
    for variable, directory in (("PYTHONPATH", alias), ("PATH", os.path.join(alias, "bin"))):
        before = os.environ.get(variable, "")
        if directory not in before.split(os.pathsep):
            os.environ[variable] = f"{directory}{os.pathsep}{before}" if before else directory
