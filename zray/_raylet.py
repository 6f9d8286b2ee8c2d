"""The module in which Ray has what its C++ core defines. Programs import the class of generators from here."""

from zray.api.generators import ObjectRefGenerator
from zray.exceptions import ObjectRefStreamEndOfStreamError
from zray.object_ref import ObjectRef
from zray.public_ids import ActorID, JobID, NodeID, TaskID, WorkerID

StreamingObjectRefGenerator = ObjectRefGenerator

__all__ = [
    "ActorID",
    "JobID",
    "NodeID",
    "ObjectRef",
    "ObjectRefGenerator",
    "ObjectRefStreamEndOfStreamError",
    "StreamingObjectRefGenerator",
    "TaskID",
    "WorkerID",
]
