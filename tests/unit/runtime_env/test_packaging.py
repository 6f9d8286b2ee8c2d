"""Packages of folders and files."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from zray.exceptions import RuntimeEnvSetupError
from zray.runtime_env import packaging
from zray.runtime_env.packaging import Package, default_excludes, package_of_file, package_of_folder


def write(root: Path, **files: str) -> None:
    for path, text in files.items():
        place = root / path.replace("__", "/").replace("_dot_", ".")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


def names(package: Package) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(package.data)).namelist()


def folder(root: Path, *excludes: str, keeps_name: bool = False, **environ: str) -> Package:
    return package_of_folder(str(root), excludes, keeps_name, environ)


def test_a_package_has_the_files_and_their_modes(tmp_path):
    write(tmp_path, a_dot_py="1", deep__b_dot_py="2")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run.sh").write_text("")
    (tmp_path / "run.sh").chmod(0o755)
    package = folder(tmp_path)
    assert names(package) == ["a.py", "deep/", "deep/b.py", "empty/", "run.sh"]
    info = zipfile.ZipFile(io.BytesIO(package.data)).getinfo("run.sh")
    assert info.external_attr >> 16 & 0o777 == 0o755
    assert names(folder(tmp_path, keeps_name=True))[0] == f"{tmp_path.name}/a.py"


def test_the_name_is_that_of_the_content(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    write(one, a="1", b="2")
    write(other, b="2", a="1")
    os.utime(other / "a", (0, 0))
    assert folder(one).uri == folder(other).uri
    assert folder(one, keeps_name=True).uri != folder(other, keeps_name=True).uri
    write(other, a="3")
    assert folder(one).uri != folder(other).uri
    (other / "a").write_text("1")
    (other / "b").rename(other / "c")
    assert folder(one).uri != folder(other).uri


def test_what_is_left_out(tmp_path):
    write(tmp_path, a_dot_log="", b_dot_txt="", deep__c_dot_log="", deep__kept_dot_log="", tmp__x="")
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / "deep" / ".rayignore").write_text("/none\n")
    assert names(folder(tmp_path, "tmp/")) == [".gitignore", "b.txt", "deep/", "deep/.rayignore"]
    everything = names(folder(tmp_path, RAY_RUNTIME_ENV_IGNORE_GITIGNORE="1"))
    assert {"a.log", "deep/c.log", "tmp/x"} <= set(everything)


def test_files_below_a_directory_that_is_left_out_do_not_come_back(tmp_path):
    write(tmp_path, out__kept="")
    assert names(folder(tmp_path, "out/", "!out/kept")) == []


def test_default_excludes():
    assert default_excludes({}) == [".git", ".venv", "venv", "__pycache__"]
    assert default_excludes({"RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES": ""}) == []
    assert default_excludes({"RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES": "a, b"}) == ["a", "b"]


def test_links_are_followed_once(tmp_path):
    write(tmp_path, real__a="1")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "back").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to("nowhere")
    found = names(folder(tmp_path))
    assert {"link/a", "real/a"} <= set(found)
    assert "dangling" not in found
    assert len(found) < 20


def test_a_package_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(packaging, "MAX_PACKAGE_BYTES", 1000)
    (tmp_path / "large").write_bytes(os.urandom(5000))
    with pytest.raises(RuntimeEnvSetupError, match="exceeds the maximum size"):
        folder(tmp_path)
    with pytest.raises(RuntimeEnvSetupError, match="exceeds the maximum size"):
        package_of_file(str(tmp_path / "large"))


def test_files_keep_the_names_that_have_a_meaning(tmp_path):
    write(tmp_path, one_dot_py="1")
    (tmp_path / "lib-1.0-py3-none-any.whl").write_bytes(b"wheel")
    (tmp_path / "any.tar.gz").write_bytes(b"tar")
    assert package_of_file(str(tmp_path / "one.py")).uri.endswith("/one.py")
    assert package_of_file(str(tmp_path / "lib-1.0-py3-none-any.whl")).uri.endswith("/lib-1.0-py3-none-any.whl")
    assert package_of_file(str(tmp_path / "any.tar.gz")).uri.endswith(".tar.gz")
