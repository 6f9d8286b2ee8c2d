"""``ActorClass``, what ``@zray.remote`` makes of a class; ``ActorHandle``, what creating one returns; and methods."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from zray.api.remote_function import _Shipment
from zray.api.runtime import pack_options, retried_types, runtime
from zray.exceptions import ActorExit
from zray.object_ref import ObjectRef
from zray.options import ActorOptions, MethodOptions
from zray.protocol.codec import pack, unpack
from zray.signatures import SignatureCheck

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])

METHOD_OPTIONS = "__zray_method_options__"
MAX_ASYNC_CALLS = 1000
"""So many calls at once does an actor with ``async def`` methods run that does not say how many."""
BUILT_IN_METHODS = ("__ray_ready__", "__ray_terminate__", "__ray_call__")

STREAMING = -1
"""In place of a number of return values: a generator's, of which nobody has said how many there are."""


class MethodMeta:
    """What callers know of a method."""

    __slots__ = ("check", "n_returns", "name", "parameters", "retries", "retry_exceptions", "signature", "streams")

    def __init__(
        self,
        name: str,
        n_returns: int,
        parameters: list[Any] | None = None,
        retries: int | None = None,
        retry: bool | bytes = False,
        is_generator: bool = False,
    ) -> None:
        self.name = name
        self.n_returns = n_returns
        self.parameters = parameters  # [name, kind, has a default]; None: unknown
        self.retries = retries
        self.retry_exceptions = retry  # for any, for none, or for the types in this pickle
        self.streams = is_generator
        stub = _stub(name, parameters)
        self.signature = inspect.signature(stub) if parameters is not None else None
        self.check = SignatureCheck(stub, skip_first=False)


def _stub(name: str, parameters: list[Any] | None) -> Callable[..., Any]:
    """A function with the given parameters, for its signature only."""

    def stub(*args: Any, **kwargs: Any) -> None:
        return

    stub.__name__ = name
    if parameters is not None:
        made = [
            inspect.Parameter(
                _legal(name), inspect._ParameterKind(kind), default=None if optional else inspect.Parameter.empty
            )
            for name, kind, optional in parameters
        ]
        stub.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
    return stub


def _legal(name: str) -> str:
    return name if name.isidentifier() else f"_{abs(hash(name))}"


def _parameters(function: Callable[..., Any], skip_first: bool) -> list[Any] | None:
    try:
        parameters = list(inspect.signature(function, follow_wrapped=False).parameters.values())
    except (ValueError, TypeError, NameError):
        return None
    if skip_first:
        parameters = parameters[1:]
    return [[p.name, int(p.kind), p.default is not inspect.Parameter.empty] for p in parameters]


class ActorMeta:
    """What a handle knows of its actor's class; travels with it.

    ``ordered``: the actor runs one call at a time, in each caller's order; others run a call when its arguments exist.
    ``concurrency``: how many calls it runs at once.
    """

    def __init__(
        self,
        class_name: str,
        methods: dict[str, MethodMeta],
        max_task_retries: int,
        max_pending_calls: int,
        ordered: bool,
        concurrency: int,
    ) -> None:
        self.class_name = class_name
        self.methods = methods
        self.max_task_retries = max_task_retries
        self.max_pending_calls = max_pending_calls
        self.ordered = ordered
        self.concurrency = concurrency
        self.constructor: inspect.Signature | None = None  # known where the class is
        self.has_coroutines = False  # likewise
        self._call_options: dict[tuple[str, int], bytes] = {}

    @classmethod
    def of_class(cls, kind: type, options: ActorOptions) -> ActorMeta:
        """Looks at a class."""
        methods = {}
        for name, member in inspect.getmembers(kind, callable):
            if name.startswith("__") and name not in ("__call__",):
                continue
            given: MethodOptions = getattr(member, METHOD_OPTIONS, MethodOptions())
            static = isinstance(inspect.getattr_static(kind, name), (staticmethod, classmethod))
            parameters = _parameters(member, skip_first=not static)
            retry = retried_types(given.retry_exceptions)
            streams = inspect.isgeneratorfunction(member) or inspect.isasyncgenfunction(member)
            n_returns = (STREAMING if streams else 1) if given.num_returns is None else given.num_returns
            methods[name] = MethodMeta(name, n_returns, parameters, given.max_task_retries, retry, streams)
        for name in BUILT_IN_METHODS:
            methods[name] = MethodMeta(name, 1)
        has_coroutines = any(inspect.iscoroutinefunction(member) for _, member in inspect.getmembers(kind))
        concurrency = options.max_concurrency or (MAX_ASYNC_CALLS if has_coroutines else 1)
        ordered = not has_coroutines and concurrency == 1
        meta = cls(kind.__name__, methods, options.max_task_retries, options.max_pending_calls, ordered, concurrency)
        parameters = _parameters(kind, skip_first=False)
        meta.constructor = inspect.signature(_stub("__init__", parameters)) if parameters is not None else None
        meta.has_coroutines = has_coroutines
        return meta

    def packed(self) -> bytes:
        """The form in which it travels."""
        methods = [
            [m.name, m.n_returns, m.parameters, m.retries, m.retry_exceptions, m.streams] for m in self.methods.values()
        ]
        fields = [self.class_name, methods, self.max_task_retries, self.max_pending_calls, self.ordered]
        packed: bytes = pack([*fields, self.concurrency])
        return packed

    @classmethod
    @functools.lru_cache(maxsize=1024)
    def unpack(cls, packed: bytes) -> ActorMeta:
        """The counterpart of ``packed``."""
        class_name, rows, *rest = unpack(packed)
        return cls(class_name, {row[0]: MethodMeta(*row) for row in rows}, *rest)

    def call_options(self, method: MethodMeta, n_returns: int) -> bytes:
        """The options of a call, packed once."""
        key = (method.name, n_returns)
        packed = self._call_options.get(key)
        if packed is None:
            packed = pack_options(method.name, n_returns, method.name, method.retry_exceptions, 0, method.streams)
            self._call_options[key] = packed
        return packed


class ActorMethod:
    """A method of an actor: ``handle.method.remote(...)``."""

    __slots__ = ("_handle", "_meta", "_n_returns", "_packed", "_retries")

    def __init__(self, handle: ActorHandle[Any], meta: MethodMeta) -> None:
        self._handle = handle
        self._meta = meta
        self._n_returns = meta.n_returns
        self._packed = b""
        self._retries = handle._meta.max_task_retries if meta.retries is None else meta.retries

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Submits a call; see ``RemoteFunction.remote``.

        Calls of one caller run in the order in which it made them. With ``async def`` methods, or ``max_concurrency``
        above 1, they run when their arguments exist, several at once.
        """
        meta = self._meta
        meta.check.bind_check(args, kwargs)
        if self._n_returns == STREAMING:
            raise NotImplementedError(
                f"method {meta.name} is a generator: streaming its values is not supported yet. Give num_returns=n to "
                f"have each of its n values as an object, or return a list"
            )
        handle = self._handle
        packed = self._packed or handle._meta.call_options(meta, self._n_returns)
        refs = runtime().call(
            handle._actor_id, handle._ref, handle._meta, meta.name, packed, self._n_returns, self._retries, args, kwargs
        )
        if self._n_returns == 1:
            return refs[0]
        return refs or None

    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options: ``num_returns``, ``max_task_retries``, ``retry_exceptions``, ``name``."""
        given = MethodOptions.from_kwargs(options, what=f"{self._meta.name}.options()")
        method = ActorMethod(self._handle, self._meta)
        if given.num_returns is not None:
            method._n_returns = given.num_returns
        if "max_task_retries" in options and given.max_task_retries is not None:
            method._retries = given.max_task_retries
        retry = self._meta.retry_exceptions
        if "retry_exceptions" in options:
            retry = retried_types(given.retry_exceptions)
        name = options.get("name") or self._meta.name
        method._packed = pack_options(name, method._n_returns, self._meta.name, retry, 0, self._meta.streams)
        return method

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"an actor's method cannot be called directly: use .{self._meta.name}.remote(...)")

    def __repr__(self) -> str:
        return f"ActorMethod({self._handle._meta.class_name}.{self._meta.name})"


class ActorHandle(Generic[C]):
    """A reference to an actor of class ``C``, which ends, after its outstanding work, when its last handle is gone."""

    __slots__ = ("_actor_id", "_meta", "_ref")

    def __init__(self, actor_id: bytes, ref: ObjectRef | None, meta: ActorMeta) -> None:
        self._actor_id = actor_id
        self._ref = ref  # stands for all handles of the actor; None: they are not counted (detached)
        self._meta = meta

    def __getattr__(self, name: str) -> ActorMethod:
        method = self._meta.methods.get(name)
        if method is None:
            raise AttributeError(f"actor class {self._meta.class_name} has no method {name!r}")
        return ActorMethod(self, method)

    def __dir__(self) -> list[str]:
        return sorted(self._meta.methods)

    @property
    def _ray_actor_id(self) -> bytes:
        return self._actor_id

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore_handle, (self._actor_id, self._ref, self._meta.packed()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._actor_id == self._actor_id

    def __hash__(self) -> int:
        return hash(self._actor_id)

    def __repr__(self) -> str:
        return f"Actor({self._meta.class_name}, {self._actor_id.hex()})"


def _restore_handle(actor_id: bytes, ref: ObjectRef | None, packed: bytes) -> ActorHandle[Any]:
    return ActorHandle(actor_id, ref, ActorMeta.unpack(packed))


class ActorClass(Generic[C]):
    """A class, ``C``, whose instances live in processes of their own: ``Class.remote(...)`` creates one."""

    def __init__(self, kind: type[C], options: ActorOptions, shipment: _Shipment | None = None) -> None:
        self._class = kind
        self._options = options
        self._shipment = shipment or _Shipment(kind)
        self._constructor = SignatureCheck(kind, skip_first=False)
        self.__doc__ = kind.__doc__
        self.__name__ = kind.__name__
        self.__module__ = kind.__module__

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        name = self._class.__name__
        raise TypeError(f"the actor class {name} cannot be instantiated directly: use {name}.remote(...)")

    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle[C]:
        """Creates an actor. Returns at once; a constructor that fails does so at the first call."""
        self._constructor.bind_check(args, kwargs)
        meta = ActorMeta.of_class(self._class, self._options)
        actor_id, ref, meta = runtime().create_actor(meta, self._shipment, self._options, args, kwargs)
        return ActorHandle(actor_id, ref, meta)

    def options(self, **options: Any) -> ActorClass[C]:
        """The same class with other options (see ``zray.remote``)."""
        return ActorClass(self._class, self._options.updated(options), self._shipment)

    def __reduce__(self) -> tuple[Any, ...]:
        return (ActorClass, (self._class, self._options))

    def __repr__(self) -> str:
        return f"ActorClass({self._class.__name__})"


def method(*args: Any, **options: Any) -> Callable[[F], F]:
    """Decorates a method of an actor class with options: ``@zray.method(num_returns=2)``."""
    if args or not options:
        raise ValueError("@zray.method needs options by keyword, such as @zray.method(num_returns=2)")
    given = MethodOptions.from_kwargs(options, what="@zray.method")

    def decorate(function: F) -> F:
        setattr(function, METHOD_OPTIONS, given)
        return function

    return decorate


def exit_actor() -> None:
    """Ends the actor in whose method it is called; calls that are queued fail with ActorDiedError.

    Raises TypeError outside of an actor.
    """
    from zray.client.session import current

    session = current()
    if session is None or not session.core.execution.actor_id:
        raise TypeError("exit_actor() is called from a method of an actor")
    raise ActorExit("exit_actor() was called")
