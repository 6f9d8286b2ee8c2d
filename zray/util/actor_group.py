"""Ray's deprecated group of equal actors: ``ActorGroup``. A call of the group is a call of each of its actors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.api.actor import ActorClass, ActorHandle
from zray.api.decorator import remote
from zray.api.objects import kill, wait
from zray.named_tuples import NamedTuple
from zray.object_ref import ObjectRef
from zray.user_warnings import warn_user

__all__ = ["ActorGroup", "ActorGroupMethod", "ActorWrapper"]


class ActorWrapper(NamedTuple):
    """An actor of a group."""

    actor: ActorHandle[Any]


class ActorGroupMethod:
    """A method of all actors of a group."""

    def __init__(self, actor_group: ActorGroup, method_name: str) -> None:
        self.actor_group = actor_group
        self._method_name = method_name

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Raises TypeError: methods of actors are called with ``remote``."""
        raise TypeError(
            "ActorGroup methods cannot be called directly. Instead of running "
            f"'object.{self._method_name}()', try 'object.{self._method_name}.remote()'."
        )

    def remote(self, *args: Any, **kwargs: Any) -> list[ObjectRef]:
        """Calls the method of each actor with the same arguments. Returns their references, in the actors' order."""
        return [getattr(actor, self._method_name).remote(*args, **kwargs) for actor in self.actor_group.actors]


class ActorGroup:
    """A group of actors of one class. Deprecated, as in Ray: make a list of actors.

    Args:
        actor_cls: the class, not decorated with ``remote``.
        num_actors: the number of actors, at least 1.
        num_cpus_per_actor: the CPUs of each.
        num_gpus_per_actor: the GPUs of each.
        resources_per_actor: further resources of each.
        init_args: positional arguments of the constructor.
        init_kwargs: keyword arguments of the constructor.

    Raises:
        ValueError: ``num_actors`` is below 1, or an amount is below 0.
    """

    def __init__(
        self,
        actor_cls: type,
        num_actors: int = 1,
        num_cpus_per_actor: float = 1,
        num_gpus_per_actor: float = 0,
        resources_per_actor: dict[str, float] | None = None,
        init_args: tuple[Any, ...] | None = None,
        init_kwargs: dict[str, Any] | None = None,
    ) -> None:
        warn_user("ActorGroup is deprecated: make a list of actors", DeprecationWarning)
        if num_actors <= 0:
            raise ValueError(f"num_actors must be at least 1, got {num_actors}")
        if num_cpus_per_actor < 0 or num_gpus_per_actor < 0:
            raise ValueError(
                "num_cpus_per_actor and num_gpus_per_actor must not be negative, got "
                f"{num_cpus_per_actor} and {num_gpus_per_actor}"
            )
        self.num_actors = num_actors
        self.actors: list[ActorHandle[Any]] = []
        decorate: Callable[[type], ActorClass[Any]] = remote(
            num_cpus=num_cpus_per_actor, num_gpus=num_gpus_per_actor, resources=resources_per_actor or {}
        )
        self._class = decorate(actor_cls)
        self._args = init_args or ()
        self._kwargs = init_kwargs or {}
        self.start()

    def start(self) -> None:
        """Creates the actors. ``shutdown`` ends them.

        Raises:
            RuntimeError: there are some.
        """
        if self.actors:
            raise RuntimeError("The actors have already been started")
        self.actors = [self._class.remote(*self._args, **self._kwargs) for _ in range(self.num_actors)]

    def shutdown(self, patience_s: float = 5) -> None:
        """Ends the actors: after their calls if these take at most ``patience_s`` seconds, else at once."""
        ended = [actor.__ray_terminate__.remote() for actor in self.actors]
        if patience_s > 0 and ended:
            wait(ended, num_returns=len(ended), timeout=patience_s)
        for actor in self.actors:
            kill(actor)
        self.actors = []

    def __getattr__(self, name: str) -> ActorGroupMethod:
        if name.startswith("__"):
            raise AttributeError(name)
        if not self.__dict__.get("actors"):
            raise RuntimeError("This ActorGroup has been shut down: call start() first")
        return ActorGroupMethod(self, name)

    def __len__(self) -> int:
        return len(self.actors)

    def __getitem__(self, index: int) -> ActorWrapper:
        return ActorWrapper(self.actors[index])
