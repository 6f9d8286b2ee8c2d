"""Masquerading, asked of the kernel by netlink: neither ``nft`` nor ``iptables`` need be installed.

One batch of nftables messages makes a table, a chain at the hook after routing, and a rule that gives whatever leaves
the address of the interface it leaves by. It holds for the network namespace of the process that runs this.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

NETFILTER = 12
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NEW_TABLE, NEW_CHAIN, NEW_RULE = (10 << 8 | message for message in (0, 3, 6))
REQUEST, ACK, CREATE, APPEND = 0x1, 0x4, 0x400, 0x800
POSTROUTING, SOURCE_NAT_PRIORITY = 4, 100
NESTED = 0x8000


def attribute(number: int, data: bytes) -> bytes:
    """Type, length, value, padded to four bytes."""
    return struct.pack("=HH", 4 + len(data), number) + data + b"\0" * (-len(data) % 4)


def text(number: int, value: str) -> bytes:
    return attribute(number, value.encode() + b"\0")


def nested(number: int, *attributes: bytes) -> bytes:
    return attribute(number | NESTED, b"".join(attributes))


def message(kind: int, flags: int, family: int, resource: int, *attributes: bytes) -> bytes:
    body = struct.pack("!BBH", family, 0, resource) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, REQUEST | flags, 0, 0) + body


def masquerade() -> None:
    """Makes this namespace do NAT; raises OSError if the kernel does not."""
    hook = nested(4, attribute(1, struct.pack("!I", POSTROUTING)), attribute(2, struct.pack("!I", SOURCE_NAT_PRIORITY)))
    masq = nested(1, text(1, "masq"), nested(2))
    batch = [
        message(BATCH_BEGIN, 0, 0, 10),
        message(NEW_TABLE, CREATE | ACK, socket.AF_INET, 0, text(1, "zray")),
        message(NEW_CHAIN, CREATE | ACK, socket.AF_INET, 0, text(1, "zray"), text(3, "out"), hook, text(7, "nat")),
        message(NEW_RULE, CREATE | APPEND | ACK, socket.AF_INET, 0, text(1, "zray"), text(2, "out"), nested(4, masq)),
        message(BATCH_END, 0, 0, 10),
    ]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as netlink:
        netlink.settimeout(5.0)
        netlink.send(b"".join(batch))
        for _ in range(3):
            answer = netlink.recv(4096)
            number = -struct.unpack_from("=i", answer, 16)[0]
            if number:
                raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    try:
        masquerade()
    except OSError as error:
        sys.exit(f"the kernel does no NAT: {error}")
