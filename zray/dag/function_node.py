"""The module in which Ray has FunctionNode."""

from zray.dag.functions import FunctionNode

__all__ = ["FunctionNode"]
