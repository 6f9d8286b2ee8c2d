"""The versions that both ends of a connection compare. The protocol's version is in ``zray.protocol.messages``."""

import sys

VERSION = "0.1.0"
RAY_VERSION = "2.60.0"
"""The version of Ray whose interface zray has. Libraries that need Ray compare it with what they need."""
RAY_COMMIT = f"zray-{VERSION}"
"""In the place of the commit that Ray was built from."""


def python_version() -> str:
    """Major and minor version, as "3.11". Both ends need the same, to read each other's pickles and code objects."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"
