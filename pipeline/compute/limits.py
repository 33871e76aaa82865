"""CPU cores and memory that this process may use, by its CPU affinity and its container's limits.

A container is limited by control groups: a quota of CPU time and a limit of memory, in files that the kernel
provides. The limits of the process's own group and of all enclosing groups apply. Libraries do not take them
into account. A process that starts a thread for each of 64 visible cores, but has the CPU time of 2, is
slower than one with two threads.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path("/")


def usable_cpus(root: Path = ROOT) -> int:
    """Returns the whole number of CPU cores that this process may use, at least 1.

    A quota of 1.5 cores counts as 1.

    Args:
        root: Folder below which /proc and the control groups are found.
    """
    quota = cpu_quota(root)
    return visible_cpus() if quota is None else max(1, min(visible_cpus(), int(quota)))


def visible_cpus() -> int:
    """Returns the number of CPU cores that this process may be scheduled on, regardless of its quota of CPU time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_memory(root: Path = ROOT) -> int:
    """Returns the bytes of memory that this process may use: the machine's, or its container's limit if lower.

    Args:
        root: Folder below which /proc and the control groups are found.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_whole(group / name) for group, name in _groups(root, "memory", "memory.limit_in_bytes", "memory.max")]
    return min([machine, *(limit for limit in limits if limit is not None and limit > 0)])


def cpu_quota(root: Path = ROOT) -> float | None:
    """Returns the lowest CPU quota of the process's control groups in cores, e.g. 1.5, or None if there is no quota."""
    shares = [_share(group, name) for group, name in _groups(root, "cpu", "cpu.cfs_quota_us", "cpu.max")]
    return min((share for share in shares if share is not None), default=None)


def limit_threads() -> None:
    """Limits the threads of libraries that are loaded later, by OMP_NUM_THREADS, to the cores that may be used."""
    if usable_cpus() < visible_cpus():
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cpus()))


class _Mount(NamedTuple):
    """A mount point of a control group hierarchy.

    Attributes:
        kind: cgroup (version 1) or cgroup2.
        top: Group that the mount point shows, as a path in the hierarchy.
        point: Folder where it is mounted.
        options: Mount options, separated by commas; for version 1 the controllers among them.
    """

    kind: str
    top: str
    point: str
    options: str


def _groups(root: Path, controller: str, first: str, second: str) -> Iterator[tuple[Path, str]]:
    """Yields the folder of each control group that the process is in, and the file name to read there.

    Args:
        root: Folder below which /proc and the control groups are found.
        controller: cpu or memory.
        first: File name in a hierarchy of the controller alone (version 1).
        second: File name in the unified hierarchy (version 2).

    Yields:
        (folder, file name), the process's own group first, then each enclosing one.
    """
    mounts = list(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        own = controller in controllers.split(",")
        if not own and controllers:
            continue
        for mount in mounts:
            if mount.kind == ("cgroup" if own else "cgroup2") and (not own or controller in mount.options.split(",")):
                top = root / mount.point.lstrip("/")
                inside = _inside(path, mount.top)
                for folder in (inside, *inside.parents):
                    yield top / folder, first if own else second


def _inside(path: str, top: str) -> PurePosixPath:
    """Returns the path of the process's group relative to `top`, the group that the mount point shows."""
    try:
        found = PurePosixPath(path).relative_to(top)
    except ValueError:  # in a cgroup namespace of its own, the container's group is the one mounted
        return PurePosixPath()
    return PurePosixPath() if ".." in found.parts else found


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if len(left) >= 5 and len(right) >= 3 and right[0] in ("cgroup", "cgroup2"):
            yield _Mount(right[0], _plain(left[3]), _plain(left[4]), right[2])


def _plain(field: str) -> str:
    """Returns a path from mountinfo without the octal escapes that the kernel writes for blanks and backslashes."""
    for sign in " \t\n\\":
        field = field.replace(f"\\{ord(sign):03o}", sign)
    return field


def _share(group: Path, name: str) -> float | None:
    if name == "cpu.max":
        quota, _, period = next(iter(_lines(group / name)), "").partition(" ")
    else:
        quota, period = (next(iter(_lines(group / each)), "") for each in (name, "cpu.cfs_period_us"))
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max" (no limit), or no such file
    return share if share > 0 else None


def _whole(path: Path) -> int | None:
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    """Returns the lines of a file; none if it is missing or cannot be read."""
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
