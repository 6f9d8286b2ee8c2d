"""The C library's allocator is told what to keep, where it can be told."""

from __future__ import annotations

import logging
from unittest.mock import MagicMock

import pytest

from zray.memory import malloc


def test_what_glibc_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = MagicMock()
    monkeypatch.setattr(malloc, "_libc", libc)
    malloc.keep_what_is_freed()
    assert [call.args for call in libc.mallopt.call_args_list] == [
        (malloc.M_MMAP_THRESHOLD, malloc.FROM_HEAP_BYTES),
        (malloc.M_TRIM_THRESHOLD, malloc.KEPT_BYTES),
    ]
    malloc.give_back()
    libc.malloc_trim.assert_called_once_with(0)


def test_a_c_library_without_these_functions(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(malloc, "_libc", object())
    with caplog.at_level(logging.DEBUG, "zray.optimizations"):
        malloc.keep_what_is_freed()
        malloc.give_back()
    assert caplog.messages == [
        "tune-malloc is left out: this C library has no mallopt",
        "tune-malloc is left out: this C library has no malloc_trim",
    ]
