"""Ray's ``ray.util.ray_debugpy``: breakpoints for editors that speak the protocol of debugpy."""

from __future__ import annotations

import importlib
from typing import Any


def set_trace(breakpoint_uuid: bytes | None = None) -> None:
    """Waits until an editor has attached to this process, then stops there. Works in workers too.

    The address to attach to is printed. It is on this machine only (127.0.0.1), because who reaches it can run code.

    Args:
        breakpoint_uuid: Ray's number of a breakpoint. It has no meaning here, and must be None.

    Raises:
        NotImplementedError: ``breakpoint_uuid`` was given.
        ModuleNotFoundError: the package debugpy is not installed where this runs.
    """
    if breakpoint_uuid is not None:
        raise NotImplementedError("set_trace(breakpoint_uuid=...): zray has no remote breakpoints; leave it out")
    try:
        debugpy: Any = importlib.import_module("debugpy")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "zray.util.ray_debugpy needs the package debugpy on the host that runs the task: pip install debugpy",
            name=error.name,
        ) from None
    if not debugpy.is_client_connected():
        host, port = debugpy.listen(("127.0.0.1", 0))
        print(f"a debugger can attach to {host}:{port}", flush=True)
        debugpy.wait_for_client()
    debugpy.breakpoint()
