"""What workers print, from their pipes to lines and files.

The host reads both pipes of each worker.  What comes is written, without markers, to a file per worker and stream,
which is capped, and is cut into lines that go on to the driver; the last lines of stderr are kept for the error that
tells of a worker's death.  ``LineSplitter``, ``NamedLines``, ``Tail`` and ``Outlet`` are pure; ``RotatingFile`` and
``WorkerLog`` do I/O.

Of a worker's output the host holds at most a line of 64 KiB that has not ended and one chunk of 64 KiB for each pipe,
8 KiB of last lines, and for all workers together one window of lines on their way to the broker.  A worker that prints
faster than its host reads waits when its pipe is full, at 64 KiB.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator

from zray.protocol.log_window import LogWindow
from zray.protocol.messages import WorkerLogs
from zray.protocol.records import WorkerLines
from zray.worker.log_marker import MAX_NAME_CHARACTERS, SECRET_FROM, marker_prefix

MAX_LINE_BYTES = 64 * 1024
READ_BYTES = 64 * 1024
"""Most that is read from one pipe in one turn, so that a loud worker cannot starve the others."""
DRAIN_BYTES = 16 * READ_BYTES
"""Most that is read after a worker's end: a pipe holds 64 KiB (1 MiB if somebody made it larger), and what comes
after that is printed by processes that the worker left behind, perhaps without end."""
PROGRESS_TICKS = 4
"""A line that is overwritten on and on is shown once in so many ticks."""
CUT_MARK = " [line continues]"

Said = tuple[str, str, list[str]]
"""A stream, whose output, and lines."""


class LineSplitter:
    """Chunks of bytes to complete lines of text.

    Of a line that was overwritten by carriage returns, as progress bars do, only the last state is kept: what a
    terminal would show.  Longer lines than 64 KiB come in pieces, each but the last with a mark.  Bytes that are not
    UTF-8 are shown as ``\\xff``.  State: ``_partial`` is the line that has not ended yet, at most ``MAX_LINE_BYTES``;
    ``_shown``: a beginning of it has been shown, and is not in ``_partial`` any more.
    """

    def __init__(self) -> None:
        self._partial = bytearray()
        self._shown = False

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that ``chunk`` completes."""
        *ended, rest = chunk.split(b"\n")
        lines: list[str] = []
        for piece in ended:
            self._append(piece, lines)
            line = _text(_overwritten(self._partial))
            if line or not self._shown:
                lines.append(line)
            self._partial.clear()
            self._shown = False
        self._append(rest, lines)
        return lines

    @property
    def within_line(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._partial) or self._shown

    @property
    def waits(self) -> bool:
        """Whether there is something that ``show`` would show."""
        return bool(self._partial)

    def show(self) -> list[str]:
        """The beginning of a line that has not ended yet; what follows will be a line of its own."""
        end = _whole_characters(self._partial)
        line = _text(_overwritten(self._partial[:end]))
        if not line:
            return []
        del self._partial[:end]
        self._shown = True
        return [line]

    def finish(self) -> list[str]:
        """What is left, as a line without an end."""
        return self.feed(b"\n") if self.within_line else []

    def _append(self, piece: bytes, lines: list[str]) -> None:
        self._partial += piece
        if b"\r" in piece:
            # A return at the very end waits: a newline may follow, and then it overwrites nothing.
            waiting = b"\r" if self._partial.endswith(b"\r") else b""
            self._partial = _overwritten(self._partial) + waiting
        while len(self._partial) > MAX_LINE_BYTES:
            end = _character_boundary(self._partial, MAX_LINE_BYTES)
            lines.append(_text(self._partial[:end]) + CUT_MARK)
            del self._partial[:end]


def _overwritten(line: bytearray) -> bytearray:
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def _whole_characters(data: bytearray) -> int:
    """Where a UTF-8 character begins that has not come in whole; the end if there is none."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            needed = 1 if byte >= 0xF8 else 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return len(data) - back if needed > back else len(data)
    return len(data)


def _character_boundary(data: bytearray, end: int) -> int:
    """The last position up to ``end`` that does not split a UTF-8 character (of at most four bytes)."""
    for position in range(end, end - 4, -1):
        if data[position] & 0xC0 != 0x80:
            return position
    return end


def _text(data: bytearray) -> str:
    return data.decode("utf-8", "backslashreplace")


class NamedLines:
    """Chunks of bytes to lines of text with the name of who printed them, as the worker's markers tell.

    State: ``_name`` is whose output it is at present; ``_rest`` may be the beginning of a marker, cut off by the limit
    on what is read at once.
    """

    def __init__(self, secret: str) -> None:
        """``secret``: see ``zray.worker.log_marker``."""
        self._prefix = marker_prefix(secret)
        self._marker = re.compile(re.escape(self._prefix) + rb"([^\n]*)\n")
        self._max_marker = len(self._prefix) + 4 * MAX_NAME_CHARACTERS + 1
        self._splitter = LineSplitter()
        self._name = ""
        self._rest = b""

    def feed(self, chunk: bytes, cut: bool = False) -> tuple[list[tuple[str, list[str]]], bytes]:
        """The lines that ``chunk`` completes, as ``(name, lines)``, and all its bytes but the markers.

        ``cut``: there may be more, so its end may be the beginning of a marker.
        """
        data = self._rest + chunk
        self._rest = b""
        if cut:
            start = data.rfind(self._prefix[:1], -self._max_marker)
            if start >= 0 and not self._marker.match(data, start):
                data, self._rest = data[:start], data[start:]
        if self._prefix not in data:
            lines = self._splitter.feed(data)
            return ([(self._name, lines)] if lines else []), data
        return self._feed_with_markers(data)

    def _feed_with_markers(self, data: bytes) -> tuple[list[tuple[str, list[str]]], bytes]:
        said: list[tuple[str, list[str]]] = []
        plain = b""
        text, *marked = self._marker.split(data)
        for name, following in zip([None, *marked[::2]], [text, *marked[1::2]], strict=True):
            if name is not None:
                plain += b"\n" if self._splitter.within_line else b""
                said.append((self._name, self._splitter.finish()))
                self._name = _text(bytearray(name))
            said.append((self._name, self._splitter.feed(following)))
            plain += following
        return [(name, lines) for name, lines in said if lines], plain

    @property
    def waits(self) -> bool:
        """Whether there is something that ``show`` would show."""
        return self._splitter.waits

    def show(self) -> list[tuple[str, list[str]]]:
        """The beginning of a line that has not ended yet, without what may be that of a marker."""
        return [(self._name, lines) for lines in [self._splitter.show()] if lines]

    def finish(self) -> tuple[list[tuple[str, list[str]]], bytes]:
        """What is left, as a line without an end; otherwise as ``feed``."""
        if len(self._rest) > SECRET_FROM and self._prefix.startswith(self._rest[: len(self._prefix)]):
            self._rest = b""  # a marker that has not come in whole is shown to nobody
        said, plain = self.feed(b"")
        return said + [(self._name, lines) for lines in [self._splitter.finish()] if lines], plain


class RotatingFile:
    """An append-only file of at most ``max_bytes``; one older generation is kept beside it as ``<name>.1``.

    No descriptor is held between writes: a host has two of these per worker, and descriptors are what a machine with
    a low limit runs out of first.  Errors, a full disk above all, are swallowed and counted in ``lost_bytes``: logs
    are a convenience, and a host that died of them would take down every worker and all that they compute.
    """

    def __init__(self, path: str, max_bytes: int) -> None:
        self.path = path
        self.lost_bytes = 0
        self._max_bytes = max_bytes

    def write(self, data: bytes) -> None:
        """Appends; never raises OSError. The file is made with the first write."""
        written = 0
        with contextlib.suppress(OSError):  # counted below, with what a nearly full disk cuts off
            self._make_room(len(data))
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                written = os.write(fd, data)
            finally:
                os.close(fd)
        self.lost_bytes += len(data) - written

    def _make_room(self, size_bytes: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            if (present := os.stat(self.path).st_size) > 0 and present + size_bytes > self._max_bytes:
                os.replace(self.path, f"{self.path}.1")


class Tail:
    """The last lines of a stream, at most ``n_lines`` and ``max_bytes`` (counted in characters).

    If the last thing is what Python prints of a fatal signal, its first ``n_lines`` are kept as well: there the
    innermost frame comes first. Left out of it are the frames of zray, and the list of extension modules.
    """

    def __init__(self, n_lines: int = 20, max_bytes: int = 8192) -> None:
        self._lines: deque[str] = deque(maxlen=n_lines)
        self._fatal: list[str] = []
        self._user_code = False
        self._n_lines = n_lines
        self._max_bytes = max_bytes

    def add(self, lines: Iterable[str]) -> None:
        # Cut each line as it comes, or twenty long ones would hold a megabyte for each worker.
        for line in lines:
            cut = line[-self._max_bytes :]
            if line.startswith(_FATAL):
                self._lines.extend(self._fatal)
                self._fatal, self._user_code = [cut], True
            elif not self._fatal:
                self._lines.append(cut)
            elif line.startswith(_FATAL_PARTS) or not line.strip():
                self._add_frame(line, cut)
            else:  # whoever printed that lives on
                self._lines.extend((*self._fatal, cut))
                self._fatal = []

    def _add_frame(self, line: str, cut: str) -> None:
        if _OUTERMOST in line:
            self._user_code = False
        wanted = self._user_code and line.startswith(_FATAL_SHOWN) and _PACKAGE not in line
        if wanted and len(self._fatal) < self._n_lines:
            self._fatal.append(cut)

    def text(self) -> str:
        """The lines, joined."""
        fatal = "\n".join(self._fatal)[: self._max_bytes]
        room = self._max_bytes - len(fatal)
        before = "\n".join(self._lines)[-room:] if room else ""
        return "\n".join(filter(None, (before, fatal)))


_FATAL = "Fatal Python error: "
_FATAL_SHOWN = ("Current thread ", "Thread ", "  File ", "  <no Python frame>", "  ...")
_FATAL_PARTS = (*_FATAL_SHOWN, "Extension modules:", "Python runtime state:", "Current thread's C stack", "Stack (most")
_PACKAGE = f'"{os.path.dirname(os.path.dirname(os.path.dirname(__file__)))}{os.sep}'
_OUTERMOST = f"{_PACKAGE}worker{os.sep}process{os.sep}main.py"


class Outlet:
    """Lines of all workers on their way to the broker, one window of them.

    What does not fit is in the workers' files only, and is counted.  State: ``_entries`` wait for ``take``;
    ``_left_out`` are lines by worker that the broker has not been told of; ``_full``: something has found no room since
    the broker took lines last.
    """

    def __init__(self) -> None:
        self._window = LogWindow()
        self._entries: list[WorkerLines] = []
        self._left_out: dict[bytes, int] = {}
        self._full = False

    def add(self, worker_id: bytes, name: str, pid: int, stream: str, lines: list[str]) -> None:
        """Lines that a worker printed."""
        if self._window.admits(lines):
            self._entries.append(WorkerLines(worker_id, name, pid, stream, lines))
        else:
            self._full = True
            self._left_out[worker_id] = self._left_out.get(worker_id, 0) + len(lines)

    def taken(self, size_bytes: int) -> None:
        """The broker has taken so much."""
        self._window.taken(size_bytes)
        self._full = False

    def take(self, ending: bool = False) -> WorkerLogs | None:
        """What to send now. ``ending``: with the count of what is missing in any case, since a worker is at its end."""
        left_out: dict[bytes, int] = {}
        if ending or not self._full:
            left_out, self._left_out = self._left_out, left_out
        entries, self._entries = self._entries, []
        return WorkerLogs(entries, left_out) if entries or left_out else None


class WorkerLog:
    """The two pipe ends of one worker's output. Owns them.

    Poll ``filenos()`` and call ``read``; when the worker has ended, ``drain``.  ``close`` is separate from it, since
    a process that the worker left behind may go on printing: as long as the host reads on, until ``filenos()`` is
    empty, that process is not killed by SIGPIPE.

    Attributes: stderr_tail.
    """

    def __init__(
        self, stdout_fd: int, stderr_fd: int, directory: str, stem: str, max_bytes: int, secret: str = ""
    ) -> None:
        """Files are ``<directory>/<stem>.out`` and ``.err``, each rotated at ``max_bytes``; ``secret``: of the worker's
        markers."""
        self.stderr_tail = Tail()
        self._pipes = {
            fd: _Pipe(fd, stream, RotatingFile(f"{directory}/{stem}.{suffix}", max_bytes), secret)
            for fd, stream, suffix in ((stdout_fd, "stdout", "out"), (stderr_fd, "stderr", "err"))
        }

    def filenos(self) -> list[int]:
        """The pipe ends that are still open."""
        return list(self._pipes)

    @property
    def lost_bytes(self) -> int:
        """Output that could not be written to the files of the pipes still open."""
        return sum(pipe.file.lost_bytes for pipe in self._pipes.values())

    def read(self) -> Iterator[Said]:
        """One turn: what has come, up to 64 KiB a pipe, as ``(stream, name, lines)``. Never blocks."""
        for pipe in list(self._pipes.values()):
            yield from self._lines(pipe, pipe.read())

    def drain(self) -> Iterator[Said]:
        """All that is there, within reason, with the last lines even if they have no end."""
        for pipe in list(self._pipes.values()):
            for _ in range(DRAIN_BYTES // READ_BYTES):
                chunk = pipe.read()
                yield from self._lines(pipe, chunk)
                if not chunk:
                    break
            yield from self._show(pipe, *pipe.lines.finish())

    def cut(self) -> Iterator[Said]:
        """What has no end yet, as lines."""
        for pipe in self._pipes.values():
            yield from self._show(pipe, pipe.lines.show(), b"")

    def tick(self) -> Iterator[Said]:
        """To be called every quarter of a second: lines without an end that do not go on, or that have been
        overwritten again and again, as progress bars are, for a second."""
        for pipe in self._pipes.values():
            if pipe.is_due():
                yield from self._show(pipe, pipe.lines.show(), b"")

    def close(self) -> None:
        """Closes the pipe ends. May be called twice."""
        for fd in self._pipes:
            os.close(fd)
        self._pipes.clear()

    def _lines(self, pipe: _Pipe, chunk: bytes | None) -> Iterator[Said]:
        if chunk is None:
            return
        if chunk:
            yield from self._show(pipe, *pipe.lines.feed(chunk, cut=len(chunk) == READ_BYTES))
        elif self._pipes.pop(pipe.fd, None):
            os.close(pipe.fd)
            yield from self._show(pipe, *pipe.lines.finish())

    def _show(self, pipe: _Pipe, said: list[tuple[str, list[str]]], plain: bytes) -> Iterator[Said]:
        if plain:
            pipe.file.write(plain)
        for name, lines in said:
            if pipe.stream == "stderr":
                self.stderr_tail.add(lines)
            yield pipe.stream, name, lines


class _Pipe:
    def __init__(self, fd: int, stream: str, file: RotatingFile, secret: str) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.stream = stream
        self.file = file
        self.lines = NamedLines(secret)
        self._has_come = False  # something, since the last tick
        self._ticks = 0  # for so many a line without an end has waited

    def is_due(self) -> bool:
        """Whether a line without an end is to be shown; called at each tick."""
        has_come, self._has_come = self._has_come, False
        self._ticks = self._ticks + 1 if self.lines.waits else 0
        if not self._ticks or (has_come and self._ticks < PROGRESS_TICKS):
            return False
        self._ticks = 0
        return True

    def read(self) -> bytes | None:
        """Up to 64 KiB; None when nothing is there, empty at the end."""
        self._has_come = True
        try:
            return os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return None
