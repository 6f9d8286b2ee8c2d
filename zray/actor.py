"""The module in which Ray has its actor classes."""

from zray.api.actor import ActorClass, ActorClassInheritanceException, ActorHandle, ActorMethod, exit_actor, method

__all__ = ["ActorClass", "ActorClassInheritanceException", "ActorHandle", "ActorMethod", "exit_actor", "method"]
