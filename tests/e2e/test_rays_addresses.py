"""Clusters on TCP that a program joins in the forms that Ray has for addresses."""

from __future__ import annotations

import pytest

from .helpers import by_hand, driver, free_port


@pytest.mark.parametrize("how", ["ray://", "HOST:PORT", "RAY_ADDRESS", "auto"])
def test_an_address_in_rays_form_leads_to_the_same_cluster(how, monkeypatch):
    import zray as ray

    place = f"127.0.0.1:{free_port()}"
    with by_hand("--bind", f"tcp://{place}") as (address, _, _):
        if how in ("RAY_ADDRESS", "auto"):
            monkeypatch.setenv("RAY_ADDRESS", f"ray://{place}")
        given = {"ray://": f"ray://{place}", "HOST:PORT": place, "auto": "auto"}.get(how)
        with ray.init(given, namespace="space") as context:
            assert context["gcs_address"] == address == f"tcp://{place}"
            assert context.address_info["node_ip_address"] == "127.0.0.1"
            assert ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=8) == 42
            assert ray.get_runtime_context().get_session_name() == ray.get(
                ray.remote(lambda: ray.get_runtime_context().get_session_name()).remote()
            )


def test_the_deprecated_ways_to_join():
    import zray as ray

    place = f"127.0.0.1:{free_port()}"
    with by_hand("--bind", f"tcp://{place}"):
        with pytest.warns(DeprecationWarning, match=f'ray.init\\("ray://{place}", namespace="built"\\)'):
            context = ray.client(f"ray://{place}").namespace("built").connect()
        with context:
            assert ray.get_runtime_context().namespace == "built"
        assert not ray.is_initialized()
        with pytest.warns(DeprecationWarning, match="init"):
            info = ray.util.connect(place, namespace="connected")
        assert info["num_clients"] == 1
        assert not ray.util.client.ray.is_connected()  # there is no server for clients: this is a driver
        assert ray.get_runtime_context().namespace == "connected"
        with pytest.warns(DeprecationWarning, match="shutdown"):
            ray.util.disconnect()
        assert not ray.is_initialized()


def test_what_only_a_new_cluster_can_have_is_refused_when_one_is_joined():
    import zray as ray

    with by_hand() as (address, _, _):
        for options in (
            {"num_cpus": 1},
            {"labels": {"a": "b"}},
            {"_memory": 10**9},
            {"_system_config": {"a": 1}},
            {"_node_name": "name"},
        ):
            with pytest.raises(ValueError, match=next(iter(options)).removeprefix("_")):
                ray.init(address, **options)
        assert not ray.is_initialized()
        ray.init(address, _system_config={}, _redis_password="secret")
        ray.shutdown()


def test_a_job_config_of_one_driver_is_not_that_of_another():
    detaching = """
        from zray.job_config import JobConfig
        ray.init(ADDRESS, job_config=JobConfig(ray_namespace="shared", default_actor_lifetime="detached"))

        @ray.remote(num_cpus=0)
        class A:
            def f(self):
                return 1

        actors = [A.options(name=name).remote() for name in ("default", "bound")]
        ray.get([actor.f.remote() for actor in actors])
    """
    with by_hand() as (address, _, _):
        with driver(detaching.replace("ADDRESS", repr(address))) as first:
            first.succeed()
        asking = f"""
            ray.init({address!r}, namespace="shared")
            print([ray.get(ray.get_actor(name).f.remote()) for name in ("default", "bound")])

            @ray.remote(num_cpus=0)
            class B:
                def f(self):
                    return 1

            B.options(name="of the second").remote()
        """
        with driver(asking) as second:
            assert second.succeed().strip() == "[1, 1]"
        with driver(f"ray.init({address!r}, namespace='shared'); ray.get_actor('of the second')") as third:
            assert third.wait() == 1
            assert "there is no actor named 'of the second'" in third.err or "look up" in third.err


def test_auto_joins_the_cluster_that_another_program_has_started_last():
    join = "ray.init('auto', logging_level='ERROR')\nprint(ray.cluster_resources()['CPU'])"
    start = "ray.init('local', num_cpus=int(sys.argv[1]))\nprint('up')\nsys.stdin.read()"
    with driver(start, arguments=["2"]) as first:
        first.expect("up")
        with driver(start, arguments=["3"]) as second:
            second.expect("up")
            with driver(join) as program:
                assert program.succeed() == "3.0"
            assert second.popen.stdin is not None
            second.popen.stdin.close()
            second.wait()
        with driver(join) as program:
            assert program.succeed() == "2.0"


def test_a_closed_port_is_a_connection_error_with_and_without_keys(monkeypatch, tmp_path):
    import zray as ray

    monkeypatch.setenv("ZRAY_KEYS", str(tmp_path))
    monkeypatch.setenv("ZRAY_CONNECT_TIMEOUT_S", "0.2")
    for insecure in (False, True):
        with pytest.raises(ConnectionError):
            ray.init(f"127.0.0.1:{free_port()}", insecure=insecure, logging_level="ERROR")


def test_what_a_builder_refuses():
    import zray as ray

    with pytest.raises(RuntimeError, match="Module: nomodule does not exist"):
        ray.client("nomodule://address")
    with pytest.raises(ValueError, match="RAY_ADDRESS"):
        ray.client("http://127.0.0.1:8265")
    assert ray.client("ray://head:10001").address == "head:10001"
