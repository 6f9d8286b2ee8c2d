"""Worker output: from the pipes to lines and files.

The host reads both pipes of each worker. It writes what it reads, without markers, to a capped file per worker and
stream. It also cuts the output into lines that go to the driver, and keeps the last lines of stderr for the error that
reports a worker's death. ``LineSplitter``, ``NamedLines``, ``Tail`` and ``Outlet`` are pure; ``RotatingFile`` and
``WorkerLog`` do I/O.

The host holds a bounded part of each worker's output: for each pipe one unfinished line of up to 64 KiB and one chunk
of 64 KiB, and 8 KiB of last lines. For all workers together it holds one window of lines on their way to the broker. A
worker that prints faster than its host reads waits when its pipe is full, at 64 KiB.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator

from zray.protocol.log_window import LogWindow
from zray.protocol.messages import WorkerLogs
from zray.protocol.records import WorkerLines
from zray.worker.log_marker import MAX_NAME_CHARACTERS, SECRET_FROM, marker_prefix

MAX_LINE_BYTES = 64 * 1024
READ_BYTES = 64 * 1024
"""The most that is read from one pipe in one turn, so that a worker that prints much cannot starve the others."""
DRAIN_BYTES = 16 * READ_BYTES
"""The most that is read after a worker's end.

A pipe holds 64 KiB, or 1 MiB if a program made it larger. What comes after that is printed by processes that the worker
left behind, perhaps without end.
"""
PROGRESS_TICKS = 4
"""A line that is overwritten again and again is shown once in this many ticks."""
CUT_MARK = " [line continues]"

Said = tuple[str, str, list[str]]
"""A stream, the name of the task or actor, and its lines."""


class LineSplitter:
    """Turns chunks of bytes into complete lines of text.

    A progress bar overwrites its line by carriage returns. Only the last state of such a line is kept, as a terminal
    would show it. A line longer than 64 KiB comes in pieces; each piece but the last one ends with a mark. Bytes that
    are not UTF-8 are shown as ``\\xff``.

    State: ``_partial`` is the unfinished line, at most ``MAX_LINE_BYTES``. ``_shown``: its beginning has been shown,
    and is no longer in ``_partial``.
    """

    def __init__(self) -> None:
        self._partial = bytearray()
        self._shown = False

    def feed(self, chunk: bytes) -> list[str]:
        """Returns the lines that ``chunk`` completes."""
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
        """Whether ``show`` would show something."""
        return bool(self._partial)

    def show(self) -> list[str]:
        """Returns the beginning of the unfinished line. What follows becomes a line of its own."""
        end = _whole_characters(self._partial)
        line = _text(_overwritten(self._partial[:end]))
        if not line:
            return []
        del self._partial[:end]
        self._shown = True
        return [line]

    def finish(self) -> list[str]:
        """Returns the unfinished line, if there is one."""
        return self.feed(b"\n") if self.within_line else []

    def _append(self, piece: bytes, lines: list[str]) -> None:
        self._partial += piece
        if b"\r" in piece:
            # Keep a return at the very end: a newline may follow, and then the return overwrites nothing.
            waiting = b"\r" if self._partial.endswith(b"\r") else b""
            self._partial = _overwritten(self._partial) + waiting
        while len(self._partial) > MAX_LINE_BYTES:
            end = _character_boundary(self._partial, MAX_LINE_BYTES)
            lines.append(_text(self._partial[:end]) + CUT_MARK)
            del self._partial[:end]


def _overwritten(line: bytearray) -> bytearray:
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def _whole_characters(data: bytearray) -> int:
    """Returns where an incomplete UTF-8 character begins at the end of ``data``, or its length if there is none."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            needed = 1 if byte >= 0xF8 else 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return len(data) - back if needed > back else len(data)
    return len(data)


def _character_boundary(data: bytearray, end: int) -> int:
    """Returns the last position up to ``end`` that does not split a UTF-8 character (of at most four bytes)."""
    for position in range(end, end - 4, -1):
        if data[position] & 0xC0 != 0x80:
            return position
    return end


def _text(data: bytearray) -> str:
    return data.decode("utf-8", "backslashreplace")


class NamedLines:
    """Turns chunks of bytes into lines of text, with the name of the task or actor that printed them, from the markers.

    State: ``_name`` is the name in the last marker. ``_rest`` may be the beginning of a marker that the limit on one
    read has cut off.
    """

    def __init__(self, secret: str) -> None:
        """``secret``: see ``zray.worker.log_marker``."""
        self._prefix = marker_prefix(secret)
        self._max_marker = len(self._prefix) + 4 * MAX_NAME_CHARACTERS + 1
        self._splitter = LineSplitter()
        self._name = ""
        self._rest = b""

    def feed(self, chunk: bytes, cut: bool = False) -> tuple[list[tuple[str, list[str]]], bytes]:
        """Returns the lines that ``chunk`` completes, as ``(name, lines)``, and all its bytes except the markers.

        ``cut``: more may follow, so the end of ``chunk`` may be the beginning of a marker.
        """
        data = self._rest + chunk
        self._rest = b""
        if cut:
            start = data.rfind(self._prefix[:1], -self._max_marker)
            if start >= 0 and not (data.startswith(self._prefix, start) and data.find(b"\n", start) > 0):
                data, self._rest = data[:start], data[start:]
        if self._prefix not in data:
            lines = self._splitter.feed(data)
            return ([(self._name, lines)] if lines else []), data
        return self._feed_with_markers(data)

    def _feed_with_markers(self, data: bytes) -> tuple[list[tuple[str, list[str]]], bytes]:
        said: list[tuple[str, list[str]]] = []
        plain = b""
        end = 0  # of the last marker
        while True:
            start = data.find(self._prefix, end)
            name_end = data.find(b"\n", start) if start >= 0 else -1
            text = data[end:start] if name_end >= 0 else data[end:]
            said.append((self._name, self._splitter.feed(text)))
            plain += text
            if name_end < 0:
                break
            plain += b"\n" if self._splitter.within_line else b""
            said.append((self._name, self._splitter.finish()))
            self._name = _text(bytearray(data[start + len(self._prefix) : name_end]))
            end = name_end + 1
        return [(name, lines) for name, lines in said if lines], plain

    @property
    def waits(self) -> bool:
        """Whether ``show`` would show something."""
        return self._splitter.waits

    def show(self) -> list[tuple[str, list[str]]]:
        """Returns the beginning of the unfinished line, without a possible beginning of a marker."""
        return [(self._name, lines) for lines in [self._splitter.show()] if lines]

    def finish(self) -> tuple[list[tuple[str, list[str]]], bytes]:
        """Returns the unfinished line, if there is one, in the form of ``feed``."""
        if len(self._rest) > SECRET_FROM and self._prefix.startswith(self._rest[: len(self._prefix)]):
            self._rest = b""  # do not show an incomplete marker
        said, plain = self.feed(b"")
        return said + [(self._name, lines) for lines in [self._splitter.finish()] if lines], plain


class RotatingFile:
    """An append-only file of at most ``max_bytes``; one older generation is kept beside it as ``<name>.1``.

    It holds no descriptor between writes. A host has two of these files per worker, and a machine with a low limit runs
    out of descriptors first. Errors, above all a full disk, are swallowed and counted in ``lost_bytes``: if a host
    ended because of its logs, it would take down all its workers and their results.
    """

    def __init__(self, path: str, max_bytes: int) -> None:
        self.path = path
        self.lost_bytes = 0
        self._max_bytes = max_bytes

    def write(self, data: bytes) -> None:
        """Appends ``data``; never raises OSError. The first write makes the file."""
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

    If the stream ends with Python's report of a fatal signal, its first ``n_lines`` are kept too, because there the
    innermost frame comes first. The frames of zray and the list of extension modules are left out of it.
    """

    def __init__(self, n_lines: int = 20, max_bytes: int = 8192) -> None:
        self._lines: deque[str] = deque(maxlen=n_lines)
        self._fatal: list[str] = []
        self._user_code = False
        self._n_lines = n_lines
        self._max_bytes = max_bytes

    def add(self, lines: Iterable[str]) -> None:
        # Cut each line at once: twenty long lines would hold a megabyte for each worker.
        for line in lines:
            cut = line[-self._max_bytes :]
            if line.startswith(_FATAL):
                self._lines.extend(self._fatal)
                self._fatal, self._user_code = [cut], True
            elif not self._fatal:
                self._lines.append(cut)
            elif line.startswith(_FATAL_PARTS) or not line.strip():
                self._add_frame(line, cut)
            else:  # a process that prints more has survived the report
                self._lines.extend((*self._fatal, cut))
                self._fatal = []

    def _add_frame(self, line: str, cut: str) -> None:
        if _OUTERMOST in line:
            self._user_code = False
        wanted = self._user_code and line.startswith(_FATAL_SHOWN) and _PACKAGE not in line
        if wanted and len(self._fatal) < self._n_lines:
            self._fatal.append(cut)

    def text(self) -> str:
        """Returns the lines, joined."""
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
    """Lines of all workers on their way to the broker, within one window.

    Lines that do not fit are in the workers' files only, and are counted.

    State: ``_entries`` wait for ``take``. ``_left_out`` counts left-out lines by worker that the broker has not been
    told of. ``_full``: some lines did not fit since the broker last took lines.
    """

    def __init__(self) -> None:
        self._window = LogWindow()
        self._entries: list[WorkerLines] = []
        self._left_out: dict[bytes, int] = {}
        self._full = False

    def add(self, worker_id: bytes, name: str, pid: int, stream: str, lines: list[str]) -> None:
        """Adds lines that a worker printed."""
        if self._window.admits(lines):
            self._entries.append(WorkerLines(worker_id, name, pid, stream, lines))
        else:
            self._full = True
            self._left_out[worker_id] = self._left_out.get(worker_id, 0) + len(lines)

    def taken(self, size_bytes: int) -> None:
        """The broker has taken ``size_bytes``."""
        self._window.taken(size_bytes)
        self._full = False

    def take(self, ending: bool = False) -> WorkerLogs | None:
        """Returns what to send now. ``ending``: a worker ends, so the count of left-out lines is sent in any case."""
        left_out: dict[bytes, int] = {}
        if ending or not self._full:
            left_out, self._left_out = self._left_out, left_out
        entries, self._entries = self._entries, []
        return WorkerLogs(entries, left_out) if entries or left_out else None


class WorkerLog:
    """The read ends of one worker's two output pipes, which it owns.

    Poll ``filenos()`` and call ``read``. When the worker has ended, call ``drain``. ``close`` is separate, since a
    process that the worker left behind may go on printing: SIGPIPE does not kill it as long as the host reads until
    ``filenos()`` is empty.

    Attributes: worker_id; pid, 0 until it is known; stderr_tail; last_read, the most that the last ``read`` took from
    one pipe, in bytes.
    """

    def __init__(
        self,
        stdout_fd: int,
        stderr_fd: int,
        directory: str,
        max_bytes: int,
        worker_id: bytes = b"",
        secret: str = "",
    ) -> None:
        """Makes ``worker-ID.out`` and ``.err`` in ``directory``, each rotated at ``max_bytes``.

        ID is the beginning of ``worker_id`` in hexadecimal. ``secret``: of the worker's markers.
        """
        self.worker_id = worker_id
        self.pid = 0
        self.stderr_tail = Tail()
        self.last_read = 0
        stem = f"worker-{worker_id.hex()[:12]}"
        self._pipes = {
            fd: _Pipe(fd, stream, RotatingFile(f"{directory}/{stem}.{suffix}", max_bytes), secret)
            for fd, stream, suffix in ((stdout_fd, "stdout", "out"), (stderr_fd, "stderr", "err"))
        }

    def filenos(self) -> list[int]:
        """Returns the pipe ends that are still open."""
        return list(self._pipes)

    @property
    def lost_bytes(self) -> int:
        """The size of the output that could not be written to the files of the open pipes."""
        return sum(pipe.file.lost_bytes for pipe in self._pipes.values())

    def read(self) -> Iterator[Said]:
        """Reads once: up to 64 KiB from each pipe, as ``(stream, name, lines)``. Never blocks."""
        self.last_read = 0
        for pipe in list(self._pipes.values()):
            chunk = pipe.read()
            self.last_read = max(self.last_read, len(chunk or b""))
            yield from self._lines(pipe, chunk)

    def drain(self) -> Iterator[Said]:
        """Reads all that is there, up to ``DRAIN_BYTES``, and yields unfinished lines too."""
        for pipe in list(self._pipes.values()):
            for _ in range(DRAIN_BYTES // READ_BYTES):
                chunk = pipe.read()
                yield from self._lines(pipe, chunk)
                if not chunk:
                    break
            yield from self._show(pipe, *pipe.lines.finish())

    def cut(self) -> Iterator[Said]:
        """Yields unfinished lines."""
        for pipe in self._pipes.values():
            yield from self._show(pipe, pipe.lines.show(), b"")

    def tick(self) -> Iterator[Said]:
        """Yields due unfinished lines; to be called every quarter of a second.

        A line is due if it has not grown since the last tick, or if it has waited for a second, as progress bars do.
        """
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
        self._has_come = False  # whether anything was read since the last tick
        self._ticks = 0  # the number of ticks that an unfinished line has waited

    def is_due(self) -> bool:
        """Whether an unfinished line should be shown now; called at each tick."""
        has_come, self._has_come = self._has_come, False
        self._ticks = self._ticks + 1 if self.lines.waits else 0
        if not self._ticks or (has_come and self._ticks < PROGRESS_TICKS):
            return False
        self._ticks = 0
        return True

    def read(self) -> bytes | None:
        """Returns up to 64 KiB; None when nothing is there, empty bytes at the end."""
        self._has_come = True
        try:
            return os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return None
