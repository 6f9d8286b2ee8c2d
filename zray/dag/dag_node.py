"""The module in which Ray has DAGNode."""

from zray.dag.node import DAGNode

__all__ = ["DAGNode"]
