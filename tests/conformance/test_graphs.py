"""``.bind()`` graphs: functions, classes, methods, input nodes, several results, and what is refused."""

from __future__ import annotations

import importlib
import shutil

import pytest

from .helpers import raises_within

pytestmark = pytest.mark.filterwarnings("ignore:DAGNode.execute")


@pytest.fixture(scope="module")
def dag(ray):
    return importlib.import_module(f"{ray.__name__}.dag")


def make_functions(ray):
    @ray.remote(num_cpus=0)
    def add(a, b=0):
        return a + b

    @ray.remote(num_cpus=0)
    def double(value):
        return 2 * value

    return add, double


def make_class(ray):
    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self, start=0):
            self.value = start

        def add(self, by=1):
            self.value += by
            return self.value

        def read(self):
            return self.value

        @ray.method(num_returns=2)
        def both(self, a, b):
            return a, b

    return Counter


# ------------------------------------------------------------------ functions


def test_functions_of_functions(ray):
    add, double = make_functions(ray)
    node = add.bind(double.bind(3), b=add.bind(1, 2))
    assert ray.get(node.execute()) == 9
    assert ray.get(node.execute()) == 9


def test_a_node_runs_once_in_an_execution(ray, gate):
    add, _ = make_functions(ray)

    @ray.remote(num_cpus=0)
    def arrive():
        return ray.get(gate.arrive.remote())

    shared = arrive.bind()
    assert ray.get(add.bind(shared, shared).execute()) == 2
    assert ray.get(add.bind(shared, shared).execute()) == 4


def test_nodes_inside_other_values(ray):
    _, double = make_functions(ray)

    @ray.remote(num_cpus=0)
    def read(values, named, more=None):
        return [ray.get(value) for value in (*values, named["key"], *more[0])]

    one, two = double.bind(1), double.bind(2)
    assert ray.get(read.bind([one, two], {"key": one}, more=[(two, one)]).execute()) == [2, 4, 2, 4, 2]


def test_other_references_as_arguments(ray):
    add, double = make_functions(ray)
    assert ray.get(add.bind(double.remote(2), double.bind(ray.put(3))).execute()) == 10


def test_options(ray):
    @ray.remote(num_cpus=0)
    def name():
        return ray.get_runtime_context().get_task_name()

    assert ray.get(name.options(name="of the node").bind().execute()) == "of the node"

    @ray.remote(num_returns=2)
    def two():
        return 1, 2

    assert ray.get(two.bind().execute()) == [1, 2]


def test_a_task_that_fails(ray):
    add, _ = make_functions(ray)

    @ray.remote(num_cpus=0, max_retries=0)
    def fail():
        raise ValueError("of the graph")

    assert isinstance(raises_within(ray, add.bind(fail.bind(), 1).execute()), ValueError)


def test_a_long_chain(ray):
    add, _ = make_functions(ray)
    node = add.bind(0, 1)
    for _ in range(30):
        node = add.bind(node, 1)
    assert ray.get(node.execute()) == 31


# ------------------------------------------------------------------ classes


def test_methods_run_in_the_order_in_which_they_were_bound(ray):
    counter = make_class(ray).bind(10)
    counter.add.bind()
    counter.add.bind(by=5)
    last = counter.read.bind()
    assert ray.get(last.execute()) == 16
    assert ray.get(last.execute()) == 16  # with an actor of its own


def test_a_class_node_itself(ray):
    handle = make_class(ray).bind(3).execute()
    assert ray.get(handle.read.remote()) == 3


def test_constructors_and_methods_take_nodes(ray):
    add, double = make_functions(ray)
    counter = make_class(ray).bind(double.bind(4))
    assert ray.get(add.bind(counter.add.bind(double.bind(1)), counter.read.bind()).execute()) == 20


def test_an_actor_as_an_argument(ray):
    @ray.remote(num_cpus=0)
    def read(handle):
        return ray.get(handle.read.remote())

    assert ray.get(read.bind(make_class(ray).bind(7)).execute()) == 7


def test_options_of_classes_and_methods(ray):
    counter = make_class(ray).options(name="of a graph", lifetime="detached").bind(1)
    assert ray.get(counter.add.options(name="one more").bind().execute()) == 2
    handle = ray.get_actor("of a graph")
    assert ray.get(handle.read.remote()) == 2
    ray.kill(handle)


def test_an_actor_that_exists(ray):
    add, _ = make_functions(ray)
    handle = make_class(ray).remote(1)
    node = add.bind(handle.add.bind(1), handle.add.bind(1))
    assert ray.get(node.execute()) == 5
    assert ray.get(node.execute()) == 9
    assert ray.get(handle.read.remote()) == 5


def test_a_method_that_returns_several_values(ray, dag):
    handle = make_class(ray).remote()
    first, second = handle.both.bind(1, 2)
    assert first.is_class_method_output and (first.output_idx, second.output_idx) == (0, 1)
    assert ray.get(dag.MultiOutputNode([second, first]).execute()) == [2, 1]


# ------------------------------------------------------------------ input


def test_the_input(ray, dag):
    add, double = make_functions(ray)
    with dag.InputNode() as value:
        node = add.bind(double.bind(value), value)
    assert ray.get(node.execute(3)) == 9
    assert ray.get(node.execute(ray.put(4))) == 12


def test_parts_of_one_input(ray, dag):
    add, _ = make_functions(ray)
    with dag.InputNode() as value:
        node = add.bind(value[0], value[1])
        named = add.bind(value["a"], value["b"])
        of_object = add.bind(value.real, value.imag)
    assert ray.get(node.execute([1, 2])) == 3
    assert ray.get(named.execute({"a": 3, "b": 4})) == 7
    assert ray.get(of_object.execute(5 + 6j)) == 11.0


def test_several_inputs(ray, dag):
    add, _ = make_functions(ray)
    with dag.InputNode() as value:
        node = add.bind(add.bind(value[0], value[1]), add.bind(value.c, value["d"]))
    assert ray.get(node.execute(1, 2, c=3, d=4)) == 10
    with pytest.raises((IndexError, KeyError)):
        node.execute(1, 2)


def test_the_input_of_methods(ray, dag):
    with dag.InputNode() as value:
        counter = make_class(ray).bind(1)
        node = counter.add.bind(value)
    assert ray.get(node.execute(5)) == 6


def test_several_results(ray, dag):
    add, double = make_functions(ray)
    with dag.InputNode() as value:
        node = dag.MultiOutputNode([double.bind(value), add.bind(value, 1)])
    assert ray.get(node.execute(5)) == [10, 6]
    pair = dag.MultiOutputNode((double.bind(1), double.bind(2)))
    assert ray.get(pair.execute()) == [2, 4]


# ------------------------------------------------------------------ the graph itself


def test_what_a_node_was_bound_to(ray):
    add, double = make_functions(ray)
    below = double.bind(1)
    node = add.options(name="x").bind(below, b=2)
    assert list(node.get_args()) == [below] and node.get_kwargs() == {"b": 2}
    assert node.get_options()["name"] == "x"
    assert len({below.get_stable_uuid(), node.get_stable_uuid()}) == 2


def test_functions_on_the_nodes(ray, dag):
    add, double = make_functions(ray)
    node = add.bind(double.bind(1), [double.bind(2)])
    seen = []

    def visit(node):
        seen.append(type(node).__name__)
        return len(seen)

    assert node.apply_recursive(visit) == 3 and seen == ["FunctionNode"] * 3

    def bigger(node):
        if len(node.get_args()) == 1:
            return node._copy([10], node.get_kwargs(), node.get_options(), node.get_other_args_to_resolve())
        return node

    changed = add.bind(double.bind(1), double.bind(2)).apply_recursive(bigger)
    assert ray.get(changed.execute()) == 40


def test_a_graph_travels(ray):
    add, double = make_functions(ray)
    node = add.bind(double.bind(1), 1)

    @ray.remote(num_cpus=0)
    def execute(node):
        return ray.get(node.execute())

    assert ray.get(execute.remote(node)) == 3


def test_results_of_all_nodes(ray):
    import asyncio

    add, double = make_functions(ray)
    below = double.bind(1)
    node = add.bind(below, 1)
    assert ray.get(node.execute(_ray_cache_refs=True)) == 3
    found = asyncio.run(node.get_object_refs_from_last_execute())
    assert ray.get([found[below.get_stable_uuid()], found[node.get_stable_uuid()]]) == [2, 3]


def test_a_warning(ray):
    _, double = make_functions(ray)
    with pytest.warns(DeprecationWarning, match="execute"):
        assert ray.get(double.bind(2).execute()) == 4


# ------------------------------------------------------------------ refusals


def test_what_cannot_be_called(ray):
    add, _ = make_functions(ray)
    counter = make_class(ray).bind()
    for node in (add.bind(1), counter, counter.read.bind()):
        with pytest.raises(AttributeError, match="remote"):
            node.remote()
        with pytest.raises(AttributeError, match="bind"):
            node.bind()
    with pytest.raises(AttributeError):
        counter.no_such_method  # noqa: B018
    with pytest.raises(AttributeError):
        counter.read.remote()


def test_inputs_that_are_refused(ray, dag):
    add, _ = make_functions(ray)
    with pytest.raises(ValueError, match="InputNode"):
        dag.InputNode(1)
    with pytest.raises(ValueError, match="InputNode"), dag.InputNode() as value:
        make_class(ray).bind(value)
    with pytest.raises(AssertionError):
        add.bind(dag.InputNode(), 1).execute(1)
    with dag.InputNode() as first, dag.InputNode() as second:
        node = add.bind(first, second)
    with pytest.raises(AssertionError):
        node.execute(1)
    with pytest.raises(ValueError):
        dag.MultiOutputNode(add.bind(1))


def test_arguments_that_do_not_fit(ray):
    handle = make_class(ray).remote()
    with pytest.raises(TypeError):
        handle.read.bind(1, 2, 3)


def test_a_picture_needs_graphviz(ray, dag, tmp_path, monkeypatch):
    add, _ = make_functions(ray)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImportError):
        dag.plot(add.bind(1), to_file=str(tmp_path / "graph.png"))


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_a_picture(ray, dag, tmp_path):
    add, double = make_functions(ray)
    with dag.InputNode() as value:
        node = add.bind(double.bind(value[0]), double.bind(value.x))
    path = tmp_path / "graph.png"
    dag.plot(node, to_file=str(path))
    assert path.read_bytes().startswith(b"\x89PNG")
