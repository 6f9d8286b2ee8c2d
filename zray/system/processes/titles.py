"""What ``ps`` and other programs show as the name of this process."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable

from zray.system.processes.kernel import PR_SET_NAME, prctl

TITLE_PADDING = "-Xzray_title_space=" + "." * 101
"""120 characters of room for ``set_title``.

Pass it right after the interpreter's path: ``[sys.executable, TITLE_PADDING, "-m", ...]``. Python accepts and ignores
an unknown ``-X``, so programs need not know of it.
"""

_NAME_BYTES = 15
"""The longest name that the kernel keeps of a process."""
_UNSAFE_IN_NAME = re.compile(r"[\x00-\x20()\x7f]")


def set_title(text: str) -> None:
    """Sets what ``ps`` shows for this process, cut to the room that its arguments had (see ``TITLE_PADDING``).

    By default setproctitle would continue into the environment. Then ``/proc/<pid>/environ``, which carries the
    session's marker, would be lost. ``SPT_NOENV`` forbids that. It has to be set before the module is imported, so the
    import is in a function. It is inherited, so titles set by users' programs do not touch the marker either.

    setproctitle also copies the start of the title into the process name (``comm``). Programs that split
    ``/proc/<pid>/stat`` at blanks, as Slurm's process tracking does, lose a process whose name has a blank or a bracket
    in it. So such characters are replaced in the name, and stay in the title.
    """
    _title_setter()(text)
    if _UNSAFE_IN_NAME.search(text, 0, _NAME_BYTES):
        prctl(PR_SET_NAME, _UNSAFE_IN_NAME.sub("_", text[:_NAME_BYTES]).encode("utf-8", "replace"))


@functools.cache
def _title_setter() -> Callable[[str], None]:
    os.environ["SPT_NOENV"] = "1"
    import setproctitle

    return setproctitle.setproctitle
