"""The zygote: a process that has imported what workers need and forks one on demand, in about a millisecond.

It has one thread and no ZeroMQ context, both of which a fork would break, and talks to its host over a Unix socket
(``wire``).  Four things hang on it:

*Memory.* Workers share its pages until they write to them.  So it collects once, moves everything out of the sight
of the garbage collector (``zray.memory.heap``; a collection would write to every object) and never collects again.

*Spares.* While there is nothing else to do it forks ahead: children that wait for their request and have touched next
to nothing.  They are what an idle host is made of.

*Fate.* Workers die with it (parent death signal), and it is the guardian of the session: when the socket reaches its
end, since the host closed it or was killed, the zygote kills all that is below it, calls ``cleanup`` and ends.
It has a session (``setsid``) of its own, so that Ctrl-C at a terminal reaches neither it nor the workers, and it
ignores the signals that ask it to leave: it leaves with its host.  As subreaper it adopts the orphans of workers,
also those that daemonised, so that it can find them.

*Exits.* It reaps its children as SIGCHLD tells and reports how each ended.  What a worker has started goes with it,
however it ended: each is the leader of a process group, of which no member outlives it.  Who has made a session of his
own has left the group, and stays until the session of the host ends.
"""

from zray.worker.host.zygote.client import ZygoteClient, start_zygote
from zray.worker.host.zygote.wire import ChildExited, Event, ForkFailed, ForkReply, ZygoteGone

__all__ = ["ChildExited", "Event", "ForkFailed", "ForkReply", "ZygoteClient", "ZygoteGone", "start_zygote"]
