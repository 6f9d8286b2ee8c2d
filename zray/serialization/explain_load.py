"""Explains why a value cannot be loaded: which constructor failed, of which type, and in which argument.

This runs only after a failure. ``pickle`` does not report any of it: the constructor's own exception is raised, and it
looks like an error of the code that needed the value. So the value is loaded again by the standard library's unpickler
in Python. It is slow, but it knows its position in the pickle. The opcodes say to which argument that position belongs.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MAX_EXPLAINED_BYTES = 1 << 20
_TEXT = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")


def explain_failure(data: bytes, buffers: Iterable[Any], original: Exception) -> tuple[str, str]:
    """Returns the name of the object that was being made when loading failed, and its argument if ``data`` is a call's.

    Both are empty if they cannot be found. Data above ``MAX_EXPLAINED_BYTES`` is not searched: it would take minutes.
    """
    if len(data) > MAX_EXPLAINED_BYTES:
        return "", ""
    tracer = _Tracer(data, buffers)
    try:
        tracer.load()
    except Exception as error:
        if type(error) is type(original) and tracer.doing:
            return tracer.doing, _argument_at(data, tracer.position)
    return "", ""


def _name_of(thing: Any) -> str:
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None) or type(thing).__qualname__
    return name if module in (None, "builtins", "__main__") else f"{module}.{name}"


class _Tracer(pickle._Unpickler):
    """An unpickler that records which object it is making, and its position in the pickle."""

    dispatch = dict(pickle._Unpickler.dispatch)
    stack: Any
    _unframer: Any

    def __init__(self, data: bytes, buffers: Iterable[Any]) -> None:
        self._data = io.BytesIO(data)
        super().__init__(self._data, buffers=buffers)
        self.doing = ""
        self.position = 0

    def find_class(self, module: str, name: str) -> Any:
        self._begin(f"the import of {module}.{name}")
        return super().find_class(module, name)

    def _begin(self, doing: str) -> None:
        self.doing = doing
        frame = self._unframer.current_frame
        self.position = self._data.tell() - (len(frame.getbuffer()) - frame.tell() if frame is not None else 0) - 1

    def _begin_call(self, code: int) -> None:
        stack = self.stack
        if code == pickle.BUILD[0]:
            self._begin(f"{_name_of(type(stack[-2]))}.__setstate__" if len(stack) > 1 else "")
        elif code == pickle.REDUCE[0]:
            self._begin(_name_of(stack[-2]))
        else:
            self._begin(f"{_name_of(stack[-2 if code == pickle.NEWOBJ[0] else -3])}.__new__")


def _traced(code: int, load: Callable[[Any], None]) -> Callable[[Any], None]:
    def traced(self: _Tracer) -> None:
        self._begin_call(code)
        load(self)

    return traced


for _code in (pickle.REDUCE[0], pickle.NEWOBJ[0], pickle.NEWOBJ_EX[0], pickle.BUILD[0]):
    _Tracer.dispatch[_code] = _traced(_code, _Tracer.dispatch[_code])


def _argument_at(data: bytes, position: int) -> str:
    """The argument to whose pickle an opcode belongs: ``0``, or a name; empty if ``data`` is not a call's."""
    found = ""
    try:
        for begin, name in _arguments(data):
            if begin <= position:
                found = name
    except (ValueError, IndexError):
        return ""
    return found


def _arguments(data: bytes) -> Iterator[tuple[int, str]]:
    """Yields where the pickle of each argument begins, in the pickle of a pair of a list and a dictionary."""
    stack: list[tuple[Any, int]] = []  # each object on the stack, and where its pickle begins
    texts: dict[int, str] = {}
    n_arguments = 0
    for opcode, argument, at in pickletools.genops(data):
        position = at or 0
        if opcode.name in _TEXT:
            texts[position] = str(argument)
        bottom = len(stack)
        before = opcode.stack_before
        popped: list[tuple[Any, int]] = []
        n_popped = len(before)
        begin = position
        if pickletools.markobject in before:
            mark = max(index for index, (kind, _) in enumerate(stack) if kind is pickletools.markobject)
            popped = stack[mark + 1 :]
            begin = stack[mark][1]
            del stack[mark:]
            n_popped = before.index(pickletools.markobject)
        elif opcode.name in ("APPEND", "SETITEM"):
            popped = stack[1 - n_popped :]
        if opcode.name in ("APPEND", "APPENDS") and bottom - len(popped) - (opcode.name == "APPENDS") == 1:
            for index, (_, began) in enumerate(popped):
                yield began, str(n_arguments + index)
            n_arguments += len(popped)
        elif opcode.name in ("SETITEM", "SETITEMS") and bottom - len(popped) - (opcode.name == "SETITEMS") == 2:
            for (_, key_at), (_, began) in zip(popped[::2], popped[1::2], strict=True):
                yield began, texts.get(key_at, "?")
        if n_popped:
            begin = min([begin, *(began for _, began in stack[-n_popped:])])
            del stack[-n_popped:]
        stack.extend((kind, position if kind is pickletools.markobject else begin) for kind in opcode.stack_after)
