"""The description of an actor's class that every handle of the actor carries: its methods and their options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from zray.api.call_options import CallStream, pack_options, retried_types, retries_timeouts, stream_of
from zray.methods import BUILT_IN_METHODS
from zray.named_tuples import NamedTuple
from zray.options import ActorOptions, MethodOptions
from zray.options.checks import check_streams
from zray.protocol.codec import pack, unpack
from zray.signatures import SignatureCheck

METHOD_OPTIONS = "__zray_method_options__"
MAX_ASYNC_CALLS = 1000
"""The number of calls that an actor with ``async def`` methods runs at once, unless ``max_concurrency`` is given."""


class MethodMeta:
    """What callers know of a method. ``function``: the method itself, to be shown, if the class is known here.
    ``backpressure``, ``per_yield``: the options of its stream."""

    __slots__ = ("backpressure", "check", "function", "group", "is_generator", "name", "num_returns", "parameters",
                 "per_yield", "retries", "retries_timeouts", "retry_exceptions", "signature", "timeout_s")  # fmt: skip

    def __init__(
        self,
        name: str,
        num_returns: int | str | None,
        parameters: list[Any] | None = None,
        retries: int | None = None,
        retry: bool | bytes = False,
        is_generator: bool = False,
        group: str = "",
        backpressure: int = -1,
        per_yield: int = 1,
        timeout_s: float | None = None,
        retries_timeouts: bool = False,
    ) -> None:
        self.name = name
        self.group = group  # its concurrency group; empty: the default group
        self.num_returns = num_returns
        self.parameters = parameters  # [name, kind, has a default]; None: unknown
        self.retries = retries
        self.retry_exceptions = retry  # True: after any exception; False: after none; bytes: a pickle of the types
        self.is_generator = is_generator
        self.backpressure = backpressure
        self.per_yield = per_yield
        self.timeout_s = timeout_s
        self.retries_timeouts = retries_timeouts
        stub = _stub(name, parameters)
        self.signature = inspect.signature(stub) if parameters is not None else None
        self.check = SignatureCheck(stub, skip_first=False)
        self.function: Callable[..., Any] | None = None

    @property
    def shown_signature(self) -> inspect.Signature | None:
        """The signature; with defaults and annotations if the class is known."""
        if self.signature is None or self.function is None:
            return self.signature
        parameters = list(inspect.signature(self.function, follow_wrapped=False).parameters.values())
        of_class = len(parameters) - len(self.signature.parameters)  # 1 if it has ``self``, else 0
        return inspect.signature(self.function, follow_wrapped=False).replace(parameters=parameters[of_class:])


def _stub(name: str, parameters: list[Any] | None) -> Callable[..., Any]:
    """Makes a function with the given parameters. Only its signature is used."""

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


def _is_ordered(kind: type, options: ActorOptions, has_coroutines: bool, concurrency: int) -> bool:
    """Whether an actor runs the calls of a caller in the order in which they were made.

    Raises ValueError if it was asked to, and cannot.
    """
    given = options.allow_out_of_order_execution
    if given is False and (has_coroutines or concurrency > 1):
        why = "an actor with async methods" if has_coroutines else "an actor with max_concurrency above 1"
        raise ValueError(
            f"allow_out_of_order_execution=False is not possible for {kind.__name__}: {why} runs several calls at "
            f"once, in no fixed order. Leave the option out, or set it to True"
        )
    return not (has_coroutines or concurrency > 1 if given is None else given)


class ActorMeta:
    """What a handle knows of its actor's class. It travels with the handle.

    ``ordered``: the actor runs calls in each caller's order; other actors run a call when its arguments exist.
    ``concurrency``: the number of calls that it runs at once. ``attributes``: the names of the attributes of the class
    that are not methods, such as properties. ``groups``: the concurrency groups, and how many calls of each run at
    once, besides ``concurrency`` others. ``most_untaken``: the number of items of all of its streams that may not be
    taken yet; -1: any number.
    """

    def __init__(
        self,
        class_name: str,
        methods: dict[str, MethodMeta],
        max_task_retries: int,
        max_pending_calls: int,
        ordered: bool,
        concurrency: int,
        attributes: list[str],
        groups: dict[str, int],
        most_untaken: int = -1,
    ) -> None:
        self.class_name = class_name
        self.methods = methods
        self.max_task_retries = max_task_retries
        self.max_pending_calls = max_pending_calls
        self.ordered = ordered
        self.concurrency = concurrency
        self.attributes = attributes
        self.most_untaken = most_untaken
        self.groups = groups
        self.qualified_name = class_name  # the class's ``__qualname__`` where the class is known
        self.constructor: inspect.Signature | None = None  # set only where the class is known
        self.has_coroutines = False  # likewise
        self._call_options: dict[str, CallOptions] = {}

    @classmethod
    def of_class(cls, kind: type, options: ActorOptions, no_methods: Collection[str]) -> ActorMeta:
        """Describes a class. ``no_methods``: special names that the handle defines itself, such as ``__eq__``."""
        methods = {}
        for name, member in inspect.getmembers(kind, callable):
            if name.startswith("__") and name in no_methods:
                continue
            given: MethodOptions = getattr(member, METHOD_OPTIONS, MethodOptions())
            static = isinstance(inspect.getattr_static(kind, name), (staticmethod, classmethod))
            parameters = _parameters(member, skip_first=not static)
            retry = retried_types(given.retry_exceptions)
            is_generator = inspect.isgeneratorfunction(member) or inspect.isasyncgenfunction(member)
            check_streams(given.num_returns, is_generator, f"{kind.__name__}.{name}")
            made = methods[name] = MethodMeta(
                name, given.num_returns, parameters, given.max_task_retries, retry, is_generator,
                given.concurrency_group or "",
                given._generator_backpressure_num_objects, given._num_objects_per_yield, given.timeout_s,
                retries_timeouts(given.retry_exceptions),
            )  # fmt: skip
            made.function = member
        for name in BUILT_IN_METHODS:
            methods[name] = MethodMeta(name, 1)
        has_coroutines = any(map(_is_async, (member for _, member in inspect.getmembers(kind))))
        concurrency = options.max_concurrency or (MAX_ASYNC_CALLS if has_coroutines else 1)
        ordered = _is_ordered(kind, options, has_coroutines, concurrency)
        attributes = [name for name in dir(kind) if name not in methods and not name.startswith("_")]
        meta = cls(
            kind.__name__,
            methods,
            options.max_task_retries,
            options.max_pending_calls,
            ordered,
            concurrency,
            attributes,
            dict(options.concurrency_groups),
            options._actor_generator_backpressure_num_objects,
        )
        for method in methods.values():
            meta.check_group(method.group, f"@zray.method of {kind.__name__}.{method.name}")
        parameters = _parameters(kind, skip_first=False)
        meta.qualified_name = kind.__qualname__
        meta.constructor = inspect.signature(_stub("__init__", parameters)) if parameters is not None else None
        meta.has_coroutines = has_coroutines
        return meta

    def packed(self) -> bytes:
        """Returns the encoded form."""
        methods = [
            [m.name, m.num_returns, m.parameters, m.retries, m.retry_exceptions, m.is_generator, m.group,
             m.backpressure, m.per_yield, m.timeout_s, m.retries_timeouts]
            for m in self.methods.values()
        ]  # fmt: skip
        fields = [self.class_name, methods, self.max_task_retries, self.max_pending_calls, self.ordered]
        packed: bytes = pack([*fields, self.concurrency, self.attributes, self.groups, self.most_untaken])
        return packed

    @classmethod
    @functools.lru_cache(maxsize=1024)
    def unpack(cls, packed: bytes) -> ActorMeta:
        """Decodes the result of ``packed``."""
        class_name, rows, *rest = unpack(packed)
        return cls(class_name, {row[0]: MethodMeta(*row) for row in rows}, *rest)

    def no_method(self, name: str) -> str:
        """Returns the text of the error about a method ``name`` that does not exist, with the names that do."""
        text = f"'ActorHandle' object has no attribute {name!r}: actor class {self.class_name} has no such method"
        if name.startswith("_"):  # libraries ask for such names and do without them: no hint is needed
            return text
        if name in self.attributes:
            return (
                f"{text}: it is a property, or another attribute of the class. An actor's attributes are in its "
                f"process: write a method that returns it, or call handle.__ray_call__.remote(lambda actor: "
                f"actor.{name})"
            )
        import difflib  # slow to import, and only needed for the error

        known = [method for method in self.methods if not method.startswith("_")]
        close = difflib.get_close_matches(name, known, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else "."
        return f"{text}{guess} It has {', '.join(known) or 'none'}"

    def check_group(self, group: str, what: str) -> None:
        """Raises ValueError if ``group``, given at ``what``, is not a concurrency group of the class."""
        if group and group not in self.groups:
            known = ", ".join(map(repr, self.groups)) or "none"
            raise ValueError(
                f"{what}: concurrency_group={group!r} is not allowed: {self.class_name} has {known}; groups are "
                f"declared with @zray.remote(concurrency_groups={{{group!r}: ...}})"
            )

    def call_options(self, method: MethodMeta) -> CallOptions:
        """Returns the options of a call without options of its own. They are made once and kept."""
        options = self._call_options.get(method.name)
        if options is None:
            options = self._call_options[method.name] = CallOptions.of(self, method, MethodOptions(), {})
        return options


class CallOptions(NamedTuple):
    """The options of a method's calls. ``packed``: as they travel. ``n_returns``: 1 if there is a ``stream``."""

    n_returns: int
    stream: CallStream | None
    packed: bytes

    @classmethod
    def of(cls, actor: ActorMeta, method: MethodMeta, given: MethodOptions, kwargs: Mapping[str, Any]) -> CallOptions:
        """Returns the options of ``method``, in which those named in ``kwargs`` are taken from ``given``.

        Raises ValueError if the actor does not have the concurrency group that is given.
        """
        num_returns = method.num_returns if given.num_returns is None else given.num_returns
        backpressure = method.backpressure
        if "_generator_backpressure_num_objects" in kwargs:
            backpressure = given._generator_backpressure_num_objects
        retry, again = method.retry_exceptions, method.retries_timeouts
        if "retry_exceptions" in kwargs:
            retry, again = retried_types(given.retry_exceptions), retries_timeouts(given.retry_exceptions)
        timeout_s = given.timeout_s if "timeout_s" in kwargs else method.timeout_s
        group = method.group
        if given.concurrency_group is not None:
            group = given.concurrency_group
            actor.check_group(group, f"{method.name}.options()")
        n_returns = num_returns if isinstance(num_returns, int) else 1
        stream = stream_of(
            num_returns, method.is_generator, backpressure, method.per_yield, method.name, actor.most_untaken
        )
        packed = pack_options(
            kwargs.get("name") or method.name,
            n_returns,
            method.name,
            retry,
            0,
            method.is_generator,
            stream,
            group,
            timeout_s=timeout_s,
            retries_timeouts=again,
        )
        return cls(n_returns, stream, packed)


def _is_async(member: Any) -> bool:
    return inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)
