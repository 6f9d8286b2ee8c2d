"""Programs with a ``Pool``: which cluster it joins, what its initializer leaves behind, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

import zray


def run(source: str, **environment: str) -> str:
    """Runs a program. Returns what it prints; fails if it does not end well, or prints an error."""
    done: Any = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def address():
    zray.init(num_cpus=2, resources={"here": 1}, log_to_driver=False)
    yield zray.get_runtime_context().gcs_address
    zray.shutdown()


USE = """
import zray
from zray.util.multiprocessing import Pool

with Pool({arguments}) as pool:
    print(pool.map(abs, [-1, 2]), zray.cluster_resources().get("here"), int(zray.cluster_resources()["CPU"]))
"""


def test_a_pool_starts_a_cluster_of_its_size():
    assert run(USE.format(arguments="3"), ZRAY_ADDRESS="local") == "[1, 2] None 3\n"


def test_a_pool_joins_the_cluster_that_it_is_told(address):
    assert run(USE.format(arguments=f"ray_address={address!r}")) == "[1, 2] 1.0 2\n"
    assert run(USE.format(arguments=""), RAY_ADDRESS=address) == "[1, 2] 1.0 2\n"


def test_functions_see_the_global_variables_of_the_initializer():
    program = """
    import functools, zray
    from zray.util.multiprocessing import Pool

    shared = None
    table = {}

    def start(value):
        global shared
        shared = value
        table["x"] = value

    def helper():
        return shared

    def work(x):
        return x + helper() + table["x"]

    def scale(factor, x):
        return factor * (x + shared)

    zray.init(num_cpus=2, log_to_driver=False)
    with Pool(2, initializer=start, initargs=(10,)) as pool:
        print(pool.map(work, range(3)), pool.map(functools.partial(scale, 2), range(3)))
    """
    assert run(program) == "[20, 21, 22] [20, 22, 24]\n"


def test_a_program_ends_with_an_open_pool():
    program = """
    import time, zray
    from zray.util.multiprocessing import Pool

    zray.init(num_cpus=2, log_to_driver=False)
    pool = Pool(2)
    pending = pool.map_async(time.sleep, [600] * 4)
    print(pool.__class__.__name__)
    """
    assert run(program) == "Pool\n"


def test_a_pool_whose_cluster_is_gone():
    program = """
    import time, zray
    from zray.util.multiprocessing import Pool

    zray.init(num_cpus=2, log_to_driver=False)
    pool = Pool(2)
    pending = pool.map_async(time.sleep, [600] * 4)
    zray.shutdown()
    for call in (lambda: pending.get(timeout=30), lambda: pool.map(abs, [1])):
        try:
            call()
        except zray.exceptions.ClusterUnavailableError:
            print("gone")
    pool.terminate()
    pool.join()
    print(zray.is_initialized())
    """
    assert run(program) == "gone\ngone\nFalse\n"


def test_a_pool_that_is_dropped_finishes_its_work():
    program = """
    import zray
    from zray.util.multiprocessing import Pool

    zray.init(num_cpus=2, log_to_driver=False)
    results = Pool(2).map_async(abs, range(-100, 0))
    print(sum(results.get(timeout=60)))
    """
    assert run(program) == "5050\n"


def test_local_mode():
    program = """
    import zray
    from zray.util.multiprocessing import Pool

    zray.init(local_mode=True, num_cpus=1)
    with Pool(1) as pool:
        print(pool.map(abs, [-1, 2]), list(pool.imap(abs, [-3])), pool.apply_async(abs, (-4,)).get())
    """
    assert run(program) == "[1, 2] [3] 4\n"
