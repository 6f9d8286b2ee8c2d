"""Large clusters in one process, of real cores: nothing is lost, and no decision looks at more hosts than in a small
one.

What a decision takes is counted, in tests of whether something fits a host, and not timed: ``benchmarks/scale.py`` does
that, up to a thousand hosts.
"""

from __future__ import annotations

import pytest

from benchmarks.scale import CPUS, TASK_S, Result, run
from zray.broker.resources import Pool


@pytest.fixture
def tests_of_hosts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    count = [0]
    fits = Pool.fits

    def counted(pool: Pool, shape: object) -> bool:
        count[0] += 1
        return fits(pool, shape)  # type: ignore[arg-type]

    monkeypatch.setattr(Pool, "fits", counted)
    return count


def cost(tests_of_hosts: list[int], n_hosts: int, batch: int, load: float) -> tuple[float, Result]:
    """How often it is tested whether something fits a host, for each task and actor of 100 and 20 a host.

    ``load``: the part of all CPUs that tasks take when they come in batches of that size.
    """
    tests_of_hosts[0] = 0
    result = run(n_hosts, 100 * n_hosts, 20 * n_hosts, batch, batch * TASK_S / (load * CPUS * n_hosts))
    return tests_of_hosts[0] / (result.tasks + result.actors), result


@pytest.mark.parametrize(
    ("batch", "load"), [(1, 0.7), (1000, 5.0)], ids=["one by one, two thirds full", "a long queue"]
)
def test_decisions_cost_the_same_in_a_cluster_of_many_hosts(tests_of_hosts, batch: int, load: float) -> None:
    small, _ = cost(tests_of_hosts, 10, batch, load)
    large, result = cost(tests_of_hosts, 100, batch, load)
    assert (result.tasks, result.actors) == (10_000, 2_000) and result.workers > 100 * 20
    assert large < 2 * small
