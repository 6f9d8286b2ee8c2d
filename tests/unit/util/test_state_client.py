"""``StateApiClient``: which gaps are errors, and which are told on request."""

from __future__ import annotations

import warnings
from typing import Any, cast

import pytest

from zray.util.state.client import StateApiClient
from zray.util.state.common import ListApiOptions, RuntimeEnvState, StateResource
from zray.util.state.exception import RayStateApiException
from zray.util.state.sources import Found, Source


class KnownSource:
    """A cluster that gives the same answer to all questions."""

    def __init__(self, found: Found) -> None:
        self.found = found

    def records(self, resource: StateResource, timeout_s: float) -> Found:
        return self.found


def listed(found: Found, raise_on_missing_output: bool = True, explain: bool = False) -> list[Any]:
    client = StateApiClient.__new__(StateApiClient)
    client._source = cast(Source, KnownSource(found))
    return client.list(StateResource.RUNTIME_ENVS, ListApiOptions(limit=1), raise_on_missing_output, explain)


def some_rows() -> list[Any]:
    return [RuntimeEnvState({"pip": [name]}, True, 1.0, "node") for name in ("a", "b")]


def test_what_could_not_be_read_is_an_error_unless_the_rest_is_wanted() -> None:
    found = Found(some_rows(), missing="1 process did not answer")
    with pytest.raises(RayStateApiException, match="did not answer"):
        listed(found)
    assert len(listed(found, raise_on_missing_output=False)) == 1


def test_what_is_not_kept_any_more_is_no_error() -> None:
    """Otherwise no list of a long-lived cluster could be read."""
    found = Found(some_rows(), forgotten="7 workers that have ended are no longer recorded")
    assert len(listed(found)) == 1
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        listed(found, explain=True)
    assert ["no longer recorded" in str(each.message) for each in told] == [True, False]
    assert "only 1 of 2" in str(told[1].message)
