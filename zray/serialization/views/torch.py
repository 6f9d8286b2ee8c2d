"""Tensors of torch on the CPU, by their storages. They are read as a copy, which is writable; a setting lends them.

torch has no read-only tensors: a write to a tensor that is lent ends the process with SIGSEGV.
"""

from __future__ import annotations

import ctypes
import pickle
from typing import Any

import torch

from zray.serialization import views
from zray.serialization.views.reducer import Reducer


def reducers() -> dict[type, Reducer]:
    """See ``zray.serialization.views``."""
    return {
        torch.Tensor: _reduce_tensor,
        torch.storage.TypedStorage: _reduce_typed,
        torch.storage.UntypedStorage: _reduce_untyped,
    }


def _reduce_tensor(tensor: Any) -> Any:
    """Reduces a tensor as torch does. If it uses a part of its storage, only that part is kept."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or not tensor.is_leaf:
        return NotImplemented
    if 2 * tensor.nbytes > tensor.untyped_storage().nbytes() or vars(tensor):
        return NotImplemented
    part = tensor.detach().clone(memory_format=torch.contiguous_format).requires_grad_(tensor.requires_grad)
    return part.__reduce_ex__(5)


def _reduce_typed(storage: Any) -> Any:
    inner = storage._untyped_storage  # the public attributes warn that they are deprecated
    return (load_typed, (storage.dtype, _buffer_of(inner))) if _can_be_read(inner) else NotImplemented


def _reduce_untyped(storage: Any) -> Any:
    return (load_untyped, (_buffer_of(storage),)) if _can_be_read(storage) else NotImplemented


def _can_be_read(storage: Any) -> bool:
    return bool(storage.device.type == "cpu" and storage.nbytes())


def _buffer_of(storage: Any) -> pickle.PickleBuffer:
    return pickle.PickleBuffer(_bytes_at(storage.data_ptr(), storage.nbytes(), storage))


def _bytes_at(address: int, size: int, owner: Any) -> Any:
    memory: Any = (ctypes.c_ubyte * size).from_address(address)
    memory.owner = owner  # keeps the owner of the memory alive
    return memory


def load_typed(dtype: Any, data: memoryview) -> Any:
    """Undoes ``_reduce_typed``."""
    return torch.storage.TypedStorage(wrap_storage=load_untyped(data), dtype=dtype, _internal=True)


def load_untyped(data: memoryview) -> Any:
    """Undoes ``_reduce_untyped``."""
    if views.mutable_as_views:
        import numpy as np

        address = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
        return torch.frombuffer(_bytes_at(address, memoryview(data).nbytes, data), dtype=torch.uint8).untyped_storage()
    view = memoryview(data)
    storage = torch.UntypedStorage(view.nbytes)
    memoryview(_bytes_at(storage.data_ptr(), view.nbytes, storage)).cast("B")[:] = view
    return storage
