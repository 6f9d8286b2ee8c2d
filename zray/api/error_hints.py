"""Hints after uncaught errors about read-only values, in scripts and notebooks."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable
from typing import Any

from zray.serialization import hint_for


def show_hints() -> Callable[[], None]:
    """Installs hooks that print a hint after an uncaught error about a read-only value, in notebooks too.

    Returns a function that removes them.
    """
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
        before(kind, error, trace)
        tell(error)

    def tell(error: BaseException | None) -> None:
        if error is not None and (hint := hint_for(error)):
            print(hint, file=sys.stderr)

    def after_cell(result: Any) -> None:
        tell(result.error_in_exec)

    notebook = sys.modules.get("IPython")
    shell = notebook.get_ipython() if notebook is not None else None
    if shell is not None:  # IPython shows errors itself, without sys.excepthook
        shell.events.register("post_run_cell", after_cell)

    def undo() -> None:
        if sys.excepthook is hook:
            sys.excepthook = before
        if shell is not None:
            with contextlib.suppress(ValueError):  # the user has unregistered it
                shell.events.unregister("post_run_cell", after_cell)

    sys.excepthook = hook
    return undo
