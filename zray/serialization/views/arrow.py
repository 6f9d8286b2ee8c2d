"""Arrays and tables of Arrow. They are lent, through Arrow's own pickles.

Arrow pickles all of the buffers of a slice. So a value that is smaller than its buffers is first copied into new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from zray.serialization.views.reducer import Reducer

_ROUNDING_BYTES = 4096
"""A value is not copied if its buffers are larger than its data by at most this many bytes and an eighth."""


def reducers() -> dict[type, Reducer]:
    """See ``zray.serialization.views``."""
    known: dict[type, Reducer] = {
        pa.Table: _reduce_table,
        pa.RecordBatch: _reduce_batch,
        pa.ChunkedArray: _reduce_chunks,
    }
    known.update((kind, _reduce_array) for kind in _subclasses(pa.Array))
    return known


def _subclasses(kind: Any) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def _reduce_table(table: Any) -> Any:
    return _compact(table, _same, _same) if _has_more(table) else NotImplemented


def _reduce_batch(batch: Any) -> Any:
    if not _has_more(batch):
        return NotImplemented
    return _compact(batch, _table_of_batch, lambda table: table.combine_chunks().to_batches()[0])


def _reduce_chunks(chunks: Any) -> Any:
    return _compact(chunks, _table_of_column, lambda table: table.column(0)) if _has_more(chunks) else NotImplemented


def _reduce_array(array: Any) -> Any:
    if not _has_more(array):
        return NotImplemented
    return _compact(array, _table_of_column, lambda table: table.column(0).chunk(0))


def _same(table: Any) -> Any:
    return table


def _table_of_batch(batch: Any) -> Any:
    return pa.Table.from_batches([batch])


def _table_of_column(column: Any) -> Any:
    return pa.Table.from_arrays([column], ["x"])


def _has_more(value: Any) -> bool:
    """Whether the buffers of ``value`` contain more than ``value``."""
    used: int = value.nbytes
    return bool(used) and value.get_total_buffer_size() > used + used // 8 + _ROUNDING_BYTES


def _compact(value: Any, table_of: Callable[[Any], Any], value_of: Callable[[Any], Any]) -> Any:
    """Reduces a copy of ``value`` with buffers of its own, as Arrow does."""
    table = table_of(value)
    if not _can_travel(table.schema):
        return NotImplemented
    sink = pa.BufferOutputStream()
    try:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    except pa.ArrowException:  # Arrow cannot write this type
        return NotImplemented
    with pa.ipc.open_stream(sink.getvalue()) as stream:
        return value_of(stream.read_all()).__reduce_ex__(5)


def _can_travel(fields: Iterable[Any]) -> bool:
    """Whether Arrow's reader returns the same types. It may not know extension types."""
    for field in fields:
        kind = field.type
        if isinstance(kind, pa.BaseExtensionType):
            return False
        if not _can_travel(kind.field(index) for index in range(kind.num_fields)):
            return False
    return True
