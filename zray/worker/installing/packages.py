"""Installs packages of files: takes an archive from the store, a file system or the network, and unpacks it."""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import shutil
import tarfile
import zipfile
from typing import NoReturn
from urllib.parse import urlsplit

from zray.serialization import deserialize
from zray.store import SegmentMissing, Store
from zray.transfer.local_readers import Request, fetched
from zray.worker.installing.errors import InstallError
from zray.worker.start import InstallOrder

FETCH_TIMEOUT_S = 600.0
UPLOADED = "gcs"
"""The scheme of packages that a driver has made; the name is Ray's."""


def install_package(order: InstallOrder) -> None:
    """Unpacks the package of an order into its target."""
    part, target = order.part, order.target
    scheme = urlsplit(part.uri).scheme
    name = part.details or urlsplit(part.uri).path
    data = _uploaded(order) if scheme == UPLOADED else _download(part.uri)
    if name.endswith((".zip", ".whl")):
        _unpack_zip(data, target)
    elif name.endswith((".tar.gz", ".tgz", ".tar.xz")):
        _unpack_tar(data, target)
    else:  # a single module
        with open(os.path.join(target, name), "wb") as file:
            file.write(data)
    if name.endswith(".whl"):
        _spread_wheel(target)
    elif scheme != UPLOADED:
        _strip_single_directory(target)


# ------------------------------------------------------------------------------------------------ where from


def _uploaded(order: InstallOrder) -> bytes:
    """The package that a driver has put into the broker's table or into the object store."""
    part = order.part
    if not part.stored:
        return part.content
    store = Store.open(order.store)
    with contextlib.suppress(SegmentMissing):  # else it is on another machine
        return _value(store.read(part.stored))
    left_s = [FETCH_TIMEOUT_S]

    def left() -> float:
        left_s[0] -= 0.25  # it is called four times a second
        return left_s[0]

    try:
        with fetched(order.fetch, Request(part.stored, part.kept_by, part.size), left) as (kind, message):
            if not kind:
                return _value(store.read(part.stored))
    except (OSError, SegmentMissing) as error:
        kind, message = type(error).__name__, str(error)
    raise InstallError(f"the package {part.uri} cannot be fetched from its driver: {kind}: {message}")


def _value(data: memoryview) -> bytes:
    value = deserialize(data, _no_references)
    assert isinstance(value, bytes)
    return value


def _no_references(object_id: bytes) -> NoReturn:
    raise InstallError("a package contains a reference to an object")


def _download(uri: str) -> bytes:
    scheme = urlsplit(uri).scheme
    try:
        if scheme == "file":
            with open(urlsplit(uri).path, "rb") as file:
                return file.read()
        if scheme in ("http", "https"):
            import urllib.request

            with urllib.request.urlopen(uri, timeout=60) as answer:
                return bytes(answer.read())
        try:
            import fsspec  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ImportError:
            raise InstallError(
                f"{uri} cannot be read: install fsspec, and its package for {scheme}://, on each host"
            ) from None
        with fsspec.open(uri, "rb") as remote:
            return bytes(remote.read())
    except (OSError, ValueError, ImportError) as error:
        raise InstallError(f"{uri} cannot be read: {type(error).__name__}: {error}") from error


# ------------------------------------------------------------------------------------------------ unpacking


def _unpack_zip(data: bytes, target: str) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                path = archive.extract(info, target)  # drops ".." and absolute paths
                mode = info.external_attr >> 16
                if mode and not info.is_dir():
                    os.chmod(path, mode & 0o777 | 0o600)
    except zipfile.BadZipFile as error:
        raise InstallError(f"the package is no zip file: {error}") from error


def _unpack_tar(data: bytes, target: str) -> None:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as archive:
            for member in archive.getmembers():
                name = posixpath.normpath(member.name)
                if name == ".." or name.startswith(("/", "../")):
                    continue  # it would lie outside
                path = os.path.join(target, name)
                if member.isdir():
                    os.makedirs(path, exist_ok=True)
                elif content := archive.extractfile(member) if member.isfile() else None:  # no links, no devices
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    with open(path, "wb") as file:
                        shutil.copyfileobj(content, file)
                    os.chmod(path, member.mode & 0o755 | 0o600)
    except tarfile.TarError as error:
        raise InstallError(f"the package is no tar file: {error}") from error


def _strip_single_directory(target: str) -> None:
    """If an archive has one directory at its top and nothing else, what is in it takes its place."""
    inside = [name for name in os.listdir(target) if name != "__MACOSX"]
    if len(inside) != 1 or not os.path.isdir(os.path.join(target, inside[0])):
        return
    top = os.path.join(target, ".top")
    os.rename(os.path.join(target, inside[0]), top)
    for name in os.listdir(top):
        os.rename(os.path.join(top, name), os.path.join(target, name))
    os.rmdir(top)


def _spread_wheel(target: str) -> None:
    """Puts the libraries of a wheel's data directory beside its modules."""
    for name in os.listdir(target):
        if name.endswith(".data"):
            for kind in ("purelib", "platlib"):
                library = os.path.join(target, name, kind)
                if os.path.isdir(library):
                    shutil.copytree(library, target, dirs_exist_ok=True)
