"""The side that connects: shows its key, expects the broker's, and can tell why it was not let in.

libzmq gives a connection up for good when its handshake fails: to try again takes another ``connect`` of the socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import zmq

from zray.exceptions import SILENT_LISTENER, ConfigError
from zray.transport.security.greeting import CURVE, NULL, mechanism_at
from zray.transport.security.keys import ClientCredentials, KeyDirectory, KeyMissing
from zray.transport.security.monitor import Monitor

KEY_POLL_S = 0.1


def require_curve() -> None:
    """Raises ConfigError if this libzmq cannot encrypt."""
    if not zmq.has("curve"):
        raise ConfigError(
            f"the libzmq {zmq.zmq_version()} here was built without CURVE (libsodium), which TCP needs. Install "
            "pyzmq's wheel, which has it (pip install --force-reinstall --only-binary pyzmq pyzmq), or use ipc"
        )


def credentials_for(
    address: str,
    role: str,
    directory: str,
    insecure: bool,
    patience_s: float = 0.0,
    on_wait: Callable[[str], object] = lambda why: None,
) -> ClientCredentials | None:
    """With what to join the broker at ``address``; None for ``ipc``, or if ``insecure`` was asked for.

    A broker makes its keys when it first starts, and on a shared home that may be at this moment.  So a key that is
    missing is waited for, up to ``patience_s`` seconds, after ``on_wait`` was told why.  Raises ConfigError if there is
    no key for the role in ``directory`` (empty: the default one) even then, and at once if something else is wrong.
    """
    if insecure or not address.startswith("tcp://"):
        return None
    require_curve()
    keys = KeyDirectory(directory)
    deadline = time.monotonic() + patience_s
    told = False
    while True:
        try:
            return keys.client(role)
        except KeyMissing as missing:
            if time.monotonic() >= deadline:
                raise
            if not told:
                told = True
                on_wait(str(missing))
        time.sleep(KEY_POLL_S)  # directories on NFS tell of no change


def insecurity(address: str, insecure: bool) -> str:
    """What to warn of at each start without keys; empty where there are keys, or none are needed (``ipc``)."""
    if not insecure or not address.startswith("tcp://"):
        return ""
    return (
        f"insecure: no keys are used at {address}, so whoever reaches that port can run code as this user, and whoever "
        "is between can read along and change everything. To use keys, leave --insecure (insecure=True) out on all "
        "sides, see zray keys"
    )


def apply_client(socket: zmq.Socket[Any], credentials: ClientCredentials) -> None:
    """Makes a socket that is about to connect show its key, and expect the server's."""
    socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = credentials


SILENT_S = 4.0
"""Who has not said anything for so long has not hung up: this side did, after the five seconds of a handshake."""
GREETING_S = 1.0
"""So many seconds has a listener that hung up to say which mechanism it uses."""
_REFUSED = "the broker refuses this key, which it does not know or has revoked: copy its keys again"
_MISMATCH = "one side uses keys and the other does not: --insecure has to be given to both or neither"
_HUNG_UP = (
    "what listens there hung up during the handshake: it is another broker than the one that the keys are for (or its "
    "own key was replaced: copy its keys again), or no zray broker"
)


class DialWatch:
    """Follows the handshakes of a socket with one address; made before it connects."""

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        failed = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        ends = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        self._watched = socket
        self._monitor = Monitor(socket, zmq.EVENT_CONNECTED | failed | ends)
        self._fault = ""
        self._shaking_hands = False
        self._connected_at = 0.0
        self.reached = False
        """Whether something has ever taken a connection."""
        self.account = ""
        """Why no handshake has come to its end, of all that were tried: the best that could be found out."""

    @property
    def socket(self) -> zmq.Socket[Any]:
        """To be polled for input: there is news."""
        return self._monitor.socket

    def fault(self) -> str:
        """Why the handshake failed, and what helps; empty while it has not, also as long as nobody listens there."""
        for event, value in self._monitor.events():
            if event == zmq.EVENT_CONNECTED:
                self._shaking_hands = self.reached = True
                self._connected_at = time.monotonic()
            elif event != zmq.EVENT_DISCONNECTED or self._shaking_hands:  # bytes that are no ZMTP are just hung up on
                self._shaking_hands = False
                self._fault = _fault_of(event, value, time.monotonic() - self._connected_at)
                if not self.account or self._fault != _HUNG_UP:
                    self.account = self._fault
        return self._fault

    def explanation(self, address: str) -> str:
        """As ``account``. A listener that only hung up is asked for its mechanism: it may differ from this side's."""
        ours = CURVE if self._watched.mechanism == zmq.CURVE else NULL
        if self.account == _HUNG_UP and mechanism_at(address, GREETING_S) not in ("", ours):
            return _MISMATCH
        return self.account

    def dialled_anew(self) -> None:
        """What has failed has been told; the next fault is another one."""
        self._fault, self._shaking_hands = "", False

    def close(self) -> None:
        """Stops following. May be called before or after the socket is closed."""
        self._monitor.close()


def _fault_of(event: int, value: int, after_s: float) -> str:
    if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
        return ""
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return _REFUSED
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return _MISMATCH
    return SILENT_LISTENER if after_s >= SILENT_S else _HUNG_UP
