"""The module in which Ray has DAGInputData, InputAttributeNode, InputNode."""

from zray.dag.inputs import DAGInputData, InputAttributeNode, InputNode

__all__ = ["DAGInputData", "InputAttributeNode", "InputNode"]
