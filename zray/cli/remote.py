"""The remote half of ``zray up``: runs on each machine, through ssh, with its orders on stdin and its reply on stdout.

It starts a worker that outlives the login, and waits until the worker is ready or has failed. It records the session of
the worker in the user's own directory. So a later call finds the worker to end it, and does not start it twice. The
worker does not use the login's runtime directory, which is removed when the user logs out.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from zray.cli.background import launch
from zray.cli.stop import Running, end, running
from zray.config import Config
from zray.config.reading import from_environment
from zray.exceptions import ZrayError
from zray.sessions.directories import runtime_root, sweep_dead_sessions
from zray.system.processes import accept_signals_of_a_command

REPLY_MARK = "zray-remote: "
"""The beginning of the one line of stdout that is the reply: JSON with ``done`` or ``failed``."""
_START_S = 5.0
"""Extra time for a worker beyond its attempts to reach the broker, so that it reports a failure before it is ended."""


def main() -> int:
    """Reads the orders, carries them out, and replies. The stderr of the worker is passed on unchanged."""
    accept_signals_of_a_command()
    orders = json.load(sys.stdin)
    try:
        reply = {"done": _carry_out(orders)}
    except (ZrayError, OSError) as error:
        reply = {"failed": str(error)}
    print(REPLY_MARK + json.dumps(reply), flush=True)
    return 0 if "done" in reply else 1


def _carry_out(orders: Mapping[str, Any]) -> str:
    environ = {**os.environ, **orders["environment"]}
    environ.pop("XDG_RUNTIME_DIR", None)
    config = from_environment(environ)
    root = runtime_root(config.tmpdir, environ)
    key = hashlib.sha256(f"{orders['address']} {orders['host']}".encode()).hexdigest()[:12]
    with _note(f"{root}/up-{key}.json") as note:
        noted = note.read()
        found = [each for each in running([root]) if each.paths.name == noted]
        if orders["action"] == "stop":
            return _stop(found, root)
        if found:
            return f"runs already: {found[0]}"
        host = _start(orders, environ, Path(root, f"up-{key}.log"), _patience_s(config))
        note.seek(0)
        note.truncate()
        note.write(host.paths.name)
    _warn_of_logout()
    return f"started the {host}"


@contextlib.contextmanager
def _note(path: str) -> Iterator[IO[str]]:
    """Yields the file with the name of the worker's session, locked: a second call finds what the first has started."""
    with open(path, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file


def _stop(found: list[Running], root: str) -> str:
    if not found:
        return "nothing to end"
    left = end(found)
    if left and end(left, force=True):
        raise ZrayError(f"the {left[0]} could not be ended")
    sweep_dead_sessions(root)
    return f"ended the {found[0]}"


def _patience_s(config: Config) -> float:
    return max(config.start_timeout_s, config.join_timeout_s + _START_S)


def _start(orders: Mapping[str, Any], environ: dict[str, str], log: Path, timeout_s: float) -> Running:
    options = ["--address", orders["address"], *(["--insecure"] if orders["insecure"] else [])]
    with log.open("w+b") as output:
        worker = launch("zray.cli.worker", options, environ, output, timeout_s)
    found = [each for each in running([str(log.parent)]) if each.pid == worker.pid]
    if not found:
        raise ZrayError(f"zray-worker was ready and is gone; see {log}")
    return found[0]


def _warn_of_logout() -> None:
    """Warns if systemd manages logins: it removes the shared memory of users who have logged out everywhere."""
    try:
        user = pwd.getpwuid(os.geteuid())
    except KeyError:  # in a container: no login, no logout
        return
    logind, lingering = Path("/run/systemd/users"), Path("/var/lib/systemd/linger", user.pw_name)
    if user.pw_uid >= 1000 and logind.exists() and not lingering.exists():
        sys.stderr.write(
            f"when {user.pw_name} logs out, systemd may remove the worker's shared memory: to keep it, run "
            "`loginctl enable-linger` there once\n"
        )


if __name__ == "__main__":
    sys.exit(main())
