"""The client core: everything that a driver or worker decides. ``client_core`` puts its tables together.

``tasks``: submitted tasks. ``references``, ``locations`` and ``directory``: objects, their holders and their places.
``actors``: handles and calls. ``execution``: the tasks and calls that a worker was given to run (``assignments``), with
the ``answers`` to their owners, ``stream_flow`` and ``time_limits``. ``windows``: how much may be under way to another
process.
"""
