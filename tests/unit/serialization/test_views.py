"""Values of other libraries: they arrive as they were sent, and their memory is lent if possible."""

from __future__ import annotations

import array
import copyreg
import pickle
import subprocess
import sys
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from zray.serialization import deserialize, serialize, views

N = 4096


def no_refs(object_id):
    raise AssertionError("no reference was expected")


def read(value):
    """``value`` as it is read from the store, and the bytes there."""
    serialized = serialize(value)
    data = bytearray(serialized.total_bytes + 64)
    start = -np.frombuffer(data, np.uint8).ctypes.data % 64
    view = memoryview(data)[start : start + serialized.total_bytes]
    serialized.write_into(view)
    return deserialize(view, no_refs), np.frombuffer(view, np.uint8)


class Marked(np.ndarray):
    """A subclass that is pickled as arrays are."""

    def __array_finalize__(self, origin):
        self.mark = getattr(origin, "mark", "none")


class Counted(np.ndarray):
    """A subclass with its own way of pickling, as in many libraries."""

    count: int

    def __reduce__(self):
        return (*super().__reduce__()[:2], (super().__reduce__()[2], self.count))

    def __setstate__(self, state):
        super().__setstate__(state[0])
        self.count = state[1]


def counted():
    value: Any = np.arange(N).view(Counted)
    value.count = 7
    return value


PAIR = [("a", "i4"), ("b", "f4")]
LENT_ARRAYS = {
    "datetime": np.arange(N).astype("M8[ns]"),
    "timedelta": np.arange(N).astype("m8[s]"),
    "datetime fortran": np.asfortranarray(np.arange(N).astype("M8[us]").reshape(64, -1)),
    "datetime strided": np.arange(2 * N).astype("M8[D]")[::2],
    "0-d datetime": np.array("2020-01-01", "M8[D]"),
    "strided": np.arange(2.0 * N)[::2],
    "reversed": np.arange(N)[::-1],
    "turned": np.arange(N).reshape(4, 16, 64).transpose(2, 0, 1),
    "columns": np.arange(4 * N).reshape(N, 4)[:, 1:3],
    "field": np.zeros(N, PAIR)["b"],
    "structured": np.zeros(N, PAIR),
    "nested": np.zeros(N, [("x", PAIR), ("t", "M8[s]"), ("v", "f8", (2, 2))]),
    "record": np.rec.array(np.zeros(N, PAIR)),
    "text": np.full(N, "abc"),
    "void": np.zeros(N, "V7"),
    "half": np.arange(N).astype("f2"),
    "long double": np.arange(N).astype("g"),
    "big-endian": np.arange(N).astype(">i4")[::2],
    "metadata": np.zeros(N, np.dtype("i4", metadata={"unit": "m"})),
    "subclass": np.arange(N).view(Marked),
    "matrix": np.arange(N).reshape(64, -1).view(np.matrix),
}


@pytest.mark.parametrize("name", LENT_ARRAYS)
def test_arrays_are_lent(name):
    value = LENT_ARRAYS[name]
    result, memory = read([value, value])
    assert result[0] is result[1]
    result = result[0]
    assert type(result) is type(value)
    assert (result.dtype, result.shape) == (value.dtype, value.shape)
    assert result.tobytes() == value.tobytes()
    assert result.flags.forc or name == "turned"
    assert not result.flags.writeable
    assert np.shares_memory(np.asarray(result), memory)
    assert result.ctypes.data % 64 == 0


@pytest.mark.parametrize("name", LENT_ARRAYS)
def test_arrays_in_a_message_are_aligned_too(name):
    result = deserialize(serialize(["x", LENT_ARRAYS[name]]).to_bytes(), no_refs)[1]
    assert result.ctypes.data % 64 == 0
    assert not result.flags.writeable
    assert result.tobytes() == LENT_ARRAYS[name].tobytes()


@pytest.mark.parametrize(
    "value",
    [
        np.array([{"a": 1}, None], object),
        np.array([(1, "x")], [("a", "i4"), ("b", object)]),
        np.zeros((0, 3), "M8[s]"),
        np.zeros(3, "V0"),
        np.zeros(4, [])[::2],
        np.arange(3)[:0:-1][:0],
        counted(),
    ],
    ids=lambda value: str(value.dtype),
)
def test_arrays_that_cannot_be_lent_arrive_all_the_same(value):
    result, _ = read([value])
    assert type(result[0]) is type(value)
    assert (result[0].dtype, result[0].shape) == (value.dtype, value.shape)
    assert result[0].tolist() == value.tolist()
    assert getattr(result[0], "count", 0) == getattr(value, "count", 0)


def test_a_variable_width_string_array_arrives():
    kinds = pytest.importorskip("numpy.dtypes")
    if not hasattr(kinds, "StringDType"):
        pytest.skip("numpy before 2.0")
    value = np.array(["a", "b" * 100], kinds.StringDType())
    assert read([value])[0][0].tolist() == value.tolist()


@pytest.mark.parametrize("dtype", ["f8", "M8[s]", PAIR])
@pytest.mark.parametrize("fill_value", [None, 7])
def test_masked_arrays_are_lent(dtype, fill_value):
    value = np.ma.masked_array(np.arange(N).astype("i8").astype(dtype) if dtype != PAIR else np.zeros(N, PAIR))
    value[3] = np.ma.masked
    if fill_value is not None and dtype == "f8":
        value.fill_value = fill_value
    result, memory = read(value)
    assert type(result) is np.ma.MaskedArray
    assert (result.dtype, result.shape, str(result.fill_value)) == (value.dtype, value.shape, str(value.fill_value))
    assert result.mask.tolist() == value.mask.tolist()
    assert result.data.tobytes() == value.data.tobytes()
    assert np.shares_memory(result.data, memory)
    with pytest.raises(ValueError, match="read-only"):
        result[5] = result[4]


def test_pandas_times_are_lent():
    index = pd.date_range("2020-01-01", periods=N, freq="s", tz="Europe/Berlin", name="when")
    frame = pd.DataFrame({"t": index.tz_localize(None), "d": index - index[0], "x": np.arange(N) * 1.0}, index=index)
    result, memory = read({"frame": frame, "period": pd.Series(pd.period_range("2000", periods=N))})
    pd.testing.assert_frame_equal(result["frame"], frame)
    pd.testing.assert_series_equal(result["period"], pd.Series(pd.period_range("2000", periods=N)))
    assert result["frame"].index.freq == index.freq
    for column in "tdx":
        assert np.shares_memory(result["frame"][column].to_numpy(), memory)
    assert np.shares_memory(result["frame"].index.asi8, memory)


@pytest.mark.parametrize(
    "use",
    [
        lambda f: f.groupby(f["t"].dt.minute)["x"].sum(),
        lambda f: f.sort_values("t", ascending=False),
        lambda f: f.set_index("t").resample("1min").mean(),
        lambda f: f.merge(f, on="t"),
        lambda f: f.assign(t=f["t"] + pd.Timedelta("1s")),
        lambda f: f["t"].isin(f["t"][:5]).sum(),
        lambda f: pd.concat([f, f]).drop_duplicates(),
        lambda f: f.set_index("t").loc["2020-01-01 00:00":"2020-01-01 00:01"],
        lambda f: f["t"].value_counts(),
        lambda f: f.to_csv(),
    ],
    ids=range(10),
)
def test_pandas_works_on_lent_times(use):
    frame = pd.DataFrame({"t": pd.date_range("2020-01-01", periods=500, freq="s"), "x": np.arange(500.0)})
    mine, expected = use(read(frame)[0]), use(frame)
    assert mine.equals(expected) if hasattr(mine, "equals") else mine == expected


def test_what_the_user_has_registered_comes_first(monkeypatch):
    monkeypatch.setitem(copyreg.dispatch_table, np.ndarray, lambda value: (list, ("mine",)))
    monkeypatch.setitem(copyreg.dispatch_table, Marked, lambda value: (list, ("yours",)))
    value: list[Any] = [np.arange(4).astype("M8[s]"), np.arange(4).view(Marked)]
    assert read(value)[0] == [["m", "i", "n", "e"], ["y", "o", "u", "r", "s"]]


# -- types that programs write to


@pytest.mark.parametrize("value", [array.array("d", [1.5] * N), array.array("b"), array.array("i", [1])])
def test_array_array_is_copied_once_and_writable(value):
    serialized = serialize([value])
    assert [buffer.nbytes for buffer in serialized.buffers] == [len(value) * value.itemsize]
    (result,), _ = read([value])
    assert type(result) is array.array
    assert (result.typecode, result) == (value.typecode, value)
    result.append(1)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_in_a_container_are_written_without_another_copy(kind):
    large = kind(b"x" * 200_000)
    for value in ([large, large], {"a": large, "b": large}, [1, {"x": [large, large]}], (large, large, Marked)):
        serialized = serialize(value)
        parts = [part for part in cast(list[Any], serialized.pickle) if len(part) == len(large)]
        assert len(parts) == 1
        assert parts[0] is large or parts[0].obj is large
        assert read(value)[0] == value
    first, second = read([large, large])[0]
    assert type(first) is kind
    assert first is second
    assert serialize([large, 1]).to_bytes() == pickle.dumps([large, 1], 5)


def test_a_large_argument_is_a_piece_of_its_own():
    from zray.serialization import serialize_call

    large = bytes(200_000)
    assert any(part is large for part in serialize_call([large], {}).pickle)


# -- other libraries


def same_slice(arrow):
    table = arrow.table(
        {
            "i": np.arange(100_000),
            "s": arrow.array([f"name {i}" for i in range(100_000)]),
            "d": arrow.array(["a", "b", None, "c"] * 25_000).dictionary_encode(),
            "l": arrow.array([[i, i] for i in range(100_000)]),
            "b": arrow.array([True, None] * 50_000),
        },
        metadata={"k": "v"},
    )
    yield table, table.slice(1001, 77)
    yield table, arrow.concat_tables([table.slice(3, 2), table.slice(50_000, 9)])
    yield table, table.to_batches()[0].slice(1001, 77)
    for name in table.column_names:
        yield table, table.column(name).slice(1001, 77)
        yield table, table.column(name).chunk(0).slice(1001, 77)


def test_a_slice_of_an_arrow_table_is_stored_as_a_slice():
    arrow = pytest.importorskip("pyarrow")
    for _, value in same_slice(arrow):
        serialized = serialize({"x": value})
        assert serialized.total_bytes < 20_000, value
        result = read({"x": value})[0]["x"]
        assert type(result) is type(value)
        assert result.equals(value)
        assert getattr(result, "schema", None) == getattr(value, "schema", None)
        if hasattr(value, "schema"):
            assert result.schema.metadata == value.schema.metadata


def test_a_whole_arrow_table_is_not_copied():
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"a": np.arange(N), "s": [str(i) for i in range(N)]})
    result, memory = read(table)
    assert result.equals(table)
    assert np.shares_memory(result.column("a").chunk(0).to_numpy(), memory)


def test_a_slice_of_pandas_text_is_stored_as_a_slice():
    frame = pd.DataFrame({"s": [f"name {i}" for i in range(50_000)], "x": np.arange(50_000.0)})
    part = frame.iloc[100:120]
    assert serialize(part).total_bytes < 20_000
    pd.testing.assert_frame_equal(read(part)[0], part)


def test_polars():
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    frame = polars.DataFrame(
        {
            "i": np.arange(N),
            "f": np.arange(N) * 0.5,
            "s": [f"a longer name {i}" for i in range(N)],
            "t": polars.datetime_range(
                polars.datetime(2020, 1, 1), polars.datetime(2021, 1, 1), "1d", eager=True
            ).extend_constant(None, N - 367),
            "l": [[i] for i in range(N)],
            "r": [{"a": i, "b": str(i)} for i in range(N)],
            "o": [True, None] * (N // 2),
        }
    )
    result, memory = read(frame)
    assert result.equals(frame)
    assert result.schema == frame.schema
    assert np.shares_memory(result["i"].to_numpy(), memory)
    for name in frame.columns:
        series, _ = read(frame[name])
        assert (series.name, series.dtype) == (name, frame[name].dtype)
        assert series.equals(frame[name])
    assert serialize(frame["i"][5:10]).total_bytes < 10_000
    for other in (
        polars.Series("c", ["a", "b"] * 50, polars.Categorical),
        polars.Series("e", ["a", "b"], polars.Enum(["a", "b"])),
        polars.Series("x", [], polars.Int8),
    ):
        series, _ = read(other)
        assert series.dtype == other.dtype
        assert series.equals(other)
    assert read(polars.DataFrame())[0].equals(polars.DataFrame())
    assert read(frame.lazy().select("i"))[0].collect().equals(frame.select("i"))


@pytest.fixture
def lent():
    views.read_mutable_as_views(True)
    yield
    views.read_mutable_as_views(False)


def tensors(torch):
    yield torch.arange(N)
    yield torch.arange(N, dtype=torch.float32).reshape(64, -1).t()
    yield torch.zeros(N, dtype=torch.bfloat16)
    yield torch.tensor(5.0)
    yield torch.zeros(0, 3)
    yield torch.arange(100_000)[7:9]
    yield torch.nn.Parameter(torch.ones(3, 4))
    yield torch.ones(3, requires_grad=True)
    yield torch.zeros(3, dtype=torch.complex64)
    yield torch.sparse_coo_tensor([[0, 1]], [1.0, 2.0], (3,), check_invariants=True)


def check_tensors(torch):
    for value in tensors(torch):
        (result,), memory = read([value])
        assert type(result) is type(value)
        assert (result.dtype, result.shape, result.requires_grad) == (value.dtype, value.shape, value.requires_grad)
        assert result.stride() == value.stride() if value.layout is torch.strided else True
        assert torch.equal(result.to_dense(), value.to_dense())
        yield result, memory
    assert serialize(torch.arange(100_000)[7:9]).total_bytes < 2000


def test_torch_tensors_are_copied_and_writable():
    torch = pytest.importorskip("torch")
    for result, _ in check_tensors(torch):
        result.detach().zero_()
    model = torch.nn.Linear(3, 4)
    state, _ = read(model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    result, _ = read(model)
    torch.optim.SGD(result.parameters(), 0.1).step()


def test_torch_tensors_can_be_lent(lent):
    torch = pytest.importorskip("torch")
    results = list(check_tensors(torch))
    assert np.shares_memory(results[0][0].numpy(), results[0][1])
    assert results[0][0].data_ptr() % 64 == 0


def test_jax_arrays():
    jax = pytest.importorskip("jax")
    for value in (
        jax.numpy.arange(N),
        jax.numpy.zeros((3, N), "bfloat16"),
        jax.numpy.asarray(2.0),
        jax.numpy.zeros((0, 3)),
    ):
        result, _ = read({"x": value})
        result = result["x"]
        assert (result.dtype, result.shape) == (value.dtype, value.shape)
        assert getattr(result, "weak_type", None) == getattr(value, "weak_type", None)
        assert (result == value).all()
        assert result.devices() == value.devices()
    result, memory = read(jax.numpy.arange(N))
    assert np.shares_memory(np.asarray(result), memory)


def test_extension_dtypes_are_lent():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name in ("bfloat16", "float8_e4m3fn", "int4"):
        value = np.arange(N).astype(getattr(ml_dtypes, name))
        result, memory = read([value])
        assert result[0].dtype == value.dtype
        assert result[0].tobytes() == value.tobytes()
        assert np.shares_memory(result[0], memory)


def test_images():
    images = pytest.importorskip("PIL.Image")
    pixels: np.ndarray[Any, Any] = np.arange(64 * 64 * 4, dtype=np.uint8).reshape(64, 64, 4)
    for mode in ("RGBA", "RGB", "L", "P", "1", "LA", "CMYK", "I", "F", "I;16", "YCbCr", "HSV"):
        value = images.fromarray(pixels)
        value = value.convert("L").convert("I").convert(mode) if mode == "I;16" else value.convert("RGB").convert(mode)
        value.info["k"] = "v"
        result, _ = read([value])
        result = result[0]
        assert type(result) is images.Image
        assert (result.mode, result.size, result.info) == (value.mode, value.size, value.info)
        assert result.tobytes() == value.tobytes()
        assert result.getpalette() == value.getpalette()
        result.putpixel((0, 0), value.getpixel((1, 1)))
        assert result.getpixel((0, 0)) == value.getpixel((1, 1))
        assert read(result)[0].tobytes() == result.tobytes()
    assert read(images.new("RGB", (0, 5)))[0].size == (0, 5)


@pytest.mark.parametrize("n_bits", [0, 3, 8, 100_003, 80_000])
@pytest.mark.parametrize("endian", ["big", "little"])
def test_bitarrays(n_bits, endian):
    bitarray = pytest.importorskip("bitarray")
    value = bitarray.bitarray([True, False, True] * (n_bits // 3) + [True] * (n_bits % 3), endian=endian)
    (result,), _ = read([value])
    assert type(result) is bitarray.bitarray
    assert result == value
    assert result.endian == value.endian or result.endian() == value.endian()
    result.append(True)
    frozen = bitarray.frozenbitarray(value)
    assert read([frozen])[0] == [frozen]


def test_bitarrays_can_be_lent(lent):
    bitarray = pytest.importorskip("bitarray")
    value = bitarray.bitarray("1011" * 2000)
    result, memory = read(value)
    assert result == value
    assert np.shares_memory(np.frombuffer(result, np.uint8), memory)


def test_quantities_are_lent():
    units = pytest.importorskip("astropy.units")
    coordinates = pytest.importorskip("astropy.coordinates")
    for value in (units.Quantity(np.arange(N * 1.0), "m/s"), coordinates.Angle(np.arange(N * 1.0), "deg")):
        result, memory = read([value])
        result = result[0]
        assert type(result) is type(value)
        assert result.unit == value.unit
        assert (result == value).all()
        assert np.shares_memory(result.value, memory)


def test_xarray():
    xarray = pytest.importorskip("xarray")
    value = xarray.Dataset({"x": ("t", np.arange(N * 1.0))}, {"t": pd.date_range("2020", periods=N, freq="s")})
    result, memory = read(value)
    assert result.equals(value)
    assert np.shares_memory(result["x"].to_numpy(), memory)


def test_nothing_is_imported_for_it():
    import subprocess

    code = (
        "import sys, zray.serialization as s; s.serialize([object()]); "
        "print([n for n in ('numpy', 'pyarrow', 'polars', 'torch', 'jax', 'PIL', 'bitarray') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


PICKLED_BY_THREADS = """
import threading
import numpy
from zray.serialization import serialize

start, failures = threading.Barrier(8), []

def pickle():
    start.wait()
    try:
        serialize([object, numpy.ones(3)])
    except Exception as error:
        failures.append(repr(error))

threads = [threading.Thread(target=pickle) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(failures)
"""


def test_threads_that_pickle_first_at_the_same_time():
    done = subprocess.run([sys.executable, "-c", PICKLED_BY_THREADS], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("name", ["torch", "polars", "jax", "bitarray", "PIL.Image", "pyarrow"])
@pytest.mark.parametrize("content", ["types.ModuleType(name)", "None"])
def test_a_module_of_the_users_with_a_librarys_name(name, content):
    source = f"""
import sys, types
from zray.serialization import deserialize, serialize
name = {name!r}
sys.modules[name] = {content}
class Thing: pass
for _ in range(3):
    value = deserialize(serialize([Thing(), object]).to_bytes(), None)
print(type(value[0]).__name__)
from zray.serialization import views
print(views._n_modules > 0)
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["Thing", "True"], done.stdout + done.stderr
