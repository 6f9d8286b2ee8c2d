"""A private Slurm of two nodes on this machine: munged, slurmctld, and a slurmd for each node.

All of it is in one directory, listens at ports of its own, and ends with ``close``. It needs Debian's packages
``slurm-wlm`` and ``munge``, and root, since Slurm's daemons become the user whose job they start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from .helpers import eventually, free_port

CPUS = 4
"""CPUs of each node, as configured in Slurm; the machine may have fewer."""
MEMORY_MIB = 3000
IN_ORDER_S = 120.0
"""Within this time a cancelled job has ended, in seconds.

Slurm itself kills only after ten minutes (``KillWait``), so a job that has ended by then has ended in order.
"""

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"

_CONFIGURATION = """\
ClusterName=zraytest
SlurmctldHost={hostname}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
ProctrackType=proctrack/{tracker}
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
KillWait=600
ReturnToService=0
"""


def missing() -> str:
    """Returns why there can be no private Slurm here; empty if there can."""
    absent = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if absent:
        return f"there is no {', '.join(absent)} here: Debian has them in slurm-wlm and munge"
    return "" if os.geteuid() == 0 else "Slurm's daemons have to be started by root"


class Slurm:
    """Two nodes of ``CPUS`` processors each. ``tracker``: how Slurm recognizes the processes of a job."""

    def __init__(self, directory: Path, tracker: str) -> None:
        self.directory = directory
        self._environ = {**os.environ, "SLURM_CONF": str(directory / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []
        # Their control groups have the same names, and another private Slurm may run on this machine.
        self._nodes = [f"zray-{os.getpid()}-{number}" for number in (1, 2)]
        (directory / "state").mkdir()
        (directory / "munge.key").write_bytes(os.urandom(128))
        (directory / "munge.key").chmod(0o400)
        hostname = socket.gethostname()
        configuration = _CONFIGURATION.format(hostname=hostname, port=free_port(), directory=directory, tracker=tracker)
        for name in self._nodes:
            (directory / f"spool-{name}").mkdir()
            configuration += (
                f"NodeName={name} NodeHostname={hostname} NodeAddr=127.0.0.1 Port={free_port()} "
                f"CPUs={CPUS} RealMemory={MEMORY_MIB} State=UNKNOWN\n"
            )
        configuration += "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        (directory / "slurm.conf").write_text(configuration)
        (directory / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")

    def start(self) -> None:
        """Starts the daemons, and waits until both nodes accept jobs."""
        here = self.directory
        munge = [f"--{what}-file={here}/munge.{what}" for what in ("key", "pid", "log", "seed")]
        self._daemon("munged", "--foreground", "--force", f"--socket={here}/munge.socket", *munge)
        eventually((here / "munge.socket").exists)
        self._daemon("slurmctld", "-D")
        for name in self._nodes:
            self._daemon("slurmd", "-D", "-N", name)
        eventually(lambda: self.states() == ["idle", "idle"], 60.0, 0.1)

    def _daemon(self, program: str, *options: str) -> None:
        path = shutil.which(program, path=_PATH)
        assert path is not None
        with (self.directory / "daemons.out").open("ab") as out:
            daemon = subprocess.Popen(
                [path, *options],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._daemons.append(daemon)

    def close(self) -> None:
        """Ends the daemons, and removes the control groups that they have made."""
        for daemon in reversed(self._daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10.0)
            daemon.kill()
            daemon.wait()
        for name in self._nodes:
            for directory, _, _ in os.walk(f"/sys/fs/cgroup/freezer/slurm_{name}", topdown=False):
                os.rmdir(directory)

    def log(self) -> str:
        """Returns the daemons' logs, for a failed test."""
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in self.directory.glob("*.log"))

    def run(self, *command: str, **environ: str) -> str:
        """Runs one of Slurm's commands, with ``environ`` added; returns its output."""
        environment = {**os.environ, "SLURM_CONF": self._environ["SLURM_CONF"], **environ}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60.0)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def states(self) -> list[str]:
        """Returns the state of each node: ``idle``, ``allocated``, ``completing``, ``drained``.

        Empty before the controller answers.
        """
        command = ["sinfo", "--noheader", "--Node", "--format=%T"]
        return subprocess.run(command, env=self._environ, capture_output=True, text=True).stdout.split()

    def submit(self, *command: str, **environ: str) -> Job:
        """Runs ``sbatch`` with these options, script and arguments, in a directory of the job's own."""
        directory = self.directory / f"job-{len(list(self.directory.glob('job-*')))}"
        directory.mkdir()
        output = directory / "output"
        environ = {"PYTHONFAULTHANDLER": "1", **environ}
        job_id = self.run("sbatch", "--parsable", f"--chdir={directory}", f"--output={output}", *command, **environ)
        return Job(self, job_id.strip(), output)


class Job:
    """A submitted job."""

    def __init__(self, slurm: Slurm, job_id: str, output: Path) -> None:
        self.job_id = job_id
        self._slurm = slurm
        self._output = output

    @property
    def output(self) -> str:
        """Returns the output so far."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def expect(self, text: str) -> None:
        """Waits until the job has printed ``text``; fails if it ends before."""
        eventually(lambda: text in self.output or self._has_left_the_queue(), IN_ORDER_S)
        assert text in self.output, self.report()

    def facts(self) -> dict[str, str]:
        """Returns the fields of ``scontrol show job``."""
        words = self._slurm.run("scontrol", "--oneliner", "show", "job", self.job_id).split()
        return dict(word.partition("=")[::2] for word in words)

    def end(self) -> tuple[str, int]:
        """Waits until all processes of the job have ended; returns state (``COMPLETED``, ``TIMEOUT``) and exit code."""
        try:
            eventually(self._has_left_the_queue, IN_ORDER_S, 0.1)
        except AssertionError as error:
            # The processes of Python then print their stacks, see ``PYTHONFAULTHANDLER``. Slurm does not signal a job
            # that it has told to end already.
            for pid in self._processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGABRT)
            time.sleep(5.0)  # no event tells when they have printed them
            raise AssertionError(f"the job has not ended within {IN_ORDER_S:g} s: {self.report()}") from error
        facts = self.facts()
        return facts["JobState"], int(facts["ExitCode"].partition(":")[0])

    def _processes(self) -> list[int]:
        """The processes of the job."""
        mark = f"SLURM_JOB_ID={self.job_id}".encode()
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                variables = environ.read_bytes()
                if mark in variables.split(b"\0") and bytes(self._slurm.directory) in variables:
                    found.append(int(environ.parent.name))
        return found

    def _has_left_the_queue(self) -> bool:
        return self.job_id not in self._slurm.run("squeue", "--noheader", "--format=%i").split()

    def report(self) -> str:
        return f"{self.facts()}\n{self.output}\n{self._slurm.log()}"
