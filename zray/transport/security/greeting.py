"""Asks what listens at a TCP port by the greeting of ZMTP, before either side has said how it wants to shake hands.

A listener that wants another mechanism than the one that connects hangs up, often before its own greeting has left: the
one that connects then cannot tell such a listener from any other that hangs up.  Half a greeting brings the listener's
whole one: https://rfc.zeromq.org/spec/23/, section "Version Negotiation".
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

    Empty if nothing takes a connection there, or what does sends no greeting of ZMTP 3 within ``timeout_s`` seconds.
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
