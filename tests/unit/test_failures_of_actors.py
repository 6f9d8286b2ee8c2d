"""How the failures of actors travel."""

from __future__ import annotations

import pytest

from zray.exceptions import ActorDiedError, ActorUnavailableError
from zray.failures import decode_failure, encode_failure, error_text


@pytest.mark.parametrize("in_constructor", [True, False])
def test_whether_the_constructor_raised_travels(in_constructor: bool) -> None:
    packed = encode_failure("ActorDiedError", "why", b"\x01\x02", in_constructor=in_constructor)
    error = decode_failure(packed)
    assert isinstance(error, ActorDiedError)
    assert (error.actor_id, error.actor_init_failed, str(error)) == ("0102", in_constructor, "why")
    assert error_text(packed) == "why"


def test_other_failures_of_actors() -> None:
    error = decode_failure(encode_failure("ActorUnavailableError", "why", b"\x01"))
    assert isinstance(error, ActorUnavailableError)
    assert (error.actor_id, error.actor_init_failed) == ("01", False)
    nameless = decode_failure(encode_failure("ActorDiedError", "why"))
    assert isinstance(nameless, ActorDiedError) and nameless.actor_id is None
