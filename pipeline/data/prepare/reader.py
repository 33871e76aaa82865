"""Decodes the pictures of a folder, an archive or a named set in blocks, on all cores and with little memory."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from pipeline.compute.limits import usable_cpus
from pipeline.data.archive import Unreadable, format_names, read_files
from pipeline.data.decode.decode import Decoded, DecodeTask, decode_all, start_worker
from pipeline.data.decode.open_image import Content, Size
from pipeline.data.prepared.prepared import Details
from pipeline.data.sources.boxes import read_boxes
from pipeline.data.sources.dataset_registry import DATASETS
from pipeline.data.sources.image_source import (
    SOURCES,
    DecodedBatch,
    ImageSource,
    SourceConfig,
    UnreadableFile,
    list_image_folder,
    preview_dataset,
)
from pipeline.data.sources.named_dataset import NamedDataset, read_catalogue
from pipeline.errors import UserError

CHUNK_FILES, CHUNK_BYTES = 256, 8 * 2**20
"""Most files that a worker gets at a time, and most bytes of these, before and after decoding."""
SMALL_FILES, SMALL_BYTES = 512, 32 * 2**20
"""A set below both limits is decoded in this process, since workers take a second to start."""
NO_ROW = -1
"""Row number of a file that belongs to the set but to none of its splits."""
LOOK_AHEAD = 3
"""Chunks in flight per worker: enough to keep it busy, and few enough to keep memory use low."""


def open_source(config: SourceConfig, *, workers: int | None = None, executor: Executor | None = None) -> ImageSource:
    """Returns the source that the configuration names, ready to be read.

    Args:
        config: The user's description of the source.
        workers: Processes that decode; None: one per core.
        executor: Decodes instead of these processes, with about `workers` tasks at a time; it is not shut
            down. Its tasks call `pipeline.data.decode.decode.decode_all`. They may run on other machines if
            the pictures are in an archive, or in a folder that these machines see. None: local processes.

    Raises:
        UserError: If the source is missing or not laid out as required; see
            `pipeline.data.sources.image_source.preview_dataset`.
    """
    if config.dataset in SOURCES:
        preview_dataset(config)
        return SOURCES[config.dataset](config.image_size)
    known = config.dataset in DATASETS
    return ImageFiles(
        config, read_catalogue(config) if known else _own_pictures(config), workers or usable_cpus(), executor
    )


def _own_pictures(config: SourceConfig) -> NamedDataset:
    listing, layout = list_image_folder(config)
    assert config.root is not None
    wanted = {*layout.names, *layout.masks}
    return NamedDataset(
        root=config.root,
        files=tuple(file for file in listing.files if file[0] in wanted),
        names=layout.names,
        classes=layout.classes,
        labels=layout.labels,
        test=layout.test,
        identity=listing.identity,
        masks=layout.masks,
        boxes=read_boxes(config.root, layout.boxes, layout.names, layout.wrapper) if layout.boxes else None,
    )


class ImageFiles:
    """Source of the pictures of a catalogue.

    Files are read in the catalogue's order, which for an archive is the archive's own. Each block therefore
    states its rows.

    Args:
        config: The user's description of the source.
        catalogue: Rows and files of the set.
        workers: Number of tasks to keep running.
        executor: Runs the decoding tasks; None: local processes.
    """

    def __init__(
        self, config: SourceConfig, catalogue: NamedDataset, workers: int, executor: Executor | None = None
    ) -> None:
        self._root, self._side, self._bit_depth = catalogue.root, config.image_size, config.bit_depth
        self._catalogue, self._workers, self._executor = catalogue, workers, executor
        row_of = {name: (row, False) for row, name in enumerate(catalogue.names)}
        row_of |= {name: (row, True) for name, row in catalogue.masks.items()}
        folders = {name.rpartition("/")[0] for name in catalogue.masks}
        row_of |= {name: (NO_ROW, name.rpartition("/")[0] in folders) for name in catalogue.unlisted}
        files = catalogue.files or tuple((name, 0) for name in catalogue.names)
        self._files = [(name, size, *row_of[name]) for name, size in files]
        known, found = DATASETS.get(config.dataset), format_names(self._root.name)
        self.name, self.steps = config.dataset, len(self._files)
        self.origin = f"pictures in {found}" if known is None else f"{known.title}, as found in {found}"
        self.licence = "not known: the user's own pictures" if known is None else known.licence
        self.classes, self.labels, self.test = catalogue.classes, catalogue.labels, catalogue.test
        self.names: tuple[str, ...] | None = tuple(format_names(name) for name in catalogue.names)
        self.shape = self._side, self._side, 3
        self.has_masks = bool(catalogue.masks) or catalogue.boxes is not None
        bytes_each = self._side**2 * (3 + self.has_masks)
        self.encoded = config.array_limit is not None and bytes_each * len(catalogue.names) > config.array_limit
        depth = "" if self._bit_depth is None else f" {self._bit_depth} bits"
        self.identity = f"{catalogue.identity} {'encoded' if self.encoded else 'arrays'}{depth}"
        self.details = self._details()

    def _details(self) -> Details:
        found = self._catalogue
        entries: Details = {} if found.originals is None else {"original_labels": list(found.originals)}
        if self._bit_depth is not None:
            entries["bit_depth"] = self._bit_depth
        if self.has_masks:
            drawn, trimaps = found.boxes is not None, found.meaning == "trimap"
            entries["masks_from"] = "boxes" if drawn else "trimaps" if trimaps else "masks"
        return entries

    def read(self, start: int) -> Iterator[DecodedBatch]:
        """Yields the files after the first `start` in decoded blocks, in order, using all workers.

        Raises:
            UserError: If the root can no longer be read, has changed since it was listed, or a worker died.
        """
        done = start
        for jobs, decoded in self._decoded(self._chunks(start)):
            yield self._block(done, jobs, decoded)
            done += len(jobs)

    def _chunks(self, start: int) -> Iterator[list[DecodeTask]]:
        """Yields the tasks of the files after the first `start`, in chunks of limited size."""
        most = max(1, min(CHUNK_FILES, CHUNK_BYTES // (3 * self._side**2)))
        meaning, boxes = self._catalogue.meaning, self._catalogue.boxes or {}
        chunk: list[DecodeTask] = []
        held = 0
        for (name, _, row, is_mask), payload in self._payloads(start):
            size = (
                payload.nbytes if isinstance(payload, np.ndarray) else len(payload) if isinstance(payload, bytes) else 0
            )
            if chunk and (len(chunk) == most or held + size > CHUNK_BYTES):
                yield chunk
                chunk, held = [], 0
            drawn = None if is_mask else boxes.get(row)
            chunk.append(DecodeTask(row, is_mask, payload, name, meaning, drawn, self._bit_depth))
            held += size
        if chunk:
            yield chunk

    def _payloads(self, start: int) -> Iterator[tuple[tuple[str, int, int, bool], Content]]:
        """Yields (name, size, row, is_mask) and content of the files after the first `start`."""
        files = self._files[start:]
        if self._catalogue.pixels:
            pixels = [(piece, row) for piece in self._catalogue.pixels for row in range(len(piece))]
            for file, (piece, row) in zip(files, pixels[start:], strict=True):
                yield file, np.ascontiguousarray(piece[row])
            return
        if self._root.is_dir():
            for file in files:
                yield file, os.path.join(self._root, file[0])
            return
        there = [file for file in files if file[1] >= 0]
        found = read_files(self._root, {file[0] for file in there})
        for file in there:
            name, payload = next(found, (None, b""))
            if name != file[0]:
                raise UserError(
                    f"{format_names(str(self._root))}: has changed while it was read. Run `dvc repro` again."
                )
            yield file, payload
        for file in files[len(there) :]:
            yield file, Unreadable("not in the archive")

    def _decoded(self, chunks: Iterator[list[DecodeTask]]) -> Iterator[tuple[list[tuple[int, bool]], Decoded]]:
        """Yields (row, is_mask) of each chunk's tasks, and their results, in the order of the chunks."""
        if self._executor is None and (self._is_small() or self._workers == 1):
            for jobs in chunks:
                yield [(job.row, job.is_mask) for job in jobs], decode_all(jobs, self._side, self.encoded)
            return
        waiting: deque[tuple[list[tuple[int, bool]], Future[Decoded]]] = deque()
        with self._pool() as pool:
            try:
                for jobs in chunks:
                    future = pool.submit(decode_all, jobs, self._side, self.encoded)
                    waiting.append(([(job.row, job.is_mask) for job in jobs], future))
                    if len(waiting) > self._workers * LOOK_AHEAD:
                        rows, future = waiting.popleft()
                        yield rows, future.result()
                while waiting:
                    rows, future = waiting.popleft()
                    yield rows, future.result()
            except BrokenProcessPool:
                raise UserError(
                    f"{format_names(str(self._root))}: a process that decodes pictures was killed, most likely because "
                    "memory ran out. Free some and run the same command again: it goes on from here."
                ) from None
            finally:
                for _, future in waiting:
                    future.cancel()

    def _is_small(self) -> bool:
        sizes = sum(max(size, 0) for _, size, _, _ in self._files)
        return len(self._files) < SMALL_FILES and sizes < SMALL_BYTES

    @contextmanager
    def _pool(self) -> Iterator[Executor]:
        if self._executor is not None:
            yield self._executor
            return
        pool = ProcessPoolExecutor(self._workers, mp_context=get_context("spawn"), initializer=start_worker)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)

    def _block(self, start: int, jobs: Sequence[tuple[int, bool]], decoded: Decoded) -> DecodedBatch:
        """Returns the block of a chunk's results.

        Args:
            start: Number of files before the chunk.
            jobs: (row, is_mask) of each task.
            decoded: Results of the tasks.
        """
        images, masks = _RowBuffer(), _RowBuffer()
        broken: list[UnreadableFile] = []
        remarks: list[tuple[str, str]] = []
        depths = [(depth, format_names(self._files[start + place][0])) for place, depth in decoded.depths.items()]
        for place, (row, is_mask) in enumerate(jobs):
            name, found = format_names(self._files[start + place][0]), decoded.pixels[place]
            remarks += [(remark, name) for remark in decoded.warnings[place]]
            if row == NO_ROW:
                # Such files are decoded only to report that they are left out.
                remarks.append((f"in no split, left out{' (' + found + ')' if isinstance(found, str) else ''}", name))
                continue
            if isinstance(found, str):
                broken.append(UnreadableFile(row, is_mask, name, found))
                continue
            (masks if is_mask else images).add(row, found, decoded.sizes[place])
            drawn = decoded.masks_of_boxes.get(place)
            if isinstance(drawn, str):
                broken.append(UnreadableFile(row, True, f"the boxes of {name}", drawn))
            elif drawn is not None:
                masks.add(row, drawn, decoded.sizes[place])
        return DecodedBatch(
            start + len(jobs),
            images.row_numbers(), images.stacked(self.shape), images.all_sizes(),
            masks.row_numbers(), masks.stacked(self.shape[:2]), masks.all_sizes(),
            tuple(broken), tuple(images.files), tuple(masks.files), tuple(remarks), tuple(depths),
        )  # fmt: skip


class _RowBuffer:
    """Collects the rows of a block's images, or of its masks."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._sizes: list[Size] = []
        self._arrays: list[NDArray[np.uint8]] = []
        self.files: list[bytes] = []

    def add(self, row: int, square: NDArray[np.uint8] | bytes, size: Size) -> None:
        """Adds a row.

        Args:
            row: Row of the prepared set.
            square: Pixels, or an encoded file.
            size: (H, W) before resizing.
        """
        self._rows.append(row)
        self._sizes.append(size)
        if isinstance(square, bytes):
            self.files.append(square)
        else:
            self._arrays.append(square)

    def row_numbers(self) -> NDArray[np.int64]:
        return np.array(self._rows, dtype=np.int64)

    def all_sizes(self) -> NDArray[np.int32]:
        return np.array(self._sizes, dtype=np.int32).reshape(-1, 2)

    def stacked(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        return np.stack(self._arrays) if self._arrays else np.zeros((0, *shape), dtype=np.uint8)
