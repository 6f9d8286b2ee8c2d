"""Who may speak with a broker over TCP: the keys (``keys``), the door they open (``guard``), who dials (``dialer``).

None of it knows the protocol: a message from a stranger is never seen by the code that would read it.
"""
