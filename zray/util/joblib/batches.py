"""A batch of joblib as bytes and references, and how a worker runs it.

Large arrays in a batch, at any depth, are put into the object store once for each call of ``Parallel``. Workers see
them as read-only views of shared memory, as they see memory maps with joblib's own processes.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import cloudpickle

import zray


class SharedArrays:
    """The large arrays of one call of ``Parallel``, each put into the store once.

    ``least_bytes``: the size from which an array is shared; None: none is.
    """

    def __init__(self, least_bytes: int | None) -> None:
        self._least_bytes = least_bytes
        self._put: dict[int, tuple[Any, zray.ObjectRef[Any]]] = {}

    def reference(self, value: Any) -> zray.ObjectRef[Any] | None:
        """Returns the reference to a large array; None for any other value."""
        if not _is_array(value) or self._least_bytes is None or value.nbytes < self._least_bytes:
            return None
        _, ref = self._put.get(id(value), (None, None))
        if ref is None:
            ref = zray.put(value)
            self._put[id(value)] = (value, ref)  # keeps the array, so no other one gets its id
        return ref


def pack(batch: Callable[[], Any], arrays: SharedArrays) -> tuple[bytes, list[zray.ObjectRef[Any]]]:
    """Pickles a batch. Returns the arguments of ``run_packed``.

    Raises:
        PicklingError, TypeError: something in it cannot be pickled.
    """
    file = io.BytesIO()
    pickler = _Pickler(file, arrays)
    pickler.dump(batch)
    return file.getvalue(), pickler.refs


def run_packed(data: bytes, refs: list[zray.ObjectRef[Any]]) -> Any:
    """Runs a batch that ``pack`` has pickled."""
    _loading.refs = refs
    try:
        batch = pickle.loads(data)
    finally:
        del _loading.refs
    return batch()


_loading = threading.local()
"""``refs``: the references of the batch that this thread loads."""


def _restore_array(index: int) -> Any:
    return zray.get(_loading.refs[index])


def _restore_reference(index: int) -> zray.ObjectRef[Any]:
    ref: zray.ObjectRef[Any] = _loading.refs[index]
    return ref


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Leaves references and large arrays out of the pickle, and collects the references in ``refs``.

    ``persistent_id`` would do that too, but would be called for each number in a batch.
    """

    def __init__(self, file: io.BytesIO, arrays: SharedArrays) -> None:
        super().__init__(file)
        self.refs: list[zray.ObjectRef[Any]] = []
        self._arrays = arrays

    def reducer_override(self, value: Any) -> Any:
        """See ``pickle.Pickler``."""
        if type(value) is zray.ObjectRef:
            return _restore_reference, (self._place(value),)
        ref = self._arrays.reference(value)
        return super().reducer_override(value) if ref is None else (_restore_array, (self._place(ref),))

    def _place(self, ref: zray.ObjectRef[Any]) -> int:
        self.refs.append(ref)
        return len(self.refs) - 1


def _is_array(value: Any) -> bool:
    kind = type(value)
    return kind.__name__ == "ndarray" and kind.__module__ == "numpy" and not value.dtype.hasobject
