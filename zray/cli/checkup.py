"""The rules of ``zray doctor``: what facts about a machine mean for zray. Pure: ``zray.cli.doctor`` finds them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from zray.named_tuples import NamedTuple

OK, WARN, FAIL = "ok", "warn", "fail"
MIB, GIB = 1 << 20, 1 << 30
LEAST_DISK, LITTLE_DISK = 100 * MIB, 1 * GIB
"""Of the file system with sessions, logs and spilled objects."""
LEAST_MEMORY, LITTLE_MEMORY = 256 * MIB, 1 * GIB
LEAST_FILES, LITTLE_FILES = 256, 4096
"""Of the hard limit, to which brokers and hosts raise their own: a broker has a descriptor for each peer on TCP."""
LITTLE_PROCESSES = 512
RELEASED = 1_764_547_200.0
"""2025-12-01: a clock that is before it is wrong. In seconds since 1970."""
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+)")


class Check(NamedTuple):
    """The result of one check. ``state``: ``OK``, ``WARN`` or ``FAIL``; ``remedy``: empty if it is ``OK``."""

    name: str
    state: str
    finding: str
    remedy: str = ""


def python(version: tuple[int, ...]) -> Check:
    """Of this interpreter."""
    text = ".".join(map(str, version[:3]))
    if tuple(version[:2]) < (3, 10):
        return Check("Python", FAIL, f"{text} is too old", "install Python 3.10 or a later one")
    return Check("Python", OK, f"{text}; all machines of a cluster need {version[0]}.{version[1]}")


def libraries(required: Sequence[str], installed: Mapping[str, str]) -> Check:
    """``required``: as in the metadata of a package, such as ``rich>=13.7``; ``installed``: versions by name."""
    missing, old, fine = [], [], []
    for requirement in required:
        match = _REQUIREMENT.fullmatch(requirement.partition(";")[0].strip())
        if match is None or ";" in requirement:
            continue  # an extra, or for another Python
        name, least = match.groups()
        version = installed.get(name, "")
        if not version:
            missing.append(name)
        elif _numbers(version) < _numbers(least):
            old.append(f"{name} {version} (needed: {least})")
        else:
            fine.append(f"{name} {version}")
    if missing or old:
        faults = [f"{', '.join(missing)} missing"] * bool(missing) + [f"{', '.join(old)} too old"] * bool(old)
        return Check("libraries", FAIL, "; ".join(faults), "pip install --upgrade zray")
    return Check("libraries", OK, ", ".join(fine) or "zray is not installed as a package: versions are not known")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]


def encryption(has_curve: bool, version: str) -> Check:
    """``version``: of libzmq."""
    if has_curve:
        return Check("encryption", OK, f"libzmq {version} has CURVE")
    return Check(
        "encryption", WARN, f"libzmq {version} was built without CURVE, which TCP needs",
        "install pyzmq's wheel: pip install --force-reinstall --only-binary pyzmq pyzmq; or use one machine only",
    )  # fmt: skip


def kernel(release: str, missing: Sequence[str]) -> Check:
    """``missing``: the system calls that do not work here."""
    if missing:
        return Check(
            "kernel", FAIL, f"Linux {release} refuses {', '.join(missing)}",
            "use Linux 5.3 or later; in a container, permit these calls in its seccomp profile",
        )  # fmt: skip
    return Check("kernel", OK, f"Linux {release} has the system calls that zray uses")


def cpus(usable: int, total: int) -> Check:
    """``usable``: by this process, as its control groups and affinity allow."""
    return Check("CPUs", OK, f"{usable} of {total} may be used; a host offers as many")


def memory(limit: int, total: int, available: int) -> Check:
    """In bytes. ``limit``: what this process may use, ``total``: what the machine has, ``available``: of it."""
    where = (
        f"{amount(limit)} may be used, by the limit of the container or batch job" if limit < total else amount(limit)
    )
    usable = min(limit, available)
    finding = f"{where}; {amount(available)} of the machine's memory are available"
    if usable < LEAST_MEMORY:
        return Check("memory", FAIL, finding, "end other programs, or raise the limit (docker run --memory)")
    if usable < LITTLE_MEMORY:
        return Check("memory", WARN, finding, "each worker needs some ten MiB and what its tasks need: offer few CPUs")
    return Check("memory", OK, finding)


def shared_memory(directory: str, size: int, free: int, wanted: int, tiny: int, fault: str = "") -> Check:
    """In bytes. ``wanted``: for an object store; ``tiny``: with less, the store is a directory on disk; ``fault``: why
    the directory cannot be used; empty if it can."""
    enlarge = f"enlarge it: in a container docker run --shm-size=8g, else mount -o remount,size=8G {directory}"
    slow = "so object stores lie on disk, which is much slower"
    if fault:
        return Check("shared memory", WARN, f"{directory} {fault}, {slow}", f"mount a tmpfs at {directory}")
    finding = f"{directory} has {amount(free)} free of {amount(size)}"
    if free < min(tiny, wanted):
        return Check("shared memory", WARN, f"{finding}, {slow}", f"remove what is left there, or {enlarge}")
    if free < wanted:
        text = f"{finding}, and an object store is to have {amount(wanted)}: objects go to disk earlier"
        return Check("shared memory", WARN, text, f"remove what is left there, or {enlarge}")
    return Check("shared memory", OK, finding)


def space(name: str, directory: str, size: int, free: int) -> Check:
    """Of a directory on disk, in bytes."""
    finding = f"{directory} has {amount(free)} free of {amount(size)}"
    remedy = "remove files there, or choose another directory (settings tmpdir, spill_dir)"
    state = FAIL if free < LEAST_DISK else WARN if free < LITTLE_DISK else OK
    return Check(name, state, finding, "" if state is OK else remedy)


def sockets(root: str, longest: int) -> Check:
    """``longest``: how many bytes the path of the session root may have; ``runtime_root`` refuses longer ones."""
    return Check("sockets", OK, f"the path {root} has {len(root.encode())} bytes; up to {longest} are possible")


def open_files(soft: int, hard: int) -> Check:
    """Limits on the descriptors of this process; -1: none."""
    if hard == -1:
        return Check("open files", OK, "no limit")
    finding = f"up to {hard:,} for a process"
    if soft < hard:
        finding += f" (now {soft:,}, which brokers and hosts raise)"
    remedy = "raise the hard limit: ulimit -Hn as root, LimitNOFILE= of a systemd service, docker run --ulimit nofile="
    state = FAIL if hard < LEAST_FILES else WARN if hard < LITTLE_FILES else OK
    return Check("open files", state, finding, "" if state is OK else remedy)


def processes(soft: int) -> Check:
    """The limit on the processes and threads of the user; -1: none."""
    if soft == -1 or soft >= LITTLE_PROCESSES:
        return Check(
            "processes", OK, "no limit" if soft == -1 else f"up to {soft:,} processes and threads of this user"
        )
    return Check(
        "processes", WARN, f"up to {soft:,} processes and threads of this user; a worker has at least two",
        "raise the limit: ulimit -u, LimitNPROC= of a systemd service",
    )  # fmt: skip


def keys(directory: str, names: Sequence[str], fault: str = "") -> Check:
    """``names``: of the keys there; ``fault``: why the directory cannot be used, with the remedy; empty if it can."""
    if fault:
        return Check("keys", FAIL, fault, f"chmod 700 {directory}; chmod 600 {directory}/*; its owner must be you")
    if not names:
        return Check("keys", OK, f"none in {directory}: the first start of zray-broker on TCP makes them")
    return Check("keys", OK, f"{', '.join(names)} in {directory}, for you alone")


def clock(now_s: float) -> Check:
    """``now_s``: in seconds since 1970."""
    if now_s < RELEASED:
        return Check(
            "clock", WARN, "it is years behind: times in logs and traces are wrong",
            "set it: timedatectl set-ntp true",
        )  # fmt: skip
    return Check("clock", OK, "plausible; hosts may differ, since zray measures ages")


def cluster(address: str, fault: str, said: str) -> Check:
    """``fault``: why no broker answers, with the remedy, empty if one does; ``said``: what it has said of itself."""
    if not address:
        return Check("cluster", OK, "none of yours runs on this machine")
    if fault:
        return Check("cluster", FAIL, fault, "start a broker there, or correct the address, the keys or the firewall")
    return Check("cluster", OK, f"{address} answers: {said}")


def port(address: str, fault: str) -> Check:
    """``fault``: why a broker could not listen there; empty if it could."""
    if fault:
        return Check(
            "port", FAIL, f"no broker can listen at {address}: {fault}", "choose another port, or end what has it"
        )
    return Check("port", OK, f"a broker could listen at {address}")


def amount(size: float) -> str:
    """An amount of bytes, for people."""
    unit, name = (GIB, "GiB") if size >= GIB else (MIB, "MiB")
    return f"{size / unit:.1f} {name}"
