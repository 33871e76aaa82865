"""The user's own pictures as a source: files in, decoded blocks out, on every core and with little memory."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.decode import Decoded, Job, Size, decode_all, start_worker
from pipeline.data.layout import Layout
from pipeline.data.listing import Listing, Payload, read_files, shown
from pipeline.data.sources import SOURCES, Block, BrokenFile, ImageSource, SourceSettings, list_image_folder, preview
from pipeline.errors import UserError

CHUNK_FILES, CHUNK_BYTES = 256, 8 * 2**20
"""A worker gets at most so many files at a time, with so many bytes before or after decoding."""
SMALL_FILES, SMALL_BYTES = 512, 32 * 2**20
"""A set with fewer of both is decoded in this process: workers take a second to start."""
LOOK_AHEAD = 3
"""Chunks in flight for each worker: enough to keep it busy, few enough to keep memory flat."""


def open_source(settings: SourceSettings, *, workers: int | None = None) -> ImageSource:
    """The source that the settings name, ready to be read. workers: processes that decode; None: one a core.

    Raises:
        UserError: as `pipeline.data.sources.preview`.
    """
    if settings.dataset in SOURCES:
        preview(settings)
        return SOURCES[settings.dataset](settings.image_size)
    listing, layout = list_image_folder(settings)
    return ImageFolder(settings, listing, layout, workers or _cores())


def _cores() -> int:
    """Cores that this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ImageFolder:
    """A folder or archive of pictures; see `pipeline.data.layout` for how it is laid out.

    Files are read in the order of the listing, which for an archive is its own: each block names the rows it is for.
    """

    def __init__(self, settings: SourceSettings, listing: Listing, layout: Layout, workers: int) -> None:
        assert settings.root is not None
        self._root: Path = settings.root
        self._side, self._workers, self._layout = settings.image_size, workers, layout
        row_of = {name: (row, False) for row, name in enumerate(layout.names)}
        row_of |= {name: (row, True) for name, row in layout.masks.items()}
        self._files = [(name, size, *row_of[name]) for name, size in listing.files if name in row_of]
        self._listed = listing.identity
        self._origin = f"pictures in {shown(settings.root.name)}"

    @property
    def name(self) -> str:
        return "image_folder"

    @property
    def origin(self) -> str:
        return self._origin

    @property
    def licence(self) -> str:
        return "not known: the user's own pictures"

    @property
    def classes(self) -> tuple[str, ...]:
        return self._layout.classes

    @property
    def labels(self) -> NDArray[np.int64]:
        return self._layout.labels

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._side, self._side, 3

    @property
    def test(self) -> NDArray[np.bool_] | None:
        return self._layout.test

    @property
    def has_masks(self) -> bool:
        return bool(self._layout.masks)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(shown(name) for name in self._layout.names)

    @property
    def steps(self) -> int:
        return len(self._files)

    @property
    def identity(self) -> str:
        return self._listed

    def read(self, start: int) -> Iterator[Block]:
        """Decode the files after the first `start`, in order, on every core.

        Raises:
            UserError: the root cannot be read any more, or has changed since it was listed; a worker died.
        """
        done = start
        for jobs, decoded in self._decoded(self._chunks(start)):
            broken = tuple(
                BrokenFile(row, is_mask, shown(self._files[done + index][0]), said)
                for index, ((row, is_mask), said) in enumerate(zip(jobs, decoded.pixels, strict=True))
                if isinstance(said, str)
            )
            done += len(jobs)
            yield self._block(done, jobs, decoded, broken)

    def _chunks(self, start: int) -> Iterator[list[Job]]:
        most = max(1, min(CHUNK_FILES, CHUNK_BYTES // (3 * self._side**2)))
        chunk: list[Job] = []
        held = 0
        for (_, _, row, is_mask), payload in self._payloads(start):
            size = len(payload) if isinstance(payload, bytes) else 0
            if chunk and (len(chunk) == most or held + size > CHUNK_BYTES):
                yield chunk
                chunk, held = [], 0
            chunk.append(Job(row, is_mask, payload))
            held += size
        if chunk:
            yield chunk

    def _payloads(self, start: int) -> Iterator[tuple[tuple[str, int, int, bool], Payload]]:
        files = self._files[start:]
        if self._root.is_dir():
            for file in files:
                yield file, os.path.join(self._root, file[0])
            return
        found = read_files(self._root, {file[0] for file in files})
        for file in files:
            name, payload = next(found, (None, b""))
            if name != file[0]:
                raise UserError(f"{shown(str(self._root))}: has changed while it was read. Run `dvc repro` again.")
            yield file, payload

    def _decoded(self, chunks: Iterator[list[Job]]) -> Iterator[tuple[list[tuple[int, bool]], Decoded]]:
        small = len(self._files) < SMALL_FILES and sum(size for _, size, _, _ in self._files) < SMALL_BYTES
        if small or self._workers == 1:
            for jobs in chunks:
                yield [(job.row, job.is_mask) for job in jobs], decode_all(jobs, self._side)
            return
        pool = ProcessPoolExecutor(self._workers, mp_context=get_context("spawn"), initializer=start_worker)
        try:
            waiting: deque[tuple[list[tuple[int, bool]], Future[Decoded]]] = deque()
            for jobs in chunks:
                waiting.append(([(job.row, job.is_mask) for job in jobs], pool.submit(decode_all, jobs, self._side)))
                if len(waiting) > self._workers * LOOK_AHEAD:
                    rows, future = waiting.popleft()
                    yield rows, future.result()
            while waiting:
                rows, future = waiting.popleft()
                yield rows, future.result()
        except BrokenProcessPool:
            raise UserError(
                f"{shown(str(self._root))}: a process that decodes pictures was ended, most likely for want of memory. "
                "Free some and run the same command again: it goes on from here."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)

    def _block(
        self, done: int, jobs: Sequence[tuple[int, bool]], decoded: Decoded, broken: tuple[BrokenFile, ...]
    ) -> Block:
        def gathered(masks: bool) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int32]]:
            rows: list[int] = []
            arrays: list[NDArray[np.uint8]] = []
            sizes: list[Size] = []
            for (row, is_mask), array, size in zip(jobs, decoded.pixels, decoded.sizes, strict=True):
                if is_mask == masks and not isinstance(array, str):
                    rows.append(row)
                    arrays.append(array)
                    sizes.append(size)
            shape = self.shape[:2] if masks else self.shape
            stacked = np.stack(arrays) if arrays else np.zeros((0, *shape), dtype=np.uint8)
            return np.array(rows, dtype=np.int64), stacked, np.array(sizes, dtype=np.int32).reshape(-1, 2)

        return Block(done, *gathered(False), *gathered(True), broken)
