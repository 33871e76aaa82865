"""A source -> the prepared form of it (see `pipeline.data.store`), whole or not at all.

Blocks are written, as they come, into files of their final length in a work folder; a record beside them says how far
they are right, so that a preparation that was killed goes on from there. What is complete is moved into place at once.
The files are written and not mapped: a full disk is then an error, and not the end of the process.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pipeline.data.sources import Block, BrokenFile, ImageSource
from pipeline.data.store import FORMAT
from pipeline.errors import UserError

RECORD_EVERY_S = 2.0
"""Seconds of work that a killed preparation loses at most, about."""
COPY_ROWS_BYTES = 8 * 2**20
SHOWN_BROKEN = 10

Progress = Callable[[int, int], None]
"""Told how many files have been read, and of how many."""


def write_prepared(
    source: ImageSource,
    folder: Path,
    *,
    work: Path | None = None,
    skip_broken: bool = False,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a source in prepared form, and return its manifest. Until it is complete, `folder` stays as it is.

    work: a folder for half-made sets, which the same call goes on with; None: beside `folder`, begun anew each time.
    skip_broken: leave pictures out that cannot be decoded (and take masks that cannot be as all undecided).

    Raises:
        UserError: the folder cannot be written, the disk is full, or there are broken files that may not be skipped.
    """
    anew = work is None
    place = folder.with_name(folder.name + ".partial") if work is None else work / _key(source)
    try:
        if anew:
            shutil.rmtree(place, ignore_errors=True)
        broken = _fill(source, place, on_progress)
        if broken and not skip_broken:
            raise UserError(_refusal(broken, source.steps))
        manifest = _complete(source, place, broken)
        _publish(place / "whole", folder)
        shutil.rmtree(place, ignore_errors=True)
        for left in work.iterdir() if work else ():
            if left.is_dir():  # half-made sets of other settings, which would only take up space
                shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        full = " Free some space there and run the same command again." if error.errno == errno.ENOSPC else ""
        raise UserError(f"{folder}: the prepared data cannot be written: {error.strerror or error}.{full}") from None
    return manifest


def _key(source: ImageSource) -> str:
    content = json.dumps([FORMAT, source.name, source.identity, source.shape, source.steps])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class _Rows:
    """An array file that is written row by row, in any order."""

    def __init__(self, path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
        self._path, self._dtype, self._shape = path, np.dtype(dtype), shape
        self._stride = int(np.prod(shape[1:], dtype=np.int64)) * self._dtype.itemsize

    def __enter__(self) -> Self:
        fresh = not self._path.exists()
        self._file: IO[bytes] = self._path.open("w+b" if fresh else "r+b", buffering=0)
        if fresh:
            header = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": self._shape}
            npy.write_array_header_1_0(self._file, header)
        else:
            npy.read_magic(self._file)
            npy.read_array_header_1_0(self._file)
        self._start = self._file.tell()
        if fresh:
            self._file.truncate(self._start + self._stride * self._shape[0])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Put values (n, ...) at rows (n,). Neighbouring rows go in one piece."""
        if not len(rows):
            return
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        for start, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
            self._file.seek(self._start + int(rows[start]) * self._stride)
            piece = memoryview(np.ascontiguousarray(values[start:end], dtype=self._dtype).data).cast("B")
            while len(piece):
                piece = piece[self._file.write(piece) :]

    def sync(self) -> None:
        os.fsync(self._file.fileno())


def _arrays(source: ImageSource) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Type and shape of the arrays that blocks are written to. sizes: (H, W) before resizing,
    of the image in row 2r and of its mask in row 2r + 1.
    """
    count, (height, width, channels) = len(source.labels), source.shape
    arrays: dict[str, tuple[Any, tuple[int, ...]]] = {"images": (np.uint8, (count, height, width, channels))}
    if source.has_masks:
        arrays |= {"masks": (np.uint8, (count, height, width)), "sizes": (np.int32, (2 * count, 2))}
    return arrays


def _fill(source: ImageSource, place: Path, on_progress: Progress | None) -> list[BrokenFile]:
    """Read what has not been read yet into the work folder. Returns all broken files."""
    done, broken = _recorded(source, place)
    if not done:
        _start(source, place)
    with ExitStack() as stack:
        arrays = {name: stack.enter_context(_Rows(place / f"{name}.npy", *spec)) for name, spec in
                  _arrays(source).items()}  # fmt: skip
        if not done and source.has_masks:
            _fill_undecided(arrays["masks"], source)
        spoke = time.monotonic()
        try:
            for block in source.read(done) if done < source.steps else ():
                _write_block(block, arrays)
                broken += block.broken
                done = block.done
                if on_progress:
                    on_progress(done, source.steps)
                if time.monotonic() - spoke > RECORD_EVERY_S:
                    _record(place, done, broken, arrays)
                    spoke = time.monotonic()
        finally:
            # Also after an error or an interruption: what has been written is right, and is not to be done again.
            _record(place, done, broken, arrays)
    return broken + _misfits(source, place, broken)


def _start(source: ImageSource, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    needed = sum(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize for dtype, shape in
                 _arrays(source).values())  # fmt: skip
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"{place}: the prepared images need {_bytes(needed)}, and {_bytes(free)} are free there. Free some space, "
            "or lower prepare.image_size."
        )


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _fill_undecided(masks: _Rows, source: ImageSource) -> None:
    height, width, _ = source.shape
    count, step = len(source.labels), max(1, COPY_ROWS_BYTES // (height * width))
    for start in range(0, count, step):
        rows = np.arange(start, min(count, start + step), dtype=np.int64)
        masks.write(rows, np.full((len(rows), height, width), 255, dtype=np.uint8))


def _write_block(block: Block, arrays: dict[str, _Rows]) -> None:
    arrays["images"].write(block.image_rows, block.images)
    if "masks" in arrays:
        arrays["masks"].write(block.mask_rows, block.masks)
        arrays["sizes"].write(2 * block.image_rows, block.image_sizes)
        arrays["sizes"].write(2 * block.mask_rows + 1, block.mask_sizes)


def _record(place: Path, done: int, broken: list[BrokenFile], arrays: dict[str, _Rows]) -> None:
    for array in arrays.values():
        array.sync()
    partial = place / "progress.json.partial"
    partial.write_text(json.dumps({"done": done, "broken": [asdict(file) for file in broken]}))
    partial.replace(place / "progress.json")


def _recorded(source: ImageSource, place: Path) -> tuple[int, list[BrokenFile]]:
    """How far a work folder has come; 0 where there is none, or none that can be trusted."""
    try:
        content = json.loads((place / "progress.json").read_text())
        for name, (dtype, shape) in _arrays(source).items():
            array = np.load(place / f"{name}.npy", mmap_mode="r")
            if array.shape != shape or array.dtype != dtype:
                return 0, []
        return int(content["done"]), [BrokenFile(**file) for file in content["broken"]]
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return 0, []


def _misfits(source: ImageSource, place: Path, broken: list[BrokenFile]) -> list[BrokenFile]:
    """Masks that are not of their picture's size, so that nobody can say what in it they mean."""
    if not source.has_masks:
        return []
    sizes = np.load(place / "sizes.npy").reshape(-1, 2, 2)
    known = (sizes > 0).all(axis=(1, 2))
    rows = np.flatnonzero(known & (sizes[:, 0] != sizes[:, 1]).any(axis=1))
    names = source.names
    return [
        BrokenFile(
            row=int(row),
            is_mask=True,
            name=f"the mask of {names[row] if names else row}",
            reason="{1} x {0}, but the picture is {3} x {2}".format(*sizes[row, 1], *sizes[row, 0]),
        )
        for row in rows
    ]


def _refusal(broken: list[BrokenFile], files: int) -> str:
    lines = [f"{len(broken):,} of {files:,} files cannot be used:"]
    lines += [f"  {file.name}: {file.reason}" for file in broken[:SHOWN_BROKEN]]
    if len(broken) > SHOWN_BROKEN:
        lines.append(f"  and {len(broken) - SHOWN_BROKEN:,} more")
    lines.append("Mend or remove them, or set prepare.skip_broken: true in params.yaml to go on without them.")
    return "\n".join(lines)


def _complete(source: ImageSource, place: Path, broken: list[BrokenFile]) -> dict[str, Any]:
    """Put everything of the prepared set into the folder `whole`, its arrays last."""
    whole = place / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    keep = np.ones(len(source.labels), dtype=np.bool_)
    keep[[file.row for file in broken if not file.is_mask]] = False
    if not keep.any():
        raise UserError(f"{source.origin}: not one of {len(keep):,} pictures could be decoded.")
    no_mask = np.array([file.row for file in broken if file.is_mask], dtype=np.int64)
    large = [name for name in _arrays(source) if name != "sizes"]
    if len(no_mask):
        dtype, shape = _arrays(source)["masks"]
        with _Rows(place / "masks.npy", dtype, shape) as masks:
            for row in no_mask:
                masks.write(np.array([row]), np.full((1, *shape[1:]), 255, dtype=np.uint8))
    if not keep.all():
        for name in large:
            _copy_kept(place / f"{name}.npy", whole / f"{name}.npy", keep)
    sources = {name: (place if keep.all() else whole) / f"{name}.npy" for name in large}
    hashes = {"images": _file_hash(sources["images"])}
    np.save(whole / "labels.npy", source.labels[keep])
    hashes["labels"] = _file_hash(whole / "labels.npy")
    if source.has_masks:
        hashes["masks"] = _file_hash(sources["masks"])
    if source.test is not None:
        np.save(whole / "test.npy", source.test[keep])
        hashes["test"] = _file_hash(whole / "test.npy")
    if source.names is not None:
        (whole / "files.json").write_text(json.dumps(_kept_names(source.names, keep), indent=0) + "\n")
    manifest = _manifest(source, keep, broken, hashes)
    (whole / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    for name, path in sources.items():
        os.replace(path, whole / f"{name}.npy")
    return manifest


def _kept_names(names: tuple[str, ...], keep: NDArray[np.bool_]) -> list[str]:
    return [name for name, kept in zip(names, keep, strict=True) if kept]


def _copy_kept(path: Path, to: Path, keep: NDArray[np.bool_]) -> None:
    array = np.load(path, mmap_mode="r")
    rows = np.flatnonzero(keep)
    step = max(1, COPY_ROWS_BYTES // int(array[0].nbytes))
    with _Rows(to, array.dtype, (len(rows), *array.shape[1:])) as copy:
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            copy.write(np.arange(start, start + len(part), dtype=np.int64), array[part])


def _publish(whole: Path, folder: Path) -> None:
    """Move the complete set into place; the earlier one goes only when this one is beside it."""
    new, old = (folder.with_name(folder.name + ending) for ending in (".new", ".old"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        os.replace(whole, new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        try:
            shutil.copytree(whole, new)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def _manifest(
    source: ImageSource, keep: NDArray[np.bool_], broken: list[BrokenFile], hashes: dict[str, str]
) -> dict[str, Any]:
    counts = np.bincount(source.labels[keep], minlength=len(source.classes))
    height, width, channels = source.shape
    identity = json.dumps([hashes, list(source.classes)], sort_keys=True)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "dataset": source.name,
        "origin": source.origin,
        "licence": source.licence,
        "images": int(keep.sum()),
        "image_size": [height, width],
        "channels": channels,
        "classes": list(source.classes),
        "counts": {name: int(count) for name, count in zip(source.classes, counts, strict=True)},
        "has_masks": source.has_masks,
        "sha256": hashes,
        "data_hash": hashlib.sha256(identity.encode()).hexdigest(),
    }
    if source.test is not None:
        manifest["test_images"] = int(source.test[keep].sum())
    if broken:
        manifest["skipped"] = {file.name: file.reason for file in broken}
    return manifest


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
