"""Resource arithmetic: after any order of grants and returns, the free amounts are right."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.broker.harness import amounts, shape
from zray.broker.resources import NOTHING, UNIT, Pool, as_floats, check_amounts, describe, read_shape, shape_key
from zray.protocol.messages import ProtocolError


def pool(**resources: float) -> Pool:
    return Pool(amounts(**resources))


def test_shapes_survive_a_round_trip():
    back = read_shape(shape(CPU=2, GPU=0.5, memory=3))
    assert back.amounts == amounts(CPU=2, GPU=0.5, memory=3)
    assert (back.cpus, back.gpus) == (20_000, 5000)
    assert repr(back) == "{CPU: 2, GPU: 0.5, memory: 2.79e-09 GiB}"


def test_a_shape_has_one_key():
    assert shape_key({"a": 1, "b": 2}) == shape_key({"b": 2, "a": 1, "c": 0})
    assert read_shape(shape_key({})).amounts == NOTHING.amounts == {}


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"\xc1",
        b"\x05",
        msgpack.packb([["CPU"]]),
        msgpack.packb([["CPU", 1.5]]),
        msgpack.packb([["CPU", 0]]),
        msgpack.packb([["CPU", -1]]),
        msgpack.packb([["CPU", True]]),
        msgpack.packb([[5, 5]]),
        msgpack.packb([[["x"], 5]]),
        msgpack.packb([[{}, 5]]),
        msgpack.packb(["ab"]),
    ],
)
def test_malformed_shapes(key):
    with pytest.raises(ProtocolError):
        read_shape(key)


@given(st.binary(max_size=30))
def test_random_shapes(key):
    try:
        read_shape(key)
    except ProtocolError:
        return


@pytest.mark.parametrize("totals", [None, [], {"CPU": -1}, {"CPU": 1.0}, {5: 5}, {"CPU": True}])
def test_malformed_totals(totals):
    with pytest.raises(ProtocolError):
        check_amounts(totals)


def test_amounts_as_text():
    assert describe(amounts(CPU=1, GPU=0.25) | {"gone": 0}) == "{CPU: 1, GPU: 0.25}"
    assert as_floats(amounts(CPU=0.5)) == {"CPU": 0.5}


def test_ten_tenths_are_one():
    host = pool(CPU=1)
    tenth = read_shape(shape(CPU=0.1))
    for _ in range(10):
        assert host.fits(tenth)
        host.take(tenth)
    assert not host.fits(tenth)
    for _ in range(10):
        host.give_back(tenth, [])
    assert host.free == host.total


def test_fits_ever_and_fits_now():
    host = pool(CPU=2)
    assert host.could_ever_fit(read_shape(shape(CPU=2)))
    assert not host.could_ever_fit(read_shape(shape(CPU=2.1)))
    assert not host.could_ever_fit(read_shape(shape(special=1)))
    host.take(read_shape(shape(CPU=1)))
    assert not host.fits(read_shape(shape(CPU=2)))
    assert host.how_many_fit(read_shape(shape(CPU=0.25)), 10) == 4
    assert host.how_many_fit(read_shape(shape(CPU=0.25)), 3) == 3
    assert host.how_many_fit(NOTHING, 7) == 7


def test_whole_gpus_are_exclusive():
    host = pool(GPU=3)
    assert host.take(read_shape(shape(GPU=2))) == [0, 1]
    assert host.take(read_shape(shape(GPU=1))) == [2]
    host.give_back(read_shape(shape(GPU=2)), [0, 1])
    assert host.take(read_shape(shape(GPU=1))) == [0]


def test_fractions_share_the_fullest_gpu():
    host = pool(GPU=2)
    third = read_shape(shape(GPU=0.3))
    assert [host.take(third) for _ in range(4)] == [[0], [0], [0], [1]]
    assert not host.fits(read_shape(shape(GPU=1)))
    assert host.fits(read_shape(shape(GPU=0.7)))
    assert not host.fits(read_shape(shape(GPU=0.75)))  # 0.1 and 0.7 are left, on two GPUs


def test_a_fraction_of_a_missing_resource():
    assert not pool(CPU=1).fits(read_shape(shape(GPU=0.1)))


def test_lent_cpus():
    host = pool(CPU=1)
    one = read_shape(shape(CPU=1))
    host.take(one)
    host.lend(one.cpus)
    assert host.fits(one)
    host.take(one)
    host.lend(-one.cpus)
    assert host.free == {"CPU": -UNIT}
    assert host.how_many_fit(one, 5) == 0
    host.give_back(one, [])
    host.give_back(one, [])
    assert host.free == host.total


def test_an_actor_keeps_part_of_its_grant():
    host = pool(CPU=1, GPU=2)
    placement, running = read_shape(shape(CPU=1, GPU=1)), read_shape(shape(GPU=1))
    gpus = host.take(placement)
    host.shrink(placement, running)
    assert as_floats(host.free) == {"CPU": 1, "GPU": 1}
    host.give_back(running, gpus)
    assert host.free == host.total


requests = st.fixed_dictionaries(
    {},
    optional={
        "CPU": st.sampled_from([1, 2, 0.5, 0.1, 0.0001]),
        "GPU": st.sampled_from([0.1, 0.25, 0.5, 0.9, 1, 2, 3]),
        "memory": st.integers(1, 5),
        "special": st.sampled_from([0.5, 1]),
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), requests, st.integers(0, 10)), max_size=60))
def test_free_plus_grants_is_total(history):
    host = pool(CPU=4, GPU=3, memory=8, special=1)
    grants = []
    for take, wanted, index in history:
        asked = read_shape(shape(**wanted))
        if take and host.fits(asked):
            grants.append((asked, host.take(asked)))
        elif not take and grants:
            host.give_back(*grants.pop(index % len(grants)))
        for name, total in host.total.items():
            held = sum(grant.amounts.get(name, 0) for grant, _ in grants)
            assert host.free[name] == total - held
            assert host.free[name] >= 0
        on_gpu = [0] * 3
        for grant, gpus in grants:
            assert len(set(gpus)) == len(gpus) == -(-grant.gpus // UNIT)
            for gpu in gpus:
                on_gpu[gpu] += min(grant.gpus, UNIT)
        assert max(on_gpu) <= UNIT
    for granted in grants:
        host.give_back(*granted)
    assert host.free == host.total
    assert host.fits(read_shape(shape(CPU=4, GPU=3, memory=8, special=1)))
