"""The module in which Ray has ``plot``."""

from zray.dag.drawing import plot

__all__ = ["plot"]
