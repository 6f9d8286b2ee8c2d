"""Values survive the way there and back, without copies where pickling allows that."""

from __future__ import annotations

import array
import collections
import dataclasses
import pickle
import subprocess
import sys
import threading
import types
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zray.exceptions import ModuleMissingError, SerializationError, SystemFailure
from zray.failures import encode_failure, is_error
from zray.serialization import deserialize, explain_unpicklable, serialize, serialize_call


def no_refs(object_id):
    raise AssertionError("no reference was expected")


def encode(value):
    """Through write_into at an odd place of a larger buffer, and through to_bytes; both must agree on the value."""
    serialized = serialize(value)
    room = bytearray(b"\xaa" * (serialized.total_bytes + 7))
    serialized.write_into(memoryview(room))
    assert room[serialized.total_bytes :] == b"\xaa" * 7
    encoded = serialized.to_bytes()
    assert len(encoded) == serialized.total_bytes
    return encoded


def round_trip(value, load_ref=no_refs):
    return deserialize(encode(value), load_ref)


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(plain_values)
@settings(max_examples=150, deadline=None)
def test_builtin_values_round_trip(value):
    result = round_trip(value)
    assert result == value
    assert type(result) is type(value)


@dataclasses.dataclass
class Point:
    x: int
    y: object


Pair = collections.namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    "value",
    [
        Point(1, [2]),
        Pair(1, {2}),
        {1, 2},
        frozenset("ab"),
        bytearray(b"abc"),
        bytearray(100_000),
        b"x" * 4095,
        b"x" * 4096,
        b"x" * 100_000,
        range(5),
        collections.OrderedDict(a=1),
        array.array("d", [1.0, 2.0]),
        Ellipsis,
        int,
        len,
        list(range(100)),
        {"a": [1, {"b": (2,)}]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_round_trip(value):
    result = round_trip(value)
    assert result == value
    assert type(result) is type(value)


def test_a_small_value_is_encoded_as_its_pickle():
    assert serialize((1, "a")).to_bytes() == pickle.dumps((1, "a"), 5)


def test_shared_and_cyclic_members_stay_so():
    inner = [1]
    first, second = round_trip([inner, inner])
    assert first is second
    cyclic: list[object] = []
    cyclic.append(cyclic)
    result = round_trip(cyclic)
    assert result[0] is result


def test_a_memoryview_arrives_as_bytes():
    assert round_trip(memoryview(bytearray(b"abcdef"))[::2]) == b"ace"


class Slotted:
    __slots__ = ("value",)
    value: int


def test_lambdas_local_classes_and_generic_objects():
    class Local:
        def __init__(self):
            self.square = lambda x: x * x

    assert round_trip(Local()).square(7) == 49
    slotted = Slotted()
    slotted.value = 3
    assert round_trip(slotted).value == 3


ARRAYS = {
    "c": np.arange(24.0).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(24.0).reshape(4, 6)),
    "strided": np.arange(100)[::3],
    "0-d": np.array(5.0),
    "empty": np.zeros((0, 3)),
    "structured": np.array([(1, 2.5, b"x")], dtype=[("a", "i4"), ("b", "f8"), ("c", "S3")]),
    "object": np.array([{"a": 1}, None, "x"], dtype=object),
    "masked": np.ma.masked_array([1, 2, 3], mask=[False, True, False]),
    "bool": np.array([True, False]),
    "datetime": np.array(["2020-01-01"], dtype="datetime64[ns]"),
    "unicode": np.array(["a", "bcd"]),
    "big-endian": np.arange(3, dtype=">i4"),
    "large": np.arange(300_000),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_round_trip(name):
    value = ARRAYS[name]
    result = round_trip(value)
    assert type(result) is type(value)
    assert result.dtype == value.dtype
    assert result.shape == value.shape
    np.testing.assert_array_equal(result, value)
    if name == "masked":
        np.testing.assert_array_equal(result.mask, value.mask)
    if name == "fortran":
        assert result.flags.f_contiguous


def test_while_another_thread_imports_numpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", types.ModuleType("numpy"))
    assert deserialize(serialize([[1], {2: [3]}]).to_bytes(), no_refs) == [[1], {2: [3]}]


def test_an_array_whose_type_carries_a_function_is_pickled_by_value():
    value: np.ndarray[Any, Any] = np.zeros(3, dtype=np.dtype("f8", metadata={"scale": lambda x: 2 * x}))
    assert round_trip(value).dtype.metadata["scale"](4) == 8


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([], {}),
        ([1, "two", None], {"three": 3.0}),
        ([np.arange(300_000), 7], {"k": b"x"}),
        ([np.asfortranarray(np.ones((300, 400)))], {}),
        ([np.arange(10)[::2], np.array([{"a": 1}], dtype=object)], {"more": [1, [2, {3: 4}]]}),
        ([[np.arange(5)]], {"array": np.arange(5.0)}),
        (list(range(100)), {}),
        ([bytes(10_000)], {}),
    ],
)
def test_the_arguments_of_a_call_are_a_pair_of_them(args, kwargs):
    got_args, got_kwargs = deserialize(serialize_call(args, kwargs).to_bytes(), no_refs)
    assert (len(got_args), list(got_kwargs)) == (len(args), list(kwargs))
    for got, sent in zip([*got_args, *got_kwargs.values()], [*args, *kwargs.values()], strict=True):
        assert type(got) is type(sent)
        np.testing.assert_equal(got, sent)


def test_one_array_given_twice_arrives_once():
    array = np.arange(1000)
    (first, second), _ = deserialize(serialize_call([array, array], {}).to_bytes(), no_refs)
    assert first is second


def test_references_and_functions_among_arrays_are_seen(tracker):
    ref, array = tracker.make(), np.arange(10)
    assert serialize_call([array, [ref]], {}).refs == (ref.binary(),)
    assert serialize_call([array], {"k": ref}).refs == (ref.binary(),)
    (_, function), _ = deserialize(serialize_call([array, lambda: 5], {}).to_bytes(), no_refs)
    assert function() == 5


def address_range(view):
    whole = np.frombuffer(view, dtype=np.uint8)
    return whole.ctypes.data, whole.ctypes.data + whole.nbytes


@pytest.mark.parametrize("name", ["c", "fortran", "structured", "large", "bool"])
def test_arrays_are_read_only_slices_of_the_data(name):
    data = memoryview(bytearray(encode([1, ARRAYS[name]])))
    result = deserialize(data, no_refs)[1]
    low, high = address_range(data)
    assert low <= result.ctypes.data < high
    assert not result.flags.writeable
    assert np.shares_memory(result, np.frombuffer(data, dtype=np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        result[...] = result


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_buffers_are_aligned(kind):
    """Also buffers in a message, in memory; buffers in a mapped file are aligned to the start of the map."""
    values: list[Any] = [np.arange(size, dtype=np.uint8) for size in (1, 63, 64, 65, 1000, 0, 5)]
    data = kind(encode(values))
    base = 0 if kind is bytes else address_range(memoryview(data))[0]
    for result, value in zip(deserialize(data, no_refs), values, strict=True):
        np.testing.assert_array_equal(result, value)
        if value.size:
            assert (result.ctypes.data - base) % 64 == 0


def test_one_array_referenced_twice_stays_one():
    value = np.arange(1000)
    serialized = serialize({"a": value, "b": [value]})
    assert len(serialized.buffers) == 1
    result = deserialize(serialized.to_bytes(), no_refs)
    assert result["a"] is result["b"][0]


def test_the_data_lives_as_long_as_an_array_over_it():
    data = bytearray(encode(np.arange(10)))
    result = deserialize(memoryview(data), no_refs)
    with pytest.raises(BufferError):
        data.clear()
    del result
    data.clear()


def test_pandas_round_trips():
    frame = pd.DataFrame(
        {
            "number": [1.0, np.nan, 3.0],
            "category": pd.Categorical(["a", "b", None]),
            "nullable": pd.array([1, None, 3], dtype="Int64"),
            "text": ["x", None, "z"],
            "time": pd.to_datetime(["2020-01-01", None, "2021-01-01"]),
        },
        index=pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")]),
    )
    pd.testing.assert_frame_equal(round_trip(frame), frame)
    series = pd.Series(np.arange(100_000.0))
    data = memoryview(encode(series))
    result = deserialize(data, no_refs)
    pd.testing.assert_series_equal(result, series)
    assert np.shares_memory(result.to_numpy(), np.frombuffer(data, dtype=np.uint8))


def test_arrow_round_trips_without_a_copy():
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"a": list(range(10_000)), "b": [str(i) for i in range(10_000)]})
    serialized = serialize(table)
    assert sum(buffer.nbytes for buffer in serialized.buffers) >= 80_000
    assert deserialize(serialized.to_bytes(), no_refs).equals(table)


def test_torch_tensors_round_trip():
    torch = pytest.importorskip("torch")
    value = torch.arange(1000)
    assert torch.equal(round_trip(value), value)


def test_serialization_imports_no_array_library():
    code = "import sys, zray.serialization; print(sorted({'numpy', 'torch', 'pandas', 'zmq'} & set(sys.modules)))"
    # Loaded as a package of its own, because zray's __init__ imports the whole API.
    bare = f"import sys, types; z = types.ModuleType('zray'); z.__path__ = {[*sys.modules['zray'].__path__]!r}; "
    done = subprocess.run([sys.executable, "-c", bare + "sys.modules['zray'] = z; " + code], capture_output=True)
    assert done.stdout.strip() == b"[]", done.stderr


# -- references


def test_references_are_collected_in_order_and_once(tracker):
    first, second = tracker.make(), tracker.make()
    serialized = serialize({"a": [second, first], first: Point(second, None)})
    assert serialized.refs == (second.binary(), first.binary())
    result = deserialize(serialized.to_bytes(), tracker.intern)
    assert result["a"] == [second, first]
    assert result[first].x is second


def test_a_reference_alone_and_in_a_closure(tracker):
    ref = tracker.make()
    assert serialize(ref).refs == (ref.binary(),)
    function = round_trip(lambda: ref, tracker.intern)
    assert function() is ref


def test_references_beside_buffers(tracker):
    ref = tracker.make()
    array_, loaded = round_trip([np.arange(9), ref], tracker.intern)
    assert loaded is ref
    np.testing.assert_array_equal(array_, np.arange(9))


def test_ten_thousand_references(tracker):
    refs = [tracker.make() for _ in range(10_000)]
    serialized = serialize(refs)
    assert len(serialized.refs) == 10_000
    assert deserialize(serialized.to_bytes(), tracker.intern) == refs


class LoadsInside:
    """Deserializes another value while it is being unpickled."""

    def __init__(self, data):
        self.data = data

    def __setstate__(self, state):
        self.inner = deserialize(state["data"], lambda object_id: cast(Any, ("inner", object_id)))


def test_nested_and_concurrent_deserialization_keep_their_own_references(tracker):
    ref = tracker.make()
    first, outer, last = round_trip([ref, LoadsInside(serialize([ref]).to_bytes()), ref], tracker.intern)
    assert first is last is ref
    assert outer.inner == [("inner", ref.binary())]

    data, seen = serialize([ref]).to_bytes(), {}

    def load(name):
        seen[name] = deserialize(data, lambda object_id: name)

    threads = [threading.Thread(target=load, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"a": ["a"], "b": ["b"]}


def test_a_reference_outside_of_deserialize_is_refused(tracker):
    data = serialize([tracker.make()])
    with pytest.raises(SystemFailure, match="without zray"):
        pickle.loads(cast(bytes, data.pickle))


# -- failures


@pytest.mark.parametrize("cut", [1, 8, 20, 60, -1])
def test_truncated_data_is_a_system_failure(cut):
    with pytest.raises(SystemFailure):
        deserialize(encode(np.arange(1000))[:cut], no_refs)


@pytest.mark.parametrize("data", [b"", b"x", b"\0\0", encode_failure("WorkerCrashedError", "x")])
def test_data_of_another_kind_is_a_system_failure(data):
    with pytest.raises(SystemFailure, match="no value"):
        deserialize(data, no_refs)


def test_values_are_told_from_errors_by_their_first_byte():
    assert is_error(encode_failure("WorkerCrashedError", "x"))
    assert not any(is_error(encode(value)) for value in (1, b"x" * 10_000, np.arange(3), None))


def test_a_view_that_is_too_small_raises():
    with pytest.raises(ValueError, match="do not fit"):
        serialize(np.arange(10)).write_into(memoryview(bytearray(10)))


def test_a_missing_module_is_named_with_host_and_path(monkeypatch):
    module = types.ModuleType("zray_test_gone")
    thing = type("Thing", (), {"__module__": "zray_test_gone", "__qualname__": "Thing"})
    monkeypatch.setattr(module, "Thing", thing, raising=False)
    monkeypatch.setitem(sys.modules, "zray_test_gone", module)
    data = pickle.dumps([thing()], 5)
    monkeypatch.delitem(sys.modules, "zray_test_gone")
    with pytest.raises(ModuleMissingError, match=r"'zray_test_gone' cannot be imported on host") as caught:
        deserialize(data, no_refs)
    assert caught.value.name == "zray_test_gone"
    assert sys.path[-1] in str(caught.value)


def test_modules_that_no_import_finds_go_by_value(monkeypatch):
    module = types.ModuleType("zray_test_made_up")
    exec("class Thing:\n    def get(self): return helper()\ndef helper(): return 5\n", module.__dict__)
    monkeypatch.setitem(sys.modules, "zray_test_made_up", module)
    data = encode([module.Thing(), module.helper])
    monkeypatch.delitem(sys.modules, "zray_test_made_up")
    thing, helper = deserialize(data, no_refs)
    assert thing.get() == helper() == 5


def test_exceptions_whose_constructor_takes_something_else():
    class Picky(Exception):
        def __init__(self, code, *, reason):
            super().__init__(f"{code}: {reason}")
            self.code = code
            self.itself = self

    result = round_trip([Picky(3, reason="x")])[0]
    assert (result.code, str(result)) == (3, "3: x")
    assert result.itself is result


# -- the member that cannot be pickled


class Service:
    def __init__(self):
        self.config = {"lock": threading.Lock(), "fine": 1}


class Careful:
    """Leaves its lock out of the pickle, but not its generator."""

    def __init__(self):
        self.lock = threading.Lock()
        self.items = (i for i in "ab")

    def __getstate__(self):
        return {"items": self.items}


def lock_in_closure():
    lock = threading.Lock()
    return lambda: lock


def lock_in_default(lock=threading.Lock()):  # noqa: B008
    return lock


def cyclic_with_lock():
    value: dict[str, Any] = {"lock": threading.Lock()}
    value["itself"] = value
    return value


BLAMED = [
    (Service(), r": \.config\['lock'\] is a <class '_thread.lock'>"),
    (threading.Lock(), r": it is a <class '_thread.lock'>"),
    ([0, (1, threading.Lock())], r": \[1\]\[1\] is a <class '_thread.lock'>"),
    (Careful(), r": \.items is a <class 'generator'>.*Pass a list"),
    (lock_in_closure(), r": closure variable 'lock' is a <class '_thread.lock'>"),
    (cyclic_with_lock(), r": \['lock'\] is a <class '_thread.lock'>"),
    (collections.OrderedDict(a=threading.Lock()), r": \['a'\] is a <class '_thread.lock'>"),
    (collections.deque([1, threading.Lock()]), r": \[1\] is a <class '_thread.lock'>"),
    (np.array([threading.Lock()], dtype=object), r": state.*\[0\] is a <class '_thread.lock'>"),
    (Pair(1, threading.Lock()), r": \.right is a <class '_thread.lock'>"),
]


@pytest.mark.parametrize(("value", "message"), BLAMED, ids=lambda case: type(case).__name__)
def test_the_member_that_cannot_be_pickled_is_named(value, message):
    with pytest.raises(SerializationError, match=r"cannot pickle argument 'x' of f" + message):
        serialize(value, "argument 'x' of f")


def test_members_of_by_value_classes_and_functions_are_named():
    class Local:
        lock = threading.Lock()

    local_default = types.FunctionType(lock_in_default.__code__, {"__name__": "__main__"}, "local", (threading.Lock(),))

    class Child(Local):
        __slots__ = ("value",)

    assert ": class class attribute 'lock' is a" in explain_unpicklable(Local(), "it")
    assert ": base class Local class attribute 'lock' is a" in explain_unpicklable(Child, "it")
    assert "default argument 0 is a" in explain_unpicklable(local_default, "it")
    source = "def f():\n    def g(): return lock\n    return g"
    space = {"lock": threading.Lock(), "__name__": "__main__"}
    exec(source, space)
    assert "global variable 'lock' is a" in explain_unpicklable(space["f"], "it")


def test_files_come_with_a_remedy():
    with open(__file__, "rb") as file, pytest.raises(SerializationError, match=r"\['log'\].*open it inside"):
        serialize({"log": file})


def test_too_deep_nesting_is_explained():
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match="the value: it is nested too deeply"):
        serialize(deep)
    while deep:  # frees the value level by level, without recursion
        deep = deep[0]


class Hostile:
    def __reduce__(self):
        raise RuntimeError("no pickling today")

    def __repr__(self):
        raise RuntimeError("no repr either")


def test_an_object_that_raises_is_named_itself():
    with pytest.raises(SerializationError, match=r"\[0\] is a .*Hostile.*no pickling today"):
        serialize([Hostile()])
    with pytest.raises(SerializationError, match=r"key <Hostile instance"):
        serialize({Hostile(): 1})
