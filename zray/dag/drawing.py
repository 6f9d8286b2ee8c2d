"""Graphs as pictures, drawn by the program ``dot`` of graphviz."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

from zray.dag.classes import ClassMethodNode, ClassNode
from zray.dag.functions import FunctionNode, MultiOutputNode
from zray.dag.inputs import InputAttributeNode, InputNode
from zray.dag.node import DAGNode


def plot(dag: DAGNode, to_file: str | None = None) -> Any:
    """Draws a graph.

    Args:
        dag: the node in which the graph ends.
        to_file: where the picture is written; its ending is the format (``.png``, ``.svg``, ``.pdf``, ``.dot``), PNG if
            it has none.

    Returns:
        None if ``to_file`` is given; else a picture that a notebook shows, or, without IPython, its bytes (PNG).

    Raises:
        ImportError: graphviz is not installed.
        OSError: the file cannot be written.
    """
    if to_file is not None:
        kind = os.path.splitext(to_file)[1][1:] or "png"
        picture = render(dag, kind)
        with open(to_file, "wb") as file:
            file.write(picture)
        return None
    picture = render(dag, "png")
    try:
        import IPython.display as notebook
    except ImportError:
        return picture
    show: Any = notebook.Image  # IPython is untyped
    return show(data=picture)


def render(dag: DAGNode, kind: str) -> bytes:
    """Returns the picture of a graph in the format ``kind`` of graphviz. Raises ImportError, ValueError."""
    program = shutil.which("dot")
    if program is None:
        raise ImportError("plot() needs graphviz, whose program 'dot' is not on the PATH: install graphviz")
    done = subprocess.run([program, f"-T{kind}"], input=to_dot(dag).encode(), capture_output=True)
    if done.returncode:
        raise ValueError(f"graphviz cannot draw the graph as {kind!r}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def to_dot(dag: DAGNode) -> str:
    """Returns a graph in the language of graphviz. Edges lead from an argument to the call that takes it."""
    nodes = dag._in_order()
    names = _names(nodes)
    lines = [f"  {_quoted(names[node._stable_uuid])};" for node in nodes]
    for node in nodes:
        target = _quoted(names[node._stable_uuid])
        children = node._get_all_child_nodes()
        lines.extend(f"  {_quoted(names[child._stable_uuid])} -> {target};" for child in children)
    return "\n".join(["digraph {", "  rankdir=LR;", *lines, "}"]) + "\n"


def _names(nodes: list[DAGNode]) -> dict[str, str]:
    """A name for each node, by its identifier: nodes with the same name are numbered."""
    counts: dict[str, int] = {}
    names = {}
    for node in nodes:
        name = _name(node)
        count = counts[name] = counts.get(name, -1) + 1
        names[node._stable_uuid] = f"{name}_{count}" if count else name
    return names


def _name(node: DAGNode) -> str:
    if isinstance(node, InputNode):
        return "INPUT_NODE"
    if isinstance(node, InputAttributeNode):
        return f"INPUT_ATTRIBUTE_NODE_{node.key}"
    if isinstance(node, MultiOutputNode):
        return "MultiOutputNode"
    given = node.get_options().get("name")
    if given:
        return str(given)
    if isinstance(node, ClassMethodNode):
        return node.get_method_name()
    if isinstance(node, (ClassNode, FunctionNode)):
        return node._body.__name__
    return type(node).__name__


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
