"""Runs a host that root has started as another user, so that its tasks cannot read its key.

A host and its tasks belong to one user, so the tasks can read all that the host can read. This differs if root starts
the host: then the key's file can be readable by root only. Three steps keep the key from tasks:

- ``step_down``, before anything is made or forked. What follows belongs to the user, but the host can regain root.
- ``complete`` in the zygote, before it forks: it cannot regain root. The key is not in its memory, as no process has
  read it yet.
- ``regain`` and ``complete`` in the host, around reading the key. From then on the kernel lets only root look into this
  process (``PR_SET_DUMPABLE``, prctl(2)): its memory, its descriptors and its environment.

While the host can regain root, the kernel treats this process as root's (ptrace(2), "Ptrace access mode checking"): its
saved user is root.
"""

from __future__ import annotations

import os
import pwd

from zray.exceptions import ConfigError
from zray.system.processes import set_dumpable

_OF_THE_FORMER_USER = (
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "MAIL",
)


class Demotion:
    """A change from root to ``user``, a name or a number.

    Raises ConfigError if there is no such user, or if this process is not root's.
    """

    def __init__(self, user: str) -> None:
        self._entry = _entry_of(user)
        if os.geteuid() != 0:
            raise ConfigError(
                f"user = {user!r}: only root can start a host as another user. Start it as root, or leave the setting "
                "out (--user, ZRAY_USER)"
            )
        if self._entry.pw_uid == 0:
            raise ConfigError(f"user = {user!r}: that is root, whose tasks can read every key: name another user")

    @property
    def name(self) -> str:
        return self._entry.pw_name

    def step_down(self) -> None:
        """Makes this process the user's: its groups, home, variables that depend on the user, and working directory.

        Call it before there are threads. Until ``complete`` the process can regain root.
        """
        entry = self._entry
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, 0)
        for name in _OF_THE_FORMER_USER:
            os.environ.pop(name, None)
        os.environ.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name, SHELL=entry.pw_shell)
        if not os.access(".", os.X_OK):
            os.chdir(entry.pw_dir if os.access(entry.pw_dir, os.X_OK) else "/")

    def regain(self) -> None:
        """Makes this process root's again, except for its groups; after ``step_down``, and before ``complete``."""
        os.setresuid(0, 0, 0)

    def complete(self, visible: bool) -> None:
        """Makes the change final. ``visible``: whether the user's other processes may look into this one."""
        uid = self._entry.pw_uid
        os.setresuid(uid, uid, uid)
        set_dumpable(visible)


def _entry_of(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise ConfigError(f"user = {user!r}: this machine has no such user") from None
