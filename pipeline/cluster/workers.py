"""Several workers for one training run: processes on whatever nodes have room, joined by Ray Train to a process group.

When a worker is lost they all are started again, and what they run goes on from the checkpoints that it has left. They
are gloo's where the run is on CPUs, and NCCL's on GPUs.
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
    """Call `work(job, rank_info)` in so many workers at once, and wait for them; again when one is lost.

    checkpoints: where the job leaves them, and Ray its own notes. cpus, gpus: of each worker. failures: times
    that they are started again.

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
        lost = f"{name}: its workers were lost too often: {str(error)[-1500:]}"
        raise UserError(checkpoints.failure() or lost) from None
    if (said := checkpoints.failure()) is not None:
        raise UserError(said)


def side_by_side(work: Callable[[Job], None], jobs: Sequence[Job], max_concurrent: Callable[[], int]) -> Iterator[int]:
    """Call `work` on every job, each in a thread of this process, and yield the index of each as it is done.

    max_concurrent: how many there may be now, asked before each is started; one always may.

    Raises:
        Exception: what `work` raised. What is running then is left to whoever ends Ray.
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
    """In a worker. What a user must change is noted, since a worker that raises is started again, to no avail."""
    if checkpoints.failure() is not None:
        return
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what is told to go to "cuda" goes there
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
    """For gloo, which by itself takes the interface that the host's name stands for, were it the loopback."""
    found = interface_of(str(ray.util.get_node_ip_address()))  # type: ignore[no-untyped-call]
    if found is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", found)


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address; None where that cannot be told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
