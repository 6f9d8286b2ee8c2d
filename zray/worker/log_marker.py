"""How a worker tells its host, within its output, whose output follows."""

NAME_MARKER = b"\x1ezray-name:"
"""A line that begins with this carries a name and is not shown; the lines behind it belong to that name."""
