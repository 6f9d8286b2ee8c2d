"""The key directory: CURVE keys on disk, which only their user can access.

The broker makes it on first use. A machine that joins has copies of the files for its roles, and makes no keys::

    keys/                    0700, by default ~/.config/zray/keys; everything in it is 0600
        broker.key           the broker's pair, on its machine only
        host.key driver.key  the default pairs of hosts and drivers, beside any pairs that were added by name. Each file
                             also has the broker's public key: a joining process needs only one file
        allowed              the broker's allow-list: all keys that it ever gave out, including revoked ones
        lock                 held (flock) by a process that changes any of this

A directory belongs to one broker. If it has ``broker.key``, keys are made and given out there. If not, the keys in it
were copied from the broker's machine. Neither a broker nor the command that copies keys ever mixes the two: a process
that joins with fresh keys of its own would be refused without knowing why. The allow-list is written last. After a
crash, making keys resumes where it stopped.
"""

from __future__ import annotations

import datetime
import logging
import os
import pwd
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import zmq
from zmq.utils import z85

from zray.exceptions import ConfigError
from zray.named_tuples import NamedTuple
from zray.transport.security.private_files import PrivateDirectory, private_directory

log = logging.getLogger(__name__)

BROKER = "broker"
ROLES = ("host", "driver")
"""The roles of the keys that are given out. Each role has a default key of the same name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_KEY_HEADER = "# A zray key with its secret part: anyone who has it can run code on the cluster. Keep it to yourself."
_ALLOWED = "allowed"
_ALLOWED_HEADER = (
    "# Keys given out by this broker, which reads this again when it changes.\n# role name key created revoked"
)
_UNPACK = (
    'umask 077; d=${XDG_CONFIG_HOME:-$HOME/.config}/zray/keys; mkdir -p "$d" && chmod 700 "$d" && '
    'if [ -e "$d/broker.key" ]; then echo "$d belongs to a broker there" >&2; exit 1; else tar -C "$d" -xpof -; fi'
)


class KeyMissing(ConfigError, ConnectionError):
    """There is no key for a role. Unlike other faults, this may resolve itself: the broker makes keys on first use.

    It is a ConnectionError too, as for any cluster that cannot be joined."""


class ServerCredentials(NamedTuple):
    """The key pair of the side that binds, in Z85."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"ServerCredentials(public={self.public!r})"


class ClientCredentials(NamedTuple):
    """The key pair of the side that connects, and the public key that it expects of the server, in Z85."""

    public: bytes
    secret: bytes
    server: bytes

    def __repr__(self) -> str:
        return f"ClientCredentials(public={self.public!r}, server={self.server!r})"


class AllowedKey(NamedTuple):
    """A row of the allow-list. At most one of the rows with the same name is not revoked."""

    role: str
    name: str
    public: bytes
    created: str
    """The time in UTC, ISO 8601. ``revoked`` has the same form."""
    revoked: str
    """Empty while the key is valid."""


class KeyFile(NamedTuple):
    """The content of a ``.key`` file. ``server`` is the broker's public key, also in the broker's own file."""

    role: str
    name: str
    public: bytes
    secret: bytes
    server: bytes
    created: str

    def __repr__(self) -> str:
        return f"KeyFile(role={self.role!r}, name={self.name!r}, public={self.public!r})"


def default_directory(environ: Mapping[str, str] | None = None) -> Path:
    """``$XDG_CONFIG_HOME/zray/keys`` or ``~/.config/zray/keys``. Raises ConfigError for a user without a home."""
    environ = os.environ if environ is None else environ
    config = environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(config):  # its specification says to ignore relative paths
        return Path(config, "zray", "keys")
    home = environ.get("HOME", "")
    if not os.path.isabs(home):
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            raise ConfigError(
                f"there is no directory for keys: HOME is not set, and user {os.geteuid()} is not known to this "
                "machine; name a directory with --keys DIR or ZRAY_KEYS"
            ) from None
    return Path(home, ".config", "zray", "keys")


class KeyDirectory:
    """The keys in ``path`` (empty: ``default_directory()``). Each method reads from disk.

    Raises ConfigError if the directory or a file is damaged, is a symbolic link, belongs to another user, or can be
    accessed by others.
    """

    def __init__(self, path: str | Path = "", environ: Mapping[str, str] | None = None) -> None:
        self.path = Path(os.path.abspath(os.path.expanduser(path))) if str(path) else default_directory(environ)

    # ---- reading

    def server(self) -> ServerCredentials:
        """Returns the broker's pair. Makes keys if there are none.

        Raises ConfigError if the directory has copies of another broker's keys.
        """
        self.create()
        with private_directory(self.path) as files:
            key = self._read_key(files, BROKER)
        return ServerCredentials(key.public, key.secret)

    def client(self, role: str, name: str = "") -> ClientCredentials:
        """Returns the pair called ``name``; by default the one called like its role, or else the only one of that role.

        Makes no keys. Raises ConfigError, with advice, if there is no such key; KeyMissing if the key may appear soon,
        since this is not (or not yet) the directory of a broker that has made all its keys.
        """
        complete = (self.path / _ALLOWED).exists()  # written last, so it is looked at first
        key = self._key(name or role)  # read alone, so that faults of other keys do not matter
        if key is not None and key.role == role:
            return ClientCredentials(key.public, key.secret, key.server)
        held = {key.name: key for key in self.held() if key.role == role}
        key = held.get(name or role)
        if key is None and not name and len(held) == 1:
            (key,) = held.values()
        if key is not None:
            return ClientCredentials(key.public, key.secret, key.server)
        if held and not name:
            raise ConfigError(
                f"{self.path} holds several {role} keys ({', '.join(sorted(held))}) and none called {role!r}"
            )
        called = f" called {name!r}" if name else ""
        raise (ConfigError if complete else KeyMissing)(
            f"there is no {role} key{called} in {self.path}. If the broker runs on another machine, copy the key from "
            "there: `zray keys show` prints the line that does it. If the broker should run here, start it first, or "
            "run `zray keys create`"
        )

    def _key(self, name: str) -> KeyFile | None:
        if not self.path.is_symlink() and not self.path.exists():
            return None
        with private_directory(self.path) as files:
            return self._read_key(files, name) if name in _names(files) else None

    def held(self) -> list[KeyFile]:
        """All keys whose secret part is here, sorted by name; empty if there is no directory."""
        if not self.path.is_symlink() and not self.path.exists():
            return []
        with private_directory(self.path) as files:
            return [self._read_key(files, name) for name in _names(files)]

    def allowed(self) -> list[AllowedKey]:
        """The allow-list, the oldest key first. Raises ConfigError if this is not a broker's directory."""
        with private_directory(self.path) as files:
            return self._read_allowed(files)

    def copy_command(self, destination: str = "", names: Sequence[str] = ()) -> str:
        """Returns the shell line that copies keys (default: those called like their role) to ``destination``.

        There they are put into the user's default directory, with the right modes. The broker's secret is never copied.
        """
        held = {key.name for key in self.held()} - {BROKER}
        chosen = list(names) or [name for name in ROLES if name in held]
        missing = [name for name in chosen if name not in held]
        if missing or not chosen:
            raise ConfigError(f"{self.path} has no key called {' or '.join(missing or ROLES)} to give out")
        files = " ".join(f"{name}.key" for name in chosen)
        target = shlex.quote(destination) if destination else "USER@MACHINE"
        return f"tar -C {shlex.quote(str(self.path))} -cf - {files} | ssh {target} '{_UNPACK}'"

    # ---- changing

    def create(self) -> None:
        """Makes the broker's pair and one for each role, if they are missing. Concurrent calls make them only once."""
        with private_directory(self.path, change=True) as files:
            self._complete(files)

    def add(self, role: str, name: str) -> AllowedKey:
        """Makes and allows another pair for a role. Raises ConfigError if the name is in use or malformed."""
        if role not in ROLES:
            raise ConfigError(f"{role!r} is not a role; roles are {' and '.join(ROLES)}")
        if not _NAME.fullmatch(name) or name == BROKER or (name in ROLES and name != role):
            raise ConfigError(
                f"{name!r} cannot name a {role} key: letters, digits, - and _, and not another role's name"
            )
        with private_directory(self.path, change=True) as files:
            self._complete(files)
            rows = self._read_allowed(files)
            if any(row.name == name and not row.revoked for row in rows):
                raise ConfigError(f"there is a key called {name!r} already; `zray keys rotate {name}` replaces it")
            return self._give_out(files, rows, role, name)

    def rotate(self, name: str) -> bytes:
        """Replaces a pair and returns the new public key. The old key is refused from now on.

        ``"broker"`` replaces the broker's own pair. That takes effect at the broker's next start, and all keys must be
        copied to the other machines again, since each file has the broker's public key.
        """
        with private_directory(self.path, change=True) as files:
            self._need_broker(files)
            if name == BROKER:
                return self._rotate_broker(files)
            rows = self._read_allowed(files)
            revoked = _revoke(rows, name)
            role = next(row.role for row in rows if row.name == name and not row.revoked)
            return self._give_out(files, revoked, role, name).public

    def revoke(self, name: str) -> None:
        """Refuses a key from now on, and deletes its secret part."""
        with private_directory(self.path, change=True) as files:
            self._need_broker(files)
            if name == BROKER:
                raise ConfigError("the broker's own key cannot be revoked, only replaced: `zray keys rotate broker`")
            self._write_allowed(files, _revoke(self._read_allowed(files), name))
            files.remove(f"{name}.key")

    def _complete(self, files: PrivateDirectory) -> None:
        names = _names(files)
        if BROKER not in names:
            if names:
                raise ConfigError(
                    f"{self.path} holds keys that were copied from another broker's machine ({', '.join(names)}): give "
                    "the broker here a directory of its own, with --keys DIR or ZRAY_KEYS"
                )
            public, secret = zmq.curve_keypair()
            self._write_key(files, KeyFile(BROKER, BROKER, public, secret, public, _now()))
        if _ALLOWED not in files.stems(""):
            self._write_allowed(files, [self._make_key(files, role, role) for role in ROLES])
        self._reconcile(files)

    def _reconcile(self, files: PrivateDirectory) -> None:
        """Completes changes that a crash has interrupted.

        Key files are written before the allow-list, and removed after it.
        """
        server = self._read_key(files, BROKER).public
        rows = before = self._read_allowed(files)
        for name in _names(files):
            try:
                key = self._read_key(files, name)
            except ConfigError:  # a process that uses this key gets the error, and the key can still be replaced
                continue
            if name == BROKER:
                continue
            row = next((row for row in rows if row.public == key.public), None)
            if row is not None and row.revoked:
                files.remove(f"{name}.key")
            elif row is not None and key.server != server:
                self._write_key(files, key._replace(server=server))
            elif row is None and key.server == server:  # else it belongs to another broker, and a user put it here
                others = _revoke(rows, name) if any(row.name == name and not row.revoked for row in rows) else rows
                rows = [*others, AllowedKey(key.role, name, key.public, key.created, "")]
        if rows != before:
            self._write_allowed(files, rows)

    def _need_broker(self, files: PrivateDirectory) -> None:
        if BROKER not in _names(files):
            raise ConfigError(
                f"{self.path} is not a broker's key directory: keys can be changed on the broker's machine only"
            )
        self._complete(files)

    def _give_out(self, files: PrivateDirectory, rows: list[AllowedKey], role: str, name: str) -> AllowedKey:
        row = self._make_key(files, role, name)
        self._write_allowed(files, [*rows, row])
        return row

    def _make_key(self, files: PrivateDirectory, role: str, name: str) -> AllowedKey:
        public, secret = zmq.curve_keypair()
        key = KeyFile(role, name, public, secret, self._read_key(files, BROKER).public, _now())
        self._write_key(files, key)
        return AllowedKey(role, name, public, key.created, "")

    def _rotate_broker(self, files: PrivateDirectory) -> bytes:
        public, secret = zmq.curve_keypair()
        self._write_key(files, KeyFile(BROKER, BROKER, public, secret, public, _now()))
        for name in _names(files):
            if name != BROKER:
                self._write_key(files, self._read_key(files, name)._replace(server=public))
        return public

    # ---- files

    def _read_key(self, files: PrivateDirectory, name: str) -> KeyFile:
        lines = files.read(f"{name}.key")
        try:
            fields = dict(lines)  # a line of other than two words is a ValueError
            public, secret, server = (fields[part].encode() for part in ("public", "secret", "server"))
            if zmq.curve_public(secret) != public or len(z85.decode(server)) != 32 or fields["name"] != name:
                raise ValueError("parts that do not fit together")
            return KeyFile(fields["role"], name, public, secret, server, fields["created"])
        except (KeyError, ValueError, zmq.ZMQError):
            pass  # the error's text may contain a part of the secret
        raise ConfigError(f"{self.path / name}.key is damaged: copy it again, or replace it with `zray keys rotate`")

    def _write_key(self, files: PrivateDirectory, key: KeyFile) -> None:
        fields = {**key._asdict(), "public": key.public.decode(), "secret": key.secret.decode()}
        fields["server"] = key.server.decode()
        files.write(f"{key.name}.key", [_KEY_HEADER, *(f"{field} {value}" for field, value in fields.items())])

    def _read_allowed(self, files: PrivateDirectory) -> list[AllowedKey]:
        rows = []
        for words in files.read(_ALLOWED):
            if len(words) != 5 or words[0] not in ROLES or len(words[2]) != 40:
                raise ConfigError(f"{self.path / _ALLOWED} is damaged at {' '.join(words)!r}")
            role, name, public, created, revoked = words
            rows.append(AllowedKey(role, name, public.encode(), created, revoked.removeprefix("-")))
        return rows

    def _write_allowed(self, files: PrivateDirectory, rows: Sequence[AllowedKey]) -> None:
        lines = [f"{row.role} {row.name} {row.public.decode()} {row.created} {row.revoked or '-'}" for row in rows]
        files.write(_ALLOWED, [_ALLOWED_HEADER, *lines])


def _names(files: PrivateDirectory) -> list[str]:
    return [name for name in files.stems(".key") if _NAME.fullmatch(name)]


def _revoke(rows: Sequence[AllowedKey], name: str) -> list[AllowedKey]:
    if not any(row.name == name and not row.revoked for row in rows):
        raise ConfigError(f"there is no key called {name!r} that is allowed; `zray keys show` lists them")
    return [row._replace(revoked=_now()) if row.name == name and not row.revoked else row for row in rows]


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class AllowList:
    """The allow-list of a running broker. It is read again when it has changed on disk.

    If it is damaged or readable by others, the last valid content stays in force and the fault is logged: a mistake of
    its user must not end the cluster.
    """

    def __init__(self, directory: KeyDirectory) -> None:
        self._directory = directory
        self._seen = self._signature()
        self._keys = {row.public: row for row in directory.allowed()}

    def find(self, public: bytes) -> AllowedKey | None:
        """The row of a public key in Z85, whether revoked or not."""
        signature = self._signature()
        if signature != self._seen:
            self._seen = signature
            try:
                self._keys = {row.public: row for row in self._directory.allowed()}
            except ConfigError as error:
                log.error("the allow-list cannot be read, so the keys that were allowed before stay allowed: %s", error)
        return self._keys.get(public)

    def _signature(self) -> tuple[int, ...]:
        try:
            status = os.stat(self._directory.path / _ALLOWED, follow_symlinks=False)
        except OSError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
