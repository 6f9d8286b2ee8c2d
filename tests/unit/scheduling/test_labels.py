"""The syntax of labels and selectors."""

from __future__ import annotations

import pytest

from zray.scheduling.constraint import IN, NOT_IN
from zray.scheduling.labels import check_labels, read_selector

LONG = "a" * 63


@pytest.mark.parametrize(
    ("text", "operator", "values"),
    [
        ("spot", IN, ["spot"]),
        ("!GPU", NOT_IN, ["GPU"]),
        ("", IN, [""]),
        ("in(A123, B456,C7)", IN, ["A123", "B456", "C7"]),
        ("!in(spot,on-demand)", NOT_IN, ["spot", "on-demand"]),
        ("(x)", IN, ["x"]),
        ("213521", IN, ["213521"]),
        (LONG, IN, [LONG]),
    ],
)
def test_selectors(text, operator, values):
    (term,) = read_selector({"some.prefix/key_1": text})
    assert term == ("some.prefix/key_1", operator, values)


@pytest.mark.parametrize(
    "text", ["-spot", "spot_", "in()", "in(spot,", "in(H100, TPU!GPU)", "!!!in(a)", "a b", "a\n", "ä", LONG + "a", "!"]
)
def test_what_is_no_selector(text):
    with pytest.raises(ValueError, match="Invalid label selector value"):
        read_selector({"key": text})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "key name"),
        ("-a", "key name"),
        ("a/", "key name"),
        (LONG + "a", "key name"),
        ("/a", "key prefix"),
        ("a.b-/c", "key prefix"),
        ("a/b/c", "key prefix"),
        (".".join([LONG] * 5) + "/a", "key prefix"),
    ],
)
def test_what_is_no_key(key, message):
    with pytest.raises(ValueError, match=f"Invalid label {message}"):
        read_selector({key: "a"})
    with pytest.raises(ValueError, match=f"Invalid label {message}"):
        check_labels({key: "a"})


def test_labels_of_a_host():
    assert check_labels({"ray.io/market-type": "spot", "zone": ""}) == {"ray.io/market-type": "spot", "zone": ""}
    with pytest.raises(ValueError, match="Invalid label value"):
        check_labels({"zone": "in(a)"})


@pytest.mark.parametrize("given", [None, [], "a=b", {"a": 1}, {1: "a"}])
def test_what_is_no_dictionary_of_strings(given):
    with pytest.raises(TypeError, match="dict of strings"):
        check_labels(given)
    with pytest.raises(TypeError, match="dict of strings"):
        read_selector(given)
