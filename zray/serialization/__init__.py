"""Encodes values, functions and errors as bytes. The only part of zray that pickles."""

from zray.serialization.causes import hint_for
from zray.serialization.errors import load_error, pack_task_error, without_exception
from zray.serialization.explain import explain_unpicklable
from zray.serialization.functions import PickledCallable, load_callable, pickle_callable
from zray.serialization.pickler import LoadRef
from zray.serialization.values import Serialized, deserialize, serialize, serialize_call

__all__ = [
    "LoadRef",
    "PickledCallable",
    "Serialized",
    "deserialize",
    "explain_unpicklable",
    "hint_for",
    "load_callable",
    "load_error",
    "pack_task_error",
    "pickle_callable",
    "serialize",
    "serialize_call",
    "without_exception",
]
