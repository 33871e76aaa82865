"""A stage that begins as a copy of the fork server is, to whoever started it, the stage itself. By processes of their own.

The stage here is a module put in the place of `prepare`, so that nothing large is imported; all the rest is real.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from copied import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")

PARENT = """
import subprocess, sys, types
import pipeline.stages
from pipeline import fork_server

def main(workspace):
    import os, time
    print("copy of", os.getppid(), os.environ["WORD"], sys.argv[1:], os.getcwd(), flush=True)
    (workspace.root / "pid").write_text(str(os.getpid()))
    exec(os.environ["DOES"])

stage = types.ModuleType("pipeline.stages.prepare.__main__")
stage.main = main
sys.modules["pipeline.stages.prepare.__main__"] = stage
fork_server.STAGES = ("prepare",)
if __name__ == "__main__":
    with fork_server.fork_server():
        print(fork_server.os.environ[fork_server.ADDRESS], flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A checkout with a fork server beside it, and the environment to start its stage in."""
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).touch()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        address = parent.stdout.readline().strip()
        yield tmp_path, environment | {"SAR_SEARCH_FORK_SERVER": address, "WORD": "hello"}
        parent.communicate()


def started(served: tuple[Path, dict[str, str]], does: str) -> "subprocess.Popen[str]":
    folder, environment = served
    command = [sys.executable, "-m", "pipeline.stages.prepare", "--flag"]
    where = {"cwd": folder, "env": environment | {"DOES": does}, "text": True}
    # Whoever runs the tests in the background may have had interruptions ignored.
    where["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **where)  # type: ignore[call-overload, no-any-return]


def pid_of_copy(folder: Path) -> int:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if (folder / "pid").exists() and (text := (folder / "pid").read_text()):
            return int(text)
        time.sleep(0.02)
    raise AssertionError("the copy did not begin")


def has_ended(pid: int) -> bool:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_fork_server_has_a_socket_whatever_tmpdir_is(tmp_path: Path) -> None:
    folder = tmp_path / ("l" * 126)
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        address = Path(parent.stdout.readline().strip())
        assert address.is_socket()
        parent.communicate()
    assert not address.parent.exists()


def test_copy_has_the_callers_files_folder_environment_and_words(served: tuple[Path, dict[str, str]]) -> None:
    process = started(served, "print('to err', file=sys.stderr)")
    said, errors = process.communicate()
    assert said.startswith("copy of ")
    assert said.endswith(f" hello ['--flag'] {served[0]}\n")
    assert f"copy of {process.pid} " not in said
    assert errors == "to err\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("does", "status", "told"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("from pipeline.errors import UserError; raise UserError('change it')", 2, "error: change it\n"),
        ("raise RuntimeError('a bug')", 1, "RuntimeError: a bug\n"),
        ("os.kill(os.getpid(), 9)", -9, ""),
        ("import atexit; atexit.register(print, 'left', file=sys.stderr)", 0, "left\n"),
    ],
)
def test_caller_ends_as_the_copy_does(served: tuple[Path, dict[str, str]], does: str, status: int, told: str) -> None:
    process = started(served, does)
    _, errors = process.communicate()
    assert process.returncode == status
    assert errors.endswith(told)
    again = started(served, "pass")  # the fork server goes on
    again.communicate()
    assert again.returncode == 0


def test_interruption_reaches_the_copy_once(served: tuple[Path, dict[str, str]]) -> None:
    process = started(served, "time.sleep(60)")
    pid_of_copy(served[0])
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "interrupted; what had finished is kept, run the same command again to go on\n"


def test_copy_dies_with_its_caller(served: tuple[Path, dict[str, str]]) -> None:
    process = started(served, "time.sleep(60)")
    pid = pid_of_copy(served[0])
    process.kill()
    process.communicate()
    assert has_ended(pid)


def test_stage_of_other_code_runs_by_itself(served: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """The checkout's `params.yaml` is empty, so the real `prepare` would refuse it, and say so by itself."""
    folder, environment = served
    other = tmp_path / "other"
    (other / "pipeline").mkdir(parents=True)
    for file in (ROOT / "pipeline").rglob("*.py"):
        copy = other / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    (other / "pipeline" / "stages" / "prepare" / "__main__.py").write_text("print('by itself')")
    process = started((folder, environment | {"PYTHONPATH": str(other)}), "pass")
    assert process.communicate()[0] == "by itself\n"


def test_stage_without_a_fork_server_runs_by_itself(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['-m']; import pipeline.stages; print('by itself')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SAR_SEARCH_FORK_SERVER": str(tmp_path / "none")}
    command = [sys.executable, "-c", code, "pipeline.stages.prepare"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout == "by itself\n"
