"""A group of worker processes that run jobs: what ``Pool``, the joblib backend and ``Executor`` share.

A process of the group is an actor (``worker``). ``dispatch`` decides which job goes to which process: a pure state
machine. ``group`` is its shell: it holds the actors, one thread, and one lock.

A job goes through these states. ``queued``: in the group, not pickled yet. ``sent``: a call of an actor. It may return
to ``queued`` once, by a recall, while it waits behind a long job and another process is idle. ``ended``: with the
outcomes of its items, or with one error.

What a death does:

- A process dies: the jobs that it had fail with the error of the call. The actor is restarted, and its constructor runs
  the initializer again. With ``restart=False`` the group is broken instead: every queued job fails with that error.
- The constructor raises, or the process dies before it has started: the group is broken.
- The driver dies: its actors end with it.
- The cluster is gone, or ``shutdown`` was called: every job fails with ``ClusterUnavailableError``.
"""
