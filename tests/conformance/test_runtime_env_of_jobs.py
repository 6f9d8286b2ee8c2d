"""Runtime environments of jobs: uploaded folders and modules, setup hooks, what tasks and actors inherit."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile

import pytest


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders and modules to upload; ``here`` is the working directory of the driver."""
    root = tmp_path_factory.mktemp("job")
    for path, text in {
        "work/in_work.py": "VALUE = 'work'\n",
        "work/data/input.txt": "input",
        "work/left/out.txt": "",
        "work/ignored.log": "",
        "work/.gitignore": "*.log\n!kept.log\n",
        "work/kept.log": "",
        "work/large.txt": "0123456789abcdef" * 40_000,
        "work/.git/config": "",
        "modules/package/__init__.py": "VALUE = 'package'\n",
        "modules/package/inner.py": "VALUE = 'inner'\n",
        "modules/single.py": "VALUE = 'single'\n",
        "modules/as_object.py": "VALUE = 'object'\n",
        "here/beside_the_driver.py": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "work/large.bin").write_bytes(os.urandom(300_000))
    (root / "work/run.sh").write_text("#!/bin/sh\necho ran\n")
    (root / "work/run.sh").chmod(0o755)
    with zipfile.ZipFile(root / "other.zip", "w") as archive:
        archive.writestr("top/in_other.py", "VALUE = 'other'\n")
    return root


def set_a_variable():
    os.environ["CONFORMANCE_HOOK"] = "called"


@pytest.fixture(scope="module")
def job(ray_module, init_options, folders):
    sys.path.insert(0, str(folders / "modules"))
    before = os.getcwd()
    os.chdir(folders / "here")
    try:
        as_object = importlib.import_module("as_object")
        ray_module.init(
            **init_options,
            runtime_env={
                "working_dir": str(folders / "work"),
                "py_modules": [str(folders / "modules/package"), str(folders / "modules/single.py"), as_object],
                "excludes": ["/left"],
                "env_vars": {"CONFORMANCE_JOB": "job", "CONFORMANCE_BOTH": "job"},
                "worker_process_setup_hook": set_a_variable,
            },
        )
        yield ray_module
        ray_module.shutdown()
    finally:
        os.chdir(before)
        sys.path.remove(str(folders / "modules"))


def test_tasks_run_in_a_copy_of_the_folder(job, folders):
    @job.remote
    def look():
        with open("data/input.txt") as file:
            return (
                os.getcwd(),
                sorted(os.listdir()),
                file.read(),
                os.path.getsize("large.bin"),
                os.access("run.sh", os.X_OK),
            )

    directory, names, text, size, may_run = job.get(look.remote())
    assert directory != str(folders / "work")
    assert names == [".gitignore", "data", "in_work.py", "kept.log", "large.bin", "large.txt", "run.sh"]
    assert (text, size, may_run) == ("input", 300_000, True)


def test_modules_are_imported_from_what_was_uploaded(job):
    @job.remote
    class Importer:
        def values(self):
            import as_object  # type: ignore[import-not-found]
            import in_work  # type: ignore[import-not-found]
            import package.inner  # type: ignore[import-not-found]
            import single  # type: ignore[import-not-found]

            return in_work.VALUE, package.VALUE, package.inner.VALUE, single.VALUE, as_object.VALUE

    assert job.get(Importer.remote().values.remote()) == ("work", "package", "inner", "single", "object")


def test_workers_do_not_import_from_the_drivers_directory(job):
    @job.remote
    def find():
        return importlib.util.find_spec("beside_the_driver") is None

    assert job.get(find.remote())


def test_the_hook_runs_in_each_worker(job):
    @job.remote
    def hooked():
        return os.environ.get("CONFORMANCE_HOOK")

    assert job.get([hooked.remote() for _ in range(4)]) == ["called"] * 4


def test_subprocesses_find_modules_too(job):
    @job.remote
    def run():
        import subprocess

        command = [sys.executable, "-c", "import single, in_work; print(single.VALUE)"]
        return subprocess.run(command, capture_output=True, text=True, cwd="/").stdout.strip()

    assert job.get(run.remote()) == "single"


def test_children_inherit_and_merge(job):
    def look():
        names = ("CONFORMANCE_JOB", "CONFORMANCE_BOTH", "CONFORMANCE_HOOK")
        return [os.environ.get(name) for name in names], os.path.exists("in_work.py")

    child = job.remote(look).options(runtime_env={"env_vars": {"CONFORMANCE_BOTH": "task"}})
    assert job.get(child.remote()) == (["job", "task", "called"], True)

    @job.remote(runtime_env={"env_vars": {"CONFORMANCE_BOTH": "actor"}})
    class Parent:
        def grandchild(self):
            return job.get(job.remote(look).remote())

    assert job.get(Parent.remote().grandchild.remote()) == (["job", "actor", "called"], True)


def test_another_working_directory_replaces_the_jobs(job, folders):
    @job.remote(runtime_env={"working_dir": f"file://{folders}/other.zip"})
    def look():
        import in_other  # type: ignore[import-not-found]
        import single

        return in_other.VALUE, single.VALUE, importlib.util.find_spec("in_work") is None

    assert job.get(look.remote()) == ("other", "single", True)


def test_the_context_names_the_uploaded_packages(job):
    @job.remote
    def context():
        return dict(job.get_runtime_context().runtime_env)

    environment = job.get(context.remote())
    assert environment["working_dir"].startswith("gcs://_ray_pkg_")
    assert len(environment["py_modules"]) == 3
    assert "excludes" not in environment
    assert environment["working_dir"] == job.get_runtime_context().runtime_env["working_dir"]
    again = context.options(runtime_env={"working_dir": environment["working_dir"]})
    assert job.get(again.remote())["working_dir"] == environment["working_dir"]
