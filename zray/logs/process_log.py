"""The log of a broker or host: what is written to it, and when it is opened.

``logging`` touches 1.3 MiB of memory that forked processes otherwise share (CPython 3.11, 2026-11-29: loggers 0.2, a
formatter 0.1, a file 0.4, the first line 0.6). So the first line opens the log, and then loads ``zray.logs.files``.
"""

from __future__ import annotations

import errno
import logging

from zray.logs.display import escape_controls
from zray.logs.line import INFO, LogLine
from zray.named_tuples import NamedTuple
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
"""Lines below this level are not written.

A process that has not started its log writes its lines where ``logging`` is set to write.
"""


def start_log(level: str, path: str, to_stderr: bool = False) -> None:
    """Has lines from ``level`` up written to the file ``path``.

    ``to_stderr``: to stderr too; what stderr does not take at once is dropped there. If the file cannot be opened, that
    is reported on stderr, and nothing is written to the file. While the process has no file descriptors left, lines go
    to stderr alone.
    """
    global _unopened, _least
    _least = logging.getLevelName(level)  # for a name it returns the number
    _unopened = _Destination(level, path, to_stderr)
    if to_stderr:  # so that lines of modules that use ``logging`` are shown from the start
        _open()


def write(line: LogLine) -> None:
    """Performs the effect of a core. Lines after the first are indented, so they do not look like records."""
    if line.level < _least:
        return
    first, *others = map(escape_controls, line.text.split("\n"))
    text = "\n    ".join((first, *others))
    if _unopened is not None and not _open():
        say(f"zray: {text}")
    else:
        logging.getLogger(f"zray.{line.logger}").log(line.level, "%s", text)


def _open() -> bool:
    """Opens the log. Returns False if there is no file descriptor for it now: then the next line tries again."""
    global _unopened
    assert _unopened is not None
    level, path, to_stderr = _unopened
    try:
        from zray.logs.files import RotatedFile, Stderr  # this reads a file, too

        handlers: list[logging.Handler] = [Stderr()] if to_stderr else []
        handlers.append(RotatedFile(path))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return False
        say(f"zray: the log {path} cannot be opened: {error.strerror}")
        handlers.append(logging.NullHandler())
    _unopened = None
    logger = logging.getLogger("zray")
    logger.setLevel(level)
    logger.propagate = False
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
    formatter = logging.Formatter(FORMAT, DATE_FORMAT)
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    return True
