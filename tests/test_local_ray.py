"""A Ray of the search's own, whatever else runs on the machine."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from copied import ROOT

from pipeline.cluster import runtime
from pipeline.cluster.runtime import local_ray, shared_ray
from pipeline.errors import UserError


def test_store_of_objects_keeps_within_a_limit_that_ray_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "usable_memory", lambda: 2**30)
    assert runtime._object_store_bytes() == int(0.3 * 2**30)
    monkeypatch.setattr(runtime, "usable_memory", lambda: 2**60)
    assert runtime._object_store_bytes() is None  # Ray's own choice, which knows of /dev/shm


def test_ray_that_does_not_come_up_in_time_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**options: object) -> None:
        raise Exception("The current node timed out during startup.")  # Ray raises no type of its own

    monkeypatch.setattr(ray, "init", late)
    said = r"Ray cannot start .*timed out during startup\.\n.*What had finished is kept"
    with pytest.raises(UserError, match=said), local_ray(cpus=1, gpus=0):
        pass


@pytest.mark.slow
def test_a_cluster_that_is_named_in_the_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6")
    with local_ray(cpus=1, gpus=0):
        assert ray.cluster_resources()["CPU"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [76, 126])
def test_ray_starts_under_a_tmpdir_that_is_too_long_for_its_sockets(
    monkeypatch: pytest.MonkeyPatch, size: int, request: pytest.FixtureRequest
) -> None:
    place = tempfile.mkdtemp(dir="/tmp")  # short, whatever the tests' own folder is
    request.addfinalizer(lambda: shutil.rmtree(place, ignore_errors=True))
    folder = Path(place) / ("l" * (size - len(place) - 1))
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with local_ray(cpus=1, gpus=0):
        session = Path(ray._private.worker._global_node.get_session_dir_path())
        assert dict(runtime.run_jobs(lambda job: len(job), ["ab"], cpus=1, gpus=0)) == {0: 2}
    assert not session.exists()
    assert not session.parent.exists()


def test_ray_tmpdir_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("l" * 80)))
    with (
        pytest.raises(UserError, match=r"RAY_TMPDIR: .*too long a path for Ray's sockets .*allowed: 37"),
        local_ray(1, 0),
    ):
        pass


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv of util-linux")
def test_ray_starts_for_a_user_without_a_name_whose_home_is_the_root() -> None:
    script = "from pipeline.compute.user import settle_user; settle_user()\n"
    script += "from pipeline.cluster.runtime import local_ray, run_jobs\n"
    script += "with local_ray(1, 0): print(dict(run_jobs(lambda job: len(job), ['ab'], cpus=1, gpus=0)))"
    become = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
    become += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    if subprocess.run([*become, sys.executable, "-c", ""], capture_output=True).returncode:
        pytest.skip("this machine lets us start no process as another user")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o1777)
        given = {**os.environ, "HOME": "/", "TMPDIR": folder, "PYTHONPATH": str(ROOT)}
        command = [*become, sys.executable, "-c", script]
        done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=120)
    assert done.stdout == "{0: 2}\n", done.stderr


@pytest.mark.slow
def test_workers_start_by_a_python_whose_path_a_shell_would_take_apart(tmp_path: Path) -> None:
    """As a trial's do, with variables of their own, for which Ray starts them by a shell."""
    folder = tmp_path / "a b'c & (d); #e"
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "env"], cwd=folder, check=True)
    inside = Path(f"env/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
    (folder / inside / "seen.pth").write_text(sysconfig.get_path("purelib") + "\n")
    script = "import ray, sys\nfrom pipeline.cluster.runtime import local_ray\n"
    script += "ask = lambda: sys.executable\n"
    script += "with local_ray(1, 0):\n    task = ray.remote(ask).options(runtime_env={'env_vars': {'A': 'b'}})\n"
    script += "    print(ray.get(task.remote(), timeout=100))"
    python = folder / "env/bin/python"
    given = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, "-c", script], cwd=folder, env=given, capture_output=True, text=True, timeout=150)
    assert done.stdout == f"{python}\n", done.stderr


def test_workers_that_never_start_are_noticed(tmp_path: Path) -> None:
    log = tmp_path / "raylet.err"
    assert runtime._worker_start_failure(log) == []
    line = "(raylet) worker_pool.cc:660: Some workers of the worker process(1) have not registered within the timeout. "
    dead = line + "The process is dead, probably it crashed during start.\n"
    log.write_text("bash: no such file\n" + 3 * dead + line + "The process is still alive.\n")
    assert runtime._worker_start_failure(log) == []
    log.write_text("bash: no such file\n" + 4 * dead)
    (said,) = runtime._worker_start_failure(log)
    assert "bash: no such file" in said
    assert str(tmp_path) in said


def test_one_ray_is_shared_by_all_that_follow_and_ends_with_what_they_share_it_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []

    @contextmanager
    def start(cpus: int, gpus: int) -> Iterator[None]:
        said.append(f"start {cpus}")
        try:
            yield
        finally:
            said.append("end")

    monkeypatch.setattr(runtime, "_start_ray", start)
    monkeypatch.setattr(runtime.ray, "is_initialized", lambda: said.count("start 2") > said.count("end"))
    with shared_ray():
        assert said == []  # not before it is needed
        for number in range(3):
            with local_ray(2, 0):
                said.append(str(number))
    assert said == ["start 2", "0", "1", "2", "end"]
    said.clear()
    for number in range(2):
        with local_ray(2, 0):
            said.append(str(number))
    assert said == ["start 2", "0", "end", "start 2", "1", "end"]
    said.clear()
    with pytest.raises(UserError, match="broken"), shared_ray(), local_ray(2, 0):
        raise UserError("broken")
    assert said == ["start 2", "end"]
