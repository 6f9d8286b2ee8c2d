"""Errors of tasks whose results are never fetched are told at the driver."""

from __future__ import annotations

import re

import pytest

from .helpers import driver

UNHANDLED = "Unhandled error (suppress with RAY_IGNORE_UNHANDLED_ERRORS=1): "
START = """
ray.init(num_cpus=1)
@ray.remote
def bad(x=None):
    raise ValueError("boo")
@ray.remote
def ok(x=None):
    return x
@ray.remote
class Model:
    def fit(self):
        raise KeyError("k")
    def ping(self):
        return 1
def settled():  # earlier tasks are over: this task needs the one CPU too, and is behind them
    model = Model.remote()
    ray.get([ok.remote(), model.ping.remote()])
"""

NOT_FETCHED = {
    "kept, then dropped": ("ref = bad.remote(); ray.get(ok.remote()); del ref", "zray::bad() (pid="),
    "never kept": ("bad.remote()", "zray::bad() (pid="),
    "an argument": ("ok.remote(bad.remote())", "ok: The task was not run: its argument 0 could not be computed"),
    "of an actor": (
        "model = Model.remote(); model.fit.remote(); ray.get(model.ping.remote())",
        "zray::Model.fit() (pid=",
    ),
    "nested": ("ray.get(ray.remote(lambda: bad.remote() and ray.get(ok.remote())).remote())", "zray::bad() (pid="),
}


@pytest.mark.parametrize("how", NOT_FETCHED)
def test_not_fetched(how):
    source, text = NOT_FETCHED[how]
    with driver(START + source + "\nsys.stdin.readline()") as program:
        assert UNHANDLED + text in program.expect("Unhandled", stream="err")
        program.expect("KeyError: 'k'" if "Model" in text else "ValueError: boo", stream="err")
        program.say("\n")
        program.succeed()
        assert program.err.count("Unhandled error") == 1


FETCHED = """
def fails(action):
    try:
        action()
    except ValueError:
        return
    raise SystemExit("no error")
fails(lambda: ray.get(bad.remote()))
refs = [bad.remote(), bad.remote(), ok.remote()]
ray.wait(refs, num_returns=3)
fails(lambda: ray.get(refs))
del refs
ray.wait([bad.remote()])
fails(bad.remote().future().result)
@ray.remote
def borrows(refs):
    try:
        ray.get(refs[0])
    except ValueError:
        return 1
assert ray.get(borrows.remote([bad.remote()])) == 1
one, two = bad.options(num_returns=2).remote()
fails(lambda: ray.get(two))
del one, two
kept = bad.remote()
ray.wait([kept])
settled()
"""


def test_fetched_in_any_way():
    with driver(START + FETCHED) as program:
        program.succeed()
        assert "Unhandled" not in program.err + program.out


@pytest.mark.parametrize("variable", ["RAY_IGNORE_UNHANDLED_ERRORS", "ZRAY_IGNORE_UNHANDLED_ERRORS"])
def test_not_wanted(variable):
    source, _ = NOT_FETCHED["nested"]
    with driver(f"{START}\nbad.remote()\n{source}\nsettled()", environ={variable: "1"}) as program:
        program.succeed()
        assert "Unhandled" not in program.err + program.out


def test_many_are_summed_up_and_the_rest_is_reported_at_the_end():
    with driver(START + "for _ in range(30): bad.remote()\nsettled()") as program:
        program.succeed()
        told = re.findall(r"(\d+) more errors that were not fetched \(bad (\d+)x\), the last: Unhandled", program.err)
        assert told and all(count == named for count, named in told)
        # The first, and one line for each five seconds: a single one is told as it is.
        assert sum(int(count) - 1 for count, _ in told) + program.err.count(UNHANDLED) == 30
        assert program.err.count(UNHANDLED) < 10


def test_a_death_whose_error_is_never_fetched():
    with driver(START + "ray.remote(max_retries=0)(os.abort).options(name='crash').remote()\nsettled()") as program:
        assert "attempt 1 of 1 of `crash`" in program.expect(UNHANDLED, stream="err")
        program.succeed()


def test_an_error_that_is_too_large():
    source = "@ray.remote\ndef large():\n    raise ValueError('x' * 200_000)\nlarge.remote()\nsettled()"
    with driver(START + source) as program:
        assert "large raised an error of 2" in program.expect(UNHANDLED, stream="err")
        program.succeed()
