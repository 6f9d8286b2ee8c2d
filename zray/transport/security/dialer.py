"""The connecting side: shows its key, expects the broker's key, and finds out why it was refused.

If a handshake fails, libzmq gives the connection up. Trying again takes another ``connect`` of the socket.
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


def can_encrypt() -> bool:
    """Whether this libzmq was built with CURVE."""
    return bool(zmq.has("curve"))


def libzmq_version() -> str:
    """Returns the version of the library below pyzmq."""
    return zmq.zmq_version()


def require_curve() -> None:
    """Raises ConfigError if this libzmq cannot encrypt."""
    if not can_encrypt():
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
    """Returns the credentials to join the broker at ``address``; None for ``ipc``, or if ``insecure``.

    ``directory``: where the keys are; empty: the default one. A broker makes its keys when it first starts, and on a
    shared home directory that may happen just now. So if the key is missing, this calls ``on_wait(why)`` once and waits
    up to ``patience_s`` seconds. Raises ConfigError if there is still no key for the role, and at once if something
    else is wrong.
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
        time.sleep(KEY_POLL_S)  # NFS does not report changes of directories


def insecurity(address: str, insecure: bool) -> str:
    """The warning for a start without keys; empty if there are keys, or none are needed (``ipc``)."""
    if not insecure or not address.startswith("tcp://"):
        return ""
    return (
        f"insecure: no keys are used at {address}. Anyone who can reach that port can run code as this user. Anyone on "
        "the network path can read and change all messages. To use keys, omit --insecure (insecure=True) on all sides, "
        "see zray keys"
    )


def apply_client(socket: zmq.Socket[Any], credentials: ClientCredentials) -> None:
    """Sets the keys of a socket before it connects: its own pair, and the server's public key."""
    socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = credentials


SILENT_S = 4.0
"""If a listener was silent for this long, it did not hang up: this side did, after the 5 s of a handshake."""
GREETING_S = 1.0
"""How long a listener that hung up may take to say which mechanism it uses."""
_REFUSED = "the broker refuses this key, which it does not know or has revoked: copy its keys again"
_MISMATCH = "one side uses keys and the other does not: --insecure has to be given to both or neither"
_HUNG_UP = (
    "the listener hung up during the handshake: the keys here are for another broker (or the broker's own key was "
    "replaced: copy its keys again), or the listener is not a zray broker"
)


class DialWatch:
    """Follows the handshakes of a socket with one address. Make it before the socket connects."""

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        failed = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        ends = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        self._watched = socket
        self._monitor = Monitor(socket, zmq.EVENT_CONNECTED | failed | ends)
        self._fault = ""
        self._shaking_hands = False
        self._connected_at = 0.0
        self.reached = False
        """Whether a listener has ever accepted a connection."""
        self.account = ""
        """The best known reason why all handshakes so far have failed; empty if there is none."""

    @property
    def socket(self) -> zmq.Socket[Any]:
        """The socket to poll for input: it is readable when there are events."""
        return self._monitor.socket

    def fault(self) -> str:
        """Why the handshake failed, and what helps; empty if it has not failed, also if nothing listens there."""
        for event, value in self._monitor.events():
            if event == zmq.EVENT_CONNECTED:
                self._shaking_hands = self.reached = True
                self._connected_at = time.monotonic()
            elif event != zmq.EVENT_DISCONNECTED or self._shaking_hands:  # libzmq just hangs up if it gets no ZMTP
                self._shaking_hands = False
                self._fault = _fault_of(event, value, time.monotonic() - self._connected_at)
                if not self.account or self._fault != _HUNG_UP:
                    self.account = self._fault
        return self._fault

    def explanation(self, address: str) -> str:
        """``account``, with one more check: if the listener only hung up, asks whether its mechanism differs."""
        ours = CURVE if self._watched.mechanism == zmq.CURVE else NULL
        if self.account == _HUNG_UP and mechanism_at(address, GREETING_S) not in ("", ours):
            return _MISMATCH
        return self.account

    def dialled_anew(self) -> None:
        """Forgets the present fault: the socket connects again."""
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
