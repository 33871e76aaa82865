"""Cores and memory by the container's limits: on made-up trees of the kernel's files, and in a real group where one can
be made."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pipeline.compute import limits
from pipeline.compute.limits import cpu_quota, limit_threads, usable_cpus, usable_memory

GIB = 2**30
UNIFIED = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
SEPARATE = (
    "31 23 0:27 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 23 0:28 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
)


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "visible_cpus", lambda: 8)


def tree(root: Path, mounts: str, groups: str, files: Mapping[str, str]) -> Path:
    given = {"proc/self/mountinfo": "22 1 0:20 / / rw - ext4 /dev/sda rw\n" + mounts, "proc/self/cgroup": groups}
    for name, text in {**given, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


UNIFIED_CASES = [
    ({"cpu.max": "max 100000"}, 8, None),
    ({"cpu.max": "150000 100000", "memory.max": "max"}, 1, None),
    ({"cpu.max": "50000 100000", "memory.max": str(GIB)}, 1, GIB),
    ({"cpu.max": "1600000 100000"}, 8, None),
    ({"cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3, None),
    ({"cpu.max": "400000 100000", "a/cpu.max": "250000 100000", "a/b/cpu.max": "max 100000"}, 2, None),
    ({"memory.max": str(3 * GIB), "a/memory.max": str(GIB), "a/b/memory.max": str(2 * GIB)}, 8, GIB),
    ({"elsewhere/cpu.max": "100000 100000", "elsewhere/memory.max": "4096"}, 8, None),
    ({"cpu.max": "", "memory.max": ""}, 8, None),
    ({"cpu.max": "nonsense", "memory.max": "-1"}, 8, None),
    ({}, 8, None),
]


@pytest.mark.parametrize(("files", "cpus", "memory"), UNIFIED_CASES)
def test_unified_hierarchy(tmp_path: Path, files: dict[str, str], cpus: int, memory: int | None) -> None:
    root = tree(tmp_path, UNIFIED.format(top="/"), "0::/a/b", files)
    assert usable_cpus(root) == cpus
    assert usable_memory(root) == (memory or usable_memory(tmp_path / "nowhere"))


SEPARATE_CASES = [
    ({"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 8, None),
    ({"cpu,cpuacct/a/cpu.cfs_quota_us": "350000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}, 3, None),
    ({"cpu,cpuacct/a/cpu.cfs_quota_us": "350000"}, 8, None),
    ({"memory/memory.limit_in_bytes": "9223372036854771712"}, 8, None),
    ({"memory/m/memory.limit_in_bytes": str(GIB)}, 8, GIB),
]


@pytest.mark.parametrize(("files", "cpus", "memory"), SEPARATE_CASES)
def test_separate_hierarchies(tmp_path: Path, files: dict[str, str], cpus: int, memory: int | None) -> None:
    groups = "9:name=systemd:/\n4:memory:/m\n1:cpu,cpuacct:/a\n0::/"
    root = tree(tmp_path, SEPARATE.format(top="/"), groups, files)
    assert usable_cpus(root) == cpus
    assert usable_memory(root) == (memory or usable_memory(tmp_path / "nowhere"))


def test_container_that_sees_its_own_group_alone(tmp_path: Path) -> None:
    """Without a namespace of groups the path is the host's, and what is mounted begins at the container's group."""
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    root = tree(tmp_path, SEPARATE.format(top="/docker/0a1b"), "1:cpu,cpuacct:/docker/0a1b", files)
    assert usable_cpus(root) == 2
    (root / "proc/self/cgroup").write_text("1:cpu,cpuacct:/somewhere/else\n")
    assert usable_cpus(root) == 2


def test_mount_above_the_namespace_and_a_folder_with_a_blank(tmp_path: Path) -> None:
    mount = UNIFIED.format(top="/..").replace("/sys/fs/cgroup", "/sys/fs/cgroup/of\\040mine")
    assert usable_cpus(tree(tmp_path, mount, "0::/../a", {"of mine/cpu.max": "200000 100000"})) == 2


def test_files_that_cannot_be_read_say_nothing(tmp_path: Path) -> None:
    root = tree(tmp_path, UNIFIED.format(top="/"), "0::/", {"cpu.max": "100000 100000"})
    (root / "sys/fs/cgroup/cpu.max").unlink()
    (root / "sys/fs/cgroup/cpu.max").mkdir()  # which root cannot read either
    assert usable_cpus(root) == 8


def test_folder_in_place_of_a_file_says_nothing(tmp_path: Path) -> None:
    root = tree(tmp_path, UNIFIED.format(top="/"), "0::/", {"cpu.max/x": ""})
    assert cpu_quota(root) is None


def test_libraries_get_as_many_threads_as_the_quota_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(limits, "cpu_quota", lambda root: None)
    limit_threads()
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setattr(limits, "cpu_quota", lambda root: 2.5)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "5"
    monkeypatch.delenv("OMP_NUM_THREADS")
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "2"


@pytest.fixture
def real_group() -> Iterator[Path]:
    """A control group with a quota of one core and 3 GiB, in one hierarchy or two."""
    places = {name: Path("/sys/fs/cgroup") / name for name in ("cpu", "memory")}
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    made = [(Path("/sys/fs/cgroup") if unified else place) / f"sar-test-{os.getpid()}" for place in places.values()]
    try:
        for folder in {*made}:
            folder.mkdir()
        if unified:
            (made[0] / "cpu.max").write_text("100000 100000")
            (made[0] / "memory.max").write_text(str(3 * GIB))
        else:
            (made[0] / "cpu.cfs_quota_us").write_text("100000")
            (made[1] / "memory.limit_in_bytes").write_text(str(3 * GIB))
    except OSError as error:
        for folder in {*made}:
            if folder.is_dir():
                folder.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield made[0]
    for folder in {*made}:
        folder.rmdir()


def test_real_group(real_group: Path) -> None:
    roots = {real_group, Path("/sys/fs/cgroup/memory") / real_group.name}
    joined = "".join(f"open({str(root / 'cgroup.procs')!r}, 'w').write('0');" for root in roots if root.is_dir())
    script = (
        f"{joined} from pipeline.compute import limits;"
        "print(limits.cpu_quota(), limits.usable_cpus(), limits.usable_memory())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0", "1", str(3 * GIB)]
