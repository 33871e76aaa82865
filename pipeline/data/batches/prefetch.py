"""Batches of a set that is stored encoded, decoded in this process or ahead of time in worker processes.

Workers belong to one pass over the data. They end with it, whether the pass is finished, left early or
killed. Pillow decodes the files (see `pipeline.data.prepared.encoded`). Shapes: B images of a batch, H x W
pixels, C channels.
"""

import ctypes
import math
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pipeline.compute.temp_dirs import set_socket_folder
from pipeline.compute.threads import spread_over_threads
from pipeline.data.prepared.encoded import EncodedRows
from pipeline.errors import UserError

T = TypeVar("T")

AHEAD = 2
"""Batches that a worker decodes ahead, or a thread makes ahead."""

SHARED = "/dev/shm"
"""Shared memory, through which a batch passes from a worker to its parent."""

PARENT_DEATH_SIGNAL = 1
"""Linux's PR_SET_PDEATHSIG."""


def decode_rows(images: EncodedRows, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Returns decoded rows (B, H, W, C) uint8, or (B, H, W) of masks, using the threads that torch may use.

    Args:
        images: Encoded images or masks.
        rows: Row numbers, (B,).

    Raises:
        UserError: If a file is damaged.
    """
    found = np.empty((len(rows), *images.shape[1:]), dtype=np.uint8)

    def part(begin: int, end: int) -> None:
        found[begin:end] = images[rows[begin:end]]

    spread_over_threads(part, len(rows))
    return found


def prefetch_batches(
    images: EncodedRows, batches: Sequence[NDArray[np.int64]], *, workers: int = 0
) -> Generator[NDArray[np.uint8], None, None]:
    """Yields each batch decoded, (B, H, W, C) uint8, in the order of the batches.

    Args:
        images: Encoded images.
        batches: Row numbers of each batch, (B,).
        workers: Processes that decode ahead; fewer if shared memory has no room for their batches. 0 decodes
            each batch when it is requested, in threads of this process.

    Raises:
        UserError: If a file is damaged.
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
        # Workers would otherwise live as long as the last reference, which may be in an error's traceback.
        iterator._shutdown_workers()


def run_ahead(items: Generator[T, None, None], count: int = AHEAD) -> Generator[T, None, None]:
    """Yields the items of a generator, which a thread runs ahead of the caller.

    The first item is made in the caller's thread: worker processes that it starts are then children of a thread
    that does not end before them. The thread ends with this generator, and closes the other one. An exception of
    the other one is raised here, in its place among the items.

    Args:
        items: The generator.
        count: Items that wait to be taken, at most; one more is in work.
    """
    ready: Queue[tuple[T] | BaseException | None] = Queue(count)
    left = Event()

    def work() -> None:
        try:
            for item in items:
                ready.put((item,))
                if left.is_set():
                    return
        except BaseException as error:  # every error is the caller's
            ready.put(error)
        else:
            ready.put(None)

    with closing(items):
        for first in items:
            yield first
            break
        else:
            return
        thread = Thread(target=work, name="batches ahead", daemon=True)
        thread.start()
        try:
            while (found := ready.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found[0]
        finally:
            left.set()
            while thread.is_alive():
                with suppress(Empty):
                    ready.get_nowait()  # makes room for an item that the thread is about to put there
                thread.join(0.01)


def _room_for(images: EncodedRows, batches: Sequence[NDArray[np.int64]]) -> int:
    """Returns the number of workers whose batches fit into shared memory.

    Containers often have 64 MB of it, and a process that needs more is killed.
    """
    if not os.path.isdir(SHARED) or not batches:
        return sys.maxsize
    batch = max(len(rows) for rows in batches) * math.prod(images.shape[1:])
    return shutil.disk_usage(SHARED).free // max(1, (AHEAD + 1) * batch)


def _begun(images: EncodedRows, batches: Sequence[NDArray[np.int64]], workers: int) -> Any:
    """Starts the workers and returns an iterator over their batches.

    Args:
        images: Encoded images.
        batches: Row numbers of each batch, (B,).
        workers: Number of processes.
    """
    set_socket_folder()  # workers send their batches through sockets
    with warnings.catch_warnings():
        # Python warns of forks beside threads. It is safe here: a worker only reads and decodes files, without locks.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
        # torch warns of more workers than cores. The user decides on their number.
        warnings.filterwarnings("ignore", category=UserWarning, message="This DataLoader will create")
        return iter(
            DataLoader(
                _Batches(images, batches),
                batch_size=None,
                num_workers=workers,
                prefetch_factor=AHEAD,
                worker_init_fn=_EndWith(os.getpid()),
                # Without a generator of its own, it would draw from the global stream, and training would depend on
                # the workers.
                generator=torch.Generator(),
                # A fork starts at once; other methods import torch again in every worker and epoch.
                multiprocessing_context="fork" if sys.platform == "linux" else None,
            )
        )


class _Batches(Dataset[torch.Tensor | UserError]):
    """Decoded batches by number. A whole batch is one item, since it passes between processes as one piece of
    shared memory.

    An error is returned instead of raised, since torch would wrap a raised error into the text of a
    traceback.
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
    """Makes a worker end as soon as its parent ends, even by SIGKILL; torch's own check takes seconds.

    Args:
        parent: Process id of the parent.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __call__(self, _: int) -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
            if os.getppid() != self._parent:  # the parent ended before prctl was called
                os._exit(1)
