"""Where a broker or host writes its log: to a rotated file of its session, and for the commands also to stderr.

``logging`` and ``logging.handlers`` are in memory anyway, as pyzmq loads what they need: measured on CPython 3.11, a
broker has 12 KiB more with ``logging.handlers``.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys

from zray.logs.display import escape_controls
from zray.logs.line import LogLine
from zray.system.streams import say

FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
BROKER_LOG, HOST_LOG = "broker.log", "host.log"
"""The files' names, in the directory of a session's logs."""
MAX_BYTES = 8 << 20
OLDER_FILES = 2
"""The number of older files kept; a file is rotated at ``MAX_BYTES``."""


def start_log(level: str, path: str, to_stderr: bool = False) -> None:
    """Writes records of the loggers below ``zray`` to the file ``path`` from now on, from ``level`` up.

    ``to_stderr``: to stderr too; what stderr does not take at once is dropped there. If the file cannot be opened, that
    is reported on stderr, and nothing is written to the file.
    """
    logger = logging.getLogger("zray")
    logger.setLevel(level)
    logger.propagate = False
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
    formatter = logging.Formatter(FORMAT, DATE_FORMAT)
    handlers: list[logging.Handler] = [_Stderr()] if to_stderr else []
    try:
        handlers.append(_File(path))
    except OSError as error:
        say(f"zray: the log {path} cannot be opened: {error.strerror}")
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)


def write(line: LogLine) -> None:
    """Performs the effect of a core. Lines after the first are indented, so they do not look like records."""
    first, *others = map(escape_controls, line.text.split("\n"))
    logging.getLogger(f"zray.{line.logger}").log(line.level, "%s", "\n    ".join((first, *others)))


class _Stderr(logging.Handler):
    """Writes to stderr without waiting: neither an unread pipe nor a stopped terminal stops the process."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


class _File(logging.handlers.RotatingFileHandler):
    """A rotated file. Reports once that it cannot be written, and goes on trying."""

    def __init__(self, path: str) -> None:
        super().__init__(path, maxBytes=MAX_BYTES, backupCount=OLDER_FILES, encoding="utf-8", errors="backslashreplace")
        self._failed = False

    def _open(self):  # type: ignore[no-untyped-def]  # like the base class
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=_for_its_user)

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._failed:
            self._failed = True
            say(f"zray: the log {self.baseFilename} cannot be written: {sys.exc_info()[1]}")


def _for_its_user(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
