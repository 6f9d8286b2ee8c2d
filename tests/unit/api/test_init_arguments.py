"""The arguments of ``init`` without a cluster: which are used, which are named in the log, which are refused."""

from __future__ import annotations

import logging
import uuid

import pytest

from zray.api import init_arguments as arguments
from zray.api.addresses import chosen_address, own_form
from zray.config import Config
from zray.exceptions import ConfigError
from zray.job_config import JobConfig
from zray.logs.job_logging import LoggingConfig


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "zray")
    return caplog


def test_hidden_arguments_are_used_or_named_once(messages: pytest.LogCaptureFixture) -> None:
    hidden = arguments.read_hidden(
        {"_memory": 5, "_temp_dir": "/tmp/x", "object_spilling_directory": "/tmp/y", "_redis_password": "p", "_any": 1}
    )
    assert hidden == (5, "/tmp/x", "/tmp/y", [], {})
    assert [record.getMessage() for record in messages.records] == [
        "zray.init(): _any, _redis_password has no meaning here"
    ]


def test_nothing_is_said_about_what_was_not_given(messages: pytest.LogCaptureFixture) -> None:
    arguments.read_hidden({"_redis_password": None, "_system_config": None})
    arguments.check_dashboard(None, "127.0.0.1", None, None)
    arguments.check_dashboard(False, "127.0.0.1", None, None)
    assert not messages.records


def test_a_dashboard_that_is_asked_for_is_missed(messages: pytest.LogCaptureFixture) -> None:
    arguments.check_dashboard(True, "0.0.0.0", 8265, None)
    assert [(record.levelname, record.getMessage()[:40]) for record in messages.records] == [
        ("WARNING", "include_dashboard=True: there is no dash"),
        ("DEBUG", "zray.init(): dashboard_host, dashboard_p"),
    ]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"redis_address": "x"}, RuntimeError),
        ({"_system_config": []}, TypeError),
        ({"_temp_dir": "relative"}, ValueError),
        ({"_temp_dir": 3}, TypeError),
        ({"object_spilling_directory": "relative"}, ValueError),
        ({"_memory": "much"}, TypeError),
    ],
)
def test_hidden_arguments_that_cannot_be_used(given: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(given))):
        arguments.read_hidden(given)


def test_what_only_a_new_cluster_can_have() -> None:
    assert arguments.read_hidden({"_system_config": {}, "_node_name": None}).for_new_clusters == []
    assert arguments.read_hidden({"_system_config": {"a": 1}, "_node_name": "n"}).for_new_clusters == [
        "_node_name",
        "_system_config",
    ]


def test_isolation_says_what_to_use_instead() -> None:
    arguments.check_isolation(False, cgroup_path=None)
    with pytest.raises(NotImplementedError, match="CPUQuota"):
        arguments.check_isolation(True, cgroup_path="/x")
    with pytest.raises(ValueError, match="cgroup_path"):
        arguments.check_isolation(False, cgroup_path="/x")


def test_arguments_change_settings() -> None:
    config = Config(labels={"a": "1", "b": "2"})
    hidden = arguments.Hidden(None, "/tmp/x", "/tmp/y", [], {"memory_usage_threshold": 0.5})
    changed = arguments.with_arguments(config, hidden, False, {"b": "3"})
    assert changed.labels == {"a": "1", "b": "3"}
    assert (changed.tmpdir, changed.spill_dir, changed.log_to_driver) == ("/tmp/x", "/tmp/y", False)
    assert changed.memory_usage_threshold == 0.5
    assert arguments.with_arguments(config, arguments.Hidden(None, None, None, [], {}), None, None) is config
    with pytest.raises(ConfigError, match="labels="):
        arguments.with_arguments(config, hidden, None, {"no blank": "x"})


def test_arguments_come_before_the_job_config() -> None:
    config = JobConfig(ray_namespace="config", runtime_env={"env_vars": {}}, default_actor_lifetime="detached")
    config.set_py_logging_config(LoggingConfig(encoding="JSON"))
    said = arguments.job_arguments(config, "argument", None, LoggingConfig())
    assert said == ("argument", {"env_vars": {}}, LoggingConfig(), [], True)
    left = arguments.job_arguments(config, None, None, None)
    assert left.namespace == "config"
    assert left.logging_config == LoggingConfig(encoding="JSON")
    wrongs: list[dict[str, object]] = [{"job_config": 3}, {"logging_config": {}}]
    for wrong in wrongs:
        fields = {"job_config": None, "namespace": None, "runtime_env": None, "logging_config": None, **wrong}
        with pytest.raises(TypeError, match=next(iter(wrong))):
            arguments.job_arguments(**fields)  # type: ignore[arg-type]


def test_a_format_has_one_handler_however_often_it_is_set() -> None:
    logger = logging.getLogger("zray")
    before, level = list(logger.handlers), logger.level
    try:
        arguments.set_up_logger("debug", "%(message)s")
        arguments.set_up_logger(logging.ERROR, "other: %(message)s")
        (handler,) = [each for each in logger.handlers if each not in before]
        assert handler.format(logging.makeLogRecord({"msg": "text"})) == "other: text"
        assert logger.level == logging.ERROR
    finally:
        logger.handlers[:] = before
        logger.setLevel(level)


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ("ray://head:10001", "tcp://head:10001"),
        ("ray://head:10001/", "tcp://head:10001"),
        ("10.0.0.1:6379", "tcp://10.0.0.1:6379"),
        ("tcp://head:1", "tcp://head:1"),
        ("ipc:///x", "ipc:///x"),
        ("auto", "auto"),
        ("local", "local"),
        ("", ""),
    ],
)
def test_rays_forms_of_an_address(given: str, own: str) -> None:
    assert own_form(given) == own


def test_the_web_interface_is_no_broker() -> None:
    with pytest.raises(ConfigError, match="HTTP"):
        own_form("http://head:8265")


@pytest.mark.parametrize(
    ("given", "setting", "chosen"),
    [
        (None, "", ""),
        (None, "tcp://head:1", "tcp://head:1"),
        ("auto", "", "auto"),
        ("auto", "tcp://head:1", "tcp://head:1"),
        ("local", "tcp://head:1", "local"),
        ("ray://other:1", "tcp://head:1", "ray://other:1"),
    ],
)
def test_which_address_applies(given: str | None, setting: str, chosen: str) -> None:
    assert chosen_address(given, Config(address=setting)) == chosen


def test_a_new_namespace_is_a_random_uuid() -> None:
    made = {arguments.new_namespace() for _ in range(100)}
    assert len(made) == 100
    for each in made:
        read = uuid.UUID(each)
        assert (str(read), read.version, read.variant) == (each, 4, uuid.RFC_4122)
