"""Packages are unpacked where workers find them; archives that are malicious or broken do no harm."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile

import pytest

from zray.protocol.records import EnvironmentPart
from zray.worker.installing.errors import InstallError
from zray.worker.installing.packages import install_package
from zray.worker.start import EnvironmentStart, InstallOrder


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(kind: str, *members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as archive:  # type: ignore[call-overload]
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "target"
    path.mkdir()
    return path


def install(target, uri: str, name: str = "", content: bytes = b"") -> list[str]:
    part = EnvironmentPart(uri, "package", name, content, b"", b"", 0)
    install_package(InstallOrder(part, "{}", str(target), "", ""))
    found = [os.path.join(place, name) for place, _, names in os.walk(target) for name in names]
    return sorted(os.path.relpath(path, target) for path in found)


def test_an_uploaded_folder(target):
    assert install(target, "gcs://x.zip", "package.zip", zipped(**{"top/a.py": b"", "top/b.py": b""})) == [
        "top/a.py", "top/b.py",
    ]  # fmt: skip


def test_an_uploaded_module(target):
    assert install(target, "gcs://x/one.py", "one.py", b"A = 1") == ["one.py"]


def test_an_archive_by_address_loses_a_single_directory(target, tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(**{"top/a.py": b"", "top/top/b.py": b"", "__MACOSX/x": b""}))
    assert [name for name in install(target, f"file://{tmp_path}/a.zip") if "MACOSX" not in name] == [
        "a.py",
        "top/b.py",
    ]


def test_an_archive_by_address_keeps_several(target, tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(**{"one/a.py": b"", "two/b.py": b""}))
    assert install(target, f"file://{tmp_path}/a.zip") == ["one/a.py", "two/b.py"]


@pytest.mark.parametrize(("kind", "ending"), [("gz", "tar.gz"), ("gz", "tgz"), ("xz", "tar.xz")])
def test_tar_files(target, kind, ending):
    data = tarred(kind, (member("a.py", mode=0o644), b"A = 1"), (member("run.sh", mode=0o755), b""))
    assert install(target, f"gcs://x.{ending}", f"x.{ending}", data) == ["a.py", "run.sh"]
    assert os.access(target / "run.sh", os.X_OK)


def test_nothing_is_written_outside(target):
    data = tarred(
        "gz", (member("../outside"), b"x"), (member("/outside"), b"x"),
        (member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""), (member("good"), b"x"),
        (member("..good"), b"x"),
    )  # fmt: skip
    assert sorted(install(target, "gcs://x.tgz", "x.tgz", data)) == ["..good", "good"]
    install(target, "gcs://x.zip", "x.zip", zipped(**{"../outside": b"x"}))
    assert not (target.parent / "outside").exists()


def test_a_wheel(target):
    wheel = zipped(**{"lib.py": b"", "lib-1.0.dist-info/METADATA": b"", "lib-1.0.data/purelib/more.py": b""})
    found = install(target, "gcs://x/lib-1.0-py3-none-any.whl", "lib-1.0-py3-none-any.whl", wheel)
    assert {"lib.py", "more.py", "lib-1.0.dist-info/METADATA"} <= set(found)


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_a_broken_archive(target, name):
    with pytest.raises(InstallError, match="the package is no"):
        install(target, f"gcs://{name}", name, b"not an archive")


def test_addresses_that_cannot_be_read(target):
    with pytest.raises(InstallError, match="cannot be read"):
        install(target, "file:///no/such/file.zip")
    with pytest.raises(InstallError, match="cannot be read"):
        install(target, "s3://bucket/file.zip")
    with pytest.raises(InstallError, match="cannot be read"):
        install(target, "http://127.0.0.1:1/file.zip")


def test_orders_and_environments_travel_in_files():
    part = EnvironmentPart("gcs://x", "package", "", b"x" * 100_000, b"", b"", 1)
    order = InstallOrder(part, "{}", "/target", "/store", "/fetch")
    assert InstallOrder.from_file(order.to_file()) == order
    from zray.protocol.records import EnvironmentSpec

    start = EnvironmentStart(EnvironmentSpec("{}", b"hook", [part], 1.5), ["/path"])
    assert EnvironmentStart.from_file(start.to_file()) == start
