"""Batches of a set that is kept encoded, decoded in this process or, ahead of time, in worker processes.

Workers belong to one pass over the data: they end with it, whether it is finished, left early or killed. Pillow decodes
(see `pipeline.data.prepared.encoded`). Shapes: B images of a batch, H x W pixels, C channels.
"""

import ctypes
import math
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pipeline.compute.temp_dirs import set_socket_folder
from pipeline.compute.threads import spread_over_threads
from pipeline.data.prepared.encoded import EncodedRows
from pipeline.errors import UserError

AHEAD = 2
"""Batches that a worker decodes ahead."""

SHARED = "/dev/shm"
"""Where batches are while they pass from a worker to its parent."""

PARENT_DEATH_SIGNAL = 1
"""Linux's PR_SET_PDEATHSIG."""


def decode_rows(images: EncodedRows, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The rows (B,), (B, H, W, C) uint8, by as many threads as torch may use.

    Raises:
        UserError: a file is damaged.
    """
    found = np.empty((len(rows), *images.shape[1:]), dtype=np.uint8)

    def part(begin: int, end: int) -> None:
        found[begin:end] = images[rows[begin:end]]

    spread_over_threads(part, len(rows))
    return found


def prefetch_batches(
    images: EncodedRows, batches: Sequence[NDArray[np.int64]], *, workers: int = 0
) -> Generator[NDArray[np.uint8], None, None]:
    """Each batch of rows (B,), (B, H, W, C) uint8, in the order of the batches.

    workers: processes that decode ahead, fewer where shared memory has no room for what they would hold; 0 to decode
    each batch when it is asked for, in threads of this process.

    Raises:
        UserError: a file is damaged.
    """
    workers = min(workers, _room_for(images, batches))
    if not workers:
        for rows in batches:
            yield decode_rows(images, rows)
        return
    iterator = _begun(images, batches, min(workers, max(1, len(batches))))
    try:
        for batch in iterator:
            if isinstance(batch, UserError):
                raise batch
            yield batch.numpy()
    finally:
        # Not left to the last reference, which an error's traceback may hold for long.
        iterator._shutdown_workers()


def _room_for(images: EncodedRows, batches: Sequence[NDArray[np.int64]]) -> int:
    """Workers whose batches shared memory can hold; containers often have 64 MB of it, and end who takes more."""
    if not os.path.isdir(SHARED) or not batches:
        return sys.maxsize
    batch = max(len(rows) for rows in batches) * math.prod(images.shape[1:])
    return shutil.disk_usage(SHARED).free // max(1, (AHEAD + 1) * batch)


def _begun(images: EncodedRows, batches: Sequence[NDArray[np.int64]], workers: int) -> Any:
    set_socket_folder()  # by which workers hand over their batches
    with warnings.catch_warnings():
        # Python's, of forks beside threads: a worker takes no lock of theirs, it reads files and decodes them.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
        # torch's, of more workers than cores, which is for the user to say.
        warnings.filterwarnings("ignore", category=UserWarning, message="This DataLoader will create")
        return iter(
            DataLoader(
                _Batches(images, batches),
                batch_size=None,
                num_workers=workers,
                prefetch_factor=AHEAD,
                worker_init_fn=_EndWith(os.getpid()),
                # Of its own, or it would draw from the global stream, and training would depend on the workers.
                generator=torch.Generator(),
                # Starts at once, where others import torch again in every worker and epoch.
                multiprocessing_context="fork" if sys.platform == "linux" else None,
            )
        )


class _Batches(Dataset[torch.Tensor | UserError]):
    """A whole batch by its number, since that is sent between processes as one piece of shared memory.

    An error is given and not raised: torch would wrap it into the text of a traceback.
    """

    def __init__(self, images: EncodedRows, batches: Sequence[NDArray[np.int64]]) -> None:
        self._images, self._batches = images, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> torch.Tensor | UserError:
        try:
            return torch.from_numpy(self._images[self._batches[number]])
        except UserError as error:
            return error


class _EndWith:
    """Ends a worker at once when its parent ends, were it by SIGKILL; torch's own watch takes seconds."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __call__(self, _: int) -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
            if os.getppid() != self._parent:  # it has ended before it was watched
                os._exit(1)
