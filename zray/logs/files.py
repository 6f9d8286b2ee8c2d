"""Destinations of log lines: a rotated file, and stderr. Neither stops the process."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys

from zray.system.streams import say

MAX_BYTES = 8 << 20
OLDER_FILES = 2
"""The number of older files kept; a file is rotated at ``MAX_BYTES``."""


class Stderr(logging.Handler):
    """Writes to stderr without waiting: neither an unread pipe nor a stopped terminal stops the process."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


class RotatedFile(logging.handlers.RotatingFileHandler):
    """A rotated file. Reports once that it cannot be written, and goes on trying."""

    def __init__(self, path: str) -> None:
        self._failed = False
        super().__init__(path, maxBytes=MAX_BYTES, backupCount=OLDER_FILES, encoding="utf-8", errors="backslashreplace")

    def _open(self):  # type: ignore[no-untyped-def]  # like the base class
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=_for_its_user)

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._failed:
            self._failed = True
            say(f"zray: the log {self.baseFilename} cannot be written: {sys.exc_info()[1]}")


def _for_its_user(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
