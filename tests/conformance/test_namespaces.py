"""Named and detached actors, ``get_if_exists``, namespaces, and drivers that come one after the other."""

from __future__ import annotations

import threading
import uuid

import pytest

from .helpers import eventually, has_named_actor, make_counter, run_driver


@pytest.fixture
def name():
    return f"named-{uuid.uuid4().hex[:8]}"


def test_get_actor(ray, name):
    counter = make_counter(ray, name=name)
    ray.get(counter.increment.remote())
    assert ray.get(ray.get_actor(name).increment.remote()) == 2
    assert ray.get_actor(name) == counter


def test_get_actor_right_after_it_was_made(ray, name):
    counter = make_counter(ray, name=name)
    assert ray.get(ray.get_actor(name).increment.remote()) == 1
    del counter


def test_get_actor_in_a_task(ray, name):
    counter = make_counter(ray, name=name)

    @ray.remote
    def f(name):
        return ray.get(ray.get_actor(name).increment.remote())

    assert ray.get(f.remote(name)) == 1
    assert ray.get(counter.read.remote()) == 1


def test_odd_names(ray):
    for name in ("with space", "ä/ö:#", "x" * 200):
        counter = make_counter(ray, name=name)
        assert ray.get(ray.get_actor(name).increment.remote()) == 1
        del counter


def test_name_that_is_taken(ray, name):
    counter = make_counter(ray, name=name)
    ray.get(counter.increment.remote())
    with pytest.raises(ValueError):
        ray.get(make_counter(ray, name=name).increment.remote())
    assert ray.get(counter.read.remote()) == 1


def test_name_is_free_again_after_a_kill(ray, name):
    counter = make_counter(ray, name=name)
    ray.get(counter.increment.remote())
    ray.kill(counter)
    eventually(lambda: not has_named_actor(ray, name))
    assert ray.get(make_counter(ray, name=name).increment.remote()) == 1


def test_get_if_exists(ray, name):
    one = make_counter(ray, name=name, get_if_exists=True)
    assert ray.get(one.increment.remote()) == 1
    two = make_counter(ray, name=name, get_if_exists=True)
    assert ray.get(two.increment.remote()) == 2
    assert one == two


def test_get_if_exists_in_several_threads(ray, name):
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(make_counter(ray, name=name, get_if_exists=True))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ray.get([c.increment.remote() for c in made])) == [1, 2, 3, 4]


def test_get_if_exists_in_several_tasks(ray, name):
    keep = make_counter(ray, name=name, get_if_exists=True)

    @ray.remote
    def f(name):
        return ray.get(make_counter(ray, name=name, get_if_exists=True).increment.remote())

    assert sorted(ray.get([f.remote(name) for _ in range(4)])) == [1, 2, 3, 4]
    assert ray.get(keep.read.remote()) == 4


def test_namespaces_keep_names_apart(ray, name):
    one = make_counter(ray, name=name, namespace="one")
    two = make_counter(ray, name=name, namespace="two")
    ray.get([one.increment.remote(5), two.increment.remote(7)])
    assert ray.get(ray.get_actor(name, namespace="one").read.remote()) == 5
    assert ray.get(ray.get_actor(name, namespace="two").read.remote()) == 7
    assert not has_named_actor(ray, name)


def test_default_namespace_is_the_drivers(ray, name):
    counter = make_counter(ray, name=name)
    ray.get(counter.increment.remote())
    here = ray.get_runtime_context().namespace
    assert ray.get(ray.get_actor(name, namespace=here).read.remote()) == 1


def test_detached_actor_needs_no_handle(ray, name):
    actor = make_counter(ray, name=name, lifetime="detached")
    ray.get(actor.increment.remote())
    del actor
    assert ray.get(ray.remote(lambda: 1).remote()) == 1
    again = ray.get_actor(name)
    assert ray.get(again.increment.remote()) == 2
    ray.kill(again)
    eventually(lambda: not has_named_actor(ray, name))


def test_detached_actor_outlives_the_task_that_made_it(ray, name):
    @ray.remote
    def f(name):
        ray.get(make_counter(ray, name=name, lifetime="detached").increment.remote())

    ray.get(f.remote(name))
    actor = ray.get_actor(name)
    assert ray.get(actor.increment.remote()) == 2
    ray.kill(actor)


@pytest.fixture
def address(ray):
    """The address at which other drivers join this module's cluster."""
    return ray.get_runtime_context().gcs_address


MAKE = """
    @ray.remote(num_cpus=0)
    class A:
        def __init__(self):
            self.value = 0

        def increment(self):
            self.value += 1
            return self.value

    ray.init(**INIT, namespace="shared")
    actor = A.options(name={name!r}, lifetime={lifetime!r}).remote()
    print(ray.get(actor.increment.remote()))
"""


def test_detached_actor_outlives_its_driver(ray, impl, address, name):
    run_driver(impl, MAKE.format(name=name, lifetime="detached"), address)
    assert ray.get(ray.get_actor(name, namespace="shared").increment.remote()) == 2
    use = f"""
        ray.init(**INIT, namespace="shared")
        actor = ray.get_actor({name!r})
        print(ray.get(actor.increment.remote()))
        ray.kill(actor)
    """
    assert run_driver(impl, use, address).split()[-1] == "3"
    eventually(lambda: not has_named_actor(ray, name, "shared"))


def test_other_actors_end_with_their_driver(ray, impl, address, name):
    assert run_driver(impl, MAKE.format(name=name, lifetime=None), address).split()[-1] == "1"
    eventually(lambda: not has_named_actor(ray, name, "shared"))


def test_drivers_without_a_namespace_do_not_see_each_other(ray, impl, address, name):
    counter = make_counter(ray, name=name)
    ray.get(counter.increment.remote())
    look = f"""
        ray.init(**INIT)
        try:
            ray.get_actor({name!r})
        except ValueError:
            print("unseen")
    """
    assert run_driver(impl, look, address).split()[-1] == "unseen"


def test_driver_that_joins_sees_the_cluster(ray, impl, address):
    look = """
        ray.init(**INIT)
        assert ray.cluster_resources()["slot"] == 2
        assert ray.get(ray.remote(resources={"slot": 1})(lambda: 5).remote()) == 5
    """
    run_driver(impl, look, address)
