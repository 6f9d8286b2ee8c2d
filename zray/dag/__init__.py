"""Graphs of calls, as Ray's ``ray.dag``: ``.bind()`` builds a graph, ``execute()`` submits all of its calls.

A node is made by ``f.bind(...)``, ``Class.bind(...)``, ``node_of_class.method.bind(...)`` or
``handle.method.bind(...)``. Its arguments may be other nodes, also inside lists and other values. ``InputNode`` stands
for what ``execute`` is given.

- ``node.py``: what all nodes have in common; the order in which a graph is walked.
- ``functions.py``, ``classes.py``, ``inputs.py``: the kinds of nodes.
- ``scanner.py``: finds nodes inside values.
- ``drawing.py``: graphs as pictures.

Ray's compiled graphs, and what belongs to them (channels, transports of tensors), are not part of zray.
"""

from zray.dag.classes import (
    IS_CLASS_METHOD_OUTPUT_KEY,
    PARENT_CLASS_NODE_KEY,
    PREV_CLASS_METHOD_CALL_KEY,
    ClassMethodNode,
    ClassNode,
)
from zray.dag.drawing import plot
from zray.dag.functions import FunctionNode, MultiOutputNode
from zray.dag.inputs import DAGInputData, InputAttributeNode, InputNode
from zray.dag.node import DAGNode

__all__ = [
    "IS_CLASS_METHOD_OUTPUT_KEY",
    "PARENT_CLASS_NODE_KEY",
    "PREV_CLASS_METHOD_CALL_KEY",
    "ClassMethodNode",
    "ClassNode",
    "DAGInputData",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
    "plot",
]
