"""Addresses and ports."""

from __future__ import annotations

import contextlib
import socket

__all__ = ["build_address", "find_free_port", "get_localhost_ip", "is_ipv6", "is_localhost", "parse_address"]


def build_address(host: str, port: int | str) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if is_ipv6(host) else f"{host}:{port}"


def parse_address(address: str) -> tuple[str, str] | None:
    """The host and the port of ``host:port`` or ``[host]:port``; None if there is no port."""
    if address.startswith("["):
        host, bracket, port = address[1:].rpartition("]:")
        return (host, port) if bracket else None
    host, colon, port = address.partition(":")
    return (host, port) if colon and ":" not in port else None


def is_ipv6(host: str) -> bool:
    """Whether ``host`` is an IPv6 address."""
    try:
        socket.inet_pton(socket.AF_INET6, host)
    except OSError:
        return False
    return True


def is_localhost(host: str) -> bool:
    """Whether ``host`` names this machine for itself."""
    return host in ("localhost", "127.0.0.1", "::1")


def find_free_port(family: socket.AddressFamily = socket.AF_INET) -> int:
    """A port that no process listened at a moment ago. Another process may take it first."""
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def get_localhost_ip() -> str:
    """The address by which this machine reaches itself."""
    return "127.0.0.1"
