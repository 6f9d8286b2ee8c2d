"""Where the bundles of a placement group go: all of them, or none."""

from __future__ import annotations

import itertools
import random

import pytest

from zray.broker.packing import STRATEGIES, Trial, choose, domains
from zray.broker.records import Host
from zray.broker.resources import UNIT, Pool, Shape, shape_key
from zray.protocol.records import HostInfo


def host(name: str, **resources: float) -> Host:
    total = {resource: round(amount * UNIT) for resource, amount in resources.items()}
    return Host(name.encode(), Pool(total), HostInfo(hostname=name))


def shape(**resources: float) -> Shape:
    amounts = {resource: round(amount * UNIT) for resource, amount in resources.items()}
    return Shape(shape_key(amounts), amounts)


def where(strategy, bundles, hosts, used=(), target=b"", admits=lambda host, index: True):
    trial = Trial(hosts, admits, lambda host: host.pool)
    found = choose(strategy, list(enumerate(bundles)), trial, used, target)
    return None if found is None else [found[index].host_id.decode() for index in range(len(bundles))]


ONE = shape(CPU=1)


def test_pack_fills_the_fullest_host_that_takes_all():
    hosts = [host("large", CPU=8), host("small", CPU=2), host("tiny", CPU=1)]
    assert where("PACK", [ONE, ONE], hosts) == ["small", "small"]
    assert where("STRICT_PACK", [ONE, ONE, ONE], hosts) == ["large"] * 3


def test_pack_uses_as_few_hosts_as_possible():
    hosts = [host("a", CPU=1), host("b", CPU=3), host("c", CPU=2)]
    assert sorted(where("PACK", [ONE] * 4, hosts)) in (["a", "b", "b", "b"], ["b", "b", "b", "c"])
    assert where("STRICT_PACK", [ONE] * 4, hosts) is None
    assert where("PACK", [ONE] * 7, hosts) is None


def test_spread_uses_all_hosts_first():
    hosts = [host("a", CPU=4), host("b", CPU=4), host("c", CPU=4)]
    assert sorted(where("SPREAD", [ONE] * 4, hosts))[:1] + sorted({*where("SPREAD", [ONE] * 4, hosts)}) == [
        "a", "a", "b", "c",
    ]  # fmt: skip
    assert where("SPREAD", [ONE] * 4, hosts[:1]) == ["a"] * 4


def test_strict_spread_needs_a_host_for_each():
    hosts = [host("a", CPU=4), host("b", CPU=4)]
    assert sorted(where("STRICT_SPREAD", [ONE, ONE], hosts)) == ["a", "b"]
    assert where("STRICT_SPREAD", [ONE] * 3, hosts) is None
    assert where("STRICT_SPREAD", [ONE, ONE], hosts, used={b"a"}) is None
    assert where("STRICT_SPREAD", [ONE], hosts, used={b"a"}) == ["b"]


def test_strict_spread_finds_the_only_way():
    hosts = [host("both", CPU=1, x=1), host("cpu", CPU=1)]
    assert where("STRICT_SPREAD", [ONE, shape(x=1)], hosts) == ["cpu", "both"]
    assert where("STRICT_SPREAD", [shape(x=1), ONE], hosts) == ["both", "cpu"]


def test_lost_bundles_go_near_the_others():
    hosts = [host("a", CPU=1), host("b", CPU=4)]
    assert where("PACK", [ONE], hosts, used={b"b"}) == ["b"]
    assert where("PACK", [ONE] * 5, hosts, used={b"b"}).count("b") == 4
    assert where("STRICT_PACK", [ONE], hosts, used={b"b"}) == ["b"]
    assert where("STRICT_PACK", [shape(CPU=5)], hosts, used={b"b"}) is None


def test_a_target_is_preferred():
    hosts = [host("a", CPU=1), host("b", CPU=4)]
    assert where("STRICT_PACK", [ONE], hosts) == ["a"]
    assert where("STRICT_PACK", [ONE], hosts, target=b"b") == ["b"]
    assert where("STRICT_PACK", [ONE], hosts, target=b"gone") == ["a"]


def test_hosts_that_a_bundle_may_not_use():
    hosts = [host("a", CPU=4), host("b", CPU=4)]

    def admits(host, index):
        return host.host_id == (b"b" if index else b"a")

    assert where("PACK", [ONE, ONE], hosts, admits=admits) == ["a", "b"]
    assert where("STRICT_PACK", [ONE, ONE], hosts, admits=admits) is None
    assert where("STRICT_SPREAD", [ONE, ONE], hosts, admits=admits) == ["a", "b"]


def names(sets):
    return [[host.host_id.decode() for host in members] for members in sets]


def in_rack(rack: str | None, name: str, **resources: float) -> Host:
    each = host(name, **resources)
    each.info = each.info._replace(labels={"rack": rack} if rack is not None else {})
    return each


def test_domains_of_a_label():
    hosts = [in_rack("1", "a", CPU=4), in_rack("2", "b", CPU=1), in_rack(None, "c", CPU=9), in_rack("1", "d", CPU=1)]
    assert names(domains(hosts, "", None, lambda host: host.pool)) == [["a", "b", "c", "d"]]
    assert names(domains(hosts, "rack", None, lambda host: host.pool)) == [["b"], ["a", "d"]]
    assert names(domains(hosts, "rack", "1", lambda host: host.pool)) == [["a", "d"]]
    assert domains(hosts, "rack", "3", lambda host: host.pool) == []
    assert domains(hosts, "zone", None, lambda host: host.pool) == []


@pytest.mark.parametrize("only", [0, 1])
@pytest.mark.parametrize("strategy", ["PACK", "SPREAD"])
def test_a_bundle_that_one_host_may_take_is_placed_first(strategy, only):
    hosts = [host("a", CPU=1), host("b", CPU=1)]
    found = where(strategy, [ONE, ONE], hosts, admits=lambda host, index: index != only or host is hosts[0])
    assert found[only] == "a" and found[1 - only] == "b"


def test_fractions_of_a_gpu():
    hosts = [host("gpu", CPU=8, GPU=1)]
    assert where("PACK", [shape(GPU=0.5), shape(GPU=0.5)], hosts) == ["gpu", "gpu"]
    assert where("PACK", [shape(GPU=0.6), shape(GPU=0.6)], hosts) is None
    two = [host("gpu", CPU=8, GPU=2)]
    assert where("PACK", [shape(GPU=0.6), shape(GPU=0.6), shape(GPU=0.6)], two) is None
    two[0].pool.take(shape(GPU=0.1))
    assert where("PACK", [shape(GPU=2)], two) is None


def test_hosts_with_gpus_are_spared():
    hosts = [host("gpu", CPU=1, GPU=1), host("plain", CPU=8)]
    assert where("PACK", [ONE], hosts) == ["plain"]


def test_no_hosts():
    for strategy in STRATEGIES:
        assert where(strategy, [ONE], []) is None


def test_trying_changes_nothing():
    hosts = [host("a", CPU=2, GPU=1)]
    for strategy in STRATEGIES:
        where(strategy, [ONE, shape(GPU=1)], hosts)
    assert hosts[0].pool.free == hosts[0].pool.total


def fits_somehow(strategy, bundles, hosts):
    """Whether any assignment fits; by trying all."""
    for chosen in itertools.product(hosts, repeat=len(bundles)):
        if strategy == "STRICT_PACK" and len({each.host_id for each in chosen}) > 1:
            continue
        if strategy == "STRICT_SPREAD" and len({each.host_id for each in chosen}) < len(bundles):
            continue
        pools = {each.host_id: each.pool.copy() for each in hosts}
        for bundle, each in zip(bundles, chosen, strict=True):
            if not pools[each.host_id].fits(bundle):
                break
            pools[each.host_id].take(bundle)
        else:
            return True
    return False


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(30))
def test_what_is_found_fits_and_the_strict_strategies_find_it(strategy, seed):
    rng = random.Random(seed)
    hosts = [host(str(number), CPU=rng.randrange(4), x=rng.randrange(3)) for number in range(rng.randrange(1, 4))]
    bundles = [rng.choice([ONE, shape(CPU=2), shape(x=1), shape(CPU=1, x=1)]) for _ in range(rng.randrange(1, 5))]
    found = where(strategy, bundles, hosts)
    if found is None:
        assert strategy not in ("STRICT_PACK", "STRICT_SPREAD") or not fits_somehow(strategy, bundles, hosts)
        return
    for each in hosts:
        for index, name in enumerate(found):
            if name.encode() == each.host_id:
                assert each.pool.fits(bundles[index])
                each.pool.take(bundles[index])
    assert strategy != "STRICT_PACK" or len(set(found)) == 1
    assert strategy != "STRICT_SPREAD" or len(set(found)) == len(bundles)
