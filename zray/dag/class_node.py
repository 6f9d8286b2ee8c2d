"""The module in which Ray has ClassMethodNode and ClassNode."""

from zray.dag.classes import ClassMethodNode, ClassNode

__all__ = ["ClassMethodNode", "ClassNode"]
