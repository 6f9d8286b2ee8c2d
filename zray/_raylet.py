"""The module in which Ray has its compiled classes: identifiers, streams and the reference."""

from __future__ import annotations

from zray.api.generators import ObjectRefGenerator
from zray.exceptions import ObjectRefStreamEndOfStreamError
from zray.object_ref import DynamicObjectRefGenerator, ObjectRef
from zray.public_ids import (
    ActorClassID,
    ActorID,
    BaseID,
    ClusterID,
    FunctionID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)

__all__ = [
    "RAY_NODE_ID_KEY",
    "ActorClassID",
    "ActorID",
    "BaseID",
    "ClusterID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "ObjectRefStreamEndOfStreamError",
    "PlacementGroupID",
    "StreamingObjectRefGenerator",
    "TaskID",
    "UniqueID",
    "WorkerID",
]

ObjectID = ObjectRef
StreamingObjectRefGenerator = ObjectRefGenerator
RAY_NODE_ID_KEY = "ray.io/node-id"
"""The label of each host that has its identifier."""
