"""Finds out the security mechanism of a ZeroMQ listener at a TCP port, by ZMTP's greeting.

If the mechanisms of both sides differ, the listener hangs up, often before its own greeting has left. The connecting
side then cannot tell this from other reasons. But if it sends only half a greeting, the listener answers with a whole
one: https://rfc.zeromq.org/spec/23/, section "Version Negotiation".
"""

from __future__ import annotations

import contextlib
import socket
import time

_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_MAJOR_VERSION = b"\x03"
_GREETING_BYTES = 64
_MECHANISM = slice(12, 32)

NULL = "NULL"
CURVE = "CURVE"


def mechanism_at(address: str, timeout_s: float) -> str:
    """The security mechanism ("NULL", "CURVE", ...) of the ZeroMQ socket that listens at ``tcp://HOST:PORT``.

    Empty if nothing accepts a connection there, or if the listener sends no ZMTP 3 greeting within ``timeout_s``.
    """
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    deadline = time.monotonic() + timeout_s
    greeting = b""
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout_s) as probe:
        probe.sendall(_SIGNATURE + _MAJOR_VERSION)
        while len(greeting) < _GREETING_BYTES and (left_s := deadline - time.monotonic()) > 0:
            probe.settimeout(left_s)
            piece = probe.recv(_GREETING_BYTES - len(greeting))
            if not piece:
                break
            greeting += piece
    return _mechanism_of(greeting)


def _mechanism_of(greeting: bytes) -> str:
    complete = len(greeting) >= _GREETING_BYTES and greeting[0] == _SIGNATURE[0] and greeting[9] == _SIGNATURE[9]
    return greeting[_MECHANISM].rstrip(b"\0").decode("ascii", "replace") if complete else ""
