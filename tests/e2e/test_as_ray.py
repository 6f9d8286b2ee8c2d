"""Programs that import ``ray``: the modules are zray's, in the driver and in its workers."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

PROGRAM = """
    import importlib.metadata
    import pickle
    import sys

    assert importlib.metadata.version("ray") == importlib.metadata.metadata("Ray")["Version"]
    import ray
    import ray.exceptions as errors
    import ray.util.annotations
    from ray.runtime_context import RuntimeContext
    from ray.types import ObjectRef

    import zray
    import zray.util.annotations

    assert ray.__name__ == "ray"
    assert ray.get is zray.get
    assert ray.exceptions is errors is zray.exceptions
    assert ray.util.annotations is zray.util.annotations is sys.modules["ray.util.annotations"]
    assert RuntimeContext is zray.runtime_context.RuntimeContext
    assert ObjectRef is zray.ObjectRef
    assert pickle.loads(b"cray.exceptions\\nRayTaskError\\n.") is zray.exceptions.TaskError
    assert tuple(map(int, ray.__version__.split("."))) >= (2, 60, 0)
    assert zray.__version__ != ray.__version__
    assert importlib.metadata.version("ray") == ray.__version__
    assert {"ray", "zray"} <= {each.metadata["Name"] for each in importlib.metadata.distributions()}
    assert not importlib.metadata.requires("ray") and not importlib.metadata.files("ray")
    assert importlib.metadata.packages_distributions()["ray"][0] == "ray"
    assert ray.logger.name == "zray"
    assert ray.worker.global_worker is ray._private.worker.global_worker


    class NamesRay:
        def __reduce__(self):
            return (__import__, ("ray.exceptions",))


    @ray.remote
    def nested(value):
        import importlib.metadata

        import ray
        from ray.exceptions import RayTaskError

        assert importlib.metadata.version("ray") == ray.__version__

        @ray.remote
        def inner():
            import ray.util

            raise ValueError(ray.__version__)

        try:
            ray.get(inner.remote())
        except RayTaskError as error:
            return str(error.cause), ray.__version__, value.__name__


    @ray.remote
    class Actor:
        def name(self):
            return ray.__name__, ray.get_runtime_context().get_actor_name()


    ray.init(num_cpus=2)
    print(sys.argv[1:], __name__, *ray.get(nested.remote(NamesRay())))
    print(*ray.get(Actor.options(name="known").remote().name.remote()))
    assert ray.get(ray.put(ray)) is ray
    try:
        import ray.no_such_module
    except ModuleNotFoundError as error:
        print(error.name)
"""
EXPECTED = "['one', '--two'] __main__ 2.60.0 2.60.0 ray\nray known\nray.no_such_module\n".replace(
    "ray\nray k", "ray\nray k"
)


CHILDREN = """
    import subprocess
    import sys

    import ray

    SOURCE = "import ray, ray.util.queue, zray; print(ray.get is zray.get, ray.__version__)"

    def child():
        return subprocess.check_output([sys.executable, "-c", SOURCE], text=True)

    ray.init(num_cpus=1)
    print(child() == ray.get(ray.remote(child).remote()) == f"True {ray.__version__}\\n")
"""


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=100)


def test_a_program_runs_unchanged(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 1\n")
    (tmp_path / "program.py").write_text("import beside\n" + textwrap.dedent(PROGRAM))
    done = run("-m", "zray.as_ray", str(tmp_path / "program.py"), "one", "--two", cwd=Path("/"))
    assert done.stderr == ""
    assert done.stdout == EXPECTED


def test_a_module_runs_unchanged(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "tool.py").write_text(textwrap.dedent(PROGRAM))
    done = run("-m", "zray.as_ray", "-m", "package.tool", "one", "--two", cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines()[1:] == EXPECTED.splitlines()[1:]


def test_without_a_program_the_usage_is_shown(tmp_path: Path) -> None:
    done = run("-m", "zray.as_ray", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("usage: python -m zray.as_ray")


def test_installing_it_too_late_is_an_error(tmp_path: Path) -> None:
    late = """
        import sys, types, zray
        for prepare, undo in (
            (lambda: sys.modules.update(ray=types.ModuleType("ray")), lambda: sys.modules.pop("ray")),
            (lambda: zray.init(num_cpus=1), zray.shutdown),
        ):
            prepare()
            try:
                zray.install_as_ray()
            except RuntimeError as error:
                print(error)
            undo()
        zray.install_as_ray()
        zray.init(num_cpus=1)
        zray.install_as_ray()
        import ray
        print(ray.get(ray.remote(lambda: ray.__name__).remote()))
    """
    done = run("-c", textwrap.dedent(late), cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert "imported already" in lines[0]
    assert "before zray.init()" in lines[1]
    assert lines[2:] == ["ray"]


def test_libraries_that_are_not_ray_core_say_what_to_use(tmp_path: Path) -> None:
    program = """
        import importlib
        for name in ("train", "tune", "serve", "rllib", "air"):
            try:
                importlib.import_module(f"ray.{name}")
            except ImportError as error:
                assert "Use " in str(error), error
            else:
                raise AssertionError(name)
        import ray.data
        from ray.data import from_pandas_refs
        try:
            from_pandas_refs([])
        except NotImplementedError as error:
            assert "Use " in str(error), error
        try:
            from ray.data import Dataset
        except ImportError as error:
            assert "Use " in str(error), error
        print("said")
    """
    source = "import zray; zray.install_as_ray()\n" + textwrap.dedent(program)
    assert run("-c", source, cwd=tmp_path).stdout == "said\n"


def test_python_processes_that_a_program_starts_know_the_name(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent(CHILDREN))
    done = run("-m", "zray.as_ray", "program.py", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("True\n", "")
