"""An actor is placed where the arguments of its constructor are, if that host is as good as others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import zray
from zray.cluster_utils import Cluster


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    added = [cluster.add_node(num_cpus=1).node_id for _ in range(3)]
    zray.init(address=cluster.address)
    yield added
    cluster.shutdown()


def test_an_actor_goes_to_its_arguments(nodes):
    @zray.remote
    def make():
        return bytes(1_000_000)

    @zray.remote
    class Holder:
        def __init__(self, data):
            self.data = data

        def where(self):
            return zray.get_runtime_context().get_node_id()

    last = nodes[-1]
    data = make.options(label_selector={"ray.io/node-id": last}).remote()
    holders = [Holder.remote(data) for _ in range(3)]
    places = zray.get([holder.where.remote() for holder in holders])
    assert places[0] == last
    assert sorted(places) == sorted(nodes)  # a place with fewer actors is better
