"""Where the log of a broker or host goes: to a file of its session, which is rotated, and to stderr for the commands.

``logging`` touches 1.3 MiB of memory that forked processes share otherwise (CPython 3.11, 2026-11-29: loggers 0.2,
a formatter 0.1, a file 0.4, the first line 0.6). So the log is opened with its first line.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from typing import NamedTuple

from zray.logs.display import escape_controls
from zray.logs.line import INFO, LogLine
from zray.system.streams import say

FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
BROKER_LOG, HOST_LOG = "broker.log", "host.log"
"""The files' names, in the directory of a session's logs."""
MAX_BYTES = 8 << 20
OLDER_FILES = 2
"""A file is rotated at ``MAX_BYTES``; so many older ones are kept."""


class _Destination(NamedTuple):
    level: str
    path: str
    to_stderr: bool


_unopened: _Destination | None = None
_least = INFO
"""Lines below this level are not written. Those of a process that has not started its log go where ``logging`` says."""


def start_log(level: str, path: str, to_stderr: bool = False) -> None:
    """Has lines from ``level`` up written to the file ``path``.

    ``to_stderr``: there as well; what it does not take at once is left out there. If the file cannot be opened, that is
    said on stderr, and nothing is written to it.
    """
    global _unopened, _least
    _least = logging.getLevelName(level)  # of a name it is the number
    _unopened = _Destination(level, path, to_stderr)
    if to_stderr:  # modules that use ``logging`` by themselves are heard from the beginning
        _open()


def write(line: LogLine) -> None:
    """Performs the effect of a core. What follows a line break is indented: it cannot pass for a line of its own."""
    if line.level < _least:
        return
    if _unopened is not None:
        _open()
    first, *others = map(escape_controls, line.text.split("\n"))
    logging.getLogger(f"zray.{line.logger}").log(line.level, "%s", "\n    ".join((first, *others)))


def _open() -> None:
    global _unopened
    assert _unopened is not None
    level, path, to_stderr = _unopened
    _unopened = None
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
        say(f"zray: there is no log {path}: {error.strerror}")
        handlers.append(logging.NullHandler())
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)


class _Stderr(logging.Handler):
    """Neither a pipe that is not read nor a terminal that stands still stops the process."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


class _File(logging.handlers.RotatingFileHandler):
    """Says once that it cannot write, and goes on trying."""

    def __init__(self, path: str) -> None:
        self._failed = False
        super().__init__(path, maxBytes=MAX_BYTES, backupCount=OLDER_FILES, encoding="utf-8", errors="backslashreplace")

    def _open(self):  # type: ignore[no-untyped-def]  # as the base class has it
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=_for_its_user)

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._failed:
            self._failed = True
            say(f"zray: the log {self.baseFilename} cannot be written: {sys.exc_info()[1]}")


def _for_its_user(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
