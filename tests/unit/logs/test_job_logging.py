"""``LoggingConfig``: the form of the lines that a job's own code logs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from zray.logs.job_logging import LoggingConfig


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    before, level = list(logger.handlers), logger.level
    own = logging.getLogger("zray").level
    yield logger
    logger.handlers[:] = before
    logger.setLevel(level)
    logging.getLogger("zray").setLevel(own)


def written(root: logging.Logger, config: LoggingConfig, **context: str) -> io.StringIO:
    """Applies ``config``, and returns what it writes to."""
    before = list(root.handlers)
    config.apply(lambda: context)
    (handler,) = [each for each in root.handlers if each not in before]
    assert isinstance(handler, logging.StreamHandler)
    stream = io.StringIO()
    handler.setStream(stream)
    return stream


def test_text_ends_with_what_is_known(root: logging.Logger) -> None:
    stream = written(root, LoggingConfig(additional_log_standard_attrs=["name"]), job_id="01")
    logging.getLogger("mine").info("hello %s", "you", extra={"user": "me"})
    logging.getLogger("mine").debug("not this")
    (line,) = stream.getvalue().splitlines()
    assert "INFO test_job_logging.py:" in line
    assert " -- hello you name=mine user=me job_id=01 timestamp_ns=" in line


def test_json_is_an_object_a_line(root: logging.Logger) -> None:
    stream = written(root, LoggingConfig(encoding="JSON", log_level="DEBUG"), task_name="f")
    try:
        raise KeyError("missing")
    except KeyError:
        logging.getLogger("mine").exception("failed", extra={"odd": object})
    row = json.loads(stream.getvalue())
    assert row["message"] == "failed"
    assert row["levelname"] == "ERROR"
    assert row["task_name"] == "f"
    assert "KeyError" in row["exc_text"]
    assert "object" in row["odd"]
    assert isinstance(row["timestamp_ns"], int)


def test_another_configuration_replaces_the_first(root: logging.Logger) -> None:
    first = written(root, LoggingConfig())
    root_handlers = len(root.handlers)
    LoggingConfig(encoding="JSON").apply(dict)
    assert len(root.handlers) == root_handlers
    logging.getLogger("mine").info("to the second")
    assert first.getvalue() == ""


def test_it_travels_as_json() -> None:
    config = LoggingConfig("JSON", "WARNING", ["name", "funcName"])
    assert LoggingConfig.from_json(config.to_json()) == config
    assert LoggingConfig.from_dict({**config.to_dict(), "of a later version": 1}) == config


@pytest.mark.parametrize(
    "fields", [{"encoding": "XML"}, {"log_level": "LOUD"}, {"additional_log_standard_attrs": ["no_such"]}], ids=str
)
def test_what_cannot_be_used_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"Invalid|Unknown"):
        LoggingConfig(**fields)  # type: ignore[arg-type]
