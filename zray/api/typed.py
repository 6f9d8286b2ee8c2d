"""What type checkers see of ``remote``, of ``@zray.method`` and of the methods of actors.

``remote`` takes the parameters of the function or method. Each of the first six positional arguments may also be a
reference to a value of the parameter's type. The overloads find these types through the protocols ``Takes1`` to
``Takes6``: the method ``_takes``, which only type checkers see, has the parameters of the function. Types cannot say
the same of keyword arguments.

The constructor of an actor's class is found in two ways, because neither is known to both mypy and pyright: see
``Constructible`` and ``Constructs``.

While a program runs, nothing of this exists but the base class ``Remote``, which is empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, overload

MYPY = False
"""True for mypy, which knows this name."""

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Concatenate

    from zray.object_ref import ObjectRef

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)

if TYPE_CHECKING:
    M_co = TypeVar("M_co", covariant=True)
    T = TypeVar("T")
    T_co = TypeVar("T_co", covariant=True)
    A = TypeVar("A")
    B = TypeVar("B")
    C = TypeVar("C")
    D = TypeVar("D")
    E = TypeVar("E")
    F = TypeVar("F")
    A_in = TypeVar("A_in", contravariant=True)
    B_in = TypeVar("B_in", contravariant=True)
    C_in = TypeVar("C_in", contravariant=True)
    D_in = TypeVar("D_in", contravariant=True)
    E_in = TypeVar("E_in", contravariant=True)
    F_in = TypeVar("F_in", contravariant=True)

    class Takes1(Protocol[A_in, Q, R_co]):
        """What has a function with at least 1 positional parameter."""

        def _takes(self, a: A_in, /, *args: Q.args, **kwargs: Q.kwargs) -> R_co: ...

    class Takes2(Protocol[A_in, B_in, Q, R_co]):
        """What has a function with at least 2 positional parameters."""

        def _takes(self, a: A_in, b: B_in, /, *args: Q.args, **kwargs: Q.kwargs) -> R_co: ...

    class Takes3(Protocol[A_in, B_in, C_in, Q, R_co]):
        """What has a function with at least 3 positional parameters."""

        def _takes(self, a: A_in, b: B_in, c: C_in, /, *args: Q.args, **kwargs: Q.kwargs) -> R_co: ...

    class Takes4(Protocol[A_in, B_in, C_in, D_in, Q, R_co]):
        """What has a function with at least 4 positional parameters."""

        def _takes(self, a: A_in, b: B_in, c: C_in, d: D_in, /, *args: Q.args, **kwargs: Q.kwargs) -> R_co: ...

    class Takes5(Protocol[A_in, B_in, C_in, D_in, E_in, Q, R_co]):
        """What has a function with at least 5 positional parameters."""

        def _takes(self, a: A_in, b: B_in, c: C_in, d: D_in, e: E_in, /, *args: Q.args, **kwargs: Q.kwargs) -> R_co: ...

    class Takes6(Protocol[A_in, B_in, C_in, D_in, E_in, F_in, Q, R_co]):
        """What has a function with at least 6 positional parameters."""

        def _takes(
            self, a: A_in, b: B_in, c: C_in, d: D_in, e: E_in, f: F_in, /, *args: Q.args, **kwargs: Q.kwargs
        ) -> R_co: ...


class Remote(Generic[P, R_co]):
    """What has ``remote``: a remote function, or a method of an actor.

    ``P``: the parameters. ``R_co``: what ``remote`` returns, such as ``ObjectRef[int]``.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def _takes(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

        @overload
        def remote(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

        @overload
        def remote(
            self: Takes1[A, Q, T],
            a: A | ObjectRef[A],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> T: ...

        @overload
        def remote(
            self: Takes2[A, B, Q, T],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> T: ...

        @overload
        def remote(
            self: Takes3[A, B, C, Q, T],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> T: ...

        @overload
        def remote(
            self: Takes4[A, B, C, D, Q, T],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            d: D | ObjectRef[D],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> T: ...

        @overload
        def remote(
            self: Takes5[A, B, C, D, E, Q, T],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            d: D | ObjectRef[D],
            e: E | ObjectRef[E],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> T: ...

        @overload
        def remote(
            self: Takes6[A, B, C, D, E, F, Q, T],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            d: D | ObjectRef[D],
            e: E | ObjectRef[E],
            f: F | ObjectRef[F],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> T: ...

        def remote(self: Any, *args: Any, **kwargs: Any) -> Any: ...  # type: ignore[misc]  # a protocol is no Remote


if TYPE_CHECKING:
    if MYPY:

        class OnlyForMypy(Protocol):
            """Everything is one for mypy, and nothing for pyright, which takes the second declaration."""

        class Constructible(Protocol[P, T_co]):
            """For mypy, a class with the parameters of its constructor. A function is none: it has no ``mro``.

            Pyright knows no parameters here. So no class is one for it, and it finds them by ``Constructs``.
            """

            def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...

            def mro(self) -> list[type]: ...

    else:

        class OnlyForMypy(Protocol):
            def _is_none(self) -> None: ...

        class Constructible(Protocol[P, T_co]):
            def _is_none(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...

    class Constructs(Protocol[P, T_co]):
        """For pyright, an actor class with the parameters of its class's constructor."""

        @property
        def __ray_actor_class__(self) -> Callable[P, T_co]: ...

    class Constructs1(Protocol[A_in, Q, T_co]):
        """As ``Constructs``, with at least 1 positional parameter."""

        @property
        def __ray_actor_class__(self) -> Callable[Concatenate[A_in, Q], T_co]: ...

    class Constructs2(Protocol[A_in, B_in, Q, T_co]):
        """As ``Constructs``, with at least 2 positional parameters."""

        @property
        def __ray_actor_class__(self) -> Callable[Concatenate[A_in, B_in, Q], T_co]: ...

    class Constructs3(Protocol[A_in, B_in, C_in, Q, T_co]):
        """As ``Constructs``, with at least 3 positional parameters."""

        @property
        def __ray_actor_class__(self) -> Callable[Concatenate[A_in, B_in, C_in, Q], T_co]: ...

    class Constructs4(Protocol[A_in, B_in, C_in, D_in, Q, T_co]):
        """As ``Constructs``, with at least 4 positional parameters."""

        @property
        def __ray_actor_class__(self) -> Callable[Concatenate[A_in, B_in, C_in, D_in, Q], T_co]: ...

    class Method(Generic[P, R_co, M_co]):
        """A method under ``@zray.method``. Read from an object it is the method, with parameters ``P``.

        Read from the class, as ``methods_of`` does, it is a method of an actor, an ``M_co``.
        """

        @overload
        def __get__(self, instance: None, owner: type) -> M_co: ...

        @overload
        def __get__(self, instance: object, owner: type) -> Callable[P, R_co]: ...

        def __get__(self, instance: Any, owner: type) -> Any: ...
