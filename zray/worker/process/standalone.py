"""The program of a worker whose runtime environment has an interpreter of its own.

The zygote's child executes it (``zray.worker.process.runtime_env``): PID, process group, output and the flight recorder
are the same. It starts without ``PYTHONPATH``, so that no module of the user replaces one of Python's or zray's. Where
the interpreter has no zray, or none of zray's dependencies, those of the host are used. cloudpickle is always the
host's: pickles name cloudpickle's own functions, which differ from version to version.
"""

import sys

if __name__ == "__main__":  # the directory of this file holds no modules for others to import
    del sys.path[0]

import json
import os


def main() -> None:
    """Runs a worker. The argument says where zray is, the user's ``PYTHONPATH``, and the descriptors."""
    later = json.loads(sys.argv[1])
    own = sys.path[:]
    sys.path[:0] = later["places"]
    import cloudpickle  # noqa: F401

    sys.path[:] = [*own, *(place for place in later["places"] if place not in own)]
    if later["path"] is not None:
        os.environ["PYTHONPATH"] = later["path"]
    sys.argv[1:] = []
    given, *fds = later["fds"]
    for fd in fds:
        os.set_inheritable(fd, False)
    payload = os.pread(given, os.fstat(given).st_size, 0)
    os.close(given)

    from zray.system.processes import prefer_in_oom, set_title
    from zray.system.streams import show_fatal_errors
    from zray.worker.host.zygote.streams import make_standard_streams
    from zray.worker.process.main import worker_main

    make_standard_streams()
    show_fatal_errors()
    set_title("zray::IDLE")
    prefer_in_oom()
    worker_main(payload, fds)


if __name__ == "__main__":
    main()
