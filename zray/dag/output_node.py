"""The module in which Ray has MultiOutputNode."""

from zray.dag.functions import MultiOutputNode

__all__ = ["MultiOutputNode"]
