"""Where objects lie after the holes were filled, and that nothing is kept where Python's allocator is another one."""

import json
import os
import subprocess
import sys

PAGES = """
import json, random
from zray.memory.pymalloc import _maker, fill_holes

rng = random.Random(1)
kept = {}
for size in range(16, 513, 16):
    make = _maker(size)
    kept[size] = [made for made in [make() for _ in range(8_000)] if rng.random() < 0.9]
fillers = fill_holes()
assert len(fillers) > 20_000, len(fillers)
pages = {}
for size in range(16, 513, 16):
    make = _maker(size)
    new = [make() for _ in range(200)]
    pages[size] = len({id(each) // 4096 for each in new})
    kept[-size] = new
print(json.dumps(pages))
"""
FORK = """
import gc, os
from zray.memory.pymalloc import fill_holes

kept = [bytes(200) for _ in range(20_000)]
del kept[::10]  # holes in all of their pools
gc.freeze()
fillers = fill_holes() if {fill} else []

def private_kb():
    with open("/proc/self/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:"))

child = os.fork()
if child:
    os.waitpid(child, 0)  # what is the child's alone when its parent has gone, is not counted
else:
    private_kb()
    before = private_kb()
    new = [bytes(200) for _ in range(1_000)]
    print(private_kb() - before)
"""


def test_what_is_made_next_lies_side_by_side():
    scattered = json.loads(run_python(PAGES))
    for size, n_pages in scattered.items():
        assert n_pages <= 200 * int(size) / 4096 + 6, scattered  # a few blocks go to what happens in between


def test_a_child_does_not_write_between_its_parents_objects():
    grown = {}
    for fill in (True, False):
        grown[fill] = int(run_python(FORK.format(fill=fill)))
    assert grown[True] < 400 < 1_000 < grown[False], grown  # 1,000 blocks of 240 bytes are 240 KB


def test_another_allocator_is_left_alone():
    code = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s")
from zray.memory.pymalloc import fill_holes
print(len(fill_holes()))
"""
    told, kept = run_python(code, PYTHONMALLOC="malloc").splitlines()
    assert told.startswith("DEBUG zray.optimizations: fill-holes is left out: blocks of 512 bytes ")
    assert kept == "0"


def run_python(code, **environ):
    environ = {**os.environ, **environ}
    run = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)
    assert not run.stderr
    return run.stdout
