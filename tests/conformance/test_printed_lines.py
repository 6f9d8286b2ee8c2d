"""What workers print, as records for tests of programs."""

from __future__ import annotations

import importlib
import os
import sys

import pytest


@pytest.fixture(scope="module")
def ray(ray_module, init_options):
    ray_module.init(**{**init_options, "log_to_driver": True})
    yield ray_module
    ray_module.shutdown()


def test_what_workers_print_can_be_waited_for(ray, impl):
    helpers = importlib.import_module(f"{impl}._private.test_utils")
    subscriber = helpers.init_log_pubsub()

    @ray.remote
    def speak(word):
        print(word, flush=True)
        print("to stderr", word, file=sys.stderr, flush=True)
        return os.getpid()

    pid = ray.get(speak.remote("first"))
    (lines,) = helpers.get_log_message(subscriber, 1, matcher=lambda line: line == "first")
    assert "first" in lines
    ray.get(speak.remote("second"))
    (record,) = helpers.get_log_batch(subscriber, 1, matcher=lambda each: "to stderr second" in each["lines"])
    assert record["is_err"] and record["pid"] == str(pid)
    assert record["job"] == ray.get_runtime_context().get_job_id()
    assert helpers.get_log_message(subscriber, 1, timeout=0.1, matcher=lambda line: line == "never") == []
    third = ray.get(speak.remote("third"))
    assert helpers.get_log_sources(subscriber, 1, matcher=lambda line: line == "third") == {str(third)}
    subscriber.close()


def test_a_subscriber_takes_no_more_after_its_end(ray, impl):
    if impl == "ray":
        pytest.skip("Ray's subscriber cannot be asked any more then")
    helpers = importlib.import_module(f"{impl}._private.test_utils")
    first, second = helpers.init_log_pubsub(), helpers.init_log_pubsub()
    first.close()
    first.close()

    @ray.remote
    def speak():
        print("heard", flush=True)

    ray.get(speak.remote())
    assert helpers.get_log_message(second, 1, matcher=lambda line: line == "heard")
    assert first.poll(0) is None
    second.close()


def test_only_drivers_have_subscribers(ray, impl):
    if impl == "ray":
        pytest.skip("Ray's workers may subscribe")

    @ray.remote
    def subscribe():
        importlib.import_module(f"{impl}._private.test_utils").init_log_pubsub()

    with pytest.raises(ray.exceptions.RayError, match="only a driver"):
        ray.get(subscribe.remote())
