"""Memory of a training process: reuse between steps, advice when it runs out, gradient checkpointing."""

import ctypes
import errno
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.train.train_config import MAX_MICRO_BATCHES, TrainConfig

SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "CUDA ran out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)
"""Texts of plain RuntimeErrors that torch and the libraries below it raise for a lack of memory."""


RETAINED_BYTES = 256 * 2**20
"""Freed memory that glibc's allocator may retain."""

NEW_OBJECTS = 10_000
"""Surplus of created over freed objects at which Python searches for reference cycles."""

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's `mallopt` (malloc.h)."""


def retain_freed_memory() -> bool:
    """Makes glibc retain the memory of freed tensors between steps; returns whether it does.

    By default a tensor of more than 128 KiB has a mapping of its own, whose pages the kernel clears anew in
    every step. This takes up to a sixth of a small network's training on a CPU. The change holds for the
    whole process. Other allocators are not changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # Both are set, since setting one turns off glibc's automatic adjustment of the other.
    return bool(mallopt(MMAP_THRESHOLD, RETAINED_BYTES) and mallopt(TRIM_THRESHOLD, RETAINED_BYTES))


def raise_gc_threshold() -> None:
    """Makes Python search for reference cycles after thousands of new objects, not after 700.

    A step creates hundreds of objects and frees them all, without any search. With Python's default, three
    steps of four began a search. This took 2.6 % of a small network's training on a CPU. The change holds for
    the whole process. A higher threshold, and a search that is turned off, are not changed.
    """
    first, *further = gc.get_threshold()
    if 0 < first < NEW_OBJECTS:
        gc.set_threshold(NEW_OBJECTS, *further)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that memory, of the GPU or of the machine, was insufficient.

    There are four kinds: torch's error of its GPU allocator, MemoryError of Python and numpy, a system call
    for which the kernel had no memory, and the RuntimeErrors of `SIGNS`. A process that the kernel kills for
    lack of memory raises no error.

    Args:
        error: any error.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def out_of_memory_advice(
    config: TrainConfig, *, device: torch.device, gpus: float, share: str = "search.gpus_per_trial"
) -> str:
    """Returns two sentences that say what needed the memory and which parameters to change.

    Args:
        config: recipe of the run that ran out of memory.
        device: device of the run.
        gpus: its share of a GPU; 0: all GPU memory that was free.
        share: name of the parameter that sets this share.
    """
    micro_batches = min(config.accumulate, config.batch_size)
    images = -(-config.batch_size // micro_batches)
    held = f"a batch of {config.batch_size} images (train.batch_size {config.batch_size})"
    if micro_batches > 1:
        held += f" in micro-batches of {images} (train.accumulate {config.accumulate})"
    changes = []
    if images > 1 and config.accumulate < MAX_MICRO_BATCHES:
        more = min(2 * config.accumulate, config.batch_size, MAX_MICRO_BATCHES)
        changes.append(f"set train.accumulate to {more}, which holds fewer images at a time and takes the same steps")
    if not config.grad_checkpointing:
        changes.append("set train.grad_checkpointing to true, which takes more time for the same steps")
    if config.precision == "float32" and device.type == "cuda":
        changes.append("set train.precision to bfloat16")
    if config.batch_size > 1:
        changes.append("lower train.batch_size")
    changes.append("take a smaller network (model.name, model.kwargs) or smaller images (prepare.image_size)")
    if device.type != "cuda":
        where = "the memory of this machine"
        changes.append("let fewer trials run at a time (search.max_concurrent_trials)")
    elif 0 < gpus < 1:
        where = f"{gpus:.0%} of a GPU ({share} {gpus:g})"
        changes.append(f"raise {share}, so that fewer trials share a GPU")
    else:
        where = "the GPU"
    return f"A training step on {held} did not fit into {where}. {_either(changes)}."


@contextmanager
def checkpointed(model: Any, enabled: bool) -> Iterator[None]:
    """Turns on timm's gradient checkpointing of a network's blocks inside the `with` block.

    (Chen et al., arXiv 1604.06174.) Random draws inside blocks, such as those of stochastic depth, are the
    same when a block is run again.

    Args:
        model: the network.
        enabled: whether to turn it on; otherwise nothing changes.

    Raises:
        ValueError: the network does not support it.
    """
    if not enabled:
        yield
        return
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, TypeError):
        raise ValueError(
            f"train.grad_checkpointing: {type(model).__name__} has no blocks that can be computed again; set it to "
            "false (train.accumulate also takes less memory)"
        ) from None
    try:
        yield
    finally:
        model.set_grad_checkpointing(False)


def _either(changes: list[str]) -> str:
    """Returns alternatives as one sentence, without its full stop."""
    text = changes[0] if len(changes) == 1 else "; ".join(changes[:-1]) + "; or " + changes[-1]
    return text[0].upper() + text[1:]
