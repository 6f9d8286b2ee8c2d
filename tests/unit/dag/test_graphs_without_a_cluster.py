"""Graphs: nodes inside values, the walk, texts and pictures. Nothing is executed."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

import zray
from zray.dag import InputNode, MultiOutputNode, plot
from zray.dag.drawing import render, to_dot
from zray.dag.node import DAGNode
from zray.dag.scanner import Scan


@zray.remote
def add(a: int, b: int = 0) -> int:
    return a + b


class _Model:
    def __init__(self, scale: int) -> None:
        self.scale = scale

    def run(self, value: int) -> int:
        return self.scale * value


Model = zray.remote(_Model)


@dataclasses.dataclass
class Holder:
    node: Any


def test_nodes_are_found_wherever_they_are() -> None:
    one, two = add.bind(1), add.bind(2)
    scan = Scan([one, {"x": (two, one)}, Holder(two)], DAGNode)
    assert scan.nodes == [one, two]
    first, named, holder = scan.replaced(lambda node: node.get_args()[0])
    assert (first, named, holder) == (1, {"x": (2, 1)}, Holder(2))


def test_what_is_not_copied() -> None:
    node, lock = add.bind(1), threading.Lock()
    value = [1, {"x": "y"}]
    assert Scan(value, DAGNode).replaced(lambda _: 0) is value
    assert Scan(lock, DAGNode).replaced(lambda _: 0) is lock
    replaced = Scan([node, add, Model, test_what_is_not_copied], DAGNode).replaced(lambda _: 0)
    assert replaced == [0, add, Model, test_what_is_not_copied]


def test_a_value_that_refers_to_itself() -> None:
    value: list[Any] = [add.bind(1)]
    value.append(value)
    replaced = Scan(value, DAGNode).replaced(lambda _: 5)
    assert replaced[0] == 5 and replaced[1] is replaced


def test_buffers_are_shared() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(10)
    _, copy = Scan([add.bind(1), array], DAGNode).replaced(lambda _: 0)
    assert numpy.shares_memory(copy, array)


def test_a_chain_of_thousands() -> None:
    node = add.bind(0)
    for _ in range(5000):
        node = add.bind(node)
    assert len(node._in_order()) == 5001
    assert node.apply_recursive(lambda copy: copy.get_args()[0]) == 0


def test_many_nodes_at_once() -> None:
    node = MultiOutputNode([add.bind(number) for number in range(2000)])
    assert len(node._get_all_child_nodes()) == 2000


def test_replacing_some_nodes_only() -> None:
    one, two = add.bind(1), add.bind(2)
    value = one.apply_functional([one, [two]], lambda node: node is one, lambda node: "first")
    assert value == ["first", [two]]


def test_children_that_are_arguments_themselves() -> None:
    one, two, three = add.bind(1), add.bind(2), add.bind(3)
    node = add.bind(one, b=[two, three])
    assert node._get_toplevel_child_nodes() == [one]
    assert node._get_all_child_nodes() == [one, two, three]
    assert node._apply_and_replace_all_child_nodes(lambda child: child.get_args()[0]).get_kwargs() == {"b": [2, 3]}


def test_each_node_is_visited_once_from_above() -> None:
    shared = add.bind(1)
    left, right = add.bind(shared), add.bind(shared, 2)
    top = add.bind(left, [right, shared])
    seen: list[DAGNode] = []
    top.traverse_and_apply(seen.append)
    assert seen == [top, left, right, shared]


def test_identifiers_stay_in_copies() -> None:
    node = add.bind(add.bind(1))
    copy = node._copy([5], {}, {}, {})
    assert copy.get_stable_uuid() == node.get_stable_uuid() and copy is not node


def test_texts() -> None:
    with InputNode() as value:
        model = Model.bind(2)
        node = add.options(name="sum").bind(model.run.bind(value.x), b=value[0])
    text = str(node)
    assert "FunctionNode" in text and "run()" in text and "name: sum" in text and "InputNode" in text


def test_the_language_of_graphviz() -> None:
    with InputNode() as value:
        model = Model.bind(2)
        node = MultiOutputNode([add.bind(model.run.bind(value.x), model.run.bind(value[0])), add.bind(1)])
    lines = {line.strip() for line in to_dot(node).splitlines()}
    assert {'"_Model" -> "run";', '"INPUT_ATTRIBUTE_NODE_x" -> "run";', '"INPUT_NODE" -> "INPUT_ATTRIBUTE_NODE_x";',
            '"run" -> "add";', '"run_1" -> "add";', '"add_1" -> "MultiOutputNode";'} <= lines  # fmt: skip


def test_names_are_quoted() -> None:
    assert '"a \\"name\\""' in to_dot(add.options(name='a "name"').bind(1))


def test_drawing_without_graphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ImportError, match="graphviz"):
        render(add.bind(1), "png")


def test_drawing_by_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "dot"
    program.write_text('#!/bin/sh\n[ "$1" = -Tpng ] || { echo "no such format" >&2; exit 1; }\n/bin/cat\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    node = add.bind(add.bind(1))
    plot(node, to_file=str(tmp_path / "graph"))
    assert (tmp_path / "graph").read_text() == to_dot(node)
    with pytest.raises(ValueError, match="no such format"):
        plot(node, to_file=str(tmp_path / "graph.xyz"))


def test_what_is_not_part_of_zray() -> None:
    for call in (add.bind(1).experimental_compile, add.bind(1).with_tensor_transport):
        with pytest.raises(NotImplementedError, match="zray has no"):
            call()


def test_input_types() -> None:
    with InputNode(input_type=int) as whole:
        assert whole.get_result_type() == "int"
    with InputNode(input_type={0: int, "x": Holder}) as parts:
        assert parts[0].get_result_type() == "int"
        assert parts["x"].get_result_type() == f"{__name__}.Holder"
        assert parts[1].get_result_type() is None and parts.get_result_type() is None


def test_parts_of_the_input_are_made_once() -> None:
    with InputNode() as value:
        assert value[0] is value[0] and value.x is value.x and value["x"] is not value.x
        assert value.x.key == "x"
        with pytest.raises(AssertionError):
            value[1.5]  # type: ignore[index]


def test_nodes_can_be_pickled() -> None:
    with InputNode() as value:
        node = add.bind(value, [value.x])
    copy = pickle.loads(pickle.dumps(node.get_args()[0]))
    assert isinstance(copy, InputNode) and copy.get_stable_uuid() == value.get_stable_uuid()
