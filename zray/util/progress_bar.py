"""``progress``: waits for references, and shows how many are ready.

On a terminal and in a notebook it draws a bar. Elsewhere, such as in a file, it writes a line when the
count has changed, at most one in ``LINE_S`` seconds, and one at the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO, TypeVar

from zray.api.objects import wait
from zray.object_ref import ObjectRef
from zray.system.streams import is_terminal
from zray.util.bar_manager import instance
from zray.util.bars import LINE_S, Bars

T = TypeVar("T")
LOOK_S = 0.1
"""How often it looks which references are ready, in seconds."""


class _Shower(Protocol):
    def show(self, n_ready: int) -> None:
        """Shows that ``n_ready`` references are ready by now."""


def progress(
    refs: Iterable[ObjectRef[T]], *, desc: str = "", file: TextIO | None = None, fetch_local: bool = True
) -> list[ObjectRef[T]]:
    """Waits until all references are ready, and shows how many are. Returns them, so that ``get`` can take the result.

    A task that has failed counts as ready: ``get`` raises its error. Ctrl-C ends the wait, and not the tasks.

    Args:
        refs: references, for instance ``[f.remote(item) for item in items]``.
        desc: a text in front of the bar.
        file: where to show it; default: stderr.
        fetch_local: see ``zray.wait``.

    Raises:
        TypeError: ``refs`` contains something other than a reference.
        ClusterUnavailableError: the broker is gone.
    """
    given = list(refs)
    pending = list(dict.fromkeys(given))
    total = len(pending)
    with _shower(total, desc, sys.stderr if file is None else file) as shower:
        shower.show(0)
        while pending:
            ready, pending = wait(pending, num_returns=len(pending), timeout=LOOK_S, fetch_local=fetch_local)
            if ready:
                shower.show(total - len(pending))
    return given


@contextmanager
def _shower(total: int, desc: str, file: TextIO) -> Iterator[_Shower]:
    if _in_notebook():
        with _notebook_bar(total, desc) as bar:
            yield bar
    elif is_terminal(file):
        bars = instance().bars_on(file)
        shown = _Bar(bars, total, desc)
        try:
            yield shown
        finally:
            bars.close(shown)
            instance().patch_print()
    else:
        yield _Lines(total, desc, file)


def _in_notebook() -> bool:
    """Whether this is a kernel of Jupyter, which shows HTML."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


@contextmanager
def _notebook_bar(total: int, desc: str) -> Iterator[_Shower]:
    from rich.console import Console  # not at the top: it takes megabytes, and most programs draw no bar
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(force_jupyter=True)) as bars:
        bar = bars.add_task(desc, total=total)

        class Bar:
            def show(self, n_ready: int) -> None:
                bars.update(bar, completed=n_ready)

        yield Bar()


class _Bar:
    """A bar on a terminal, among those of tasks."""

    def __init__(self, bars: Bars, total: int, desc: str) -> None:
        self._bars = bars
        self._total = total
        self._desc = desc

    def show(self, n_ready: int) -> None:
        """See ``_Shower``."""
        self._bars.update(self, self._desc, n_ready, self._total, "ready")
        instance().patch_print()


class _Lines:
    """Lines of text, for files and pipes."""

    def __init__(self, total: int, desc: str, file: TextIO) -> None:
        self._total = total
        self._desc = f"{desc}: " if desc else ""
        self._file = file
        self._shown_at = time.monotonic()

    def show(self, n_ready: int) -> None:
        """See ``_Shower``."""
        now = time.monotonic()
        if n_ready == self._total or now - self._shown_at >= LINE_S:
            self._shown_at = now
            print(f"{self._desc}{n_ready} of {self._total} ready", file=self._file, flush=True)
