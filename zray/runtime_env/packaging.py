"""Makes packages of folders and files, to be sent to the hosts. A package is named by the hash of its content."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence

from zray.exceptions import RuntimeEnvSetupError
from zray.named_tuples import NamedTuple
from zray.runtime_env.ignore import Patterns

MAX_PACKAGE_BYTES = 512 << 20
DEFAULT_EXCLUDES = ".git,.venv,venv,__pycache__"
"""What a working directory's package does not contain, as in Ray."""
NO_GITIGNORE, OTHER_EXCLUDES = "RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"
"""Ray's variables: "1" for packages with what ``.gitignore`` leaves out; other default excludes."""
_LEVEL = 1
"""The level of compression: packages are mostly text, and a higher level takes longer than it saves."""
_OLDEST = (1980, 1, 1, 0, 0, 0)
"""The date of all files in a package. The dates of files are no part of its content."""


class Package(NamedTuple):
    """``uri``: its name, the same for the same content. ``data``: an archive, or a single module.

    ``name``: its file name, which says how it is unpacked.
    """

    uri: str
    name: str
    data: bytes


def default_excludes(environ: Mapping[str, str]) -> list[str]:
    """The patterns that are excluded from every working directory."""
    names = environ.get(OTHER_EXCLUDES, DEFAULT_EXCLUDES).split(",")
    return [name.strip() for name in names if name.strip()]


def package_of_folder(folder: str, excludes: Sequence[str], keeps_name: bool, environ: Mapping[str, str]) -> Package:
    """Makes a package of a folder. ``keeps_name``: the folder itself is in it, and not only what it contains.

    Raises RuntimeEnvSetupError if the package is too large, OSError if a file cannot be read.
    """
    folder = os.path.abspath(folder)
    prefix = f"{os.path.basename(folder)}/" if keeps_name else ""
    buffer = io.BytesIO()
    digest = _hash()
    total = 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for path, relative, is_directory in files_in(folder, excludes, environ.get(NO_GITIGNORE) != "1"):
            info = zipfile.ZipInfo(f"{prefix}{relative}{'/' if is_directory else ''}", _OLDEST)
            info.external_attr = (os.stat(path).st_mode & 0xFFFF) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            data = b""
            if not is_directory:
                with open(path, "rb") as file:
                    data = file.read(MAX_PACKAGE_BYTES + 1)
            total += len(data)
            _check_size(folder, max(buffer.tell(), total if len(data) > MAX_PACKAGE_BYTES else 0))
            digest.update(f"{info.filename}\0{info.external_attr:x}\0{len(data)}\0".encode(errors="surrogateescape"))
            digest.update(data)
            archive.writestr(info, data)
    _check_size(folder, buffer.tell())
    return Package(f"gcs://_ray_pkg_{digest.hexdigest()}.zip", "package.zip", buffer.getvalue())


def package_of_file(path: str) -> Package:
    """Makes a package of an archive, or of a single module. Raises as ``package_of_folder``."""
    with open(path, "rb") as file:
        data = file.read(MAX_PACKAGE_BYTES + 1)
    _check_size(path, len(data))
    digest = _hash()
    digest.update(data)
    name = os.path.basename(path)
    if name.endswith((".whl", ".py")):  # the name has a meaning
        return Package(f"gcs://_ray_pkg_{digest.hexdigest()}/{name}", name, data)
    ending = next(ending for ending in (".zip", ".tar.gz", ".tgz", ".tar.xz") if name.endswith(ending))
    return Package(f"gcs://_ray_pkg_{digest.hexdigest()}{ending}", name, data)


def files_in(folder: str, excludes: Sequence[str], respects_gitignore: bool) -> Iterator[tuple[str, str, bool]]:
    """Yields path, relative path with slashes, and whether it is a directory, of what belongs to a package, sorted."""
    given = [("", Patterns(excludes))]
    yield from _walk(folder, "", given, (".gitignore", ".rayignore") if respects_gitignore else (".rayignore",), ())


def _walk(
    folder: str,
    inside: str,
    patterns: list[tuple[str, Patterns]],
    ignore_files: tuple[str, ...],
    above: tuple[tuple[int, int], ...],
) -> Iterator[tuple[str, str, bool]]:
    """``inside``: the relative path of ``folder``, with a slash at its end, or empty. ``above``: directories that it is
    in, to notice a link that leads back to one."""
    status = os.stat(folder)
    identity = status.st_dev, status.st_ino
    if identity in above:
        return
    for name in ignore_files:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                patterns = [*patterns, (inside, Patterns(file))]
    for name in sorted(os.listdir(folder)):
        path, relative = os.path.join(folder, name), inside + name
        is_directory = os.path.isdir(path)
        if not (is_directory or os.path.isfile(path)) or _is_left_out(relative, is_directory, patterns):
            continue  # sockets, pipes and dangling links belong to no package
        yield path, relative, is_directory
        if is_directory:
            yield from _walk(path, f"{relative}/", patterns, ignore_files, (*above, identity))


def _is_left_out(relative: str, is_directory: bool, patterns: list[tuple[str, Patterns]]) -> bool:
    return any(lines.leaves_out(relative[len(base) :], is_directory) for base, lines in patterns)


def _check_size(what: str, size_bytes: int) -> None:
    if size_bytes > MAX_PACKAGE_BYTES:
        raise RuntimeEnvSetupError(
            f"the package of {what} exceeds the maximum size of {MAX_PACKAGE_BYTES >> 20} MiB: leave files out with "
            "runtime_env['excludes'] or a file .rayignore, or put them where all hosts can read them"
        )


def _hash() -> hashlib._Hash:
    return hashlib.sha1(usedforsecurity=False)
