"""A program written for Ray, with no line changed: ``python -m zray.as_ray program.py ARGUMENTS``.

``install_as_ray`` does the same from within a program. The workers of its job then know the name too, because the job's
settings say so.
"""

from __future__ import annotations

import os
import sys

from zray import ray_name

USAGE = "usage: python -m zray.as_ray PROGRAM.py [ARGUMENTS], or python -m zray.as_ray -m MODULE [ARGUMENTS]"


def install_as_ray() -> None:
    """Makes ``import ray`` and ``import ray.util.queue`` give zray's modules, in this process and in its workers.

    So it is in the Python processes that they start, and ``ray`` is zray's command there: directories of zray come
    first in ``PYTHONPATH`` and ``PATH``.

    Call it before ``ray`` is imported and before ``zray.init()``. It may be called again. ``ray.__version__`` is the
    version of Ray whose interface zray has.

    Raises:
        RuntimeError: Ray itself has been imported already, or ``init`` was called before. Workers would not know the
            name then.

    Example:
        >>> import zray
        >>> zray.install_as_ray()
        >>> import ray
        >>> ray.get is zray.get
        True
    """
    from zray.client import session as sessions

    session = sessions.current()
    if session is not None and session.job_id and not ray_name.is_installed():  # this is a driver
        raise RuntimeError(
            "zray.install_as_ray() has to be called before zray.init(): the workers of this job do not know the name"
        )
    ray_name.install()


def main() -> None:
    """Runs a program or a module, as ``python`` itself does, after ``install_as_ray``."""
    import runpy

    arguments = sys.argv[1:]
    by_name = arguments[:1] == ["-m"]
    if by_name:
        del arguments[0]
    if not arguments or arguments[0].startswith("-"):
        sys.exit(USAGE)
    install_as_ray()
    sys.argv[:] = arguments
    if by_name:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
