"""The cluster that a command looks at: the options that name it, and the connection over which it is asked."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import click

from zray.api.addresses import own_form
from zray.cli.stop import own_roots
from zray.client.observer import Observer
from zray.config import Config
from zray.config.reading import from_environment
from zray.exceptions import ClusterUnavailableError, ZrayError
from zray.sessions.directories import brokers
from zray.transport.security.dialer import credentials_for
from zray.transport.sockets import check_address
from zray.util.state.common import DEFAULT_RPC_TIMEOUT
from zray.util.state.sources import Source

_OPTIONS = (
    click.option("--address", default="", metavar="ADDRESS", help="The broker's address. Default: as for zray.init()."),
    click.option("--keys", metavar="DIR", help="Where the keys for TCP are. Default: ~/.config/zray/keys."),
    click.option("--insecure", is_flag=True, help="Ask a broker on TCP that was started with --insecure."),
    click.option(
        "--timeout", "timeout_s", default=float(DEFAULT_RPC_TIMEOUT), show_default=True, type=click.FloatRange(0),
        metavar="SECONDS", help="How long to wait for an answer.",
    ),
)  # fmt: skip


class NoAnswer(click.ClickException):
    """No cluster answers."""

    exit_code = 2


class Cluster:
    """A cluster that a command asks. ``address``: of its broker; ``timeout_s``: of each question."""

    def __init__(self, address: str, keys: str | None, insecure: bool, timeout_s: float) -> None:
        """Raises NoAnswer if there is no cluster to ask, or if the address or the configuration cannot be used."""
        self.timeout_s = timeout_s
        self._insecure = insecure
        try:
            self.config = from_environment(keys=keys)
            *others, self.address = targets(address or self.config.address, self.config)
        except ZrayError as error:
            raise NoAnswer(str(error)) from None
        if others:
            there = f"{len(others) + 1} clusters of yours run on this machine; this is the one that was started last"
            click.echo(f"{there}. `zray status` lists them, --address chooses one.", err=True)

    @contextlib.contextmanager
    def source(self) -> Iterator[tuple[Observer, Source]]:
        """Joins as an observer for as long as the block runs. Raises NoAnswer if the broker does not answer."""
        try:
            credentials = credentials_for(self.address, "driver", self.config.keys, self._insecure)
            with Observer(self.address, self.config, credentials) as observer:
                yield observer, Source(observer=observer)
        except ZrayError as error:
            raise NoAnswer(str(error)) from None


def takes_cluster(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that name a cluster. It gets a ``Cluster`` as its first argument."""

    @functools.wraps(function)
    def command(address: str, keys: str | None, insecure: bool, timeout_s: float, **options: Any) -> None:
        function(Cluster(address, keys, insecure, timeout_s), **options)

    return cluster_options(command)


def cluster_options(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that name a cluster. It gets the arguments of ``Cluster`` by name."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def targets(address: str, config: Config) -> list[str]:
    """Returns the addresses that may be meant, the one of the cluster that was started last at the end.

    Raises ZrayError if there is none, or the address cannot be used.
    """
    if address not in ("", "auto", "local"):
        address = own_form(address)
        check_address(address)
        return [address]
    found = [broker.address for root in own_roots(config) for broker in brokers(root, local=True)]
    if not found:
        raise ClusterUnavailableError(
            "no cluster of yours runs on this machine, neither a zray-broker nor a program that has called "
            "zray.init(): start one, or give --address"
        )
    return found
