"""What metrics record in their process. The checks of arguments are in ``tests/conformance/test_metrics.py``."""

from __future__ import annotations

import pytest

from zray.util import metrics
from zray.util.metrics import Counter, Gauge, Histogram, Sample, collect


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_recorded", {})


def test_counters_add_up_by_tags() -> None:
    counter = Counter("calls", tag_keys=("route",)).set_default_tags({"route": "/"})
    counter.inc()
    counter.inc(2, tags={"route": "/"})
    counter.inc(5, tags={"route": "/other"})
    assert collect() == [
        Sample("calls", "counter", {"route": "/"}, 3.0),
        Sample("calls", "counter", {"route": "/other"}, 5.0),
    ]


def test_gauges_keep_the_last_value() -> None:
    Gauge("level").set(1)
    Gauge("level").set(-2)
    assert collect() == [Sample("level", "gauge", {}, -2)]


def test_histograms_count_by_size() -> None:
    histogram = Histogram("sizes", boundaries=[1.0, 2.0])
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert collect() == [Sample("sizes", "histogram", {}, 12.0, (2, 1, 1))]


def test_a_bad_name_records_nothing() -> None:
    with pytest.warns(UserWarning, match="discarded"):
        counter = Counter("not a name")
    counter.inc()
    assert collect() == []


def test_the_number_of_series_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_SERIES", 2)
    counter = Counter("many", tag_keys=("id",))
    for number in range(5):
        counter.inc(tags={"id": str(number)})
    counter.inc(tags={"id": "1"})
    assert [(sample.tags["id"], sample.value) for sample in collect()] == [("0", 1.0), ("1", 2.0)]
