"""Memory: kept between steps; what running out of it looks like, and what to change; gradient checkpointing."""

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
"""What torch and the libraries below it say, as plain RuntimeErrors, where only memory was lacking."""


RETAINED_BYTES = 256 * 2**20
"""What glibc's allocator may hold back of what a process has freed."""

NEW_OBJECTS = 10_000
"""After so many more objects than went, Python looks for what can go."""

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Of glibc's `mallopt` (malloc.h)."""


def retain_freed_memory() -> bool:
    """Have glibc keep the tensors' memory between steps instead of giving it back; returns whether it does.

    A tensor of more than 128 KiB is otherwise a mapping of its own, whose pages the kernel clears anew in every step:
    up to a sixth of a small network's training on a CPU. Holds for the whole process; other allocators are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # Both, since setting one switches off glibc's adapting of the other.
    return bool(mallopt(MMAP_THRESHOLD, RETAINED_BYTES) and mallopt(TRIM_THRESHOLD, RETAINED_BYTES))


def raise_gc_threshold() -> None:
    """Have Python look for objects that only refer to each other after thousands of new ones, not after 700.

    A step makes hundreds of objects and lets go of all of them, which needs no search, and three steps of four began
    one: 2.6 % of a small network's training on a CPU. Holds for the whole process; a higher threshold, and a
    search that is turned off, are left alone.
    """
    first, *further = gc.get_threshold()
    if 0 < first < NEW_OBJECTS:
        gc.set_threshold(NEW_OBJECTS, *further)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the GPU or of the machine, did not suffice.

    True for torch's error of its GPU allocator, for Python's and numpy's MemoryError, for a system call that the
    kernel refused memory, and for the RuntimeErrors of `SIGNS`. A process that the kernel kills for memory raises
    nothing, so this cannot tell of it.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def out_of_memory_advice(
    config: TrainConfig, *, device: torch.device, gpus: float, share: str = "search.gpus_per_trial"
) -> str:
    """What took the memory and what to change, in two sentences that name the parameters.

    config: of the run that ran out. gpus: the share of a GPU that it had, 0 for all that was free;
    share: the parameter that says so.
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
    """timm's gradient checkpointing of a network's blocks, inside; off again afterwards.

    (Chen et al., arXiv 1604.06174.) Draws inside of blocks, such as stochastic depth's, are the same the second time.

    Raises:
        ValueError: the network cannot.
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
    text = changes[0] if len(changes) == 1 else "; ".join(changes[:-1]) + "; or " + changes[-1]
    return text[0].upper() + text[1:]
