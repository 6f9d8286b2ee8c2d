"""The methods of an actor, for type checkers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from zray.api.actor import ActorHandle

C = TypeVar("C")


def methods_of(handle: ActorHandle[C]) -> type[C]:
    """Returns the handle. For type checkers, it has the methods of its class that are decorated with ``@zray.method``.

    They complete, and have the parameters and results of the class: ``methods_of(counter).add.remote(2)`` is an
    ``ObjectRef[int]`` if ``add`` returns an ``int``. (Not in Ray.)

    Args:
        handle: a handle of an actor whose class is known to the type checker.
    """
    methods: Any = handle
    return methods  # type: ignore[no-any-return]
