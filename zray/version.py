"""The versions that the two ends of a connection compare; that of the protocol is in ``zray.protocol.messages``."""

import sys

VERSION = "0.1.0"


def python_version() -> str:
    """Major and minor version: what has to be equal for pickles and code objects to be understood."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"
