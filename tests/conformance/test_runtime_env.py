"""Runtime environments of tasks and actors: variables, packages by address, inheritance, bad input."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from typing import Any

import pytest


def variables(*names):
    return {name: os.environ.get(name) for name in names}


@pytest.fixture(scope="module")
def show(ray):
    return ray.remote(variables)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with an archive ``code.zip``, whose folder ``top`` has a module and a file."""
    folder = tmp_path_factory.mktemp("packages")
    with zipfile.ZipFile(folder / "code.zip", "w") as archive:
        archive.writestr("top/of_archive.py", "VALUE = 'from the archive'\n")
        archive.writestr("top/data.txt", "data")
    return folder


def test_variables_of_a_task(ray, show):
    there = show.options(runtime_env={"env_vars": {"CONFORMANCE_A": "1", "CONFORMANCE_B": ""}})
    assert ray.get(there.remote("CONFORMANCE_A", "CONFORMANCE_B")) == {"CONFORMANCE_A": "1", "CONFORMANCE_B": ""}
    assert ray.get(show.remote("CONFORMANCE_A")) == {"CONFORMANCE_A": None}


def test_variables_are_for_one_environment_only(ray, show):
    refs = [
        show.options(runtime_env={"env_vars": {"CONFORMANCE_A": str(number % 3)}}).remote("CONFORMANCE_A")
        for number in range(9)
    ]
    assert ray.get(refs) == [{"CONFORMANCE_A": str(number % 3)} for number in range(9)]


def test_variables_of_the_host_can_be_referred_to(ray, show):
    path = ray.get(show.remote("PATH"))["PATH"]
    there = show.options(runtime_env={"env_vars": {"PATH": "${PATH}:/below", "CONFORMANCE_A": "x${NO_SUCH_NAME}y"}})
    assert ray.get(there.remote("PATH", "CONFORMANCE_A")) == {"PATH": f"{path}:/below", "CONFORMANCE_A": "xy"}


def test_variables_of_an_actor_and_what_it_submits(ray, show):
    @ray.remote(runtime_env={"env_vars": {"CONFORMANCE_A": "actor", "CONFORMANCE_B": "kept"}})
    class Holder:
        def own(self):
            return variables("CONFORMANCE_A", "CONFORMANCE_B")

        def inherited(self):
            return ray.get(show.remote("CONFORMANCE_A", "CONFORMANCE_B"))

        def replaced(self):
            child = show.options(runtime_env={"env_vars": {"CONFORMANCE_A": "child"}})
            return ray.get(child.remote("CONFORMANCE_A", "CONFORMANCE_B"))

    holder = Holder.remote()
    assert ray.get(holder.own.remote()) == {"CONFORMANCE_A": "actor", "CONFORMANCE_B": "kept"}
    assert ray.get(holder.inherited.remote()) == {"CONFORMANCE_A": "actor", "CONFORMANCE_B": "kept"}
    assert ray.get(holder.replaced.remote()) == {"CONFORMANCE_A": "child", "CONFORMANCE_B": "kept"}


def test_options_replace_the_environment_of_the_decorator(ray):
    @ray.remote(runtime_env={"env_vars": {"CONFORMANCE_A": "1", "CONFORMANCE_B": "2"}})
    def of_decorator():
        return variables("CONFORMANCE_A", "CONFORMANCE_B")

    assert ray.get(of_decorator.remote()) == {"CONFORMANCE_A": "1", "CONFORMANCE_B": "2"}
    other = of_decorator.options(runtime_env={"env_vars": {"CONFORMANCE_B": "3"}})
    assert ray.get(other.remote()) == {"CONFORMANCE_A": None, "CONFORMANCE_B": "3"}


def test_the_context_knows_the_environment(ray):
    @ray.remote
    def context():
        found = ray.get_runtime_context()
        return found.runtime_env, found.get_runtime_env_string()

    environment, text = ray.get(context.options(runtime_env={"env_vars": {"CONFORMANCE_A": "1"}}).remote())
    assert environment == json.loads(text) == {"env_vars": {"CONFORMANCE_A": "1"}}
    assert environment.env_vars() == {"CONFORMANCE_A": "1"}
    assert ray.get(context.remote()) == ({}, "{}")
    assert ray.get_runtime_context().runtime_env == {}


def test_an_empty_environment_is_none(ray, show):
    nothing: list[Any] = [{}, None, {"env_vars": {}}]
    for empty in nothing:
        assert ray.get(show.options(runtime_env=empty).remote("CONFORMANCE_A")) == {"CONFORMANCE_A": None}


def test_a_working_directory_by_address(ray, packages):
    @ray.remote(runtime_env={"working_dir": f"file://{packages}/code.zip"})
    def there():
        import of_archive  # type: ignore[import-not-found]

        with open("data.txt") as file:
            return of_archive.VALUE, file.read(), os.getcwd() in sys.path, "of_archive.py" in os.listdir()

    assert ray.get(there.remote()) == ("from the archive", "data", True, True)


def test_modules_by_address(ray, packages):
    @ray.remote(runtime_env={"py_modules": [f"file://{packages}/code.zip"]})
    class Importer:
        def value(self):
            import of_archive

            return of_archive.VALUE

    assert ray.get(Importer.remote().value.remote()) == "from the archive"


def test_an_archive_that_does_not_exist(ray, show, packages):
    bad = {"working_dir": f"file://{packages}/missing.zip"}
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match=r"missing\.zip"):
        ray.get(show.options(runtime_env=bad).remote("A"))

    @ray.remote(runtime_env=bad)
    class Never:
        def method(self):
            return 1

    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="Failed to set up runtime environment"):
        ray.get(Never.remote().method.remote())
    assert ray.get(show.remote("CONFORMANCE_A")) == {"CONFORMANCE_A": None}


BAD: list[tuple[Any, type[Exception], str]] = [
    ({"env_vars": {"A": 1}}, TypeError, "Dict"),
    ({"env_vars": {1: "A"}}, TypeError, "Dict"),
    ({"env_vars": ["A"]}, TypeError, "Dict"),
    ({"working_dir": 1}, TypeError, "string"),
    ({"working_dir": "."}, ValueError, "not a valid URI"),
    ({"working_dir": "/no/such/folder"}, ValueError, "not a valid path"),
    ({"working_dir": "unknown://a.zip"}, ValueError, "not a valid URI"),
    ({"working_dir": "s3://bucket/file.txt"}, ValueError, r"\.zip"),
    ({"py_modules": "."}, TypeError, "list of strings"),
    ({"py_modules": [1]}, TypeError, "string"),
    ({"py_modules": ["."]}, ValueError, "not a valid URI"),
    ({"pip": ["a"], "conda": "b"}, ValueError, "cannot be specified at the same time"),
    ({"pip": ["a"], "uv": ["b"]}, ValueError, "cannot be specified at the same time"),
    ({"pip": {"packages": ["a"], "other": 1}}, ValueError, "can only have these fields"),
    ({"pip": {}}, ValueError, "must include field 'packages'"),
    ({"pip": {"packages": ["a"], "pip_check": "x"}}, TypeError, "pip_check"),
    ({"uv": {"packages": "a"}}, ValueError, "list"),
    ({"uv": {"packages": [1]}}, TypeError, "list"),
    ({"excludes": "a"}, TypeError, "excludes"),
    ({"conda": 1}, TypeError, "conda"),
    ({"container": {"image": "a"}, "pip": ["b"]}, ValueError, "container"),
    ({"image_uri": "a", "pip": ["b"]}, ValueError, "image_uri"),
    ({"config": 1}, TypeError, "config"),
    ({"config": {"setup_timeout_seconds": 0}}, ValueError, "setup_timeout_seconds"),
    ({"config": {"setup_timeout_seconds": "1"}}, TypeError, "setup_timeout_seconds"),
    ({"config": {"eager_install": 1}}, TypeError, "eager_install"),
    ("text", TypeError, "dict"),
]


@pytest.mark.parametrize(("environment", "error", "message"), BAD, ids=[str(case[0]) for case in BAD])
def test_bad_environments(ray, show, environment, error, message):
    with pytest.raises(error, match=message):
        show.options(runtime_env=environment).remote("A")

    class Plain:
        pass

    with pytest.raises(error, match=message):
        ray.remote(Plain).options(runtime_env=environment).remote()


def test_the_class(ray, packages):
    from_module = __import__(f"{ray.__name__}.runtime_env", fromlist=["RuntimeEnv"])
    address = f"file://{packages}/code.zip"
    environment = from_module.RuntimeEnv(
        working_dir=address, py_modules=[address], pip=["a", "b", "a"], env_vars={"A": "1"}, py_executable="python",
        config={"setup_timeout_seconds": 10},
    )  # fmt: skip
    assert isinstance(environment, dict)
    assert environment["pip"] == {"packages": ["a", "b"], "pip_check": False}
    assert environment.has_working_dir()
    assert environment.working_dir() == environment.working_dir_uri() == address
    assert environment.py_modules() == environment.py_modules_uris() == [address]
    assert environment.has_pip()
    assert environment.pip_config() == environment["pip"]
    assert not environment.has_uv()
    assert not environment.has_conda()
    assert environment.env_vars() == {"A": "1"}
    assert environment.py_executable() == "python"
    assert environment.get("nothing", 7) == 7
    assert environment.to_dict()["config"]["setup_timeout_seconds"] == 10
    assert from_module.RuntimeEnv.deserialize('{"env_vars": {"A": "1"}}').env_vars() == {"A": "1"}
    environment.set("env_vars", {"B": "2"})
    assert environment["env_vars"] == {"B": "2"}
    with pytest.raises(TypeError):
        environment["env_vars"] = {"A": 1}
    assert from_module.RuntimeEnv(env_vars={}, pip=[]) == {}
    assert from_module.RuntimeEnv(unknown={"a": 1}).plugins() == [("unknown", {"a": 1})]


def test_the_class_as_an_option(ray, show):
    kind = __import__(f"{ray.__name__}.runtime_env", fromlist=["RuntimeEnv"]).RuntimeEnv
    there = show.options(runtime_env=kind(env_vars={"CONFORMANCE_A": "class"}))
    assert ray.get(there.remote("CONFORMANCE_A")) == {"CONFORMANCE_A": "class"}
