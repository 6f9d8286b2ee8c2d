"""Runtime environments as processes: installations, other interpreters, failures, and what is left afterwards.

Nothing here needs a network: requirements are wheels that the tests make.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .helpers import by_hand, driver, eventually

OFFLINE = ["--no-index", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]


def wheel(folder: Path, name: str = "zray_tiny", version: str = "1.5") -> str:
    """Makes a wheel with one module, which has the attribute ``VERSION``."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{each},,\n" for each in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(each, text)
    return str(path)


def pip(*packages: str, **more: object) -> dict[str, object]:
    return {"pip": {"packages": list(packages), "pip_install_options": OFFLINE}, **more}


@pytest.fixture
def silent_index() -> Iterator[str]:
    """The address of an index of packages that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def hanging(index: str) -> dict[str, object]:
    return {"pip": {"packages": ["anything"], "pip_install_options": ["--index-url", index, "--timeout", "600"]}}


def test_pip(ray, tmp_path):
    @ray.remote
    def look():
        import pytest as of_the_host
        import zray_tiny  # type: ignore[import-not-found]

        return zray_tiny.VERSION, sys.prefix, of_the_host.__version__, ray.get(ray.put(1))

    requirement = wheel(tmp_path)
    there = look.options(runtime_env=pip(requirement))
    version, prefix, pytest_version, one = ray.get(there.remote(), timeout=60)
    assert (version, pytest_version, one) == ("1.5", pytest.__version__, 1)
    assert prefix != sys.prefix
    again = look.options(runtime_env=pip(requirement, env_vars={"A": "1"}))
    assert ray.get(again.remote(), timeout=60)[1] == prefix, "the same requirements share an environment"
    with pytest.raises(ray.exceptions.RayTaskError, match="No module named"):
        ray.get(look.remote(), timeout=20)


def test_what_is_installed_has_precedence(ray, tmp_path):
    import sortedcontainers  # type: ignore[import-untyped]

    def version():
        import sortedcontainers

        return getattr(sortedcontainers, "VERSION", sortedcontainers.__dict__.get("__version__"))

    newer = ray.remote(version).options(runtime_env=pip(wheel(tmp_path, "sortedcontainers", "99.0")))

    @ray.remote(runtime_env=pip(wheel(tmp_path, "sortedcontainers", "99.0")))
    class Holder:
        def version(self):
            return version()

    assert ray.get([newer.remote(), Holder.remote().version.remote()], timeout=60) == ["99.0", "99.0"]
    assert ray.get(ray.remote(version).remote(), timeout=20) == sortedcontainers.__version__


def test_uv(ray, tmp_path):
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")

    @ray.remote(runtime_env={"uv": {"packages": [wheel(tmp_path)], "uv_pip_install_options": ["--offline"]}})
    def look():
        import zray_tiny

        return zray_tiny.VERSION

    assert ray.get(look.remote(), timeout=60) == "1.5"


def test_an_environment_with_a_cloudpickle_of_its_own(ray, tmp_path):
    @ray.remote(runtime_env=pip(wheel(tmp_path, "cloudpickle", "0.1"), wheel(tmp_path)))
    def look():
        import zray_tiny

        return zray_tiny.VERSION, (lambda: tmp_path)()

    assert ray.get(look.remote(), timeout=60) == ("1.5", tmp_path)


def test_a_failed_installation_is_tried_again_by_later_work(ray, tmp_path):
    @ray.remote
    def look():
        import zray_tiny

        return zray_tiny.VERSION

    there = look.options(runtime_env=pip(str(tmp_path / "zray_tiny-1.5-py3-none-any.whl")))
    for ref in [there.remote() for _ in range(3)]:
        with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="No such file"):
            ray.get(ref, timeout=60)
    wheel(tmp_path)
    assert ray.get(there.remote(), timeout=60) == "1.5"


def test_another_interpreter(ray):
    @ray.remote
    def look():
        return sys.executable, os.environ.get("OF_THE_COMMAND"), os.environ.get("OF_THE_ENVIRONMENT"), os.getppid()

    command = f"env OF_THE_COMMAND=yes {sys.executable} -X utf8"
    there = look.options(runtime_env={"py_executable": command, "env_vars": {"OF_THE_ENVIRONMENT": "too"}})
    executable, of_command, of_environment, parent = ray.get(there.remote(), timeout=60)
    assert (executable, of_command, of_environment) == (sys.executable, "yes", "too")
    assert parent == ray.get(look.remote(), timeout=20)[3], "the zygote is its parent, as of every worker"


@pytest.mark.parametrize("command", ["/no/such/python", "false", f"{sys.executable} --no-such-option"])
def test_an_interpreter_that_does_not_start(ray, command):
    @ray.remote(runtime_env={"py_executable": command})
    class Never:
        def method(self):
            return 1

    @ray.remote(runtime_env={"py_executable": command})
    def never():
        return 1

    for ref in (never.remote(), Never.remote().method.remote()):
        with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="Failed to set up"):
            ray.get(ref, timeout=30)
    assert ray.get(ray.put(1)) == 1


def test_output_of_another_interpreter(sandbox):
    source = """
        ray.init(num_cpus=1)

        @ray.remote(runtime_env={"py_executable": sys.executable})
        def speak():
            print("from the other interpreter")

        ray.get(speak.remote(), timeout=30)
        sys.stdin.readline()
    """
    with driver(source) as process:
        process.expect("from the other interpreter", timeout_s=40)
        process.say("go\n")
        process.succeed()


def test_processes_with_other_interpreters_are_killed_like_others(ray):
    @ray.remote(runtime_env={"py_executable": sys.executable}, max_restarts=1)
    class Holder:
        def pid(self):
            return os.getpid()

        def end(self):
            os.kill(os.getpid(), signal.SIGKILL)

    holder = Holder.remote()
    before = ray.get(holder.pid.remote(), timeout=30)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(holder.end.remote(), timeout=30)
    assert ray.get(holder.pid.remote(), timeout=30) != before


def test_an_installation_that_takes_too_long(ray, silent_index):
    @ray.remote
    def one():
        return 1

    slow = one.options(runtime_env={**hanging(silent_index), "config": {"setup_timeout_seconds": 1}})
    ref = slow.remote()
    assert ray.get([one.remote() for _ in range(4)], timeout=20) == [1] * 4
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="setup_timeout_seconds"):
        ray.get(ref, timeout=60)


def test_a_timeout_says_what_is_waited_for(ray, silent_index):
    @ray.remote(runtime_env=hanging(silent_index))
    def one():
        return 1

    @ray.remote(runtime_env=hanging(silent_index))
    class One:
        def one(self):
            return 1

    actor = One.remote()
    for ref in (one.remote(), actor.one.remote()):
        with pytest.raises(ray.exceptions.GetTimeoutError, match="its runtime environment is being set up"):
            ray.get(ref, timeout=1)


@pytest.mark.parametrize("ending", ["kill", "shutdown", "zygote"])
def test_nothing_is_left_of_an_installation_that_is_under_way(sandbox, silent_index, ending):
    source = f"""
        ray.init(num_cpus=1)

        @ray.remote(runtime_env={hanging(silent_index)!r})
        def never():
            return 1

        ref = never.remote()
        print("submitted")
        sys.stdin.readline()
        ray.shutdown()
        print("down")
    """
    with driver(source) as process:
        process.expect("submitted")
        eventually(lambda: list(sandbox.root.glob("*/environments/*/requirements.txt")), timeout_s=30)
        if ending == "kill":
            process.signal(signal.SIGKILL)
        elif ending == "zygote":
            os.kill(sandbox.one("zray-zygote"), signal.SIGKILL)
            eventually(lambda: not list(sandbox.root.glob("*/environments")))
            process.say("go\n")
        else:
            process.say("go\n")
            process.expect("down")
        process.wait()
    sandbox.assert_clean()


def test_a_host_that_is_killed_while_it_installs(sandbox, silent_index):
    with by_hand(cpus=1) as (address, _, (host,)):
        source = f"""
            ray.init({address!r})

            @ray.remote(runtime_env={hanging(silent_index)!r})
            def never():
                return 1

            ref = never.remote()
            print("submitted")
            sys.stdin.readline()
        """
        with driver(source) as process:
            process.expect("submitted")
            eventually(lambda: list(sandbox.root.glob("*/environments/*/requirements.txt")), timeout_s=30)
            host.signal(signal.SIGKILL)
            host.wait()
            eventually(lambda: not list(sandbox.root.glob("*/environments")))
            process.say("go\n")
            process.succeed()


def test_large_packages_reach_each_host(sandbox, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "large").write_bytes(os.urandom(400_000))
    with by_hand(hosts=2, cpus=1) as (address, _, _):
        source = f"""
            ray.init({address!r}, runtime_env={{"working_dir": {str(folder)!r}, "config": {{"eager_install": False}}}})

            @ray.remote(num_cpus=1)
            class Look:
                def size(self):
                    return os.path.getsize("large"), ray.get_runtime_context().get_node_id()

            actors = [Look.remote(), Look.remote()]
            sizes, nodes = zip(*ray.get([actor.size.remote() for actor in actors], timeout=30))
            print(sizes, len(set(nodes)))
        """
        with driver(source) as process:
            process.expect("(400000, 400000) 2", timeout_s=40)
            process.succeed()


def test_a_job_that_joins_from_another_directory(sandbox, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"NAME = {name!r}\n")
    source = """
        ray.init({address!r}, runtime_env={{"working_dir": "."}})

        @ray.remote
        def look():
            import mine
            return mine.NAME

        print(ray.get(look.remote(), timeout=30))
    """
    with by_hand() as (address, _, _):
        for name in ("one", "other"):
            with driver(source.format(address=address), cwd=str(tmp_path / name)) as process:
                assert process.succeed(40).splitlines()[-1] == name


def test_a_cleaner_removes_what_was_installed(sandbox, tmp_path):
    import zray

    (tmp_path / "mine.txt").write_text("mine")
    environment = {"working_dir": str(tmp_path), "config": {"eager_install": False}}
    zray.init(num_cpus=1, runtime_env=environment)

    @zray.remote
    class Look:
        def look(self):
            with open("mine.txt") as file:
                return file.read()

    assert zray.get(Look.remote().look.remote(), timeout=30) == "mine"
    (installed,) = sandbox.root.glob("*/environments/1")
    shutil.rmtree(installed)
    assert zray.get(Look.remote().look.remote(), timeout=30) == "mine"


def test_an_environment_larger_than_a_packet(ray):
    @ray.remote
    def length():
        return len(os.environ["LONG"])

    assert ray.get(length.options(runtime_env={"env_vars": {"LONG": "x" * 100_000}}).remote(), timeout=20) == 100_000


def test_an_environment_that_shows_fewer_gpus_than_the_host_has(sandbox):
    import zray

    zray.init(num_cpus=2, num_gpus=2)

    @zray.remote(num_gpus=1, runtime_env={"env_vars": {"CUDA_VISIBLE_DEVICES": "7"}})
    class Look:
        def gpus(self):
            return zray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]

    actors = [Look.remote(), Look.remote()]
    assert zray.get([actor.gpus.remote() for actor in actors], timeout=30) == [(["7"], "7")] * 2


def test_many_environments_on_few_cpus(ray):
    @ray.remote
    def number():
        return os.environ["NUMBER"]

    refs = [number.options(runtime_env={"env_vars": {"NUMBER": str(i)}}).remote() for i in range(20)]
    assert ray.get(refs, timeout=60) == [str(i) for i in range(20)]


def test_detached_actors_keep_their_environment(sandbox):
    with by_hand() as (address, _, _):
        first = f"""
            ray.init({address!r}, namespace="n", runtime_env={{"env_vars": {{"OF_JOB": "first"}}}})

            @ray.remote(lifetime="detached", name="holder", max_restarts=-1)
            class Holder:
                def value(self):
                    return os.environ["OF_JOB"]

                def end(self):
                    os.kill(os.getpid(), signal.SIGKILL)

            print(ray.get(Holder.remote().value.remote(), timeout=20))
        """
        second = f"""
            ray.init({address!r}, namespace="n")
            holder = ray.get_actor("holder")
            try:
                ray.get(holder.end.remote(), timeout=20)
            except ray.exceptions.RayActorError:
                print(ray.get(holder.value.remote(), timeout=20))
            ray.kill(holder)
        """
        for source in (first, second):
            with driver(source) as process:
                assert process.succeed(40).splitlines()[-1] == "first"


def test_unusable_fields_name_a_remedy(ray):
    @ray.remote
    def one():
        return 1

    for field in ({"conda": "env"}, {"container": {"image": "x"}}, {"image_uri": "x"}, {"nsight": "default"}):
        with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match=r"cannot be used: .*(start|use)"):
            one.options(runtime_env=field).remote()
    ray.shutdown()
    with pytest.raises(ray.exceptions.RuntimeEnvSetupError, match="cannot be used"):
        ray.init(num_cpus=1, runtime_env={"conda": "env"})


def test_a_folder_that_is_too_large_leaves_no_cluster(sandbox, tmp_path, monkeypatch):
    import zray
    from zray.runtime_env import packaging

    monkeypatch.setattr(packaging, "MAX_PACKAGE_BYTES", 1000)
    (tmp_path / "large").write_bytes(os.urandom(5000))
    with pytest.raises(zray.exceptions.RuntimeEnvSetupError, match="maximum size"):
        zray.init(num_cpus=1, runtime_env={"working_dir": str(tmp_path)})
    assert not zray.is_initialized()
    sandbox.assert_clean()


def test_local_mode_says_that_it_has_none(caplog):
    import zray

    zray.init(local_mode=True, runtime_env={"env_vars": {"A": "1"}})
    assert "no effect in local mode" in caplog.text

    @zray.remote(runtime_env={"env_vars": {"A": "1"}})
    def one():
        return 1

    with pytest.warns(UserWarning, match="no effect in local mode"):
        assert zray.get(one.remote()) == 1


def test_a_hook_finds_what_the_first_task_has(sandbox, monkeypatch):
    """It may load numerical libraries, which read their number of threads then."""
    source = """
        def hook():
            os.environ["FOUND_BY_HOOK"] = os.environ.get("OMP_NUM_THREADS", "none")

        ray.init(num_cpus=2, runtime_env={"worker_process_setup_hook": hook})
        print(ray.get(ray.remote(lambda: os.environ["FOUND_BY_HOOK"]).options(num_cpus=2).remote()))
    """
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with driver(source) as program:
        assert program.succeed() == "2"
