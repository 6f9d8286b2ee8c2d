"""What a child's environment has of its parent's."""

from __future__ import annotations

from zray.runtime_env.environment import merged


def test_variables_are_merged_and_other_fields_replaced():
    parent = {"env_vars": {"A": "1", "B": "2"}, "working_dir": "gcs://a.zip", "py_executable": "python"}
    child = {"env_vars": {"B": "3"}, "working_dir": "gcs://b.zip"}
    assert merged(parent, child) == {
        "env_vars": {"A": "1", "B": "3"}, "working_dir": "gcs://b.zip", "py_executable": "python",
    }  # fmt: skip
    assert parent["env_vars"] == {"A": "1", "B": "2"}


def test_one_kind_of_requirements_replaces_the_other():
    assert merged({"py_executable": "uv run python"}, {"pip": {"packages": ["b"]}}) == {"pip": {"packages": ["b"]}}
    assert merged({"pip": {"packages": ["b"]}}, {"py_executable": "python"}) == {"py_executable": "python"}
    assert merged({"pip": {"packages": ["a"]}}, {"uv": {"packages": ["b"]}}) == {"uv": {"packages": ["b"]}}
    assert merged({"pip": {"packages": ["a"]}}, {"pip": {"packages": ["b"]}}) == {"pip": {"packages": ["b"]}}


def test_without_a_parent():
    assert merged({}, {"env_vars": {"A": "1"}}) == {"env_vars": {"A": "1"}}
    assert merged({"env_vars": {"A": "1"}}, {}) == {"env_vars": {"A": "1"}}
