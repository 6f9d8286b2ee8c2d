"""Calls whose values are small one by one, but together too large for a message."""

import pytest

import zray

N = 150
SIZE = 90_000  # N of them exceed a message here


@pytest.fixture
def ray(sandbox, monkeypatch):
    monkeypatch.setenv("ZRAY_MAX_MESSAGE_BYTES", str(8 << 20))
    zray.init(num_cpus=2)
    yield zray
    zray.shutdown()


@pytest.fixture
def refs(ray):
    return [ray.put(bytes([i]) * SIZE) for i in range(N)]


def heads(*args, **kwargs):
    return [value[0] for value in args], {key: value[0] for key, value in kwargs.items()}


def test_arguments(ray, refs):
    task = ray.remote(heads)
    assert ray.get(task.remote(*refs, last=refs[7]), timeout=30) == (list(range(N)), {"last": 7})


def test_arguments_of_actors(ray, refs):
    @ray.remote
    class Actor:
        def plain(self, *args):
            return [value[0] for value in args]

        async def coroutine(self, *args):
            return [value[0] for value in args]

    actor = Actor.remote()
    assert ray.get([actor.plain.remote(*refs), actor.coroutine.remote(*refs)], timeout=30) == [list(range(N))] * 2


def test_arguments_that_others_own(ray, refs):
    @ray.remote
    def forward(refs):
        return ray.get(ray.remote(heads).remote(*refs))

    assert ray.get(forward.remote(refs), timeout=30) == (list(range(N)), {})


def test_one_that_is_an_error_is_the_outcome(ray, refs):
    @ray.remote
    def fail():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ray.get(ray.remote(heads).remote(*refs, fail.remote()), timeout=30)


def test_returns(ray):
    @ray.remote
    def many():
        return [bytes([i]) * SIZE for i in range(N)]

    values = ray.get(many.options(num_returns=N).remote(), timeout=30)
    assert [(value[0], len(value)) for value in values] == [(i, SIZE) for i in range(N)]
