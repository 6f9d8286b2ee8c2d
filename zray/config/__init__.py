"""Every setting, in one frozen record. ``zray.config.reading`` has their sources and their allowed values.

Each process of a cluster has a record. Workers get theirs in their payload. So this module imports almost nothing, and
only the processes that users start load the reading.
"""

from __future__ import annotations

import dataclasses

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

OPTIMIZATIONS = ("bare-fork", "fill-holes", "fill-malloc", "freeze-heap", "tune-malloc", "warm-up")
"""Optimizations that depend on internals of CPython or of the C library, and can be switched off.

``docs/architecture.md`` says what each one gains and where it is.
"""
BARE_FORK, FILL_HOLES, FILL_MALLOC, FREEZE_HEAP, TUNE_MALLOC, WARM_UP = OPTIMIZATIONS
JOURNAL_SYNC = ("normal", "full")
AUTO, ON, OFF = PIN_CPUS = ("auto", "on", "off")
"""The values of the setting ``pin_cpus``."""
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a zray process.

    A setting can be given in the file ``config.toml`` by its name, in the environment as ``ZRAY_<NAME>``, and by the
    commands that have an option for it. A later source overrides an earlier one.
    """

    address: str = ""
    """The broker's address, for workers and drivers that are given none; "auto": this user's broker on this machine."""
    keys: str = ""
    """The directory with the keys for TCP; default: a directory in the user's configuration."""
    user: str = ""
    """The user that a host and its tasks run as, if root starts zray-worker.

    Then tasks cannot read the host's key, which is root's. For clusters on TCP; default: the user who starts it.
    """
    tmpdir: str = ""
    """Where session directories (sockets, logs, spilled objects) are made; default: a per-user runtime directory."""
    num_cpus: float | None = None
    """CPUs that a host offers; default: those that its process may use."""
    num_gpus: float | None = None
    """GPUs that a host offers; default: those that its process may use."""
    pin_cpus: str = "auto"
    """Whether a task or actor runs only on as many CPUs as its num_cpus: "on", "off" or "auto".

    "auto": if the host offers exactly the CPUs that its process may use, and no other host of the machine pins to them.
    """
    memory: int | None = None
    """Memory that a host offers, in bytes; default: 70% of what its process may use."""
    resources: dict[str, float] = dataclasses.field(default_factory=dict)
    """Other resources that a host offers: amounts by name."""
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    """Labels of a host: values by key, as zray.nodes() shows them."""
    object_store_memory: int = 0
    """Capacity of a host's object store in bytes; 0: 30% of the memory, at most what /dev/shm can hold."""
    spill_dir: str = ""
    """Where a host puts objects when its store is full; default: within the session directory."""
    profiling: bool = False
    """Whether the workers of a host record when each task ran, for zray.timeline(); Ray's RAY_PROFILING counts too."""
    journal: str = ""
    """The file in which a broker keeps what outlives it: detached actors, placement groups, the key-value store.

    A broker that is started with the same file brings them back. Default: nothing is kept. It is for zray-broker and
    zray start --head: a cluster that init() has started ends with its program, and keeps nothing.
    """
    journal_sync: str = "normal"
    """When a change in the journal is on disk: "normal" or "full".

    In both modes a change is written before it is acknowledged, and survives the death of the broker. With "full" it is
    also flushed to the disk, so that it survives a crash of the machine.
    """
    memory_usage_threshold: float = 0.95
    """The part of the memory of a host's machine, or of its control group, from which on tasks are stopped, 0 to 1.

    Ray's RAY_memory_usage_threshold counts too.
    """
    memory_monitor_refresh_ms: int = 250
    """How often a host looks at its memory when that may soon be used up, in milliseconds; 0: never.

    Ray's RAY_memory_monitor_refresh_ms counts too.
    """
    task_oom_retries: int = -1
    """How often a task is tried again after it was stopped for lack of memory beside others; -1: without limit.

    These attempts cost none of its max_retries. It is a setting of the process that submits the task. Ray's
    RAY_task_oom_retries counts too.
    """
    max_lineage_bytes: int = 256 * MIB
    """How much a process keeps about the tasks whose results could be lost with a host, in bytes; 0: nothing.

    With it, a lost result is made again. It is a setting of the process that submits the task. Ray's
    RAY_max_lineage_bytes counts too.
    """
    idle_timeout_s: float = 5.0
    """How long a worker process may idle before it is ended, in seconds.

    A spare that uses almost no memory takes its place. One per CPU stays if it has loaded much, or if a thread of yours
    runs in it.
    """
    exit_timeout_s: float = 30.0
    """How long the end of a worker process may take, in seconds.

    This covers what your program does then (``__ray_shutdown__`` and ``__del__`` of an actor, threads, ``atexit``), and
    calls of an async actor that still run.
    """
    transfer_address: str = ""
    """Where a host on TCP listens for channels of other hosts, as tcp://IP:PORT.

    Default: a free port at the address by which it reaches the broker; "off": nowhere, objects for others go through
    the broker.
    """
    lanes: bool = True
    """Whether calls of actors, and tasks one by one, travel by sockets of their own within a machine."""
    inline_max_bytes: int = 100 * KIB
    """Values up to this size travel inside messages; larger ones go through the store."""
    uv_run: bool = True
    """Whether workers run in the environment that ``uv run`` has made for the driver, on a cluster that it joins.

    Ray's RAY_ENABLE_UV_RUN_RUNTIME_ENV counts too. docs/guide/runtime-environments.md has the details.
    """
    mutable_as_views: bool = False
    """Whether torch tensors and bitarrays are read as views of shared memory instead of writable copies.

    Writing to such a tensor ends the process with SIGSEGV, as torch has no read-only tensors.
    """
    heartbeat_s: float = 1.5
    """Longest silence on a link before a ping is sent, in seconds. An idle host costs 80 messages a minute."""
    silence_s: float = 6.0
    """A peer that has not been heard for this long is declared dead, in seconds."""
    connect_timeout_s: float = 5.0
    """How long a driver tries to reach a broker, and before that waits for its key to be made, in seconds."""
    join_timeout_s: float = 60.0
    """How long a host tries to reach a broker on another machine, which may start later, in seconds.

    Before that it waits as long for its key, which the broker may be about to make on a shared home directory.
    """
    store_wait_s: float = 2.0
    """How long a writer waits for room in a store whose objects are all in use before it writes to disk, in seconds."""
    infeasible_warn_s: float = 2.0
    """A request that no host can ever satisfy is reported after this many seconds."""
    start_timeout_s: float = 30.0
    """How long a local cluster may take to start, in seconds."""
    log_to_driver: bool = True
    """Whether the output of workers is shown at the driver."""
    ignore_unhandled_errors: bool = False
    """Whether errors of tasks whose results are never fetched go unreported; RAY_IGNORE_UNHANDLED_ERRORS counts too."""
    dedup_logs: bool = True
    """Whether the same line of several workers is shown once, with a count; Ray's RAY_DEDUP_LOGS counts too."""
    log_level: str = ""
    """The least severe lines that brokers and hosts log: DEBUG, INFO, WARNING or ERROR.

    They log to files of their session, and zray-broker and zray-worker also to stderr. Default: INFO, and WARNING in a
    cluster that init() started.
    """
    log_file_max_bytes: int = 16 * MIB
    """A worker's log file is rotated at this size, in bytes; one older file is kept."""
    max_message_bytes: int = 512 * MIB
    """The receiving socket refuses a message that is larger than this, in bytes."""
    disabled_optimizations: list[str] = dataclasses.field(default_factory=list)
    """Optimizations to switch off, as they depend on internals of CPython or of the C library.

    Names separated by commas, of bare-fork, fill-holes, fill-malloc, freeze-heap, tune-malloc and warm-up, or
    "all". Without them processes use more memory.
    """

    def optimizes(self, name: str) -> bool:
        """Whether an optimization, one of ``OPTIMIZATIONS``, is used."""
        return name not in self.disabled_optimizations
