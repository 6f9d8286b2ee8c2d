"""``ray.util.metrics``: the checks of names, tags and values."""

from __future__ import annotations

import importlib
import pickle

import pytest


@pytest.fixture(scope="module")
def metrics(ray):
    return importlib.import_module(f"{ray.__name__}.util.metrics")


def test_info(metrics):
    counter = metrics.Counter("requests", description="how many", tag_keys=("route",))
    assert counter.set_default_tags({"route": "/"}) is counter
    assert counter.info == {
        "name": "requests",
        "description": "how many",
        "tag_keys": ("route",),
        "default_tags": {"route": "/"},
    }
    histogram = metrics.Histogram("latency", boundaries=[0.1, 1.0])
    assert histogram.info["boundaries"] == [0.1, 1.0]


def test_recording(metrics):
    metrics.Counter("calls").inc()
    metrics.Counter("calls").inc(2.5)
    metrics.Gauge("level").set(-3)
    metrics.Gauge("level").set(None)
    metrics.Histogram("sizes", boundaries=[1.0, 2.0]).observe(1.5)


def test_tags(metrics):
    counter = metrics.Counter("tagged", tag_keys=("a", "b"))
    counter.inc(tags={"a": "1", "b": "2"})
    with pytest.raises(ValueError, match="b"):
        counter.inc(tags={"a": "1"})
    with pytest.raises(TypeError):
        counter.inc(tags={"a": "1", "b": 2})
    counter.set_default_tags({"b": "2"})
    counter.inc(tags={"a": "1"})
    with pytest.raises(ValueError):
        counter.set_default_tags({"c": "1"})
    with pytest.raises(TypeError):
        counter.set_default_tags({"a": 1})


@pytest.mark.parametrize("value", [0, -1])
def test_counters_only_grow(metrics, value):
    with pytest.raises(ValueError):
        metrics.Counter("growing").inc(value)


def test_values_are_numbers(metrics):
    with pytest.raises(TypeError):
        metrics.Counter("numbers").inc("1")
    with pytest.raises(TypeError):
        metrics.Gauge("numbers_set").set("1")
    with pytest.raises(TypeError):
        metrics.Histogram("numbers_seen", boundaries=[1]).observe("1")


@pytest.mark.parametrize("boundaries", [None, [], [0, 1], [1, -1]])
def test_histograms_need_boundaries_above_zero(metrics, boundaries):
    with pytest.raises(ValueError):
        metrics.Histogram("bounded", boundaries=boundaries)


@pytest.mark.parametrize("keys", [["a"], "a", (1,)])
def test_tag_keys_are_a_tuple_of_strings(metrics, keys):
    with pytest.raises(TypeError):
        metrics.Counter("keyed", tag_keys=keys)


def test_names(metrics):
    with pytest.raises(ValueError):
        metrics.Counter("")
    with pytest.warns(UserWarning):
        metrics.Counter("1st").inc()
    with pytest.warns(UserWarning):
        metrics.Gauge("with space").set(1)
    with pytest.warns(FutureWarning):
        metrics.Gauge("with:colon").set(1)


def test_they_can_be_used_in_tasks(ray, metrics):
    counter = metrics.Counter("in_tasks", "text", ("a",))

    @ray.remote(num_cpus=0)
    def use():
        counter.inc(tags={"a": "1"})
        return counter.info["name"]

    assert ray.get(use.remote()) == "in_tasks"
    histogram = pickle.loads(pickle.dumps(metrics.Histogram("copied", "text", [1.0], ("a",))))
    assert histogram.info["boundaries"] == [1.0]
