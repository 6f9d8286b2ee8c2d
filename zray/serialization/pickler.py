"""The pickler of all values, functions and errors that zray sends: cloudpickle with additions.

- An ``ObjectRef`` is pickled as a call of ``_load_ref``, and recorded in ``refs``. (``persistent_id`` would be called
  for every integer of a list; ``reducer_override`` is called only for objects that are not plain built-ins.)
- Functions and classes go by value if no import would find their module, as do those of ``__main__``.
- Code keeps the name of its file.
- Exceptions are rebuilt from their state, because many cannot be called with their own ``args``.

Unpickling is ``pickle.loads``, in C. The caller decides how references are made. A pickle cannot pass an argument to
the functions that it calls, so the caller's function is in a thread-local variable.
"""

from __future__ import annotations

import copyreg
import functools
import pickle
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterable
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as _cloudpickle

from zray.exceptions import (
    DeserializationError,
    ModuleMissingError,
    SystemFailure,
    ZrayError,
    dual_class_of,
    exception_parts,
    has_type,
    kind_of_dual,
    rebuild_exception,
    restore_attributes,
)
from zray.object_ref import ObjectRef
from zray.serialization import by_value, views
from zray.system.signals import came_from_handler

PROTOCOL = 5
LoadRef = Callable[[bytes], ObjectRef]


class ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles one value. ``refs`` has the references in it, by identifier, in order.

    ``refs`` keeps the references for as long as the pickler exists, also references that were made during pickling.
    """

    def __init__(self, file: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> None:
        # Not cloudpickle's own constructor, which would take a third of the time that a small value takes.
        pickle.Pickler.__init__(self, file, PROTOCOL, buffer_callback=buffer_callback)
        self.globals_ref: dict[int, dict[str, Any]] = {}
        self.proto = PROTOCOL
        self.refs: dict[bytes, ObjectRef] = {}

    def dump(self, obj: Any) -> None:
        """Writes the pickle of ``obj``. Raises any error that the members of ``obj`` raise, and RecursionError."""
        pickle.Pickler.dump(self, obj)

    def reducer_override(self, obj: Any) -> Any:
        """Returns how to pickle ``obj``. Called from C for all objects except plain built-ins."""
        kind = type(obj)
        if kind is ObjectRef:
            object_id = obj.binary()
            self.refs[object_id] = obj
            return _load_ref, (object_id,)
        reduce = _find_reducer(kind)
        if reduce is not None:
            return NotImplemented if kind in copyreg.dispatch_table and kind not in views.custom else reduce(obj)
        if kind is types.FunctionType:
            importable = _is_importable(obj.__module__)
            if by_value.is_dispatcher(obj) and not (importable and by_value.goes_by_reference(obj)):
                return by_value.reduce_dispatcher(obj)
            return self._function_reduce(obj) if importable else self._dynamic_function_reduce(obj)
        if not isinstance(obj, views.ancestors):
            return _reduce_code(obj) if kind is types.CodeType else NotImplemented
        if isinstance(obj, type):
            user_kind = kind_of_dual(obj)
            if user_kind is not None:
                return dual_class_of, (user_kind,)
            importable = _is_importable(obj.__module__)
            if by_value.has_slots(obj) and not (importable and by_value.goes_by_reference(obj)):
                return by_value.reduce_class_with_slots(obj)
            return super().reducer_override(obj) if importable else _cloudpickle._dynamic_class_reduce(obj)
        if isinstance(obj, BaseException):
            return _reduce_exception(obj)
        return NotImplemented if kind in copyreg.dispatch_table else views.reduce_descendant(obj)


views.reducers.update(by_value.reducers)
_find_reducer = views.reducers.get


class _Parts(list[Any]):
    """The pieces of a pickle. The pickler writes a large object as a separate piece, which is kept without a copy."""

    def write(self, data: Any) -> None:
        """Appends a piece."""
        self.append(data if type(data) is bytes else pickle.PickleBuffer(data).raw())


class CallablePickler(ValuePickler):
    """Records the functions that go by value, in ``functions``."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.functions: list[types.FunctionType] = []

    def _dynamic_function_reduce(self, func: types.FunctionType) -> Any:
        self.functions.append(func)
        return super()._dynamic_function_reduce(func)


def dump_callable(value: Any) -> tuple[bytes, dict[bytes, ObjectRef], list[types.FunctionType]]:
    """Returns the pickle of a function or class, the references in it, and the functions in it that go by value."""
    views.find()
    parts = _Parts()
    pickler = CallablePickler(parts)
    pickler.dump(value)
    return b"".join(parts), pickler.refs, pickler.functions


def dump(
    value: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None
) -> tuple[bytes | list[bytes | memoryview], dict[bytes, ObjectRef]]:
    """Returns the pickle of ``value``, in several pieces if it is large, and the references in it.

    The pieces of large ``bytes`` and ``bytearray`` share the memory of the value.
    """
    views.find()
    parts = _Parts()
    pickler = ValuePickler(parts, buffer_callback)
    pickler.dump(value)
    return parts[0] if len(parts) == 1 else parts, pickler.refs


def load(data: bytes | memoryview, buffers: Iterable[memoryview], load_ref: LoadRef) -> Any:
    """Loads a pickle. ``load_ref`` makes the references. Raises ModuleMissingError and DeserializationError."""
    before = _loading.load_ref
    _loading.load_ref = load_ref
    try:
        return pickle.loads(data, buffers=buffers)
    except Exception as error:
        if (failure := load_failure(error, data, buffers)) is error:
            raise
        raise failure from error
    finally:
        _loading.load_ref = before


def load_failure(error: Exception, data: bytes | memoryview, buffers: Iterable[memoryview] = ()) -> Exception:
    """Returns the exception to raise instead of ``error``, which was raised while ``data`` was loaded.

    Returns ``error`` itself if it is zray's own, or if the value did not cause it.
    """
    if isinstance(error, ModuleNotFoundError):
        return module_missing(error)
    if has_type(error, ZrayError, MemoryError) or came_from_handler(error):
        return error
    from zray.serialization.explain_load import explain_failure  # loads a disassembler, which few processes need

    before = _loading.load_ref
    _loading.load_ref = _load_no_ref  # a real reference would be counted
    try:
        doing, argument = explain_failure(bytes(data), buffers, error)
    finally:
        _loading.load_ref = before
    try:
        reason = f"{type(error).__name__}: {error}"
    except Exception:  # raised by the exception's own code, which may raise anything
        reason = type(error).__name__
    return DeserializationError(f"{doing} raised {reason}" if doing else reason, argument)


def _load_no_ref(object_id: bytes) -> Any:
    return None


def module_missing(error: ModuleNotFoundError) -> ModuleMissingError:
    """Returns an error that names the missing module, the machine, and the directories that were searched."""
    if isinstance(error, ModuleMissingError):
        return error
    where = "\n  ".join(sys.path)
    return ModuleMissingError(
        f"module {error.name!r} cannot be imported on host {socket.gethostname()!r} ({error}). "
        f"Install it there, or put it into a directory of the search path:\n  {where}",
        name=error.name,
    )


class _Loading(threading.local):
    load_ref: LoadRef | None = None


_loading = _Loading()


def _load_ref(object_id: bytes) -> ObjectRef:
    load_ref = _loading.load_ref
    if load_ref is None:
        raise SystemFailure("a value with an ObjectRef in it was unpickled without zray: load it with zray.get()")
    return load_ref(object_id)


def _is_importable(module: str | None) -> bool:
    # The top-level package is enough, and is looked up once. An object without a module is left to cloudpickle.
    return module is None or _is_found(module.partition(".")[0])


@functools.lru_cache(maxsize=1024)
def _is_found(package: str) -> bool:
    """Whether a new process with the same search path, such as a worker, could import ``package``."""
    if package == "__main__" or package not in sys.modules:
        return True  # cloudpickle handles these itself
    for finder in sys.meta_path:
        try:
            if finder.find_spec(package, None) is not None:
                return True
        except (AttributeError, ImportError, ValueError):
            return True  # a finder with the old interface, or a module that is being set up: it cannot be known
    return False


def _reduce_code(code: types.CodeType) -> Any:
    """Reduces code as cloudpickle does, but keeps the file name for tracebacks: cloudpickle 3.1.3 replaces it."""
    make, args = _cloudpickle._code_reduce(code)
    return make, tuple(code.co_filename if arg == _NO_FILE else arg for arg in args)


_NO_FILE = "<dynamic-code>"


def _reduce_exception(exc: BaseException) -> Any:
    kind = type(exc)
    if isinstance(kind.__reduce__, types.FunctionType) or isinstance(kind.__reduce_ex__, types.FunctionType):
        return NotImplemented  # its class defines how it is pickled
    args, state = exception_parts(exc)
    return rebuild_exception, (kind, args), state or None, None, None, restore_attributes
