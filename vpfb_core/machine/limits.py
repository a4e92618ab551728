"""The cores and the memory that this process may use: those of the machine, of its container, or of its affinity mask.

A container sees all cores and all memory of its host in the usual counts. What it may use is in the files of its
control group (cgroup), whose layout differs between version 1 and version 2. torch is not used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vpfb_core.errors import ConfigError
from vpfb_core.machine.launch import process_rank

ALWAYS_ALLOWED = 64  # threads, however few cores there are
_SPINS = 1000  # what libgomp takes for a program with more threads than cores; its default is 300,000
_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def cores() -> int:
    """The cores that this process may use, at least 1; a fraction of a core is not counted.

    They are those of its affinity mask (`taskset`, cpusets), but no more than the CPU time that its cgroup allows.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _folders("cpu") if (quota := _cpu_quota(folder)) is not None]
    return max(1, int(min([available, *quotas])))


def require_threads(count: int | None, name: str = "threads") -> None:
    """Check a number of threads before they are started. None is allowed.

    Thousands of threads that wait for a few cores seem to hang, and starting them can end the process.

    Args:
        count: the number.
        name: the setting or option, for the message.
    Raises:
        ConfigError: it is more than four per core of the machine, and more than `ALWAYS_ALLOWED`.
    """
    cores_here = os.cpu_count() or 1
    most = max(ALWAYS_ALLOWED, 4 * cores_here)
    if count is not None and count > most:
        raise ConfigError(
            f"{name} = {count:,}: that many threads would wait for the {cores_here} cores of this machine",
            hint=f"at most {most} are possible here",
        )


def memory() -> int:
    """The memory of the machine, or of the container if that is less, in bytes."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    files = [folder / name for folder in _folders("memory") for name in ("memory.max", "memory.limit_in_bytes")]
    return min([installed, *(limit for file in files if (limit := _number(_words(file))) is not None)])


def memory_share() -> int:
    """The memory that this process may plan to use: half of `memory`, divided by the job's processes on this machine.

    The other half is left to other programs and to tensors that are not planned.
    """
    return memory() // 2 // process_rank().local_count


def let_waiting_threads_sleep() -> None:
    """Let a thread that waits for the others of a computation sleep soon; call this before torch is imported.

    By default the threads of GNU OpenMP, which torch uses on Linux, wait actively for milliseconds at every barrier. If
    other programs use the cores, they thereby take the time of the very threads that they wait for, and a training step
    takes ten times as long. What the user has set stays. It holds for the whole process, so that programs call it, and
    not the library.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))


def _folders(controller: str) -> Iterator[Path]:
    """The folders of the cgroups that limit this process: its own and all above it, of both versions.

    Inside a container the path may be that of the host, of which only the mounted root is visible. A folder that does
    not exist limits nothing.
    """
    try:
        lines = _MEMBERSHIP.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts = [_CGROUPS, _CGROUPS / "unified"]  # version 2, alone or beside version 1
        elif controller in controllers.split(","):
            mounts = [_CGROUPS / controllers, _CGROUPS / controller]
        else:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        for mount in mounts:
            yield from (mount / each for each in (inside, *inside.parents))


def _cpu_quota(folder: Path) -> float | None:
    """The number of cores that the CPU time of a cgroup is equal to; None without a limit."""
    words = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    quota, period = _number(words[:1]), _number(words[1:])
    return quota / period if quota is not None and period is not None else None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _number(words: list[str]) -> int | None:
    """The positive number in the words of a file; None if they are "max", -1 or none."""
    return int(words[0]) if len(words) == 1 and words[0].isdecimal() and int(words[0]) > 0 else None
