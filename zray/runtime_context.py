"""The module in which Ray has the runtime context."""

from zray.api.runtime_context import RuntimeContext, get_runtime_context

__all__ = ["RuntimeContext", "get_runtime_context"]
