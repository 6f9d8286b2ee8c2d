"""``Counter``, ``Gauge`` and ``Histogram``: numbers that a program records about itself.

The values are those of one process, and are read there: ``collect`` returns them. zray has no exporter yet, so nothing
sends them to Prometheus or to another process. Metrics of one process with the same name share their values.
"""

from __future__ import annotations

import bisect
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from zray.named_tuples import NamedTuple
from zray.user_warnings import warn_user

_VALID_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
MAX_SERIES = 10_000
"""The number of combinations of tags that one metric keeps. Values with further combinations are dropped."""

Tags = tuple[tuple[str, str], ...]
_Self = TypeVar("_Self", bound="Metric")


class Sample(NamedTuple):
    """The values that a metric has recorded with one combination of tags.

    ``value``: the sum of a counter, the last value of a gauge, the sum of a histogram's values. ``buckets``: how many
    values of a histogram are at most each boundary, and above the last one; empty for other metrics.
    """

    name: str
    kind: str
    tags: dict[str, str]
    value: float
    buckets: tuple[int, ...] = ()


class _Series:
    __slots__ = ("buckets", "value")

    def __init__(self, n_buckets: int) -> None:
        self.value = 0.0
        self.buckets = [0] * n_buckets


_lock = threading.Lock()
_recorded: dict[tuple[str, str], dict[Tags, _Series]] = {}  # by kind and name


class Metric:
    """What the three kinds have in common.

    Args:
        name: letters, digits, ``_`` and ``:``; not a digit at the beginning. A metric with another name warns and
            records nothing.
        description: a text for people.
        tag_keys: the tags that every value must have.

    Raises:
        ValueError: ``name`` is empty.
        TypeError: ``tag_keys`` is not a tuple of strings.
    """

    kind = "metric"

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        self._name = name
        self._description = description
        self._tag_keys = tag_keys or ()
        self._default_tags: dict[str, str] = {}
        self._is_recorded = _is_valid(name)
        if not isinstance(self._tag_keys, tuple):
            raise TypeError(f"tag_keys must be a tuple of strings, got a {type(tag_keys).__name__}")
        for key in self._tag_keys:
            if not isinstance(key, str):
                raise TypeError(f"tag_keys must be a tuple of strings, but {key!r} is a {type(key).__name__}")

    def set_default_tags(self: _Self, default_tags: Mapping[str, str]) -> _Self:
        """Sets the tags of values that are recorded without them. Returns the metric itself.

        Raises:
            ValueError: a key is not one of ``tag_keys``.
            TypeError: a value is not a string.
        """
        for key in default_tags:
            if key not in self._tag_keys:
                raise ValueError(f"unrecognized tag key {key!r}: the tag keys of {self._name} are {self._tag_keys}")
        _check_tags(default_tags)
        self._default_tags = dict(default_tags)
        return self

    @property
    def info(self) -> dict[str, Any]:
        """The name, description, tag keys and default tags."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": self._default_tags,
        }

    def _series(self, tags: Mapping[str, str] | None, n_buckets: int = 0) -> _Series | None:
        """The series of a combination of tags, under the lock. None: the value is dropped."""
        if tags:
            _check_tags(tags)
        found = {**self._default_tags, **(tags or {})}
        missing = [key for key in self._tag_keys if key not in found]
        if missing:
            raise ValueError(f"missing value for tag key(s) of {self._name}: {', '.join(missing)}")
        if not self._is_recorded:
            return None
        series = _recorded.setdefault((self.kind, self._name), {})
        key = tuple(sorted(found.items()))
        if key not in series and len(series) >= MAX_SERIES:
            return None
        return series.setdefault(key, _Series(n_buckets))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._name, self._description, self._tag_keys)


class Counter(Metric):
    """A sum that only grows. See ``Metric`` for the arguments."""

    kind = "counter"

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        """Adds ``value``.

        Args:
            value: above 0.
            tags: these go before the default tags.

        Raises:
            TypeError: ``value`` is not a number, or the value of a tag is not a string.
            ValueError: ``value`` is not above 0, or a tag is missing.
        """
        _check_number(value)
        if value <= 0:
            raise ValueError(f"value must be above 0, got {value!r}")
        with _lock:
            series = self._series(tags)
            if series is not None:
                series.value += value


class Gauge(Metric):
    """A value that goes up and down. See ``Metric`` for the arguments."""

    kind = "gauge"

    def set(self, value: float | None, tags: Mapping[str, str] | None = None) -> None:
        """Replaces the value. None changes nothing.

        Raises:
            TypeError: ``value`` is not a number, or the value of a tag is not a string.
            ValueError: a tag is missing.
        """
        if value is None:
            return
        _check_number(value)
        with _lock:
            series = self._series(tags)
            if series is not None:
                series.value = value


class Histogram(Metric):
    """Counts values by size. See ``Metric`` for the other arguments.

    Args:
        boundaries: the upper limits of the buckets, above 0.

    Raises:
        ValueError: there are no boundaries, or one is not above 0.
    """

    kind = "histogram"

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(name, description, tag_keys)
        if not boundaries:
            raise ValueError(f'a Histogram needs boundaries, such as Histogram("{name}", boundaries=[1.0, 2.0])')
        for index, boundary in enumerate(boundaries):
            if boundary <= 0:
                raise ValueError(f"boundaries must be above 0: number {index} of {list(boundaries)} is not")
        self.boundaries = boundaries

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Counts ``value`` in its bucket.

        Raises:
            TypeError: ``value`` is not a number, or the value of a tag is not a string.
            ValueError: a tag is missing.
        """
        _check_number(value)
        with _lock:
            series = self._series(tags, len(self.boundaries) + 1)
            if series is not None:
                series.value += value
                bucket = bisect.bisect_left(sorted(self.boundaries), value)
                series.buckets[min(bucket, len(series.buckets) - 1)] += 1

    @property
    def info(self) -> dict[str, Any]:
        """The name, description, tag keys, default tags and boundaries."""
        return {**super().info, "boundaries": self.boundaries}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._name, self._description, self.boundaries, self._tag_keys)


def collect() -> list[Sample]:
    """Returns what the metrics of this process have recorded, by kind and name, then in the order of recording."""
    with _lock:
        return [
            Sample(name, kind, dict(tags), series.value, tuple(series.buckets))
            for (kind, name), by_tags in sorted(_recorded.items())
            for tags, series in by_tags.items()
        ]


def _is_valid(name: str) -> bool:
    """Whether values are recorded under this name. Warns if they are not."""
    if not name:
        raise ValueError("the name of a metric must not be empty")
    if not _VALID_NAME.fullmatch(name):
        warn_user(
            f"invalid metric name {name!r}: its values are discarded. A name has letters, digits, _ and :, and does "
            f"not begin with a digit",
            UserWarning,
        )
        return False
    if ":" in name:
        warn_user(f"metric name {name!r}: a : will not be allowed in the future", FutureWarning)
    return True


def _check_tags(tags: Mapping[str, str]) -> None:
    for value in tags.values():
        if not isinstance(value, str):
            raise TypeError(f"the values of tags must be str, got {value!r} of type {type(value).__name__}")


def _check_number(value: Any) -> None:
    if not isinstance(value, (int, float)):
        raise TypeError(f"value must be an int or a float, got {value!r} of type {type(value).__name__}")
