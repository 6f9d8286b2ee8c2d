"""Arrays beyond 2^31 bytes, where a length no longer fits into a C int."""

from __future__ import annotations

import os

import pytest

from zray.store import location

from .helpers import driver

pytestmark = pytest.mark.xdist_group("gigabytes")  # one after the other: each needs ``NEEDED``

SIZE = (1 << 31) + 12_345
NEEDED = 4 * SIZE
"""Two objects in the store, the array that one is made from, and as much again to spare."""


@pytest.fixture(autouse=True)
def room():
    with open("/proc/meminfo") as file:
        available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    free = os.statvfs(location.SHARED_MEMORY)
    for name, there in (("memory", available), (location.SHARED_MEMORY, free.f_bavail * free.f_frsize)):
        if there < NEEDED:
            pytest.skip(f"takes {NEEDED >> 20:,} MiB of {name}; there are {there >> 20:,} MiB")


PREAMBLE = f"""
    import numpy
    SIZE = {SIZE}
    ray.init(num_cpus=1, object_store_memory=5 << 30)

    def marked():
        array = numpy.zeros(SIZE, dtype="uint8")
        array[[0, 1 << 20, -1]] = 1, 2, 3
        return array

    def check(array):
        assert array.shape == (SIZE,) and not array.flags.writeable
        assert array[[0, 1 << 20, (1 << 31) - 1, -1]].tolist() == [1, 2, 0, 3]
        return "right"
"""


def test_put_and_get_and_argument():
    source = """
    ref = ray.put(marked())
    print(check(ray.get(ref)), ray.get(ray.remote(check).remote(ref)))
    """
    with driver(PREAMBLE + source) as process:
        assert process.succeed(40) == "right right"


def test_result_of_a_task():
    with driver(PREAMBLE + "    print(check(ray.get(ray.remote(marked).remote())))") as process:
        assert process.succeed(40) == "right"


def test_bytes():
    source = """
    back = ray.get(ray.put(bytes(SIZE)))
    print(type(back).__name__, len(back) == SIZE, back[-1])
    """
    with driver(PREAMBLE + source) as process:
        assert process.succeed(40) == "bytes True 0"
