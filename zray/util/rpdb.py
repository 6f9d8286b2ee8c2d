"""Ray's debugger, ``ray.util.pdb``. zray has no debugger that attaches to workers: it says what to use instead.

A worker has no terminal: its stdin is empty, and its output goes to the driver in lines. So ``pdb`` cannot work there.
"""

from __future__ import annotations

import pdb
import sys

from zray.client.session import current

REMEDY = (
    "a worker has no terminal for a debugger. Run the program with zray.init(local_mode=True), in which tasks and "
    "actors run in the driver's process; or call zray.util.ray_debugpy.set_trace(), to which an editor can attach"
)


def set_trace(breakpoint_uuid: bytes | None = None) -> None:
    """Starts ``pdb`` where it is called, in a driver or in local mode.

    Args:
        breakpoint_uuid: Ray's number of a breakpoint. It has no meaning here, and must be None.

    Raises:
        NotImplementedError: it is called in a worker, or with ``breakpoint_uuid``.
    """
    if breakpoint_uuid is not None:
        raise NotImplementedError("set_trace(breakpoint_uuid=...): zray has no remote breakpoints; leave it out")
    session = current()
    if session is not None and session.core.execution.job is not None:
        raise NotImplementedError(f"zray.util.pdb.set_trace(): {REMEDY}")
    pdb.Pdb().set_trace(sys._getframe().f_back)
