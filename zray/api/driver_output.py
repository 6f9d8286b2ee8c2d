"""What the driver's terminal shows of the cluster: workers' output, and warnings."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time

from zray.client.core.effects import ShowLogs, Warn
from zray.client.shell import Tick
from zray.util.log_display import LogDeduplicator, ShownLine

logger = logging.getLogger("zray")


class DriverOutput:
    """Prints; nothing is printed any more after ``close``."""

    def __init__(self, show_logs: bool) -> None:
        self._show_logs = show_logs
        self._lines = LogDeduplicator()
        self._lock = threading.Lock()  # effects come from whichever thread turns

    def show(self, effect: ShowLogs) -> None:
        """Lines of workers, as ``(name pid=123) text``."""
        if self._show_logs:
            now = time.monotonic()
            with self._lock:
                for name, pid, stream, lines in effect.entries:
                    self._print(self._lines.feed(now, name, pid, stream, lines))

    def warn(self, effect: Warn) -> None:
        """A warning of the broker."""
        logger.warning(effect.text)

    def tick(self, effect: Tick) -> None:
        """Shows what was held back as a repetition long enough."""
        with self._lock:
            deadline = self._lines.next_deadline()
            if deadline is not None and time.monotonic() >= deadline:
                self._print(self._lines.flush(time.monotonic()))

    def close(self) -> None:
        """Shows what is still held back."""
        if self._show_logs:
            with self._lock:
                self._print(self._lines.flush(math.inf))

    @staticmethod
    def _print(lines: list[ShownLine]) -> None:
        for stream, text in lines:
            file = sys.stderr if stream == "stderr" else sys.stdout
            try:
                file.write(text + "\n")  # in one piece: the user's own prints must not get in between
                file.flush()
            except (ValueError, OSError, AttributeError):  # closed by the user: there is nowhere to show it
                return
