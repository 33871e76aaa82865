"""Workers that train together, as processes of this machine joined by gloo; no Ray."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.train.rank_info import RankInfo


def run_together(work: Callable[..., None], size: int, *given: Any) -> None:
    """Call `work(world, *given)` in so many processes of one process group, and wait for all of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A server imports what takes seconds, once for all; without the forks of a process that has threads.
    multiprocessing.get_context("forkserver").set_forkserver_preload(["pipeline.models.build", "pipeline.train.loop"])
    mp.start_processes(_begin, (work, size, port, given), nprocs=size, start_method="forkserver")


def _begin(rank: int, work: Callable[..., None], size: int, port: int, given: tuple[Any, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    try:
        work(RankInfo(rank, size), *given)
    finally:
        dist.destroy_process_group()


def save_by_first(world: RankInfo, value: Any, path: Path) -> None:
    if world.rank == 0:
        torch.save(value, path)
