"""Options of remote functions, actor classes and methods. They are checked where they are given.

Each option has a check, which returns the value to keep or raises. The tables say which options a remote function, an
actor class and a method take. ``None`` stands for the default, as in Ray. An error names the place where the option was
given, the option, its value, and what is allowed: TypeError for a wrong type, ValueError for a wrong value or name,
NotImplementedError for what zray does not have, such as transports of tensors.

Amounts of resources are kept as given. They are counted as integers, in ten-thousandths, so that fractions add up.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from zray.accelerators import fault_of, fault_of_amount
from zray.scheduling.priority import MAX_PRIORITY

if TYPE_CHECKING:
    from zray.scheduling.combine import Strategy

UNITS = 10_000
"""The units in one CPU, one GPU, or 1 of another resource. The smallest amount is one unit."""

ACCELERATOR_TYPE_AMOUNT = 0.001
"""How much of the resource ``accelerator_type:X`` the option ``accelerator_type`` takes, as in Ray."""

MAX_COUNT = 2**31 - 1
"""The largest count of retries, restarts and the like; -1 stands for no limit."""
MAX_RETURNS = 10_000_000
MAX_AMOUNT = 2**63 // UNITS
"""The largest amount of a resource. In units it fits an integer of 64 bits."""
MAX_TIMEOUT_S = 1e9
"""The longest limit for a call, in seconds: decades."""
MAX_TEXT_CHARS = 16_384
"""The longest name. Names are limited because many messages carry them."""

Options = TypeVar("Options", "TaskOptions", "ActorOptions", "MethodOptions")


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """Options of a remote function."""

    num_cpus: float = 1
    """CPUs that must be free on the host, and that the task holds while it runs. Fractions are allowed."""
    num_gpus: float = 0
    """GPUs, likewise; above one only whole numbers. The task finds its GPUs in ``CUDA_VISIBLE_DEVICES``."""
    memory: int = 0
    """Bytes that must be free on the host. Used for placement, not enforced as a limit."""
    resources: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Amounts of custom resources, by name."""
    num_returns: int | str | None = None
    """The number of objects that the task returns; "streaming": an object for each value that the function, a
    generator, yields, as they come; "dynamic" (deprecated): the same when it has ended. None: "streaming" for a
    generator, else 1."""
    max_retries: int = 3
    """How many times a task is tried again after its worker died; -1: no limit."""
    retry_exceptions: bool | tuple[type[Exception], ...] = False
    """Whether a task that raised is tried again too, or the types of exceptions after which it is."""
    timeout_s: float | None = None
    """For how many seconds an attempt may run: from the call of its function, when its arguments are loaded, to its
    end; a generator, to its last value. Waiting in queues does not count. Then it gets a KeyboardInterrupt, and what it
    has submitted is cancelled. If it does not end within 1 s, its worker is killed; so the limit holds for code that
    cannot be interrupted, too. Its outcome is ``TaskTimeoutError``, whatever it does after its time. It is tried again
    only if ``retry_exceptions`` includes that class, ``max_retries`` times at most. None: no limit. Not enforced in
    local mode. (Not in Ray.)"""
    max_calls: int = 0
    """A worker ends after this many calls of the function; 0: no limit. A function that is declared with GPUs has 1,
    because a process keeps the memory of its GPUs. With ``.options(num_gpus=...)`` the worker is used again and keeps
    that memory."""
    name: str | None = None
    """The name of the task in messages and in ``ps``; default: the name of the function."""
    _generator_backpressure_num_objects: int = -1
    """The number of values that a stream may have and its reader has not taken yet: then the generator waits; -1: no
    limit."""
    _num_objects_per_yield: int = 1
    """The generator yields tuples of this length, of which each element is an object of its own."""
    scheduling_strategy: str | Strategy | None = None
    """"DEFAULT" (or None): on the host that has the large arguments; else one host after the other is filled up to half
    of its CPUs and memory, and then to the end. "SPREAD": on the host whose CPUs are used least. Or a strategy of
    ``zray.util.scheduling_strategies``."""
    label_selector: Mapping[str, str] | None = None
    """Conditions on the labels of the host, by key: ``"v"``, ``"!v"``, ``"in(a,b)"`` or ``"!in(a,b)"``. The task waits
    until a host fulfils all of them and has room."""
    fallback_strategy: Sequence[Mapping[str, Any]] | None = None
    """Other selectors, as ``[{"label_selector": {...}}, ...]``: the next one counts if no host of the ones before has
    room."""
    accelerator_type: str | None = None
    """A type of accelerator, such as "A100": the host must have the resource ``accelerator_type:A100``."""
    priority: int = 0
    """Among the waiting tasks and actors of the job, those of the highest priority are next; from -1000 to 1000. What
    waits counts as higher the longer it waits, so that nothing starves: one step for each 10 s, or for the time of 4
    runs if that is longer. Between jobs the priority does not count. What runs is not stopped. What a task submits does
    not inherit its priority. (Not in Ray.)"""
    _labels: Mapping[str, str] | None = None
    """Labels of the task itself. Nothing reads them, as in Ray."""
    placement_group: Any = "default"
    """Deprecated: use ``scheduling_strategy``. "default": the caller's group if it captures what it creates; None: no
    group."""
    placement_group_bundle_index: int = -1
    """Deprecated: use ``scheduling_strategy``. The number of a bundle; -1: any."""
    placement_group_capture_child_tasks: bool | None = None
    """Deprecated: use ``scheduling_strategy``. Whether what it creates runs in its group; None: as for the caller."""
    runtime_env: Mapping[str, Any] | None = None
    """The runtime environment, see ``zray.runtime_env.RuntimeEnv``. It inherits from the one it is used in."""
    enable_task_events: bool = True
    """Accepted for Ray's programs. zray asks processes for the states of tasks. Only clusters with the setting
    ``profiling`` record when tasks ran, and this option does not change that."""

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any], what: str = "@zray.remote") -> TaskOptions:
        """Checks the options given at ``what``."""
        options = _agreeing(cls(**_checked(TaskOptions, kwargs, what)), what)
        if options.num_gpus and kwargs.get("max_calls") is None:
            return dataclasses.replace(options, max_calls=1)
        return options

    def updated(self, kwargs: Mapping[str, Any], what: str = ".options()") -> TaskOptions:
        """Returns a copy in which ``kwargs`` replace the present values."""
        given = dict(kwargs)
        _check_per_yield(given, self._num_objects_per_yield, what)
        max_calls = given.pop("max_calls", None)
        if max_calls is not None:
            raise ValueError(
                f"{what}: max_calls={max_calls!r} is not allowed: it counts over all calls of the function, "
                "so it can be given to @zray.remote only"
            )
        return _agreeing(_replaced(self, _checked(TaskOptions, given, what)), what)

    def names_group(self) -> bool:
        """Whether the options about placement groups are not the defaults."""
        return _names_group(self)

    def resource_amounts(self) -> dict[str, int]:
        """Amounts that a task asks for, in ten-thousandths, by resource; zero amounts are left out."""
        return _amounts(self.num_cpus, self.num_gpus, self.memory, self.resources, self.accelerator_type)

    def constraint_row(self) -> list[Any] | None:
        """The hosts that may take a task, for ``zray.protocol.codec.shape_key``; None: all."""
        return _constraint_row(self)


@dataclasses.dataclass(frozen=True)
class ActorOptions:
    """Options of an actor class."""

    num_cpus: float | None = None
    """CPUs that the actor holds until it ends. None: placement needs 1 free CPU, and the actor then holds none."""
    num_gpus: float = 0
    """GPUs that the actor holds until it ends; above one only whole numbers."""
    memory: int = 0
    """Bytes that the actor holds until it ends. Used for placement, not enforced as a limit."""
    resources: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Amounts of custom resources, by name, that the actor holds until it ends."""
    max_restarts: int = 0
    """How many times the actor is restarted after its process died; -1: no limit."""
    max_task_retries: int = 0
    """How many times a call is tried again if the actor died during the call; -1: no limit."""
    max_concurrency: int | None = None
    """The number of calls that run at the same time. None: 1, or 1000 for a class with ``async def`` methods."""
    max_pending_calls: int = -1
    """The number of calls that one handle may have pending before a further call raises; -1: no limit."""
    name: str | None = None
    """The name by which ``get_actor`` finds the actor; unique within the namespace."""
    namespace: str | None = None
    """The namespace of its name; default: the job's."""
    lifetime: str | None = None
    """``"detached"``: the actor runs until it is killed, even after its handles and its job are gone."""
    _actor_generator_backpressure_num_objects: int = -1
    """The number of values of all of the actor's streams together that their readers may not have taken yet: then its
    generators wait; -1: no limit."""
    get_if_exists: bool = False
    """Return a handle of the actor that already has the name, instead of raising ValueError."""
    scheduling_strategy: str | Strategy | None = None
    """"DEFAULT" or "SPREAD": both place the actor on the host with the fewest actors for its CPUs. Or a strategy of
    ``zray.util.scheduling_strategies``."""
    label_selector: Mapping[str, str] | None = None
    """The same as ``TaskOptions.label_selector``."""
    fallback_strategy: Sequence[Mapping[str, Any]] | None = None
    """The same as ``TaskOptions.fallback_strategy``."""
    accelerator_type: str | None = None
    """The same as ``TaskOptions.accelerator_type``."""
    object_store_memory: int = 0
    """Bytes of the host's object store that the actor holds until it ends. Used for placement, not enforced."""
    priority: int = 0
    """The same as ``TaskOptions.priority``, for the creation of the actor. Its calls have no priorities. (Not in
    Ray.)"""
    _labels: Mapping[str, str] | None = None
    """The same as ``TaskOptions._labels``."""
    placement_group: Any = "default"
    """Deprecated: use ``scheduling_strategy``. "default": the caller's group if it captures what it creates; None: no
    group."""
    placement_group_bundle_index: int = -1
    """Deprecated: use ``scheduling_strategy``. The number of a bundle; -1: any."""
    placement_group_capture_child_tasks: bool | None = None
    """Deprecated: use ``scheduling_strategy``. Whether what it creates runs in its group; None: as for the caller."""
    runtime_env: Mapping[str, Any] | None = None
    """The runtime environment, see ``zray.runtime_env.RuntimeEnv``. It inherits from the one it is used in."""
    enable_task_events: bool = True
    """The same as ``TaskOptions.enable_task_events``."""
    concurrency_groups: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Named groups of methods, and how many calls of each run at the same time, beside ``max_concurrency`` calls of
    methods in no group. A method is put into one with ``@zray.method(concurrency_group=...)``, a call with
    ``.options(concurrency_group=...)``. Each group of an ``async`` actor has its own event loop, in its own thread.
    Only for ``@zray.remote``."""
    allow_out_of_order_execution: bool | None = None
    """Run a call as soon as its arguments exist, even if earlier calls of the same caller still wait for theirs. None:
    True for an actor with ``async def`` methods or ``max_concurrency`` above 1, which cannot do otherwise; else
    False."""

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any], what: str = "@zray.remote") -> ActorOptions:
        """Checks the options given at ``what``."""
        return _agreeing(cls(**_checked(ActorOptions, kwargs, what)), what)._with_name(what)

    def updated(self, kwargs: Mapping[str, Any], what: str = ".options()") -> ActorOptions:
        """Returns a copy in which ``kwargs`` replace the present values."""
        if kwargs.get("concurrency_groups") is not None:
            raise ValueError(
                f"{what}: concurrency_groups={kwargs['concurrency_groups']!r} is not allowed: the methods of the class "
                "name its groups, so they can be given to @zray.remote only"
            )
        given = {name: value for name, value in kwargs.items() if name != "concurrency_groups"}
        return _agreeing(_replaced(self, _checked(ActorOptions, given, what)), what)._with_name(what)

    def names_group(self) -> bool:
        """Whether the options about placement groups are not the defaults."""
        return _names_group(self)

    def _with_name(self, what: str) -> ActorOptions:
        if self.get_if_exists and self.name is None:
            raise ValueError(f"{what}: get_if_exists=True is not allowed without a name: give name='...' too")
        return self

    def placement_amounts(self) -> dict[str, int]:
        """Amounts that must be free to place the actor, in ten-thousandths; zero amounts are left out."""
        return self._amounts(1 if self.num_cpus is None else self.num_cpus)

    def running_amounts(self) -> dict[str, int]:
        """Amounts that the actor holds until it ends, in ten-thousandths; zero amounts are left out."""
        return self._amounts(self.num_cpus or 0)

    def _amounts(self, num_cpus: float) -> dict[str, int]:
        others = {**self.resources, "object_store_memory": self.object_store_memory}
        return _amounts(num_cpus, self.num_gpus, self.memory, others, self.accelerator_type)

    def constraint_row(self) -> list[Any] | None:
        """The hosts that may take the actor, for ``zray.protocol.codec.shape_key``; None: all."""
        return _constraint_row(self)


@dataclasses.dataclass(frozen=True)
class MethodOptions:
    """Options of an actor's method."""

    num_returns: int | str | None = None
    """The same as ``TaskOptions.num_returns``."""
    _generator_backpressure_num_objects: int = -1
    """The same as for tasks."""
    _num_objects_per_yield: int = 1
    """The same as for tasks."""
    max_task_retries: int | None = None
    """How many times a call is tried again if the actor died during it; -1: no limit; None: the actor's option."""
    retry_exceptions: bool | tuple[type[Exception], ...] = False
    """Whether a call that raised is tried again too, or the types of exceptions after which it is."""
    timeout_s: float | None = None
    """The same as ``TaskOptions.timeout_s``. A method that is not ``async`` gets a KeyboardInterrupt, an ``async`` one
    asyncio.CancelledError. A thread cannot be interrupted (``max_concurrency`` above 1): there, a method can ask
    ``get_runtime_context().is_canceled()``. If the call does not end within 1 s, the actor's process is killed; the
    actor is restarted if its ``max_restarts`` allows, and its other calls end as at any death of the actor. A retry
    counts against ``max_task_retries``."""
    name: str | None = None
    """The name of the call in messages; default: the name of the method."""
    concurrency_group: str | None = None
    """The concurrency group of the actor in which the call runs; None: the method's, else the default group."""
    enable_task_events: bool | None = None
    """The same as ``TaskOptions.enable_task_events``."""
    _labels: Mapping[str, str] | None = None
    """The same as ``TaskOptions._labels``."""

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any], what: str = "@zray.method") -> MethodOptions:
        """Checks the options given at ``what``."""
        return cls(**_checked(MethodOptions, kwargs, what))

    def updated(self, kwargs: Mapping[str, Any], what: str = ".options()") -> MethodOptions:
        """Returns a copy in which ``kwargs`` replace the present values."""
        _check_per_yield(kwargs, self._num_objects_per_yield, what)
        return _replaced(self, _checked(MethodOptions, kwargs, what))


Placeable = TypeVar("Placeable", "TaskOptions", "ActorOptions")


def _names_group(options: TaskOptions | ActorOptions) -> bool:
    strategy = options.scheduling_strategy
    if strategy is not None:
        return hasattr(strategy, "placement_group_bundle_index")
    given = options.placement_group, options.placement_group_bundle_index, options.placement_group_capture_child_tasks
    return given != ("default", -1, None)


def _agreeing(options: Placeable, what: str) -> Placeable:
    """Checks that a placement group is given in one way only."""
    if options.scheduling_strategy is not None and options.placement_group not in ("default", None):
        raise ValueError(
            f"{what}: Placement groups should be specified via the scheduling_strategy option. The placement_group "
            "option is deprecated."
        )
    return options


def _check_per_yield(kwargs: Mapping[str, Any], declared: int, what: str) -> None:
    """Raises ValueError if ``.options()`` changes what a generator yields."""
    if kwargs.get("_num_objects_per_yield", declared) != declared:
        raise ValueError(
            f"{what}: _num_objects_per_yield cannot be overridden for a call: give it where the function is declared"
        )


def _replaced(options: Options, values: Mapping[str, Any]) -> Options:
    return dataclasses.replace(options, **values)


def _amounts(
    num_cpus: float, num_gpus: float, memory: int, resources: Mapping[str, float], accelerator_type: str | None
) -> dict[str, int]:
    given = {"CPU": num_cpus, "GPU": num_gpus, "memory": memory, **resources}
    if num_gpus and (fault := fault_of(name for name, amount in given.items() if amount)):
        raise ValueError(f"num_gpus={num_gpus!r} with resources={resources!r}: {fault}")
    if accelerator_type:
        given[f"accelerator_type:{accelerator_type}"] = ACCELERATOR_TYPE_AMOUNT
    units = {name: _units(amount) for name, amount in given.items()}
    return {name: amount for name, amount in units.items() if amount}


def _constraint_row(options: TaskOptions | ActorOptions) -> list[Any] | None:
    strategy = options.scheduling_strategy
    if (strategy is None or isinstance(strategy, str)) and not options.label_selector:
        return None
    from zray.scheduling.combine import combine  # only programs that use it load it

    given = None if isinstance(strategy, str) else strategy
    constraint = combine(given, options.label_selector, options.fallback_strategy)
    return None if constraint is None else constraint.to_row()


def _units(amount: float) -> int:
    # Rounded down, so that three tasks of 1/3 fit. The tolerance absorbs rounding errors such as that of 0.1 + 0.2.
    return amount * UNITS if isinstance(amount, int) else math.floor(amount * UNITS + 1e-6)


@dataclasses.dataclass(frozen=True)
class _Given:
    """An option as given. Its methods raise the errors about it."""

    what: str
    name: str
    value: Any
    resource: str = ""
    """The resource whose amount it is, if it is one of several in an option."""

    def wrong_type(self, allowed: str) -> NoReturn:
        kind = type(self.value).__name__
        raise TypeError(f"{self.what}: {self.name}={self.value!r} has type {kind}; allowed is {allowed}")

    def wrong_value(self, allowed: str) -> NoReturn:
        raise ValueError(f"{self.what}: {self.name}={self.value!r} is not allowed: {allowed}")

    def no_transports(self) -> NoReturn:
        raise NotImplementedError(
            f"{self.what}: {self.name}={self.value!r} is not supported: zray has no transports of tensors, which pass "
            f"through the object store. Leave the option out"
        )


Check = Callable[[_Given], Any]


def _count(least: int, meaning: str = "", most: int = MAX_COUNT) -> Check:
    """Returns a check for an integer from ``least`` to ``most``. Its errors contain the sentences of Ray's."""
    allowed = f"an integer >= {least}{meaning}"
    accepted = {-1: "None, 0, -1 or a positive integer", 0: "None, 0 or a positive integer"}.get(least)

    def check(given: _Given) -> int:
        if isinstance(given.value, bool) or not isinstance(given.value, numbers.Integral):
            given.wrong_type(allowed)
        value = int(given.value)
        if value > most:
            given.wrong_value(f"it must be at most {most}")
        if value >= least:
            return value
        only = f"The keyword {given.name!r} only accepts {accepted}{meaning}" if accepted else f"it must be {allowed}"
        given.wrong_value(only)

    return check


def _priority(given: _Given) -> int:
    allowed = f"an integer from -{MAX_PRIORITY} to {MAX_PRIORITY}"
    if isinstance(given.value, bool) or not isinstance(given.value, numbers.Integral):
        given.wrong_type(allowed)
    value = int(given.value)
    return value if abs(value) <= MAX_PRIORITY else given.wrong_value(f"it must be {allowed}")


def _timeout(given: _Given) -> float:
    if isinstance(given.value, bool) or not isinstance(given.value, numbers.Real):
        given.wrong_type("a number of seconds > 0, or None")
    value = float(given.value)
    return (
        value if 0 < value <= MAX_TIMEOUT_S else given.wrong_value(f"it must be > 0 and at most {MAX_TIMEOUT_S:,.0f}")
    )


def _amount(given: _Given) -> float:
    if isinstance(given.value, bool) or not isinstance(given.value, numbers.Real):
        given.wrong_type("a number >= 0")
    value: float = int(given.value) if isinstance(given.value, numbers.Integral) else float(given.value)
    if value < 0:
        given.wrong_value(f"The quantity of resource {given.resource or given.name} cannot be negative")
    if not math.isfinite(value):
        given.wrong_value("it must be a finite number")
    if value > MAX_AMOUNT:
        given.wrong_value(f"it must be at most {MAX_AMOUNT:,}")
    if 0 < value * UNITS < 1 - 1e-6:
        given.wrong_value(f"the smallest amount is {1 / UNITS}")
    return value


def _gpus(given: _Given) -> float:
    value = _amount(given)
    if fault := fault_of_amount("GPU", value):
        given.wrong_value(fault)
    return value


def _memory(given: _Given) -> int:
    return int(_amount(given))


_OWN_OPTION = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


def _resources(given: _Given) -> dict[str, float]:
    if not isinstance(given.value, Mapping):
        given.wrong_type("a dict of names and amounts")
    amounts = {}
    for name, amount in given.value.items():
        if not isinstance(name, str):
            given.wrong_type("a dict whose keys are strings")
        if not name:
            given.wrong_value("the name of a resource cannot be empty")
        _sendable(name, given)
        if name in _OWN_OPTION:
            given.wrong_value(
                "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU' in 'resources' keyword, "
                f"and 'memory' likewise: {_OWN_OPTION[name]}={amount!r}"
            )
        of_name = _Given(given.what, f"resources[{name!r}]", amount, name)
        amounts[name] = _amount(of_name)
        if fault := fault_of_amount(name, amounts[name]):
            of_name.wrong_value(fault)
    if fault := fault_of(name for name, amount in amounts.items() if amount):
        given.wrong_value(fault)
    return amounts


STREAMING, DYNAMIC = "streaming", "dynamic"
DYNAMIC_WARNING = 'num_returns="dynamic" is deprecated, on Ray too: use num_returns="streaming"'


def _num_returns(given: _Given) -> int | str:
    if isinstance(given.value, str) and given.value in (STREAMING, DYNAMIC):
        if given.value == DYNAMIC:
            import warnings  # here, because workers need it only for this

            warnings.warn(DYNAMIC_WARNING, DeprecationWarning, stacklevel=8)
        return given.value
    checked: int = _count(0, most=MAX_RETURNS)(given)
    return checked


def _retry_exceptions(given: _Given) -> bool | tuple[type[Exception], ...]:
    allowed = "True, False, or a list of exception types"
    if isinstance(given.value, bool):
        return given.value
    if not isinstance(given.value, (list, tuple)):
        given.wrong_type(allowed)
    if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in given.value):
        given.wrong_value("retry_exceptions must be either a boolean or a list of exceptions")
    return tuple(given.value)


def check_text(value: Any, what: str, name: str) -> str:
    """Checks that ``value``, the argument ``name`` of ``what``, is a non-empty string that can be sent.

    Returns it. Raises the errors of an option otherwise.
    """
    return _text(_Given(what, name, value))


def _text(given: _Given) -> str:
    if not isinstance(given.value, str):
        given.wrong_type("a string")
    return _sendable(given.value, given) or given.wrong_value("it cannot be empty")


def _task_name(given: _Given) -> str | None:
    return None if given.value == "" else _text(given)  # as in Ray, an empty name is the default


def _max_restarts(given: _Given) -> int:
    checked: int = _count(-1, _UNLIMITED, most=2**63 - 1)(given)
    return min(checked, MAX_COUNT)  # no actor lives to see the difference, and Ray's programs pass larger numbers


def _sendable(text: str, given: _Given) -> str:
    """Checks that ``text`` can be sent to other processes, shown and looked up there; returns it."""
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(
            f"{given.what}: {given.name} has {len(text):,} characters; at most {MAX_TEXT_CHARS:,} are allowed"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        given.wrong_value(f"it has no UTF-8 form, because of the character at position {error.start}")
    return text


def _flag(given: _Given) -> bool:
    return given.value if isinstance(given.value, bool) else given.wrong_type("True or False")


def check_streams(num_returns: int | str | None, is_generator: bool, what: str) -> bool:
    """Returns whether a call has a stream: a generator whose values are objects as they come.

    Raises ValueError if only a generator can have these ``num_returns``, and the function is none.
    """
    if num_returns is None:
        return is_generator
    if isinstance(num_returns, str) and not is_generator:
        raise ValueError(
            f"{what}: num_returns={num_returns!r} is for generator functions (functions that use 'yield'), and this is "
            f"none: give a number"
        )
    return isinstance(num_returns, str)


def _backpressure(given: _Given) -> int:
    checked: int = _count(-1, _UNLIMITED)(given)
    return checked or given.wrong_value("it must be > 0, or -1 for no limit")


def _max_pending_calls(given: _Given) -> int:
    checked: int = _count(-1, _UNLIMITED)(given)
    return checked or -1  # 0 means no limit too, as in Ray


def _concurrency_groups(given: _Given) -> dict[str, int]:
    if isinstance(given.value, (list, tuple)) and not given.value:
        return {}
    if not isinstance(given.value, Mapping):
        given.wrong_type("a dict of names and numbers of calls")
    groups = {}
    for name, limit in given.value.items():
        if not isinstance(name, str):
            given.wrong_type("a dict whose keys are strings")
        if not name:
            given.wrong_value("the name of a group cannot be empty")
        _sendable(name, given)
        if isinstance(limit, bool) or not isinstance(limit, numbers.Integral):
            given.wrong_type(f"a dict with an integer >= 1 for each group, not {limit!r} for {name!r}")
        if not 1 <= int(limit) <= MAX_COUNT:
            given.wrong_value(f"the number of calls of group {name!r} must be an integer >= 1, at most {MAX_COUNT}")
        groups[name] = int(limit)
    return groups


def _lifetime(given: _Given) -> str:
    if not isinstance(given.value, str):
        given.wrong_type("'detached' or 'non_detached'")
    return (
        given.value
        if given.value in ("detached", "non_detached")
        else given.wrong_value("actor `lifetime` argument must be one of 'detached', 'non_detached' and 'None'")
    )


def _scheduling_strategy(given: _Given) -> str | Strategy:
    if isinstance(given.value, str):
        if given.value in ("DEFAULT", "SPREAD"):
            return given.value
        given.wrong_value("Invalid scheduling_strategy value; it must be None, 'DEFAULT', 'SPREAD' or a strategy")
    if not callable(getattr(given.value, "constraint", None)):
        given.wrong_type("None, 'DEFAULT', 'SPREAD' or a strategy of zray.util.scheduling_strategies")
    strategy: Strategy = given.value
    return strategy


def _label_selector(given: _Given) -> Mapping[str, str]:
    _read_selector(given)
    return dict(given.value)


def _read_selector(given: _Given) -> None:
    from zray.scheduling.labels import read_selector  # only programs that use it load it

    try:
        read_selector(given.value)
    except TypeError:
        given.wrong_type("a dict of strings")
    except ValueError as error:
        given.wrong_value(str(error))


def _fallback_strategy(given: _Given) -> list[Mapping[str, Any]]:
    if not isinstance(given.value, (list, tuple)):
        given.wrong_type("a list of dicts, such as [{'label_selector': {'zone': 'a'}}]")
    for fallback in given.value:
        if not isinstance(fallback, Mapping):
            given.wrong_value("Each element in fallback_strategy must be a dictionary")
        if not fallback:
            given.wrong_value("Empty dictionary found in fallback_strategy")
        for name in fallback:
            if name != "label_selector":
                given.wrong_value(f"Unsupported option found: {name!r}; only 'label_selector' is supported")
        selector = fallback["label_selector"]
        if selector and not isinstance(selector, Mapping):
            given.wrong_value("The value of 'label_selector' must be a dictionary")
        _read_selector(_Given(given.what, "label_selector in fallback_strategy", selector or {}))
    return list(given.value)


def _no_object_store_memory(given: _Given) -> NoReturn:
    given.wrong_value("Setting 'object_store_memory' is not implemented for tasks; it is an option of an actor class")


def _own_labels(given: _Given) -> Mapping[str, str]:
    if not isinstance(given.value, Mapping):
        given.wrong_type("a dict of strings")
    if not all(isinstance(part, str) for item in given.value.items() for part in item):
        given.wrong_value("keys and values of labels must be strings")
    return dict(given.value)


def _placement_group(given: _Given) -> Any:
    if given.value is None or given.value == "default" or hasattr(type(given.value), "bundle_specs"):
        return given.value
    given.wrong_type("a PlacementGroup, None or 'default'")


def _runtime_env(given: _Given) -> Mapping[str, Any]:
    value: Mapping[str, Any] = given.value if isinstance(given.value, Mapping) else given.wrong_type("a dict")
    return value  # the API checks its fields


_UNLIMITED = ", where -1 represents infinity"
_SHARED: dict[str, Check] = {
    "num_cpus": _amount,
    "num_gpus": _gpus,
    "memory": _memory,
    "resources": _resources,
    "name": _text,
    "scheduling_strategy": _scheduling_strategy,
    "placement_group": _placement_group,
    "placement_group_bundle_index": _count(-1, " (-1: any bundle)"),
    "placement_group_capture_child_tasks": _flag,
    "label_selector": _label_selector,
    "fallback_strategy": _fallback_strategy,
    "accelerator_type": _text,
    "_labels": _own_labels,
    "runtime_env": _runtime_env,
    "enable_task_events": _flag,
    "priority": _priority,
}
_STREAM: dict[str, Check] = {
    "_generator_backpressure_num_objects": _backpressure,
    "_num_objects_per_yield": _count(1),
}
_TASK: dict[str, Check] = {
    **_SHARED,
    "name": _task_name,
    "num_returns": _num_returns,
    "max_retries": _count(-1, _UNLIMITED),
    "retry_exceptions": _retry_exceptions,
    "timeout_s": _timeout,
    "max_calls": _count(0, ", where 0 means no limit"),
    **_STREAM,
    "object_store_memory": _no_object_store_memory,
}
_ACTOR: dict[str, Check] = {
    **_SHARED,
    "max_restarts": _max_restarts,
    "max_task_retries": _count(-1, _UNLIMITED),
    "max_concurrency": _count(1),
    "max_pending_calls": _max_pending_calls,
    "object_store_memory": _memory,
    "namespace": _text,
    "lifetime": _lifetime,
    "get_if_exists": _flag,
    "_actor_generator_backpressure_num_objects": _backpressure,
    "concurrency_groups": _concurrency_groups,
    "allow_out_of_order_execution": _flag,
}
_METHOD: dict[str, Check] = {
    "num_returns": _num_returns,
    "max_task_retries": _count(-1, _UNLIMITED),
    "retry_exceptions": _retry_exceptions,
    "timeout_s": _timeout,
    "name": _task_name,
    "concurrency_group": _text,
    "enable_task_events": _flag,
    "_labels": _own_labels,
    **_STREAM,
}
_SUBJECTS: dict[type, tuple[str, dict[str, Check]]] = {
    TaskOptions: ("a remote function", _TASK),
    ActorOptions: ("an actor class", _ACTOR),
    MethodOptions: ("an actor's method", _METHOD),
}
_SUBJECTS_IN_GENERAL = {
    "a remote function": "remote functions",
    "an actor class": "actors",
    "an actor's method": "actor methods",
}
_HINTS = {
    ("a remote function", "max_restarts"): "for a remote function it is max_retries",
    ("a remote function", "max_task_retries"): "for a remote function it is max_retries",
    ("an actor class", "max_retries"): "for an actor class there are max_restarts and max_task_retries",
    ("an actor class", "num_returns"): "give it to the method, with @zray.method(num_returns=...)",
    ("an actor class", "retry_exceptions"): "give it to the method, with @zray.method(retry_exceptions=...)",
    ("an actor class", "timeout_s"): "give it to the method, with @zray.method(timeout_s=...)",
    ("an actor's method", "max_retries"): "for an actor's method it is max_task_retries",
    ("an actor's method", "priority"): "an actor runs the calls of a caller in their order",
}
_TENSOR_TRANSPORTS = frozenset(("enable_tensor_transport", "tensor_transport"))
"""Options of Ray's transports of tensors between GPUs. ``None`` and ``False`` ask for nothing and are accepted."""


def _checked(kind: type, kwargs: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Returns the fields of ``kind`` to set. An option given as None is set to its default."""
    _, checks = _SUBJECTS[kind]
    values = {}
    for name, value in kwargs.items():
        given = _Given(what, name, value)
        if name in checks:
            is_default = value is None and name != "placement_group"  # whose None is a value of its own
            values[name] = getattr(kind(), name) if is_default else checks[name](given)
        elif name in _TENSOR_TRANSPORTS:
            if value is not None and value is not False:
                given.no_transports()
        else:
            _refuse(kind, given)
    return values


def _refuse(kind: type, given: _Given) -> NoReturn:
    """Raises ValueError: the option belongs to another kind of target, or does not exist."""
    subject, checks = _SUBJECTS[kind]
    invalid = f"Invalid option keyword {given.name} for {_SUBJECTS_IN_GENERAL[subject]}"
    owners = [owner for owner, others in _SUBJECTS.values() if given.name in others]
    if owners:
        hint = _HINTS.get((subject, given.name))
        owner = " or ".join(owners)
        given.wrong_value(f"{invalid}: it is an option of {owner}, not of {subject}" + (f"; {hint}" if hint else ""))
    import difflib  # slow to import, and only needed for the error

    close = difflib.get_close_matches(given.name, checks, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else "."
    raise ValueError(f"{given.what}: {invalid}{guess} Allowed for {subject}: {', '.join(checks)}")
