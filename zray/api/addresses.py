"""Which cluster ``init`` joins: the forms of an address, and the key for it.

An address is ``ipc://PATH`` or ``tcp://HOST:PORT``. Two forms of Ray lead to the same broker as ``tcp://HOST:PORT``:
``HOST:PORT``, and ``ray://HOST:PORT``, which is for clients outside of the cluster. In zray any driver may be outside.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from zray.config import Config
from zray.exceptions import ClusterUnavailableError, ConfigError
from zray.sessions.directories import brokers, choose_broker, runtime_root
from zray.system.streams import say

if TYPE_CHECKING:
    from zray.transport.security.keys import ClientCredentials

AUTO, LOCAL = "auto", "local"
logger = logging.getLogger("zray")


def chosen_address(given: str | None, config: Config) -> str:
    """Returns the address that applies: the program's, unless that is "auto" and a setting says which one."""
    if given in (None, "", AUTO):
        return config.address or given or ""
    assert given is not None
    return given


def own_form(address: str) -> str:
    """Returns ``address`` in zray's form.

    Raises ConfigError, which is a ValueError, if it is of the web interface that Ray has (``http://``).
    """
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"Invalid address {address!r}: HTTP is not spoken by a broker. Give the broker's address, tcp://HOST:PORT "
            "(Ray: GCS address), or unset RAY_ADDRESS"
        )
    if address.startswith("ray://"):
        return "tcp://" + address.removeprefix("ray://").split("/", 1)[0]
    if address not in ("", AUTO, LOCAL) and "://" not in address and ":" in address:
        return "tcp://" + address
    return address


def broker_of(given: str | None, config: Config) -> str:
    """Returns the address of the broker to join; empty: start a cluster instead. ``given``: by the program.

    Raises ConfigError for an address of no known form, ClusterUnavailableError if "auto" finds no broker.
    """
    told = given not in (None, "", AUTO)
    address = chosen_address(given, config)
    if address == LOCAL:
        return ""
    if address not in ("", AUTO):
        try:
            from zray.transport.sockets import check_address

            address = own_form(address)
            check_address(address)
        except ConfigError as error:
            from zray.config.reading import sources  # loaded only where settings are read

            raise error if told else ConfigError(f"{sources()['address']}: {error}") from None
        return address
    current, warning = choose_broker(runtime_root(config.tmpdir))
    if warning:
        logger.warning(warning)
    if current is not None:
        if not address and logger.isEnabledFor(logging.INFO):
            say(f"zray: joining the cluster that runs on this machine, at {current.address}")
        return current.address
    if not address:
        return ""
    if of_programs := brokers(runtime_root(config.tmpdir), local=True):
        chosen = of_programs[-1].address
        if len(of_programs) > 1:
            logger.warning(
                f"{len(of_programs)} programs of yours run clusters on this machine: this joins the one at {chosen}. "
                f"Give the address to choose; all are at {', '.join(each.address for each in of_programs)}"
            )
        return chosen
    raise ClusterUnavailableError(
        "address='auto': no cluster of this user runs on this machine (start one with zray start --head, or call "
        "zray.init() without an address)"
    )


def credentials_of(address: str, config: Config, insecure: bool) -> ClientCredentials | None:
    """Returns the driver's key for a broker on TCP; None if it needs none."""
    if not address.startswith("tcp://"):
        return None
    from zray.transport.security.dialer import credentials_for, insecurity

    if warning := insecurity(address, insecure):
        logger.warning(warning)
    return credentials_for(address, "driver", config.keys, insecure, config.connect_timeout_s)
