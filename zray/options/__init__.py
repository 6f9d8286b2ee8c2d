"""Options of remote functions, actor classes and methods. They are checked where they are given.

Each option has a check, which returns the value to keep or raises. ``subjects`` says which options a remote function,
an actor class and a method take; ``checks``, ``amounts`` and ``given`` have the checks. ``None`` stands for the
default, as in Ray. An error names the place where the option was given, the option, its value, and what is allowed:
TypeError for a wrong type, ValueError for a wrong value or name, NotImplementedError for what zray does not have, such
as transports of tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from zray.options.amounts import units_of
from zray.options.subjects import ACTOR, METHOD, TASK, checked

if TYPE_CHECKING:
    from zray.scheduling.combine import Strategy

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
        options = _agreeing(cls(**checked(TASK, TaskOptions, kwargs, what)), what)
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
        return _agreeing(_replaced(self, checked(TASK, TaskOptions, given, what)), what)

    def names_group(self) -> bool:
        """Whether the options about placement groups are not the defaults."""
        return _names_group(self)

    def resource_amounts(self) -> dict[str, int]:
        """Amounts that a task asks for, in ten-thousandths, by resource; zero amounts are left out."""
        return units_of(self.num_cpus, self.num_gpus, self.memory, self.resources, self.accelerator_type)

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
        return _agreeing(cls(**checked(ACTOR, ActorOptions, kwargs, what)), what)._with_name(what)

    def updated(self, kwargs: Mapping[str, Any], what: str = ".options()") -> ActorOptions:
        """Returns a copy in which ``kwargs`` replace the present values."""
        if kwargs.get("concurrency_groups") is not None:
            raise ValueError(
                f"{what}: concurrency_groups={kwargs['concurrency_groups']!r} is not allowed: the methods of the class "
                "name its groups, so they can be given to @zray.remote only"
            )
        given = {name: value for name, value in kwargs.items() if name != "concurrency_groups"}
        return _agreeing(_replaced(self, checked(ACTOR, ActorOptions, given, what)), what)._with_name(what)

    def names_group(self) -> bool:
        """Whether the options about placement groups are not the defaults."""
        return _names_group(self)

    def _with_name(self, what: str) -> ActorOptions:
        if self.get_if_exists and self.name is None:
            raise ValueError(
                f"{what}: get_if_exists=True is not allowed without a name: The actor name must be "
                "specified to use `get_if_exists`"
            )
        return self

    def placement_amounts(self) -> dict[str, int]:
        """Amounts that must be free to place the actor, in ten-thousandths; zero amounts are left out."""
        return self._amounts(1 if self.num_cpus is None else self.num_cpus)

    def running_amounts(self) -> dict[str, int]:
        """Amounts that the actor holds until it ends, in ten-thousandths; zero amounts are left out."""
        return self._amounts(self.num_cpus or 0)

    def _amounts(self, num_cpus: float) -> dict[str, int]:
        others = {**self.resources, "object_store_memory": self.object_store_memory}
        return units_of(num_cpus, self.num_gpus, self.memory, others, self.accelerator_type)

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
        return cls(**checked(METHOD, MethodOptions, kwargs, what))

    def updated(self, kwargs: Mapping[str, Any], what: str = ".options()") -> MethodOptions:
        """Returns a copy in which ``kwargs`` replace the present values."""
        _check_per_yield(kwargs, self._num_objects_per_yield, what)
        return _replaced(self, checked(METHOD, MethodOptions, kwargs, what))


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


def _constraint_row(options: TaskOptions | ActorOptions) -> list[Any] | None:
    strategy = options.scheduling_strategy
    if (strategy is None or isinstance(strategy, str)) and not options.label_selector:
        return None
    from zray.scheduling.combine import combine  # only programs that use it load it

    given = None if isinstance(strategy, str) else strategy
    constraint = combine(given, options.label_selector, options.fallback_strategy)
    return None if constraint is None else constraint.to_row()
