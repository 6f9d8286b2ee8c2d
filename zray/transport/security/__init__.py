"""Access to a broker over TCP: only processes with an allowed key can connect.

``keys`` manages the keys on disk; ``authenticator`` accepts peers that have an allowed key; ``dialer`` shows the key.
These modules do not know the protocol: the code that reads messages sees none of a process that was not accepted.
"""
