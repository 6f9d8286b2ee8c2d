"""The environment of a worker's process: search path, directory, environment variables, names."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from zray.accelerators import NVIDIA, Family, accelerator_in
from zray.bundles import plain
from zray.client.core.assignments import CALL, Assignment
from zray.client.session import Session
from zray.protocol.codec import unpack
from zray.protocol.messages import ActorStart, JobConfig
from zray.system.processes import set_title
from zray.system.streams import flush_streams
from zray.worker.log_marker import marker
from zray.worker.process.devices import Devices
from zray.worker.process.search_path import enter_directory, merged_search_path
from zray.worker.process.thread_counts import ThreadCounts

if TYPE_CHECKING:
    from zray.worker.process.runtime_env import Applied


def _entries_of_variable() -> list[str]:
    """Returns the entries of ``PYTHONPATH``: the interpreter itself was started without it."""
    return [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


class Environment:
    """Applies settings to this process, only when they change."""

    def __init__(self, log_secret: str, applied: Applied | None = None, gpus: Family = NVIDIA) -> None:
        """``log_secret``: see ``zray.worker.log_marker``. ``applied``: the runtime environment; None for none.
        ``gpus``: the family of the host's GPUs."""
        self._log_secret = log_secret
        self._applied = applied
        self._pipes = {fd: _file_of(fd) for fd in (1, 2)}
        self._names = dict.fromkeys(self._pipes, "")  # as the host knows them
        self._job: JobConfig | None = None
        self._title = ""
        self._named = ("", "")  # the last arguments of ``show_name``, if the same need no more work
        self._name = ""
        self._devices = Devices(gpus)
        self._gpus: list[int] = []
        self._threads = ThreadCounts()
        self._label = ""  # of the actor; empty while its constructor runs
        self._shapes: dict[bytes, dict[str, int]] = {}
        self._actor_resources: dict[str, int] = {}
        self.actor_captures = False  # what the actor creates runs in its placement group
        self._own_path = [*_entries_of_variable(), *sys.path]

    def apply_job(self, job: JobConfig, session: Session) -> bool:
        """Applies the job's search path, working directory, name for zray's modules, and logging.

        Returns whether they have changed. Then ``call_hook`` has to follow, once what the task has is applied.
        """
        if job is self._job:
            return False
        self._job = job
        if self._applied is None:
            sys.path[:] = merged_search_path(job.settings.sys_path, self._own_path, os.path.dirname(os.__file__))
            enter_directory(job.settings.cwd)
        else:
            from zray.worker.process.runtime_env import enter_job

            enter_job(self._applied, job.settings, self._own_path)
        if job.settings.ray_name:
            from zray import ray_name  # few jobs need this, or the next

            ray_name.install()
        if job.settings.logging:
            from zray.client.log_context import log_context
            from zray.logs.job_logging import LoggingConfig

            LoggingConfig.from_json(job.settings.logging).apply(lambda: log_context(session))
        return True

    def call_hook(self) -> None:
        """Calls the setup hook of the runtime environment, if it has one.

        It is code of the user. It may load libraries that read which accelerators are visible, and how many threads to
        use.
        """
        if self._applied is not None and self._applied.hook:
            from zray.worker.process.runtime_env import call_hook

            call_hook(self._applied)

    def set_actor(self, start: ActorStart) -> None:
        """Makes this worker serve the actor from now on."""
        self._actor_resources = dict(unpack(start.spec.running))

    def resources_of(self, task: Assignment) -> dict[str, int]:
        """Returns what is assigned to the task, in ten-thousandths, under the names that it asked for."""
        if task.kind == CALL:
            return self._actor_resources
        key = task.shape if task.actor_start is None else task.actor_start.spec.running
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = dict(unpack(key))
        return shape

    def devices_of(self, task: Assignment) -> tuple[int | str, ...]:
        """Returns the accelerators that are assigned to the task.

        These are numbers, or names from the host's variable, such as ``CUDA_VISIBLE_DEVICES``.
        """
        indices = self._gpus if task.kind == CALL else task.gpus
        return self._devices.names(self._resource_of(task), indices) if indices else ()

    def _resource_of(self, task: Assignment) -> str:
        """Returns the name of the accelerators that are assigned to the task."""
        return accelerator_in(plain(self.resources_of(task)))

    def apply_task(self, task: Assignment) -> None:
        """Sets which accelerators are visible, and the number of threads of numerical libraries.

        This is done before the user's code loads them. A call has what its actor was given.
        """
        if task.kind == CALL:
            return
        if task.gpus or self._gpus:
            self._gpus = task.gpus
            self._devices.show(self._resource_of(task) if task.gpus else "", task.gpus)
        self._threads.apply(max(1, plain(self.resources_of(task)).get("CPU", 0) // 10_000))

    def show_title(self, title: str) -> None:
        """Names the process in ``ps``."""
        if title != self._title:
            self._title = title
            self._named = ("", "")
            set_title(f"zray::{title}")

    def name_actor(self, actor_class: str, label: str) -> None:
        """Names an actor's process, and what it prints from now on by ``label``."""
        self._label = label
        self._named = ("", "")
        self.show_name(self._title, actor_class)

    def show_name(self, name: str, actor_class: str) -> None:
        """Names the process in ``ps``, and what it prints from now on: by its actor, if it has one."""
        if (name, actor_class) == self._named:
            return
        self.show_title(name)
        shown = self._label or actor_class or name
        if shown == self._name:
            self._named = (name, actor_class)
            return
        flush_streams()
        mark = marker(self._log_secret, shown)
        for fd, pipe in self._pipes.items():
            if self._names[fd] == shown or pipe != _file_of(fd):  # the user's code has replaced the descriptor
                continue
            with contextlib.suppress(OSError):  # the descriptor is closed, or the host is gone
                os.write(fd, mark)
                self._names[fd] = shown
        self._name = shown if all(name == shown for name in self._names.values()) else ""


def _file_of(fd: int) -> tuple[int, int]:
    """Returns the device and inode of a descriptor's file; zeros if it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino
