"""Several workers for one training run: processes on any nodes with room, joined to a process group by Ray Train.

The process group uses gloo on CPUs and NCCL on GPUs. When a worker is lost, all of them are started again,
and the run resumes from its newest checkpoint.
"""

import fcntl
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

import ray
import torch
from ray import train
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from pipeline.cluster.checkpoint_store import CheckpointStore
from pipeline.cluster.storage import filesystem_of
from pipeline.errors import UserError
from pipeline.train.rank_info import RankInfo

Job = TypeVar("Job")

SIOCGIFADDR = 0x8915
"""Linux's request for the IPv4 address of a network interface (netdevice(7))."""


def train_together(
    work: Callable[[Job, RankInfo], None],
    job: Job,
    *,
    checkpoints: CheckpointStore,
    name: str,
    workers: int,
    cpus: int,
    gpus: float,
    failures: int,
) -> None:
    """Calls `work(job, rank_info)` in several workers at once and waits for them. Starts all again when one is lost.

    Args:
        work: the function to run in every worker.
        job: its first argument.
        checkpoints: the job's checkpoints; Ray's own state lies beside them.
        name: name of the run, for messages.
        workers: number of workers.
        cpus, gpus: CPUs and GPUs of each worker.
        failures: times that the workers are started again.

    Raises:
        UserError: `work` raised one, or workers were lost too often.
    """
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    checkpoints.forget_failure()
    filesystem, path = filesystem_of(checkpoints.place)
    run_config: dict[str, Any] = {
        "name": "ray",
        "storage_path": path,
        "storage_filesystem": filesystem,
        "failure_config": train.FailureConfig(max_failures=failures),
        "logging_config": train.LoggingConfig(log_level="CRITICAL"),
    }
    trainer = TorchTrainer(
        lambda: _run(work, job, checkpoints),
        torch_config=_OnRaysNetwork(),
        scaling_config=train.ScalingConfig(
            num_workers=workers, use_gpu=gpus > 0, resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        ),
        run_config=train.RunConfig(**run_config),
    )
    try:
        trainer.fit()
    except train.TrainingFailedError as error:
        lost = f"{name}: its workers were lost more often than search.max_failures allows: {str(error)[-1500:]}"
        raise UserError(checkpoints.failure() or lost) from None
    if (said := checkpoints.failure()) is not None:
        raise UserError(said)


def side_by_side(work: Callable[[Job], None], jobs: Sequence[Job], max_concurrent: Callable[[], int]) -> Iterator[int]:
    """Calls `work` on every job, each in a thread of this process, and yields the index of each job as it is done.

    Args:
        work: the function to call.
        jobs: its arguments, one a job.
        max_concurrent: returns how many jobs may run now. It is called before each start; one job may always
            run.

    Raises:
        Exception: the error that `work` raised. Jobs that still run end with Ray.
    """
    ended: SimpleQueue[tuple[int, BaseException | None]] = SimpleQueue()

    def run(index: int) -> None:
        try:
            work(jobs[index])
        except BaseException as error:
            ended.put((index, error))
        else:
            ended.put((index, None))

    waiting, running = list(range(len(jobs))), 0
    while waiting or running:
        while waiting and running < max(1, max_concurrent()):
            threading.Thread(target=run, args=(waiting.pop(0),), daemon=True).start()
            running += 1
        index, error = ended.get()
        running -= 1
        if error is not None:
            raise error
        yield index


def _run(work: Callable[[Job, RankInfo], None], job: Job, checkpoints: CheckpointStore) -> None:
    """Runs a job in a worker.

    A UserError is stored with the checkpoints, because Ray would start a worker that raises again, in vain.

    Args:
        work: the function to call.
        job: its first argument.
        checkpoints: the job's checkpoints.
    """
    if checkpoints.failure() is not None:
        return
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # tensors that are sent to "cuda" must go to this GPU
    context = train.get_context()
    try:
        work(job, RankInfo(context.get_world_rank(), context.get_world_size()))
    except UserError as error:
        checkpoints.note_failure(str(error))
        raise


class _OnRaysNetwork(TorchConfig):
    """Ray Train's process group, on the network interface that Ray itself uses."""

    @property
    def backend_cls(self) -> Any:
        return _OnRaysInterface


class _OnRaysInterface(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_take_rays_interface)
        super().on_start(worker_group, backend_config)


def _take_rays_interface() -> None:
    """Makes gloo use Ray's network interface.

    Its own choice is the one of the host's name, which may be the loopback.
    """
    found = interface_of(str(ray.util.get_node_ip_address()))  # type: ignore[no-untyped-call]
    if found is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", found)


def interface_of(address: str) -> str | None:
    """Returns the name of the network interface with an IPv4 address; None if no interface has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
