"""Terms, choices, and constraints on the wire."""

from __future__ import annotations

import pytest

from zray.protocol.codec import pack, unpack
from zray.scheduling.combine import combine
from zray.scheduling.constraint import (
    DOES_NOT_EXIST,
    EXISTS,
    IN,
    NOT_IN,
    Choice,
    Constraint,
    Term,
    constraint_from_row,
)
from zray.scheduling.node_affinity import NodeAffinitySchedulingStrategy
from zray.scheduling.node_label import DoesNotExist, Exists, In, NodeLabelSchedulingStrategy, NotIn

NODE = b"node".ljust(16, b"\0")
ZONE_A, ZONE_B = (Term("zone", IN, [zone]) for zone in "ab")


@pytest.mark.parametrize(
    ("operator", "values", "of_a", "of_b", "of_none"),
    [
        (IN, ["a", "c"], True, False, False),
        (NOT_IN, ["a", "c"], False, True, True),
        (EXISTS, [], True, True, False),
        (DOES_NOT_EXIST, [], False, False, True),
    ],
)
def test_a_term(operator, values, of_a, of_b, of_none):
    term = Term("zone", operator, values)
    assert [term.holds(labels) for labels in ({"zone": "a"}, {"zone": "b"}, {"other": "a"})] == [of_a, of_b, of_none]


def test_a_choice_is_one_host_or_all_with_its_labels():
    assert Choice(b"", []).admits(NODE, {})
    assert Choice(NODE, []).admits(NODE, {})
    assert not Choice(NODE, []).admits(bytes(16), {})
    assert Choice(b"", [ZONE_A, Term("disk", EXISTS, [])]).admits(NODE, {"zone": "a", "disk": "x"})
    assert not Choice(b"", [ZONE_A, Term("disk", EXISTS, [])]).admits(NODE, {"zone": "a"})


def test_a_constraint_survives_the_wire():
    constraint = Constraint([Choice(NODE, [ZONE_A]), Choice(b"", [Term("x", EXISTS, [])])], True, False, False)
    assert constraint_from_row(unpack(pack(constraint.to_row()))) == constraint
    assert str(constraint) == f"node {NODE.hex()} and zone in (a), or else x exists"


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        [[], True, True, True],
        [[[b"", []]], 1, True, True],
        [[["", []]], True, True, True],
        [[[b"", [["a", 9, []]]]], True, True, True],
        [[[b"", [["a", True, []]]]], True, True, True],
        [[[b"", [["a", 0, [1]]]]], True, True, True],
        [[[b"", [[1, 0, []]]]], True, True, True],
        [[[b"", [["a", 0]]]], True, True, True],
        [[[b""]], True, True, True],
    ],
)
def test_a_malformed_constraint_is_refused(row):
    with pytest.raises(ValueError, match=r"a constraint|a choice of hosts|a condition on a label"):
        constraint_from_row(row)


def test_strategies_become_constraints():
    affinity = NodeAffinitySchedulingStrategy
    hard = Constraint([Choice(NODE, [])], insists=False, fails=True, fails_if_full=False)
    soft = Constraint([Choice(NODE, []), Choice(b"", [])], insists=True, fails=False, fails_if_full=False)
    assert affinity(NODE.hex(), soft=False).constraint() == hard
    assert affinity(NODE, True).constraint() == soft
    assert affinity(NODE, False, _fail_on_unavailable=True).constraint() == hard._replace(fails_if_full=True)
    assert affinity(NODE, True, _spill_on_unavailable=True).constraint() == soft._replace(insists=False)
    labels = NodeLabelSchedulingStrategy({"zone": In("a")}, soft={"x": NotIn("1"), "y": Exists(), "z": DoesNotExist()})
    wished = [Term("x", NOT_IN, ["1"]), Term("y", EXISTS, []), Term("z", DOES_NOT_EXIST, [])]
    assert labels.constraint() == Constraint(
        [Choice(b"", [ZONE_A, *wished]), Choice(b"", [ZONE_A])], False, False, False
    )


def test_a_strategy_and_selectors_combine():
    assert combine(None, None, None) is None
    assert combine(None, None, [{"label_selector": {"zone": "a"}}]) is None
    both = combine(NodeAffinitySchedulingStrategy(NODE, True), {"zone": "a"}, [{"label_selector": {"zone": "b"}}])
    assert both == Constraint(
        [Choice(NODE, [ZONE_A]), Choice(NODE, [ZONE_B]), Choice(b"", [ZONE_A]), Choice(b"", [ZONE_B])],
        insists=True,
        fails=False,
        fails_if_full=False,
    )


@pytest.mark.parametrize("node_id", ["", "abc", "xy" * 16, "ff" * 28, "ff" * 16, "00" * 5])
def test_what_is_no_node(node_id):
    with pytest.raises(ValueError, match="Invalid node_id"):
        NodeAffinitySchedulingStrategy(node_id, soft=False)


def test_what_does_not_go_with_soft():
    with pytest.raises(ValueError, match="_spill_on_unavailable"):
        NodeAffinitySchedulingStrategy(NODE, soft=False, _spill_on_unavailable=True)
    with pytest.raises(ValueError, match="_fail_on_unavailable"):
        NodeAffinitySchedulingStrategy(NODE, soft=True, _fail_on_unavailable=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: In(), "In needs at least one value"),
        (lambda: NotIn("a", 1), "position 1 of NotIn must be str"),  # type: ignore[arg-type]
        (lambda: NodeLabelSchedulingStrategy({}), "cannot both be empty"),
        (lambda: NodeLabelSchedulingStrategy([1]), "hard parameter must be a map"),  # type: ignore[arg-type]
        (lambda: NodeLabelSchedulingStrategy({1: In("a")}), "map key of the hard"),  # type: ignore[dict-item]
        (lambda: NodeLabelSchedulingStrategy({}, soft={"a": "b"}), "map value for key a of the soft"),  # type: ignore[dict-item]
    ],
)
def test_malformed_conditions(make, message):
    with pytest.raises(ValueError, match=message):
        make()
