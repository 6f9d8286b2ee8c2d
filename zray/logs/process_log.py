"""The log of a broker or host: what is written to it, and from when on.

``logging`` touches 1.3 MiB of memory that forked processes share otherwise (CPython 3.11, 2026-11-29: loggers 0.2,
a formatter 0.1, a file 0.4, the first line 0.6). So the log is opened with its first line, and
``zray.logs.files`` is loaded then.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from zray.logs.display import escape_controls
from zray.logs.line import INFO, LogLine
from zray.system.streams import say

FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
BROKER_LOG, HOST_LOG = "broker.log", "host.log"
"""The files' names, in the directory of a session's logs."""


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
    from zray.logs.files import RotatedFile, Stderr

    formatter = logging.Formatter(FORMAT, DATE_FORMAT)
    handlers: list[logging.Handler] = [Stderr()] if to_stderr else []
    try:
        handlers.append(RotatedFile(path))
    except OSError as error:
        say(f"zray: there is no log {path}: {error.strerror}")
        handlers.append(logging.NullHandler())
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
