"""Constants of Ray that programs read. Those that stand for a part of Ray that zray does not have are left out."""

from __future__ import annotations

from zray._common.ray_constants import DEFAULT_MAX_CONCURRENCY_ASYNC as DEFAULT_MAX_CONCURRENCY_ASYNC
from zray._common.ray_constants import LOGGING_ROTATE_BACKUP_COUNT as LOGGING_ROTATE_BACKUP_COUNT
from zray._common.ray_constants import LOGGING_ROTATE_BYTES as LOGGING_ROTATE_BYTES
from zray._common.utils import env_bool as env_bool
from zray._common.utils import env_float as env_float
from zray._common.utils import env_integer as env_integer
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
MAX_INT64_VALUE = (1 << 63) - 1
DEFAULT_MAX_CONCURRENCY_THREADED = 1
"""How many plain methods of an actor run at once if ``max_concurrency`` is not given."""
DEFAULT_ACTOR_CREATION_CPU_SIMPLE = 0
"""The CPUs of an actor that runs and has no resources given."""
DEFAULT_ACTOR_METHOD_CPU_SIMPLE = 1
"""The CPUs that a host needs free for such an actor."""
DEFAULT_ACTOR_METHOD_NUM_RETURN_VALS = 1
"""The default of ``num_returns`` of methods."""
DEFAULT_RUNTIME_ENV_TIMEOUT_SECONDS = 600
"""The default of ``setup_timeout_seconds``."""
FUNCTION_SIZE_WARN_THRESHOLD = 10**7
FUNCTION_SIZE_ERROR_THRESHOLD = 10**8
"""The bytes of a pickled function from which on Ray warns, and from which on it refuses it. zray ships it."""
OBJECT_STORE_MINIMUM_MEMORY_BYTES = 75 << 20
"""The smallest object store that Ray accepts. zray accepts smaller ones."""
ENABLE_RAY_CLUSTER = True
"""Whether several hosts may make one cluster on this system."""
TPU = "TPU"
HPU = "HPU"
NPU = "NPU"
NEURON_CORES = "neuron_cores"
