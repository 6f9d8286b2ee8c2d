"""A call is refused before it is sent, in the words that a local call would get."""

from __future__ import annotations

import functools

import pytest

from zray.signatures import SignatureCheck


def plain(a, b=1):
    pass


def positional_only(a, /, b):
    pass


def keyword_only(a, *, key, other=1):
    pass


def odd_names(self, name, args, kwargs=1):
    pass


def anything(*args, **kwargs):
    pass


def rest(a, *args):
    pass


class Actor:
    def __init__(self, size, *, depth=0):
        pass

    def method(self, x, y=0):
        pass


class NoConstructor:
    pass


FITTING = [
    (plain, (1,), {}),
    (plain, (1, 2), {}),
    (plain, (), {"a": 1, "b": 2}),
    (plain, (1,), {"b": 2}),
    (positional_only, (1, 2), {}),
    (positional_only, (1,), {"b": 2}),
    (keyword_only, (1,), {"key": 2}),
    (odd_names, (1, 2, 3), {}),
    (odd_names, (), {"self": 1, "name": 2, "args": 3, "kwargs": 4}),
    (anything, (1, 2, 3), {"self": 1, "args": 2}),
    (rest, (1, 2, 3), {}),
    (Actor, (1,), {"depth": 2}),
    (NoConstructor, (), {}),
    (lambda: 0, (), {}),
    (functools.partial(plain, 1), (2,), {}),
]


@pytest.mark.parametrize(("function", "args", "kwargs"), FITTING)
def test_what_fits_passes(function, args, kwargs):
    SignatureCheck(function, skip_first=False).bind_check(args, kwargs)
    function(*args, **kwargs)


REFUSED = [
    (plain, (), {}, r"^plain\(\) missing a required argument: 'a'$"),
    (plain, (1, 2, 3), {}, r"^plain\(\) too many positional arguments$"),
    (plain, (1,), {"c": 1}, r"^plain\(\) got an unexpected keyword argument 'c'$"),
    (plain, (1,), {"a": 1}, r"^plain\(\) multiple values for argument 'a'$"),
    (positional_only, (), {"a": 1, "b": 2}, r"^positional_only\(\) .*'a'"),
    (keyword_only, (1,), {}, r"^keyword_only\(\) missing a required.*argument: 'key'$"),
    (keyword_only, (1, 2), {}, r"^keyword_only\(\) too many positional arguments$|'key'"),
    (odd_names, (), {}, r"^odd_names\(\) missing a required argument: 'self'$"),
    (rest, (), {}, r"^rest\(\) missing a required argument: 'a'$"),
    (Actor, (), {}, r"^Actor\(\) missing a required argument: 'size'$"),
    (NoConstructor, (1,), {}, r"^NoConstructor\(\) too many positional arguments$"),
    (functools.partial(plain, 1, 2), (3,), {}, r"^partial\(\) too many positional arguments$"),
]


@pytest.mark.parametrize(("function", "args", "kwargs", "message"), REFUSED)
def test_what_does_not_fit_raises_as_a_local_call_does(function, args, kwargs, message):
    with pytest.raises(TypeError, match=message) as caught:
        SignatureCheck(function, skip_first=False).bind_check(args, kwargs)
    assert caught.value.__suppress_context__
    with pytest.raises(TypeError):
        function(*args, **kwargs)


def test_the_first_parameter_of_a_method_is_left_out():
    check = SignatureCheck(Actor.method, skip_first=True)
    check.bind_check((1,), {})
    check.bind_check((), {"x": 1, "y": 2})
    with pytest.raises(TypeError, match=r"^method\(\) missing a required argument: 'x'$"):
        check.bind_check((), {})
    with pytest.raises(TypeError, match="too many"):
        check.bind_check((1, 2, 3), {})
    SignatureCheck(anything, skip_first=True).bind_check((1, 2), {"self": 3})


def test_what_a_wrapper_accepts_counts_and_not_what_it_wraps():
    @functools.wraps(plain)
    def with_connection(*args):
        return plain("connection", *args)

    SignatureCheck(with_connection, skip_first=False).bind_check((), {})


@pytest.mark.parametrize("function", [dict, print, max, type("Odd", (), {"__signature__": 5})()])
def test_callables_without_a_signature_are_not_checked(function):
    SignatureCheck(function, skip_first=False).bind_check((1, 2), {})
