"""Constants of Ray that programs read. Those that stand for a part of Ray that zray does not have are left out."""

from __future__ import annotations

from zray.object_ref import ObjectRef

ID_SIZE = ObjectRef.size()
"""The bytes of the identifier of an object."""
DEFAULT_PORT = 6379
"""The port that an address without one means."""
DEFAULT_TASK_MAX_RETRIES = 3
"""The default of ``max_retries``."""
MIN_RESOURCE_GRANULARITY = 0.0001
"""The smallest amount of a resource."""
RAY_ADDRESS_ENVIRONMENT_VARIABLE = "RAY_ADDRESS"
RAY_NAMESPACE_ENVIRONMENT_VARIABLE = "RAY_NAMESPACE"
RAY_RUNTIME_ENV_ENVIRONMENT_VARIABLE = "RAY_RUNTIME_ENV"
DEFAULT_RESOURCES = {"CPU", "GPU", "memory", "object_store_memory"}
"""Resources that have options of their own."""
GPU = "GPU"
LOGGER_FORMAT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"
"""The format of Ray's lines of the log."""
LOGGER_LEVEL = "info"
LOGGER_LEVEL_CHOICES = ["debug", "info", "warning", "error", "critical"]
RAY_DEFAULT_LABEL_KEYS_PREFIX = "ray.io/"
"""What the keys of labels that the cluster gives begin with."""
