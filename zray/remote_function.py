"""The module in which Ray has the class of remote functions."""

from zray.api.remote_function import RemoteFunction

__all__ = ["RemoteFunction"]
