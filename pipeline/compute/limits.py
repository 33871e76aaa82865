"""What of this machine the process may use: cores and memory, by its affinity and by its container's limits.

A container is limited by control groups, in files of the kernel's: a quota of processor time and a limit of memory, of
the process's own group and of every group around it. A process does not learn of them in any other way; one that begins
a thread for each of the 64 cores that it sees, and is given the time of 2, runs slower than one with two threads.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path("/")


def usable_cpus(root: Path = ROOT) -> int:
    """Whole CPU cores that this process may use; of a quota of 1.5 cores one, and never less than one.

    root: where /proc and the control groups are found.
    """
    quota = cpu_quota(root)
    return visible_cpus() if quota is None else max(1, min(visible_cpus(), int(quota)))


def visible_cpus() -> int:
    """CPU cores that this process may be placed on, whatever share of their time it gets."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_memory(root: Path = ROOT) -> int:
    """Bytes of memory that this process may use: the machine's, or its container's where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_whole(group / name) for group, name in _groups(root, "memory", "memory.limit_in_bytes", "memory.max")]
    return min([machine, *(limit for limit in limits if limit is not None and limit > 0)])


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that the process's control groups allow it, the least of all; None where none says."""
    shares = [_share(group, name) for group, name in _groups(root, "cpu", "cpu.cfs_quota_us", "cpu.max")]
    return min((share for share in shares if share is not None), default=None)


def limit_threads() -> None:
    """Have libraries that are loaded after this begin no more threads than there are cores to run them."""
    if usable_cpus() < visible_cpus():
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cpus()))


class _Mount(NamedTuple):
    kind: str
    top: str
    point: str
    options: str


def _groups(root: Path, controller: str, first: str, second: str) -> Iterator[tuple[Path, str]]:
    """Folders of the groups that the process is in by this controller, its own first, and the name of the file there.

    first, second: the file's name where the controller is in a hierarchy of its own (version 1), and in the unified.
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
    """Where the process's group lies below a mount that shows the hierarchy from `top` on."""
    try:
        found = PurePosixPath(path).relative_to(top)
    except ValueError:  # a namespace of groups of its own: the container's group is what is mounted
        return PurePosixPath()
    return PurePosixPath() if ".." in found.parts else found


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if len(left) >= 5 and len(right) >= 3 and right[0] in ("cgroup", "cgroup2"):
            yield _Mount(right[0], _plain(left[3]), _plain(left[4]), right[2])


def _plain(field: str) -> str:
    """A path of mountinfo, in which the kernel writes blanks and backslashes as octal numbers."""
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
        return None  # "max", or not there
    return share if share > 0 else None


def _whole(path: Path) -> int | None:
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    """None of a file that is not there or cannot be read."""
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
