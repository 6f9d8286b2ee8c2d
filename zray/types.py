"""The module in which Ray has the class of references for annotations."""

from zray.object_ref import ObjectRef

__all__ = ["ObjectRef"]
