"""Patterns of files to leave out mean what gitignore(5) says."""

from __future__ import annotations

import pytest

from zray.runtime_env.ignore import Patterns

CASES = [
    # pattern, path, is a directory, left out
    ("*.log", "a.log", False, True),
    ("*.log", "deep/down/a.log", False, True),
    ("*.log", "a.log.txt", False, None),
    ("/a.log", "a.log", False, True),
    ("/a.log", "deep/a.log", False, None),
    ("build/", "build", True, True),
    ("build/", "build", False, None),
    ("build/", "deep/build", True, True),
    ("deep/*.txt", "deep/a.txt", False, True),
    ("deep/*.txt", "deep/er/a.txt", False, None),
    ("deep/*.txt", "other/deep/a.txt", False, None),
    ("**/a", "x/y/a", False, True),
    ("**/a", "a", False, True),
    ("deep/**", "deep/a/b", False, True),
    ("deep/**", "deep", True, None),
    ("a/**/b", "a/b", False, True),
    ("a/**/b", "a/x/y/b", False, True),
    ("a?c", "abc", False, True),
    ("a?c", "a/c", False, None),
    ("[ab].txt", "b.txt", False, True),
    ("[!ab].txt", "b.txt", False, None),
    ("[!ab].txt", "c.txt", False, True),
    ("[ab", "[ab", False, True),
    (r"\#a", "#a", False, True),
    (r"\!a", "!a", False, True),
    (r"a\*", "a*", False, True),
    (r"a\*", "ab", False, None),
    ("# comment", "# comment", False, None),
    ("", "a", False, None),
    ("a   ", "a", False, True),
    ("a.b", "axb", False, None),
    ("a+(b)", "a+(b)", False, True),
]


@pytest.mark.parametrize(("pattern", "path", "is_directory", "left_out"), CASES, ids=lambda each: str(each))
def test_a_pattern(pattern, path, is_directory, left_out):
    assert Patterns([pattern]).leaves_out(path, is_directory) is left_out


def test_the_last_pattern_that_matches_decides():
    patterns = Patterns(["*.log", "!kept.log", "/really.log"])
    assert patterns.leaves_out("a.log", False) is True
    assert patterns.leaves_out("kept.log", False) is False
    assert patterns.leaves_out("other", False) is None
