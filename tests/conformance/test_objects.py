"""``put``, ``get``, ``wait`` and futures, and the values that come back."""

from __future__ import annotations

import collections
import dataclasses
import pickle
import threading
import time
from typing import Any

import numpy as np
import pytest

from .helpers import eventually, raises_within

LARGE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    label: str


def test_put_and_get(ray):
    value = {"a": [1, 2.5, None], "b": (b"x", "ä", {1, 2})}
    assert ray.get(ray.put(value)) == value


def test_get_of_a_list_keeps_the_order(ray):
    assert ray.get([ray.put(n) for n in range(20)]) == list(range(20))


def test_get_of_an_empty_list(ray):
    assert ray.get([]) == []


def test_get_of_duplicates(ray):
    ref = ray.put("x")
    assert ray.get([ref, ref, ref]) == ["x"] * 3


def test_get_twice(ray):
    ref = ray.put([1])
    assert ray.get(ref) == ray.get(ref) == [1]


def test_what_was_put_does_not_change_with_the_original(ray):
    mine = [1]
    ref = ray.put(mine)
    mine.append(2)
    assert ray.get(ref) == [1]


def test_get_with_timeout(ray, gate):
    ref = gate.wait.remote()
    begin = time.monotonic()
    with pytest.raises(ray.exceptions.GetTimeoutError) as caught:
        ray.get(ref, timeout=0.1)
    assert time.monotonic() - begin < 5
    assert isinstance(caught.value, TimeoutError)
    gate.open.remote()
    assert ray.get(ref, timeout=20) == "open"


def test_get_with_timeout_0(ray, gate):
    assert ray.get(ray.put(1), timeout=0) == 1
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(gate.wait.remote(), timeout=0)


def test_get_of_a_list_with_one_pending_times_out(ray, gate):
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get([ray.put(1), gate.wait.remote()], timeout=0.1)


def test_get_waits_for_what_is_pending(ray, gate):
    ref = gate.wait.remote()
    threading.Timer(0.05, gate.open.remote).start()
    assert ray.get([ray.put(1), ref]) == [1, "open"]


def test_get_in_several_threads(ray, gate):
    ref, got = gate.wait.remote(), []
    threads = [threading.Thread(target=lambda: got.append(ray.get(ref))) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.open.remote()
    for thread in threads:
        thread.join(20)
    assert got == ["open"] * 4


@pytest.mark.parametrize("what", [5, None, "ref", (1, 2), {"a": 1}, [5], [None]], ids=repr)
def test_get_of_no_ref(ray, what):
    with pytest.raises((TypeError, ValueError)):
        ray.get(what)


def test_put_of_a_ref_is_refused(ray):
    with pytest.raises(TypeError):
        ray.put(ray.put(1))


def test_put_of_what_cannot_be_pickled(ray):
    with pytest.raises(TypeError, match="lock"):
        ray.put({"inner": threading.Lock()})


def test_wait_keeps_the_order_of_the_input(ray):
    refs = [ray.put(n) for n in range(10)]
    done, pending = ray.wait(refs, num_returns=10)
    assert done == refs
    assert pending == []


def test_wait_returns_as_many_as_asked_for(ray):
    refs = [ray.put(n) for n in range(5)]
    done, pending = ray.wait(refs, num_returns=2)
    assert len(done) == 2
    assert len(pending) == 3
    assert set(done) | set(pending) == set(refs)


def test_wait_default_is_one(ray, gate):
    slow, quick = gate.wait.remote(), ray.put(1)
    assert ray.wait([slow, quick]) == ([quick], [slow])


def test_wait_with_timeout(ray, gate):
    slow, quick = gate.wait.remote(), ray.put(1)
    assert ray.wait([slow, quick], num_returns=2, timeout=0.1) == ([quick], [slow])


def test_wait_with_timeout_0(ray, gate):
    slow, quick = gate.wait.remote(), ray.put(1)
    assert ray.wait([slow], timeout=0) == ([], [slow])
    eventually(lambda: ray.wait([slow, quick], timeout=0) == ([quick], [slow]))


def test_wait_counts_errors_as_done(ray):
    def fail():
        raise ValueError("x")

    ref = ray.remote(fail).remote()
    assert ray.wait([ref], timeout=20) == ([ref], [])
    assert isinstance(raises_within(ray, ref), ValueError)


def test_wait_without_fetching(ray):
    ref = ray.remote(lambda: bytes(LARGE)).remote()
    assert ray.wait([ref], fetch_local=False, timeout=20) == ([ref], [])


def test_wait_one_by_one(ray):
    echo = ray.remote(lambda x: x)
    pending, seen = [echo.remote(n) for n in range(50)], []
    while pending:
        done, pending = ray.wait(pending)
        seen += ray.get(done)
    assert sorted(seen) == list(range(50))


def test_wait_one_by_one_for_many(ray):
    echo = ray.remote(lambda x: x)
    pending, seen = [echo.remote(n) for n in range(600)], []
    while pending:
        done, pending = ray.wait(pending)
        seen += done
    assert sorted(ray.get(seen)) == list(range(600))


def test_wait_for_many_while_others_become_ready(ray, gate):
    echo = ray.remote(lambda x: x)
    slow = [gate.wait.remote() for _ in range(300)]
    others = [echo.remote(n) for n in range(100)]
    assert ray.wait(slow, timeout=0.1) == ([], slow)
    assert ray.wait(slow, timeout=0) == ([], slow)
    gate.open.remote()
    ready, rest = ray.wait(slow, timeout=20)
    assert len(ready) == 1 and rest == [ref for ref in slow if ref not in ready]
    assert ray.get(others) == list(range(100))


def test_wait_refuses_what_was_added_to_its_result(ray):
    _, rest = ray.wait([ray.put(n) for n in range(400)])
    with pytest.raises(ValueError):
        ray.wait([*rest[:-1], rest[0]])
    with pytest.raises(TypeError):
        ray.wait([*rest[:-1], 5])
    rest[200] = rest[100]
    with pytest.raises(ValueError):
        ray.wait(rest)
    rest[200] = np.arange(3)
    with pytest.raises(TypeError):
        ray.wait(rest)


def test_wait_for_nothing(ray):
    assert ray.wait([]) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (lambda ref: [ref, ref], {}),
        (lambda ref: [ref], {"num_returns": 0}),
        (lambda ref: [ref], {"num_returns": -1}),
        (lambda ref: [ref], {"num_returns": 2}),
        (lambda ref: [ref], {"timeout": -1}),
        (lambda ref: ref, {}),
        (lambda ref: (ref,), {}),
        (lambda ref: [5], {}),
        (lambda ref: None, {}),
    ],
    ids=["duplicates", "none", "negative", "too many", "timeout", "one ref", "tuple", "no ref", "nothing"],
)
def test_wait_refuses(ray, arguments, options):
    with pytest.raises((TypeError, ValueError)):
        ray.wait(arguments(ray.put(1)), **options)


def test_future(ray):
    assert ray.put(1).future().result(timeout=20) == 1
    future = ray.remote(lambda: 2).remote().future()
    assert future.result(timeout=20) == 2
    assert future.done()


def test_future_of_a_failed_task(ray):
    def fail():
        raise ValueError("x")

    error = ray.remote(fail).remote().future().exception(timeout=20)
    assert isinstance(error, ValueError)
    assert isinstance(error, ray.exceptions.RayTaskError)


def test_future_calls_back(ray, gate):
    called = threading.Event()
    gate.wait.remote().future().add_done_callback(lambda future: called.set())
    gate.open.remote()
    assert called.wait(20)


def test_refs_are_equal_hashable_and_have_an_identifier(ray):
    one, two = ray.put(1), ray.put(1)
    assert one == one and one != two
    assert len({one, two, one}) == 2
    assert one.hex() == one.binary().hex()
    assert one.hex() in repr(one)


def test_a_ref_that_came_back_equals_the_original(ray):
    ref = ray.put(1)
    (back,) = ray.get(ray.put([ref]))
    assert back == ref
    assert hash(back) == hash(ref)


def test_a_ref_cannot_be_iterated(ray):
    with pytest.raises(TypeError):
        iter(ray.put([1, 2]))


VALUES = [
    np.zeros(0),
    np.array(3.5),
    np.arange(24).reshape(4, 6)[::2, ::3],
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.array([(1, "a"), (2, "b")], dtype=[("n", "i4"), ("s", "U3")]),
    np.array([{"x": 1}, None, "text"], dtype=object),
    np.ma.masked_array([1, 2, 3], mask=[0, 1, 0]),
    np.array(["2020-01-01"], dtype="datetime64[D]"),
    np.array([1 + 2j]),
    np.arange(LARGE // 8),
    np.arange(LARGE // 8)[::-1],
    np.broadcast_to(np.arange(3), (1000, 3)),
]


@pytest.mark.parametrize("array", VALUES, ids=lambda a: f"{a.dtype.kind}{a.shape}".replace(" ", ""))
def test_arrays(ray, array):
    for back in (ray.get(ray.put(array)), ray.get(ray.remote(lambda x: x).remote(array))):
        assert type(back) is type(array)
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert (back == array).all()


def test_mask_of_a_masked_array(ray):
    array: Any = np.ma.masked_array([1, 2, 3], mask=[False, True, False])
    assert ray.get(ray.put(array)).mask.tolist() == [False, True, False]


@pytest.mark.parametrize("size", [0, 1, 100 * 1024, LARGE])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes(ray, impl, kind, size):
    value = kind(b"\x07" * size)
    back = ray.get(ray.put(value))
    assert type(back) is kind or impl == "ray"  # Ray returns bytes for a bytearray
    assert back == value


def test_large_argument_and_result(ray):
    double = ray.remote(lambda array: array * 2)
    array = np.arange(LARGE)
    assert (ray.get(double.remote(array)) == array * 2).all()
    assert (ray.get(double.remote(ray.put(array))) == array * 2).all()


def test_large_arrays_are_read_only(ray):
    array = ray.get(ray.put(np.zeros(LARGE)))
    assert not array.flags.writeable
    with pytest.raises(ValueError):
        array[0] = 1
    copy = array.copy()
    copy[0] = 1
    assert array[0] == 0


def test_array_outlives_its_ref(ray):
    array = ray.get(ray.put(np.full(LARGE, 7, dtype=np.uint8)))
    for n in range(20):
        ray.put(np.full(LARGE, n, dtype=np.uint8))
    assert (array == 7).all()


def test_view_outlives_the_array_and_its_ref(ray):
    view = ray.get(ray.put({"a": np.full(LARGE, 7, dtype=np.uint8)}))["a"][10:20]
    for n in range(20):
        ray.put(np.full(LARGE, n, dtype=np.uint8))
    assert (view == 7).all()


def test_array_in_an_actor_outlives_its_ref(ray):
    @ray.remote(num_cpus=0)
    class Keeper:
        def keep(self, array):
            self.view = array[::2]

        def intact(self):
            return bool((self.view == 7).all())

    keeper = Keeper.remote()
    ray.get(keeper.keep.remote(np.full(LARGE, 7, dtype=np.uint8)))
    for n in range(20):
        ray.put(np.full(LARGE, n, dtype=np.uint8))
    assert ray.get(keeper.intact.remote())


def test_one_array_referenced_twice_stays_one(ray):
    array = np.arange(LARGE)
    one, two = ray.get(ray.put([array, array]))
    assert one is two


def test_views_into_one_base(ray):
    base = np.arange(LARGE)
    left, right, every_third = ray.get(ray.put((base[: LARGE // 2], base[LARGE // 4 :], base[::3])))
    assert (left == base[: LARGE // 2]).all()
    assert (right == base[LARGE // 4 :]).all()
    assert (every_third == base[::3]).all()


def test_nested_lists_of_arrays(ray):
    value = [[np.full(1000, 10 * i + j) for j in range(10)] for i in range(10)]
    back = ray.get(ray.put(value))
    assert all((back[i][j] == 10 * i + j).all() for i in range(10) for j in range(10))


def test_cycles_and_shared_parts(ray):
    value: dict[str, Any] = {"list": [1]}
    value["self"], value["same"] = value, value["list"]
    back = ray.get(ray.put(value))
    assert back["self"] is back
    assert back["same"] is back["list"]


@pytest.mark.parametrize(
    "value",
    [Point(1, "a"), collections.OrderedDict(b=1, a=2), collections.Counter("aab"), 1 << 5000, slice(1, 2), Ellipsis],
    ids=lambda v: type(v).__name__,
)
def test_other_types(ray, value):
    back = ray.get(ray.put(value))
    assert type(back) is type(value)
    assert back == value


def test_out_of_band_buffers_of_the_users_own_types(ray):
    class Blob:
        def __init__(self, data):
            self.data = data

        def __reduce_ex__(self, protocol):
            return Blob, (pickle.PickleBuffer(self.data),)

    back = ray.get(ray.put(Blob(b"\x05" * LARGE)))
    assert bytes(back.data) == b"\x05" * LARGE


def test_pandas(ray):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"n": [1.0, None], "c": pd.Categorical(["a", None]), "t": ["x", "y"]})
    pd.testing.assert_frame_equal(ray.get(ray.put(frame)), frame)
    pd.testing.assert_frame_equal(ray.get(ray.remote(lambda f: f).remote(frame)), frame)


def test_arrow(ray):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"n": [1, None, 3], "t": ["x", "y", None]})
    assert ray.get(ray.put(table)).equals(table)


def test_what_get_is_not_given(ray):
    with pytest.raises(ValueError):
        ray.get(1)
    with pytest.raises(ValueError):
        ray.get(ref for ref in [ray.put(1)])
    with pytest.raises(TypeError):
        ray.get([1])
    with pytest.raises(TypeError):
        ray.get([ray.put(1), "x"])


def test_a_timeout_below_zero(ray):
    assert ray.get(ray.put(1), timeout=-1) == 1
    with pytest.raises(ValueError):
        ray.wait([ray.put(1)], timeout=-1)
