"""All progress bars that this process draws: its own, and those of workers, whose states arrive with their output."""

from __future__ import annotations

import builtins
import os
import sys
import threading
from collections.abc import Hashable
from typing import Any

from zray.client import session as sessions
from zray.logs import bar_lines
from zray.system.streams import is_same_terminal
from zray.util.bars import Bars
from zray.util.nodes import get_node_ip_address

_print = builtins.print
_manager: BarManager | None = None
_making = threading.Lock()


def safe_print(*args: Any, **kwargs: Any) -> None:
    """Prints above the bars. The driver's ``print`` is this function as long as bars are drawn, unless
    RAY_TQDM_PATCH_PRINT is 0."""
    if kwargs.get("file") not in (None, sys.stdout, sys.stderr):
        _print(*args, **kwargs)
        return
    with bar_lines.hidden():
        _print(*args, **kwargs)


class BarManager:
    """The bars of all processes, as this one draws them.

    ``process_state_update``, ``hide_bars`` and ``unhide_bars`` are Ray's; programs rarely need them.
    """

    def __init__(self) -> None:
        self._bars = Bars(sys.stderr)
        self._session: sessions.Session | None = None
        self._ip = ""  # of this process, in that session

    @property
    def bars(self) -> Bars:
        """The bars on the present ``sys.stderr``."""
        if self._bars.file is not sys.stderr and self._bars.is_empty():
            self._bars = Bars(sys.stderr)
        return self._bars

    def process_state_update(self, state: dict[str, Any]) -> None:
        """Shows the state of a bar: creates, changes or closes the bar."""
        bars, is_here = self.bars, state["ip"] == self._own_ip()
        is_ours = is_here and state["pid"] == os.getpid()
        key = (is_ours, state["uuid"])
        where = "" if is_ours else f"(pid={state['pid']}{'' if is_here else ', ip=' + state['ip']}) "
        bars.update(key, where + state["desc"], state["x"], state["total"], state["unit"])
        if state["closed"]:
            bars.close(key)
        self.patch_print()

    def _own_ip(self) -> str:
        """The broker is asked once in a session, and not for each state."""
        session = sessions.current()
        if not self._ip or session is not self._session:
            self._session, self._ip = session, get_node_ip_address()
        return self._ip

    def bars_on(self, file: Any) -> Bars:
        """The bars on a stream: those on stderr, if both are the same terminal."""
        own = self.bars
        return own if file is own.file or is_same_terminal(file, own.file) else Bars(file)

    def hide_bars(self) -> None:
        """Removes the bars from the terminal, until ``unhide_bars``."""
        self._bars.hide_bars()

    def unhide_bars(self) -> None:
        """Draws the bars again."""
        self._bars.unhide_bars()

    def end_remote(self) -> None:
        """Closes the bars of other processes: the cluster is over."""
        self._bars.close_all(_is_remote)
        self.patch_print()

    def patch_print(self) -> None:
        """Has ``print`` appear above the bars, while there are any on a terminal."""
        wanted = self._bars.is_terminal and not self._bars.is_empty()
        if wanted and builtins.print is _print and os.environ.get("RAY_TQDM_PATCH_PRINT", "1") not in ("0", "false"):
            builtins.print = safe_print
        elif not wanted and builtins.print is safe_print:
            builtins.print = _print


def _is_remote(key: Hashable) -> bool:
    return isinstance(key, tuple) and not key[0]


def instance() -> BarManager:
    """Returns what draws the bars in this process."""
    global _manager
    with _making:
        if _manager is None:
            bar_lines.shown = _manager = BarManager()
        return _manager
