"""Where settings come from, which of two wins, and what is said of those that cannot be used."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest

from zray.config import OPTIMIZATIONS, Config, reading
from zray.config.reading import from_environment
from zray.exceptions import ConfigError


@pytest.fixture(autouse=True)
def warned(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What has been warned of, once in the life of a process, begins anew."""
    names: set[str] = set()
    monkeypatch.setattr(reading, "_warned", names)
    return names


def file(directory: Path, text: str) -> dict[str, str]:
    """An environment with this file of settings."""
    (directory / "zray").mkdir(exist_ok=True)
    (directory / "zray" / "config.toml").write_text(text)
    return {"XDG_CONFIG_HOME": str(directory)}


class TestSources:
    def test_defaults(self, tmp_path: Path) -> None:
        assert from_environment({"XDG_CONFIG_HOME": str(tmp_path)}) == Config()

    def test_the_later_wins(self, tmp_path: Path) -> None:
        environ = file(tmp_path, "heartbeat_s = 0.2\nsilence_s = 3\nnum_cpus = 4\n")
        environ |= {"ZRAY_SILENCE_S": "4", "ZRAY_NUM_CPUS": "5"}
        settings, origins = reading.read(environ, {"num_cpus": "6", "num_gpus": None})
        assert (settings.heartbeat_s, settings.silence_s, settings.num_cpus) == (0.2, 4.0, 6.0)
        assert origins["heartbeat_s"] == str(tmp_path / "zray" / "config.toml")
        assert origins["silence_s"] == "ZRAY_SILENCE_S" and origins["num_cpus"] == "--num-cpus"
        assert origins["num_gpus"] == origins["memory"] == "default"
        assert reading.sources(environ)["num_cpus"] == "ZRAY_NUM_CPUS"

    def test_an_empty_variable_is_none(self) -> None:
        assert from_environment({"ZRAY_CONFIG": "/dev/null", "ZRAY_HEARTBEAT_S": ""}) == Config()

    def test_the_file_in_the_home_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / ".config").mkdir()
        file(tmp_path / ".config", "store_wait_s = 7")
        assert from_environment({}).store_wait_s == 7
        assert from_environment({"XDG_CONFIG_HOME": "not/absolute"}).store_wait_s == 7
        assert from_environment({"XDG_CONFIG_HOME": "/nowhere"}).store_wait_s == 2

    def test_the_file_that_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text("log_to_driver = false")
        assert from_environment({"ZRAY_CONFIG": str(path)}).log_to_driver is False

    @pytest.mark.parametrize(
        ("content", "match"), [(None, "no such file"), ("a = 1\nb\n", "is not TOML.*line 2"), (b"\xff", "is not TOML")]
    )
    def test_a_file_that_cannot_be_used(self, tmp_path: Path, content: str | bytes | None, match: str) -> None:
        path = tmp_path / "mine.toml"
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(ConfigError, match=match) as caught:
            from_environment({"ZRAY_CONFIG": str(path)})
        assert str(path) in str(caught.value)

    def test_a_directory_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
            from_environment({"ZRAY_CONFIG": str(tmp_path)})


class TestValues:
    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("address", "auto", "auto"),
            ("inline_max_bytes", "1_000", 1000),
            ("idle_timeout_s", "0", 0.0),
            ("num_cpus", "1.5", 1.5),
            ("log_to_driver", "No", False),
            ("object_store_memory", "0", 0),
            ("resources", '{"x": 2, "y": 0.5}', {"x": 2, "y": 0.5}),
            ("labels", "zone=a, disk=ssd,empty=", {"zone": "a", "disk": "ssd", "empty": ""}),
            ("disabled_optimizations", "tune-malloc, bare-fork,", ["bare-fork", "tune-malloc"]),
            ("disabled_optimizations", "all", list(OPTIMIZATIONS)),
        ],
    )
    def test_text(self, name: str, text: str, value: object) -> None:
        environ = {"ZRAY_CONFIG": "/dev/null", reading.variable_of(name): text}
        assert getattr(from_environment(environ), name) == value

    def test_tables(self, tmp_path: Path) -> None:
        settings = from_environment(file(tmp_path, '[resources]\nx = 2\n[labels]\n"a.b/c" = "d"\n'))
        assert settings.resources == {"x": 2} and settings.labels == {"a.b/c": "d"}

    def test_lists(self, tmp_path: Path) -> None:
        settings = from_environment(file(tmp_path, 'disabled_optimizations = ["warm-up"]'))
        assert [name for name in OPTIMIZATIONS if not settings.optimizes(name)] == ["warm-up"]
        assert all(map(Config().optimizes, OPTIMIZATIONS))

    @pytest.mark.parametrize(
        ("name", "text", "needed"),
        [
            ("heartbeat_s", "soon", "a number from 0.01 to 604800"),
            ("heartbeat_s", "0", "a number from 0.01 to 604800"),
            ("silence_s", "inf", "a number from 0.1 to 604800"),
            ("silence_s", "nan", "a number from 0.1 to 604800"),
            ("inline_max_bytes", "-1", "a whole number from 0 on"),
            ("inline_max_bytes", "1.5", "a whole number from 0 on"),
            ("object_store_memory", "1000", "a whole number from 1048576 on, or 0"),
            ("log_to_driver", "maybe", "true or false"),
            ("resources", "{", "not JSON"),
            ("resources", "[1]", "amounts by name"),
            ("resources", '{"CPU": 1}', "CPU is not among the other resources: it is set as num_cpus"),
            ("resources", '{"x": -1}', "the amount of 'x' must be a number from 0 on"),
            ("resources", '{"x": true}', "the amount of 'x'"),
            ("resources", '{"x": NaN}', "the amount of 'x'"),
            ("labels", "zone", "key=value"),
            ("labels", "a b=c", "the label 'a b'"),
            ("labels", "zone=a b", "the value 'a b' of label zone"),
            (
                "disabled_optimizations",
                "bare_fork",
                "'bare_fork' is not an optimization: did you mean bare-fork? (there are:",
            ),
            ("disabled_optimizations", "all,jit", "'jit' is not an optimization (there are: bare-fork, "),
        ],
    )
    def test_what_cannot_be_used(self, name: str, text: str, needed: str) -> None:
        variable = reading.variable_of(name)
        with pytest.raises(ConfigError) as caught:
            from_environment({"ZRAY_CONFIG": "/dev/null", variable: text})
        message = str(caught.value)
        assert message.startswith(f"{variable}={text!r} cannot be used: ") and needed in message

    @pytest.mark.parametrize(
        "line",
        [
            "heartbeat_s = true",
            "heartbeat_s = [1]",
            "address = 1",
            "labels = {a = 1}",
            "log_to_driver = 1",
            "disabled_optimizations = [1]",
            "disabled_optimizations = true",
        ],
    )
    def test_wrong_types_in_the_file(self, tmp_path: Path, line: str) -> None:
        environ = file(tmp_path, line)
        name = line.split()[0]
        with pytest.raises(ConfigError) as caught:
            from_environment(environ)
        assert str(caught.value).startswith(f"{tmp_path}/zray/config.toml: {name} = ")

    def test_a_path_in_the_home_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        settings = from_environment({"ZRAY_CONFIG": "/dev/null", "ZRAY_SPILL_DIR": "~/spill"})
        assert settings.spill_dir == "/home/me/spill"

    def test_options_are_called_as_they_are_given(self) -> None:
        with pytest.raises(ConfigError, match=r"^--idle-timeout 'x' cannot be used"):
            from_environment({"ZRAY_CONFIG": "/dev/null"}, idle_timeout_s="x")

    def test_pings_are_more_frequent_than_silence_lasts(self) -> None:
        environ = {"ZRAY_CONFIG": "/dev/null", "ZRAY_SILENCE_S": "1"}
        with pytest.raises(ConfigError, match=r"heartbeat_s \(1.5, default\).*silence_s \(1, ZRAY_SILENCE_S\)"):
            from_environment(environ)


class TestUnknownNames:
    def test_they_are_warned_of_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        environ = {**file(tmp_path, "heartbeet_s = 1"), "ZRAY_SILENCE": "3", "ZRAY_XYZZY_Q": "1"}
        with caplog.at_level(logging.WARNING, "zray"):
            assert from_environment(environ) == Config()
            from_environment(environ)
        path = tmp_path / "zray" / "config.toml"
        assert sorted(caplog.messages) == [
            "ZRAY_SILENCE in the environment is not a setting of zray: did you mean ZRAY_SILENCE_S?",
            "ZRAY_XYZZY_Q in the environment is not a setting of zray",
            f"heartbeet_s in {path} is not a setting of zray: did you mean heartbeat_s?",
        ]

    def test_names_of_zrays_own_are_known(self, caplog: pytest.LogCaptureFixture) -> None:
        names = ("ZRAY_SESSION", "ZRAY_WORKER_STARTED", "ZRAY_TEST_SEEDS", "ZRAY_CI_RUN", "ZRAY_KEYS", "ZRAYON")
        from_environment({"ZRAY_CONFIG": "/dev/null", **dict.fromkeys(names, "x")})
        assert not caplog.messages


class TestTheRecord:
    def test_it_travels(self) -> None:
        settings = Config(labels={"a": "b"}, resources={"x": 0.5}, num_cpus=None)
        record = dataclasses.asdict(settings)
        assert Config(**json.loads(json.dumps(record))) == settings
        assert Config(**msgpack.unpackb(msgpack.packb(record))) == settings

    def test_processes_that_only_carry_it_do_not_load_the_reading(self) -> None:
        source = "import sys; import zray.config; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
        assert "zray.config" in done.stdout.split()
        assert not {"zray.config.reading", "tomllib", "tomli"} & set(done.stdout.split())


@pytest.mark.parametrize(("variable", "value"), [("ZRAY_SILENCE_S", "1e12"), ("ZRAY_MAX_MESSAGE_BYTES", str(2**70))])
def test_more_than_there_can_be(variable, value):
    with pytest.raises(ConfigError, match=rf"{variable}.*from .* to "):
        from_environment({variable: value})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ZRAY_MEMORY", str(2**50)),
        ("ZRAY_OBJECT_STORE_MEMORY", "1" + "0" * 400),
        ("ZRAY_NUM_CPUS", "1e300"),
        ("ZRAY_RESOURCES", '{"x": 1e300}'),
        ("ZRAY_RESOURCES", '{"x": 1' + "0" * 400 + "}"),
    ],
)
def test_amounts_fit_a_message(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{variable}.*at most {2**49}"):
        from_environment({"ZRAY_CONFIG": "/dev/null", variable: value})
    from_environment({"ZRAY_CONFIG": "/dev/null", "ZRAY_MEMORY": str(2**49)})


def test_a_whole_number_that_is_no_float(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_cpus = 10+ cannot be used"):
        from_environment(file(tmp_path, "num_cpus = 1" + "0" * 400))
