"""The zygote: a process that has imported what workers need and forks a worker on demand, in about a millisecond.

It has one thread and no ZeroMQ context, since a fork would break both. It talks to its host over a Unix socket
(``wire``). It has four purposes:

*Memory.* Workers share its pages until they write to them. So the zygote collects garbage once and then hides all
objects from the garbage collector (``zray.memory.heap``), as a collection would write to every object. It never
collects again.

*Spares.* While it has nothing else to do, it forks spares: children that wait for their request and have touched almost
no memory. An idle host has spares and no workers.

*Lifetime.* Workers die with the zygote (parent death signal), and it is the guardian of the session. When the host
closes the socket or is killed, the zygote kills all its descendants, calls ``cleanup`` and ends. It has a session
(``setsid``) of its own, so that Ctrl-C at a terminal reaches neither it nor the workers. It ignores the signals that
ask a process to end: it ends with its host. As subreaper it adopts the orphans of workers, daemons too, so that it can
find them.

*Exits.* It reaps its children on SIGCHLD and reports how each ended. Processes that a worker has started end with it,
however it ended: each worker leads a process group, and no member outlives the worker. A process that has made a
session of its own has left the group, and stays until the session of the host ends.
"""

from zray.worker.host.zygote.client import ZygoteClient, start_zygote
from zray.worker.host.zygote.wire import ChildExited, Event, ForkFailed, ForkReply, ZygoteGone

__all__ = ["ChildExited", "Event", "ForkFailed", "ForkReply", "ZygoteClient", "ZygoteGone", "start_zygote"]
