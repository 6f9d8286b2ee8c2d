"""Bare streams to compare with: one plain TCP connection, or ZeroMQ with CURVE, from one process to another.

    python streams.py tcp|curve receive|send ADDRESS BYTES

The receiver throws the data away; it prints bytes a second, from its first block to its last.
"""

from __future__ import annotations

import os
import socket
import sys
import time

import zmq

BLOCK = 1 << 20
PORT = 7777
# Of this program alone: the receiver's pair, which the sender has to know.
PUBLIC, SECRET = b"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID", b"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"


def receive_tcp(address: str, size: int) -> float:
    with socket.create_server((address, PORT)) as server:
        print("listens", flush=True)
        connection, _ = server.accept()
    room, left, began = memoryview(bytearray(BLOCK)), size, 0.0
    while left:
        left -= connection.recv_into(room)
        began = began or time.perf_counter()
    return size / (time.perf_counter() - began)


def send_tcp(address: str, size: int) -> None:
    block = os.urandom(BLOCK)
    with socket.create_connection((address, PORT)) as connection:
        for _ in range(size // BLOCK):
            connection.sendall(block)


def receive_curve(address: str, size: int) -> float:
    with zmq.Context() as context, context.socket(zmq.PULL) as receiver:
        receiver.curve_server, receiver.curve_secretkey = True, SECRET
        receiver.bind(f"tcp://{address}:{PORT}")
        print("listens", flush=True)
        began = 0.0
        for _ in range(size // BLOCK):
            receiver.recv(copy=False)
            began = began or time.perf_counter()
        return size / (time.perf_counter() - began)


def send_curve(address: str, size: int) -> None:
    block = os.urandom(BLOCK)
    with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
        sender.curve_serverkey = PUBLIC
        sender.curve_publickey, sender.curve_secretkey = zmq.curve_keypair()
        sender.connect(f"tcp://{address}:{PORT}")
        for _ in range(size // BLOCK):
            sender.send(block, copy=False)


def main() -> None:
    kind, role, address, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    if role == "receive":
        print("rate", {"tcp": receive_tcp, "curve": receive_curve}[kind](address, size))
    else:
        {"tcp": send_tcp, "curve": send_curve}[kind](address, size)


if __name__ == "__main__":
    main()
