"""The error of an installation."""


class InstallError(Exception):
    """A part cannot be installed. The message is for the user, without a traceback."""
