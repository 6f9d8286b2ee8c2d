"""``ActorClass``, the result of ``@zray.remote`` on a class; ``ActorHandle``, the result of creating one; methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeVar, overload

from zray.api.actor_meta import METHOD_OPTIONS, ActorMeta, CallOptions, MethodMeta
from zray.api.binding import bind_class, bind_method
from zray.api.generators import ObjectRefGenerator
from zray.api.remote_function import _Shipment, looks_like
from zray.api.runtime import checked_environment, runtime
from zray.api.typed import P, R_co, Remote
from zray.exceptions import ActorExit
from zray.object_ref import ObjectRef
from zray.options import ActorOptions, MethodOptions
from zray.options.subjects import METHOD
from zray.signatures import SignatureCheck

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from typing import Concatenate, Protocol

    from zray.api.typed import (
        A,
        B,
        Constructs,
        Constructs1,
        Constructs2,
        Constructs3,
        Constructs4,
        D,
        E,
        Method,
        OnlyForMypy,
        Q,
    )

C = TypeVar("C")
T = TypeVar("T")

_NOT_OF_THE_CLASS = ("__copy__", "__deepcopy__")
"""Attributes that are not looked up in the class: they say how its instances are copied, not how the class is."""


class _OfMethod:
    """A descriptor that reads an attribute of an ActorMethod from its method.

    On the class ActorMethod it returns ``of_class``, or raises AttributeError if that is None.
    """

    def __init__(self, read: Callable[[MethodMeta], Any], of_class: str | None = None) -> None:
        self._read = read
        self._of_class = of_class

    def __get__(self, method: ActorMethod[Any, Any] | None, owner: type) -> Any:
        if method is not None:
            return self._read(method._meta)
        if self._of_class is None:
            raise AttributeError(f"{owner.__name__} itself has none")
        return self._of_class


class ActorMethod(Remote[P, R_co]):
    """A method of an actor: ``handle.method.remote(...)``.

    It shows the method's signature and docstring if the class is known. If the handle came from another process, it
    shows the names of the parameters.
    """

    __doc__ = _OfMethod(lambda meta: meta.function.__doc__ if meta.function is not None else None, __doc__)
    __signature__ = _OfMethod(lambda meta: meta.shown_signature)
    __name__ = _OfMethod(lambda meta: meta.name)
    __slots__ = ("_given", "_handle", "_meta", "_options", "_retries")

    def __init__(self, handle: ActorHandle[Any], meta: MethodMeta) -> None:
        self._handle = handle
        self._meta = meta
        self._options: CallOptions | None = None
        self._given: dict[str, Any] = {}  # to ``options``
        self._retries = handle._meta.max_task_retries if meta.retries is None else meta.retries

    def _submit(self, /, *args: Any, **kwargs: Any) -> Any:
        """Submits a call; see ``RemoteFunction.remote``.

        Calls of one caller run in the order in which it made them. If the actor has ``async def`` methods, or
        ``max_concurrency`` above 1, a call runs when its arguments exist, and several run at once.
        """
        meta = self._meta
        meta.check.bind_check(args, kwargs)
        handle = self._handle
        n_returns, stream, packed = self._options or handle._meta.call_options(meta)
        source = runtime()
        refs = source.call(
            handle._actor_id, handle._ref, handle._meta, meta.name, packed, n_returns, self._retries, args, kwargs,
            stream,
        )  # fmt: skip
        if stream is not None and not stream.spec.collected:
            return ObjectRefGenerator(source, refs)
        if n_returns == 1:
            return refs[0]
        return refs or None

    if not TYPE_CHECKING:
        remote = _submit

    def _remote(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Submits a call with options: Ray's other form of ``options(...).remote(*args, **kwargs)``."""
        return (self.options(**options) if options else self).remote(*(args or ()), **(kwargs or {}))

    def bind(self, /, *args: Any, **kwargs: Any) -> Any:
        """Returns a node of a graph of calls (``zray.dag``): a call of this method of this actor.

        If the method returns several values, returns a tuple with a node for each of them.
        """
        return bind_method(self, args, kwargs)

    @overload
    def options(self, *, num_returns: int | str, **options: Any) -> ActorMethod[P, Any]: ...

    @overload
    def options(self, **options: Any) -> ActorMethod[P, R_co]: ...

    def options(self, **options: Any) -> ActorMethod[P, Any]:
        """Returns the same method with other options.

        Options: ``num_returns``, ``max_task_retries``, ``retry_exceptions``, ``concurrency_group``, ``name``,
        ``timeout_s``, ``enable_task_events``; see ``zray.options.MethodOptions``.
        """
        given = MethodOptions.from_kwargs(options, what=f"{self._meta.name}.options()")
        method: ActorMethod[P, Any] = ActorMethod(self._handle, self._meta)
        method._given = options
        if "max_task_retries" in options and given.max_task_retries is not None:
            method._retries = given.max_task_retries
        method._options = CallOptions.of(self._handle._meta, self._meta, given, options)
        return method

    @property
    def _n_returns(self) -> int:
        return (self._options or self._handle._meta.call_options(self._meta)).n_returns

    @property
    def _method_name(self) -> str:
        return self._meta.name

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"Actor methods cannot be called directly: use .{self._meta.name}.remote(...)")

    def __repr__(self) -> str:
        return f"ActorMethod({self._handle._meta.class_name}.{self._meta.name})"


class ActorHandle(Generic[C]):
    """A reference to an actor of class ``C``. When the last handle is gone, the actor finishes its calls and ends."""

    __slots__ = ("__dict__", "__weakref__", "_actor_id", "_meta", "_ref")  # __dict__: programs label their handles

    def __init__(self, actor_id: bytes, ref: ObjectRef | None, meta: ActorMeta) -> None:
        self._actor_id = actor_id
        self._ref = ref  # keeps the actor; None: this handle does not keep it (it is weak, or the actor is detached)
        self._meta = meta

    def __getattr__(self, name: str) -> ActorMethod[..., Any]:
        method = self._meta.methods.get(name)
        if method is None:
            raise AttributeError(self._meta.no_method(name))
        return ActorMethod(self, method)

    def __dir__(self) -> list[str]:
        return sorted(self._meta.methods)

    @property
    def _ray_actor_id(self) -> Any:
        from zray.public_ids import ActorID  # not at the top: most processes never need it

        return ActorID(self._actor_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore_handle, (self._actor_id, self._ref, self._meta.packed()))

    def __eq__(self, other: object) -> bool:
        return other._actor_id == self._actor_id if isinstance(other, ActorHandle) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._actor_id)

    def __repr__(self) -> str:
        return f"Actor({self._meta.class_name}, {self._actor_id.hex()})"


def _restore_handle(actor_id: bytes, ref: ObjectRef | None, packed: bytes) -> ActorHandle[Any]:
    return ActorHandle(actor_id, ref, ActorMeta.unpack(packed))


_OF_THE_HANDLE = frozenset(name for base in ActorHandle.__mro__ for name in vars(base))


class UnknownMethodOption(ValueError, AssertionError):
    """``zray.method`` was given an option that methods do not have. Ray raises AssertionError."""


class ActorClassInheritanceException(TypeError):
    """The caller's fault: an actor class was subclassed, but it is not a Python class. The name is Ray's."""


class ActorClassMetadata:
    """What Ray's programs read of an actor class, as ``__ray_metadata__``: ``modified_class`` (the plain class),
    ``class_name``, and the options of the class by their names, for example ``max_restarts``."""

    def __init__(self, kind: type, options: ActorOptions) -> None:
        self.modified_class = kind
        self.class_name = kind.__name__
        self._options = options

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._options, name)


class ActorClass(Generic[C]):
    """A class, ``C``, whose instances live in processes of their own: ``Class.remote(...)`` creates one.

    Attributes that it does not have are looked up in ``C``. So callers can use the class attributes, static methods and
    class methods of ``C``. So can the methods of ``C``, for which the name of the class refers to this object too.
    """

    if not TYPE_CHECKING:
        remote: Callable[..., ActorHandle[C]]
        """Creates an actor. Returns at once: the error of a constructor that raises arrives with the first call.

        It shows the signature of the constructor and the docstring of the class.
        """
    else:

        @overload
        def remote(self: Constructs[P, T], *args: P.args, **kwargs: P.kwargs) -> ActorHandle[T]: ...

        @overload
        def remote(
            self: Constructs1[A, Q, T], a: A | ObjectRef[A], /, *args: Q.args, **kwargs: Q.kwargs
        ) -> ActorHandle[T]: ...

        @overload
        def remote(
            self: Constructs2[A, B, Q, T],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> ActorHandle[T]: ...

        @overload
        def remote(
            self: Constructs3[A, B, D, Q, T],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            d: D | ObjectRef[D],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> ActorHandle[T]: ...

        @overload
        def remote(
            self: Constructs4[A, B, D, E, Q, T],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            d: D | ObjectRef[D],
            e: E | ObjectRef[E],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> ActorHandle[T]: ...

        @overload
        def remote(self: OnlyForMypy, *args: Any, **kwargs: Any) -> ActorHandle[C]: ...

        def remote(self: Any, *args: Any, **kwargs: Any) -> Any: ...  # type: ignore[misc]  # not of mypy's overloads

    def __init__(self, kind: type[C], options: ActorOptions, shipment: _Shipment | None = None) -> None:
        self._class = kind
        self._options = options
        checked_environment(options.runtime_env)
        self._shipment = shipment or _Shipment(kind)
        self.__dict__["remote"] = _creator(kind, options, self._shipment)  # for type checkers it is a method
        self.__doc__ = kind.__doc__
        self.__name__ = kind.__name__
        self.__module__ = kind.__module__

    def _remote(self, args: Any = None, kwargs: Any = None, **options: Any) -> ActorHandle[C]:
        """Creates an actor with options: Ray's other form of ``options(...).remote(*args, **kwargs)``."""
        return (self.options(**options) if options else self).remote(*(args or ()), **(kwargs or {}))

    def bind(self, /, *args: Any, **kwargs: Any) -> Any:
        """Returns a node of a graph of calls (``zray.dag``): the creation of an actor of this class."""
        return bind_class(self, args, kwargs)

    @property
    def __ray_actor_class__(self) -> type[C]:
        """The plain class, which can be subclassed and tested without a cluster. The name is Ray's."""
        return self._class

    @property
    def __ray_metadata__(self) -> ActorClassMetadata:
        return ActorClassMetadata(self._class, self._options)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        name = self._class.__name__
        raise TypeError(f"Actors cannot be instantiated directly: use {name}.remote(...)")

    def __getattr__(self, name: str) -> Any:
        kind = self.__dict__.get("_class")
        if kind is None or name in _NOT_OF_THE_CLASS:
            raise AttributeError(name)
        try:
            return getattr(kind, name)
        except AttributeError:
            raise AttributeError(f"actor class {kind.__name__} has no attribute {name!r}") from None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._class)})

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._class)  # for the methods of the class

    def __subclasscheck__(self, kind: type) -> bool:
        return issubclass(kind, self._class)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        name = self._class.__name__
        raise ActorClassInheritanceException(
            f"Inheriting from actor classes is not currently supported: write {name} as a plain class, subclass that, "
            f"and make actor classes of both with zray.remote(...)"
        )

    def options(self, **options: Any) -> ActorClass[C]:
        """Returns the same class with other options (see ``zray.remote``)."""
        return ActorClass(self._class, self._options.updated(options), self._shipment)

    def __reduce__(self) -> tuple[Any, ...]:
        return (ActorClass, (self._class, self._options))

    def __repr__(self) -> str:
        return f"ActorClass({self._class.__name__})"


if TYPE_CHECKING:

    class ConstructedActorClass(Remote[P, ActorHandle[C]], ActorClass[C], Generic[P, C]):
        """What mypy takes an actor class for: ``P`` are the parameters of the constructor."""

        def options(self, **options: Any) -> ConstructedActorClass[P, C]: ...


def _creator(kind: type[C], options: ActorOptions, shipment: _Shipment) -> Callable[..., ActorHandle[C]]:
    """Makes ``ActorClass.remote`` for one class."""
    check = SignatureCheck(kind, skip_first=False).bind_check

    def remote(*args: Any, **kwargs: Any) -> ActorHandle[C]:
        check(args, kwargs)
        meta = ActorMeta.of_class(kind, options, _OF_THE_HANDLE)
        actor_id, ref, meta = runtime().create_actor(meta, shipment, options, args, kwargs)
        return ActorHandle(actor_id, ref, meta)

    return looks_like(remote, kind)


if TYPE_CHECKING:

    class MethodDecorator(Protocol):
        """The type of ``zray.method``, and of ``zray.method`` with options."""

        @overload
        def __call__(
            self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /
        ) -> Method[P, Coroutine[Any, Any, T], ActorMethod[P, ObjectRef[T]]]: ...

        @overload
        def __call__(  # type: ignore[overload-overlap]
            self, function: Callable[Concatenate[Any, P], Iterator[T]], /
        ) -> Method[P, Iterator[T], ActorMethod[P, ObjectRefGenerator[T]]]: ...

        @overload
        def __call__(  # type: ignore[overload-overlap]
            self, function: Callable[Concatenate[Any, P], AsyncIterator[T]], /
        ) -> Method[P, AsyncIterator[T], ActorMethod[P, ObjectRefGenerator[T]]]: ...

        @overload
        def __call__(
            self, function: Callable[Concatenate[Any, P], T], /
        ) -> Method[P, T, ActorMethod[P, ObjectRef[T]]]: ...

    class SeveralReturnsDecorator(Protocol):
        """The type of ``zray.method(num_returns=...)``: types do not know what ``remote`` returns."""

        def __call__(self, function: Callable[Concatenate[Any, P], T], /) -> Method[P, T, ActorMethod[P, Any]]: ...


@overload
def method(
    function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /
) -> Method[P, Coroutine[Any, Any, T], ActorMethod[P, ObjectRef[T]]]: ...


@overload
def method(  # type: ignore[overload-overlap]
    function: Callable[Concatenate[Any, P], Iterator[T]], /
) -> Method[P, Iterator[T], ActorMethod[P, ObjectRefGenerator[T]]]: ...


@overload
def method(  # type: ignore[overload-overlap]
    function: Callable[Concatenate[Any, P], AsyncIterator[T]], /
) -> Method[P, AsyncIterator[T], ActorMethod[P, ObjectRefGenerator[T]]]: ...


@overload
def method(function: Callable[Concatenate[Any, P], T], /) -> Method[P, T, ActorMethod[P, ObjectRef[T]]]: ...


@overload
def method(*, num_returns: Literal[1, "streaming"], **options: Any) -> MethodDecorator: ...


@overload
def method(*, num_returns: int | str, **options: Any) -> SeveralReturnsDecorator: ...


@overload
def method(**options: Any) -> MethodDecorator: ...


def method(*args: Any, **options: Any) -> Any:
    """Decorates a method of an actor class with options: ``@zray.method(num_returns=2)``.

    Options: num_returns, max_task_retries, retry_exceptions, timeout_s, concurrency_group, enable_task_events, name;
    see ``zray.options.MethodOptions``. Without options, ``@zray.method`` changes nothing.

    Raises:
        ValueError: an option does not exist (it is an AssertionError too, as in Ray) or is out of range.
        TypeError: an option has a wrong type, or what is decorated is not a function.
    """
    if len(args) == 1 and callable(args[0]) and not options:
        return args[0]
    if args:
        raise TypeError("@zray.method takes options by keyword, such as @zray.method(num_returns=2)")
    try:
        given = MethodOptions.from_kwargs(options, what="@zray.method")
    except ValueError as error:
        unknown = sorted(options.keys() - METHOD.checks.keys())
        if not unknown:
            raise
        raise UnknownMethodOption(f"{error} (Unexpected keyword argument to @zray.method: {unknown[0]!r})") from None

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        setattr(function, METHOD_OPTIONS, given)
        return function

    return decorate


def exit_actor() -> None:
    """Ends the actor whose code calls it: in a method, in a thread, or in a task of its event loop.

    The actor ends even if the method catches the exception. Calls that run at the same time are finished. Queued calls
    fail with ActorDiedError, and so does the call that called this.

    Raises:
        ActorExit: always; it ends the method. It is a SystemExit.
        TypeError: called outside an actor.
    """
    from zray.client.session import current

    session = current()
    if session is None or not session.core.execution.actor_id:
        raise TypeError("the exit_actor API is called on a non-actor process: call it in a method of an actor")
    session.exit_actor("exit_actor() was called")
    raise ActorExit("exit_actor() was called")
