"""``ray.experimental.internal_kv``."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(scope="module")
def kv(ray):
    return importlib.import_module(f"{ray.__name__}.experimental.internal_kv")


@pytest.fixture(autouse=True)
def clean(kv):
    yield
    for namespace in (None, "space"):
        kv._internal_kv_del(b"t:", del_by_prefix=True, namespace=namespace)


def test_it_is_there(kv):
    assert kv._internal_kv_initialized()


def test_put_tells_whether_there_was_a_value(kv):
    assert kv._internal_kv_put("t:k", b"1") is False
    assert kv._internal_kv_put(b"t:k", "2") is True
    assert kv._internal_kv_get("t:k") == b"2"
    assert kv._internal_kv_put("t:k", b"3", overwrite=False) is True
    assert kv._internal_kv_get(b"t:k") == b"2"


def test_missing_keys(kv):
    assert kv._internal_kv_get("t:no") is None
    assert kv._internal_kv_exists("t:no") is False
    assert kv._internal_kv_del("t:no") == 0
    kv._internal_kv_put("t:empty", b"")
    assert kv._internal_kv_get("t:empty") == b""
    assert kv._internal_kv_exists("t:empty") is True


def test_namespaces(kv):
    kv._internal_kv_put("t:k", b"1", namespace="space")
    assert kv._internal_kv_get("t:k") is None
    assert kv._internal_kv_get("t:k", namespace=b"space") == b"1"
    assert kv._internal_kv_exists("t:k", namespace="space")
    assert kv._internal_kv_list("t:", namespace="space") == [b"t:k"]
    assert kv._internal_kv_del("t:k", namespace="space") == 1


def test_prefixes(kv):
    for key in ("t:a1", "t:a2", "t:b"):
        kv._internal_kv_put(key, b"")
    assert sorted(kv._internal_kv_list("t:a")) == [b"t:a1", b"t:a2"]
    assert kv._internal_kv_del("t:a") == 0
    assert kv._internal_kv_del("t:a", del_by_prefix=True) == 2
    assert kv._internal_kv_list(b"t:") == [b"t:b"]


def test_tasks_share_it(ray, kv):
    name = kv.__name__

    @ray.remote(num_cpus=0)
    def change():
        module = importlib.import_module(name)
        return module._internal_kv_get("t:k"), module._internal_kv_put("t:k", b"by the task")

    kv._internal_kv_put("t:k", b"by the driver")
    assert ray.get(change.remote()) == (b"by the driver", True)
    assert kv._internal_kv_get("t:k") == b"by the task"


def test_a_value_outlives_the_worker_that_put_it(ray, kv):
    name = kv.__name__

    @ray.remote(num_cpus=0, max_retries=0)
    def put_and_die():
        import os

        importlib.import_module(name)._internal_kv_put("t:k", b"left")
        os._exit(1)

    with pytest.raises(ray.exceptions.RayError):
        ray.get(put_and_die.remote())
    assert kv._internal_kv_get("t:k") == b"left"


@pytest.mark.parametrize(
    "call",
    [
        lambda kv: kv._internal_kv_put(1, b""),
        lambda kv: kv._internal_kv_put("t:k", 1),
        lambda kv: kv._internal_kv_put("t:k", b"", overwrite=1),
        lambda kv: kv._internal_kv_get(None),
        lambda kv: kv._internal_kv_list(3),
    ],
)
def test_other_types_are_refused(kv, call):
    with pytest.raises((TypeError, AssertionError)):
        call(kv)
