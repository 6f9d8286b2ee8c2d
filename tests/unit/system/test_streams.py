from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from zray.system.streams import descriptor_of, flush_streams, has_no_reader, is_terminal, takes_more, write_text


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def fill(fd: int) -> None:
    os.set_blocking(fd, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(fd, b"x" * 4096)


def test_room_in_a_pipe(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    assert takes_more(writer) and not has_no_reader(writer)
    fill(writer)
    assert not takes_more(writer) and not has_no_reader(writer)
    os.read(reader, 8192)
    assert takes_more(writer)


def test_a_reader_that_is_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert has_no_reader(writer)
    os.close(writer)


def test_no_descriptor_always_takes_more() -> None:
    assert takes_more(-1) and not has_no_reader(-1)


def test_descriptors(pipe: tuple[int, int]) -> None:
    with open(pipe[1], "w", closefd=False) as stream:
        assert descriptor_of(stream) == pipe[1]
    assert descriptor_of(stream) == -1  # closed
    for other in (io.StringIO(), None, object(), io.TextIOWrapper(io.BytesIO())):
        assert descriptor_of(other) == -1


def test_terminals() -> None:
    ours, theirs = os.openpty()
    with open(theirs, "w") as stream:
        assert is_terminal(stream)
    assert not is_terminal(stream)
    os.close(ours)
    assert not any(map(is_terminal, (io.StringIO(), None, object())))


def test_a_stream_without_flush() -> None:
    class Bare:
        text = ""

        def write(self, text: str) -> None:
            self.text += text

    bare = Bare()
    write_text(bare, "hello")
    assert bare.text == "hello"


def test_flushing_whatever_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad:
        def flush(self) -> None:
            raise KeyboardInterrupt

    kept = io.TextIOWrapper(io.BytesIO())
    kept.write("text")
    for bad in (None, Bad()):
        monkeypatch.setattr(sys, "stdout", bad)
        monkeypatch.setattr(sys, "stderr", kept)
        flush_streams()
    assert kept.buffer.getvalue() == b"text"


def test_saying_something_never_waits(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    program = "from zray.system.streams import say\nfor n in range(1000): say('x' * 1000 + str(n))"
    subprocess.run([sys.executable, "-c", program], stderr=writer, check=True, timeout=20)
    subprocess.run(
        [sys.executable, "-c", "import os; os.close(2)\n" + program], check=True, timeout=20, stderr=subprocess.DEVNULL
    )
    assert os.read(reader, 1002) == b"x" * 1000 + b"0\n"
