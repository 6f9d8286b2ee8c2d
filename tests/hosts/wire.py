"""A network cable with network_faults: delay, loss and black holes, between two namespaces, on any kernel that has TAP.

Not every kernel has ``tc netem``; a TAP device at either end and a thread that carries frames between them do the
same, with a loss that is drawn from a seeded generator, and turned on and off without a trace for the two ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import threading
import time
from pathlib import Path

TUN = Path("/dev/net/tun")
TUNSETIFF = 0x400454CA
TAP, NO_PACKET_INFO = 0x0002, 0x1000
NEW_NET = 0x40000000
MAX_FRAME = 65536


def enter(namespace: str) -> None:
    """Moves the calling thread into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(fd, NEW_NET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    finally:
        os.close(fd)


def open_tap(namespace: str, name: str) -> int:
    """A new TAP device in a namespace; it is gone when the descriptor is closed. Moves the calling thread there."""
    enter(namespace)
    fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP | NO_PACKET_INFO))
    return fd


class Wire:
    """Joins two TAP devices, each given as (namespace, name).

    Attributes: delay_s, each way; loss, the share of frames that are lost; cut: nothing passes at all.
    """

    def __init__(self, one: tuple[str, str], other: tuple[str, str], seed: int = 0) -> None:
        self.delay_s = 0.0
        self.loss = 0.0
        self.cut = False
        self.lost = 0
        self._random = random.Random(seed)
        self._stop_read, self._stop_write = os.pipe()
        self._ready = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(one, other), daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._fault is not None:
            self.close()
            raise self._fault

    def _run(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        taps: list[int] = []
        try:
            taps = [open_tap(*one), open_tap(*other)]
        except OSError as error:
            self._fault = error
        finally:
            self._ready.set()
        try:
            if len(taps) == 2:
                self._carry(*taps)
        finally:
            for tap in taps:
                os.close(tap)

    def _carry(self, one: int, other: int) -> None:
        opposite = {one: other, other: one}
        under_way: list[tuple[float, int, int, bytes]] = []  # when due, a number to keep the order, to whom, frame
        number = 0
        poll = select.poll()
        for fd in (one, other, self._stop_read):
            poll.register(fd, select.POLLIN)
        while True:
            wait_s = max(0.0, under_way[0][0] - time.monotonic()) if under_way else 1.0
            for fd, _ in poll.poll(wait_s * 1000):
                if fd == self._stop_read:
                    return
                for frame in frames(fd):
                    if self.cut or self._random.random() < self.loss:
                        self.lost += 1
                        continue
                    number += 1
                    heapq.heappush(under_way, (time.monotonic() + self.delay_s, number, opposite[fd], frame))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, fd, frame = heapq.heappop(under_way)
                try:
                    os.write(fd, frame)
                except OSError:  # that end is down
                    self.lost += 1

    def close(self) -> None:
        """Takes the wire away."""
        os.write(self._stop_write, b"x")
        self._thread.join(5.0)
        os.close(self._stop_read)
        os.close(self._stop_write)


def frames(tap: int) -> list[bytes]:
    """What waits at a TAP device, a bounded number of frames."""
    found: list[bytes] = []
    while len(found) < 64:
        try:
            found.append(os.read(tap, MAX_FRAME))
        except OSError:  # none, or the device is down
            break
    return found
