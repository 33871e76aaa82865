"""Starts Ray on this machine, quietly and on loopback, and runs independent jobs on it side by side."""

import _thread
import logging
import os
import re
import secrets
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray

import pipeline
from pipeline.compute.limits import usable_memory
from pipeline.compute.temp_dirs import BELOW_RAY, ROOM, has_room, short_folder
from pipeline.errors import UserError, truncate

Job = TypeVar("Job")
Answer = TypeVar("Answer")

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    # The project's own progress line and journal replace Ray Tune's tables, loggers, snapshots and interrupt handling.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Relative paths of sources and plug-ins must mean the same in a worker as in the driver.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Environment variables that silence Ray and Ray Tune, and turn off functions that this project replaces."""

VITAL = ("raylet", "gcs_server")
"""Processes of Ray itself that must stay alive."""

LOOK_S = 1.0
"""Seconds between two checks of Ray's processes, and the longest wait for a job."""

DEAD_AT_START = re.compile(r"have not registered within the timeout\. The process is dead")
"""Ray's log line for a worker that died before it could work. Ray replaces such workers without end."""

ENOUGH_DEAD_AT_START = 4
"""Such lines in the log from which on workers are taken to be unable to start."""

LOSSES = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
"""Errors that mean the loss of a worker or node, which is not the job's fault."""


@contextmanager
def local_ray(cpus: int, gpus: int) -> Iterator[None]:
    """Starts a Ray of this process alone, and shuts it down when the block ends.

    Within `shared_ray`, an already started Ray is used, and it is shut down when that outer block ends.

    Args:
        cpus, gpus: CPU cores and GPUs that Ray may use.

    Raises:
        UserError: Ray cannot start here, or one of its own processes has died.
    """
    if _shared:
        if not ray.is_initialized():
            _shared[-1].enter_context(_start_ray(cpus, gpus))
        yield
        return
    with _start_ray(cpus, gpus):
        yield


@contextmanager
def shared_ray() -> Iterator[None]:
    """Lets all `local_ray` blocks within this one share a Ray.

    The first of them starts it. It is shut down when this block ends. Several searches use one Ray in this
    way.
    """
    with ExitStack() as stack:
        _shared.append(stack)
        try:
            yield
        finally:
            _shared.pop()


_shared: list[ExitStack] = []


@contextmanager
def _start_ray(cpus: int, gpus: int) -> Iterator[None]:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    _lead_workers_to_this_code()
    _have_a_token()
    with _own_temporary() as temporary, _started(cpus, gpus, temporary), _noticing_deaths():
        yield


@contextmanager
def _started(cpus: int, gpus: int, temporary: str | None) -> Iterator[None]:
    """Starts Ray, and shuts it down when the block ends.

    Args:
        cpus, gpus: CPU cores and GPUs that Ray may use.
        temporary: folder for Ray's files, or None for Ray's own choice.

    Raises:
        UserError: Ray cannot start here.
    """
    quoted = shlex.quote(sys.executable)
    try:
        ray.init(
            address="local",  # even if RAY_ADDRESS names a cluster
            num_cpus=cpus,
            num_gpus=gpus,
            object_store_memory=_object_store_bytes(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # Ray starts workers that have their own variables by a shell, and does not quote Python's path.
            runtime_env={"py_executable": quoted} if quoted != sys.executable else None,
            _node_ip_address="127.0.0.1",
            _temp_dir=temporary,
        )
    except Exception as error:  # Ray raises Exception itself where its processes do not come up in time
        raise UserError(
            f"Ray cannot start on this machine: {error}\nIf the machine is busy, try again later. What had finished is "
            "kept."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _have_a_token() -> None:
    """Sets RAY_AUTH_TOKEN to a new token where Ray could not write one into the home folder."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    home = Path(os.path.expanduser("~"))
    folder = home / ".ray"
    if not (folder / "auth_token").is_file() and not os.access(folder if folder.is_dir() else home, os.W_OK):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def _own_temporary() -> Iterator[str | None]:
    """Yields a short folder for Ray's files where Ray's own path would be too long for its sockets; None otherwise.

    Raises:
        UserError: RAY_TMPDIR is too long. It is the user's setting, so it is not replaced.
    """
    named = os.environ.get("RAY_TMPDIR")
    if named and not has_room(named, BELOW_RAY):
        raise UserError(
            f"RAY_TMPDIR: {named}: too long a path for Ray's sockets ({len(os.fsencode(named))} bytes, allowed: "
            f"{ROOM - BELOW_RAY}). Set it to a shorter one, or unset it."
        )
    if named or has_room(os.environ.get("TMPDIR") or "/tmp", BELOW_RAY):
        yield None
        return
    with short_folder() as folder:
        yield str(folder)


def _object_store_bytes() -> int | None:
    """Returns the size of Ray's object store; None for Ray's default.

    A size is returned where a memory limit holds that Ray does not read. Ray reads the limit of the outermost
    control group that it sees, and no other.
    """
    usable = usable_memory()
    if usable >= ray._common.utils.get_system_memory():
        return None
    return int(ray._private.utils.resolve_object_store_memory(usable))


@contextmanager
def _noticing_deaths() -> Iterator[None]:
    """Interrupts the block when one of Ray's own processes dies, or when workers die again and again at their start.

    The usual cause of the first is the kernel, for lack of memory. Ray needs up to a minute to notice, and
    then ends this process without a message. In the second case, Ray would start workers forever.

    Raises:
        UserError: either has happened.
    """
    node: Any = ray._private.worker._global_node
    log = Path(node.get_logs_dir_path()) / "raylet.err"
    left, dead = threading.Event(), list[str]()

    def look() -> None:
        while not left.wait(LOOK_S):
            dead.extend(
                f"Ray's own process {name} has died; the machine may be short of memory (fewer trials at a time take "
                "less)"
                for name, _ in node.dead_processes()
                if name in VITAL
            )
            dead.extend(_worker_start_failure(log))
            if dead:
                _thread.interrupt_main()
                return

    threading.Thread(target=look, name="ray-watch", daemon=True).start()
    try:
        yield
    except (KeyboardInterrupt, Exception):
        if not dead:
            raise
        raise UserError(f"{dead[0]}. What had finished is kept, run the same command again to go on.") from None
    finally:
        left.set()


def _worker_start_failure(log: Path) -> list[str]:
    """Returns a message in a list if workers cannot start, and an empty list otherwise.

    Args:
        log: the file in which Ray logs the deaths of workers.
    """
    try:
        with log.open("rb") as file:
            file.seek(-min(log.stat().st_size, 100_000), os.SEEK_END)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    if sum(bool(DEAD_AT_START.search(line)) for line in lines) < ENOUGH_DEAD_AT_START:
        return []
    said = next((line for line in reversed(lines) if line.strip() and "worker_pool" not in line), "nothing")
    return [
        f"Ray's workers die before they can work; their last log line: {truncate(said, 300)} (more in {log.parent})"
    ]


def _lead_workers_to_this_code() -> None:
    """Puts this checkout first in PYTHONPATH, so that workers import it even where another one is installed."""
    here = str(Path(pipeline.__file__).parent.parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if here not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, paths)])


def run_jobs(
    work: Callable[[Job], Answer],
    jobs: Sequence[Job],
    *,
    cpus: int,
    gpus: float,
    max_concurrent: int | None = None,
    failures: int = 2,
) -> Iterator[tuple[int, Answer]]:
    """Runs `work` on every job on Ray's workers, and yields each result as it is done.

    Args:
        work: the function to run on a worker.
        jobs: its arguments, one a job.
        cpus, gpus: CPUs and GPUs of one job.
        max_concurrent: the most jobs that run together; None for as many as fit.
        failures: times that a job is started again after its worker or node was lost. The loss of a node that
            was being drained does not count.

    Yields:
        (index of the job, its result).

    Raises:
        UserError: a job raised one, or its worker died too often. Jobs that still run end with Ray, in
            `local_ray`.
    """
    # Ray's own retries would also count the loss of a node that is being drained.
    remote: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(work)
    waiting = list(enumerate(jobs))[::-1]
    running: dict[Any, int] = {}
    lost = [0] * len(jobs)
    drained: set[str] = set()
    while waiting or running:
        while waiting and len(running) < (max_concurrent or len(jobs)):
            index, job = waiting.pop()
            running[remote.remote(job)] = index
        done, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_S)
        drained.update(ray._private.state.state.get_draining_nodes())
        if not done:
            continue
        index = running.pop(done[0])
        try:
            answer = ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from None
            raise
        except LOSSES as error:
            lost[index] += not any(node in str(error) for node in drained)
            if lost[index] > failures:
                raise UserError(f"a worker was lost more often than search.max_failures allows: {error}") from None
            waiting.append((index, jobs[index]))
        else:
            yield index, answer
