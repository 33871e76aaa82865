"""Writes a source to the prepared format (see `pipeline.data.prepared.prepared`), atomically.

Blocks go into full-length files in a work folder. progress.json beside them records how much is valid, so
that an interrupted run resumes there. The complete set is moved into place at once.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.console.format import format_size
from pipeline.data.decode.bit_depth import BitDepths
from pipeline.data.prepare.manifest import count_remarks, make_manifest
from pipeline.data.prepare.row_files import COPY_ROWS_BYTES, BlobWriter, NpyRowWriter, copy_rows, hash_files
from pipeline.data.prepared.encoded import index_of
from pipeline.data.prepared.prepared import FORMAT, Manifest, OddFiles
from pipeline.data.sources.image_source import DecodedBatch, ImageSource, UnreadableFile
from pipeline.errors import UserError
from pipeline.files.atomic import replace_folder, write_whole
from pipeline.files.file_stats import hash_file

RECORD_EVERY_S = 2.0
"""Seconds between two progress records, and thus the most work that a killed run loses, approximately."""
SHOWN_BROKEN = 10
"""Broken files that the error message names."""

Progress = Callable[[int, int], None]
"""Callback with the number of files that have been read, and of all files."""


def write_prepared(
    source: ImageSource,
    folder: Path,
    *,
    work: Path | None = None,
    skip_broken: bool = False,
    on_progress: Progress | None = None,
) -> Manifest:
    """Writes a source in prepared form, and returns its manifest.

    `folder` does not change before the set is complete.

    Args:
        source: The source.
        folder: Folder of the prepared set.
        work: Folder for unfinished sets, which a later call resumes. None: beside `folder`, without resuming.
        skip_broken: Whether to leave out pictures that cannot be decoded, and treat such masks as all
            undecided.
        on_progress: Called with the number of files that have been read, and of all files; None: no calls.

    Raises:
        UserError: If the folder cannot be written, the disk is full, or there are broken files and
            `skip_broken` is False.
    """
    anew = work is None
    place = folder.with_name(folder.name + ".partial") if work is None else work / _key(source)
    try:
        if anew:
            shutil.rmtree(place, ignore_errors=True)
        state = _fill(source, place, on_progress)
        if state.broken and not skip_broken:
            raise UserError(_refusal(state.broken, source.steps))
        bit_depth = state.depths.resolve(source.details.get("bit_depth"))
        manifest = _complete(source, place, state, bit_depth)
        with replace_folder(folder, partial=folder.with_name(f"{folder.name}.new")) as new:
            for entry in (place / "whole").iterdir():
                shutil.move(entry, new)  # a copy, if the work folder is on another file system
        shutil.rmtree(place, ignore_errors=True)
        for left in work.iterdir() if work else ():
            if left.is_dir():  # unfinished sets with other parameters, which would only take up space
                shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        full = " Free some space there and run the same command again." if error.errno == errno.ENOSPC else ""
        raise UserError(f"{folder}: the prepared data cannot be written: {error.strerror or error}.{full}") from None
    return manifest


def _key(source: ImageSource) -> str:
    """Returns a hash that identifies the source, which names its folder of unfinished work."""
    content = json.dumps([FORMAT, source.name, source.identity, source.shape, source.steps])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass
class _State:
    """Progress of an unfinished set.

    Attributes:
        done: Number of files that have been read.
        broken: Files that cannot be used.
        remarks: Files with each remark.
        ends: Valid bytes of each file of encoded rows, by name.
        depths: Depths of pictures of more than 8 bits.
    """

    done: int = 0
    broken: list[UnreadableFile] = field(default_factory=list)
    remarks: dict[str, OddFiles] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    depths: BitDepths = field(default_factory=BitDepths)


def _arrays(source: ImageSource) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Returns type and shape of the arrays that blocks are written to.

    `sizes` has (H, W) before resizing: of the image in row 2r, and of its mask in row 2r + 1.
    """
    count, (height, width, channels) = len(source.labels), source.shape
    arrays: dict[str, tuple[Any, tuple[int, ...]]] = {}
    if not source.encoded:
        arrays["images"] = (np.uint8, (count, height, width, channels))
    if source.has_masks:
        if not source.encoded:
            arrays["masks"] = (np.uint8, (count, height, width))
        arrays["sizes"] = (np.int32, (2 * count, 2))
    return arrays


def _encoded(source: ImageSource) -> list[str]:
    """Returns the names of the rows that are stored as encoded files."""
    return (["images", "masks"] if source.has_masks else ["images"]) if source.encoded else []


def _fill(source: ImageSource, place: Path, on_progress: Progress | None) -> _State:
    """Writes the remaining blocks of the source to the work folder.

    Args:
        source: The source.
        place: Work folder.
        on_progress: As for `write_prepared`.

    Returns:
        The final state. Masks whose size differs from their picture's are added to its broken files.
    """
    state = _recorded(source, place)
    if not state.done:
        _start(source, place)
    count = len(source.labels)
    with ExitStack() as stack:
        arrays: dict[str, NpyRowWriter | BlobWriter] = {}
        for name, spec in _arrays(source).items():
            arrays[name] = stack.enter_context(NpyRowWriter(place / f"{name}.npy", *spec))
        arrays |= {name: stack.enter_context(BlobWriter(place, name, count, state.ends.get(name, 0)))
                   for name in _encoded(source)}  # fmt: skip
        if not state.done and isinstance(masks := arrays.get("masks"), NpyRowWriter):
            _fill_undecided(masks, source)
        reported = time.monotonic()
        try:
            for batch in source.read(state.done) if state.done < source.steps else ():
                _write_block(batch, arrays)
                state.broken += batch.broken
                count_remarks(state.remarks, batch.remarks)
                state.depths.add(batch.depths)
                state.done = batch.done
                if on_progress:
                    on_progress(state.done, source.steps)
                if time.monotonic() - reported > RECORD_EVERY_S:
                    _record(place, state, arrays)
                    reported = time.monotonic()
        finally:
            # Recorded after an error or interruption, too: the blocks written so far are valid.
            _record(place, state, arrays)
    return replace(state, broken=state.broken + _misfits(source, place))


def _start(source: ImageSource, place: Path) -> None:
    """Creates an empty work folder, and checks that the disk has room for the arrays.

    Raises:
        UserError: If there is too little space.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    needed = sum(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize for dtype, shape in
                 _arrays(source).values())  # fmt: skip
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"{place}: the prepared images need {format_size(needed)}, and {format_size(free)} are free there. "
            "Free some space, or lower prepare.image_size."
        )


def _fill_undecided(masks: NpyRowWriter, source: ImageSource) -> None:
    """Sets all masks to undecided, the value of pictures without a mask."""
    height, width, _ = source.shape
    count, step = len(source.labels), max(1, COPY_ROWS_BYTES // (height * width))
    for start in range(0, count, step):
        rows = np.arange(start, min(count, start + step), dtype=np.int64)
        masks.write(rows, np.full((len(rows), height, width), 255, dtype=np.uint8))


def _write_block(batch: DecodedBatch, arrays: dict[str, Any]) -> None:
    arrays["images"].write(batch.image_rows, batch.image_files or batch.images)
    if "masks" in arrays:
        arrays["masks"].write(batch.mask_rows, batch.mask_files or batch.masks)
        arrays["sizes"].write(2 * batch.image_rows, batch.image_sizes)
        arrays["sizes"].write(2 * batch.mask_rows + 1, batch.mask_sizes)


def _record(place: Path, state: _State, arrays: dict[str, NpyRowWriter | BlobWriter]) -> None:
    """Records how much of the work folder is valid, after flushing the files to disk.

    Args:
        place: Work folder.
        state: Progress to record.
        arrays: Open writers by name.
    """
    for array in arrays.values():
        array.sync()
    ends = {name: array.end for name, array in arrays.items() if isinstance(array, BlobWriter)}
    broken = [asdict(file) for file in state.broken]
    content = {"done": state.done, "broken": broken, "remarks": state.remarks, "ends": ends}
    content["depths"] = state.depths.entries()
    write_whole(place / "progress.json", json.dumps(content))


def _recorded(source: ImageSource, place: Path) -> _State:
    """Returns the recorded progress of a work folder; an empty state if there is none or its files do not fit."""
    try:
        content = json.loads((place / "progress.json").read_text())
        specs = {f"{name}.npy": spec for name, spec in _arrays(source).items()}
        specs |= {index_of(place, name).name: (np.int64, (len(source.labels), 2)) for name in _encoded(source)}
        for name, (dtype, shape) in specs.items():
            array = np.load(place / name, mmap_mode="r")
            if array.shape != shape or array.dtype != dtype:
                return _State()
        ends = {name: int(content["ends"][name]) for name in _encoded(source)}
        if any((place / f"{name}.bin").stat().st_size < end for name, end in ends.items()):
            return _State()
        broken = [UnreadableFile(**file) for file in content["broken"]]
        return _State(int(content["done"]), broken, dict(content["remarks"]), ends, BitDepths.of(content["depths"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return _State()


def _misfits(source: ImageSource, place: Path) -> list[UnreadableFile]:
    """Returns masks whose size differs from their picture's, since their pixels cannot be assigned."""
    if not source.has_masks:
        return []
    sizes = np.load(place / "sizes.npy").reshape(-1, 2, 2)
    known = (sizes > 0).all(axis=(1, 2))
    rows = np.flatnonzero(known & (sizes[:, 0] != sizes[:, 1]).any(axis=1))
    names = source.names
    return [
        UnreadableFile(
            row=int(row),
            is_mask=True,
            name=f"the mask of {names[row] if names else row}",
            reason="{1} x {0}, but the picture is {3} x {2}".format(*sizes[row, 1], *sizes[row, 0]),
        )
        for row in rows
    ]


def _refusal(broken: list[UnreadableFile], files: int) -> str:
    lines = [f"{len(broken):,} of {files:,} files cannot be used:"]
    lines += [f"  {file.name}: {file.reason}" for file in broken[:SHOWN_BROKEN]]
    if len(broken) > SHOWN_BROKEN:
        lines.append(f"  and {len(broken) - SHOWN_BROKEN:,} more")
    lines.append("Repair or remove them, or set prepare.skip_broken: true in params.yaml to go on without them.")
    return "\n".join(lines)


def _complete(source: ImageSource, place: Path, state: _State, bit_depth: int | None) -> Manifest:
    """Writes all files of the prepared set to the folder `whole` of the work folder, and returns its manifest.

    Large arrays are moved there last, since a later run needs them to resume.

    Args:
        source: The source.
        place: Work folder.
        state: Final state.
        bit_depth: Bits of grey pictures of more than 8 bits, or None.

    Raises:
        UserError: If no picture could be decoded.
    """
    whole, broken = place / "whole", state.broken
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    keep = np.ones(len(source.labels), dtype=np.bool_)
    keep[[file.row for file in broken if not file.is_mask]] = False
    if not keep.any():
        raise UserError(f"{source.origin}: not one of {len(keep):,} pictures could be decoded.")
    _blank_masks(source, place, np.array([file.row for file in broken if file.is_mask], dtype=np.int64))
    large = [name for name in _arrays(source) if name != "sizes"]
    if not keep.all():
        for name in large:
            copy_rows(place / f"{name}.npy", whole / f"{name}.npy", keep)
    sources = {f"{name}.npy": (place if keep.all() else whole) / f"{name}.npy" for name in large}
    hashes = {name: hash_file(sources[f"{name}.npy"]) for name in large}
    for name in _encoded(source):
        copy_rows(index_of(place, name), index_of(whole, name), keep)
        sources[f"{name}.bin"] = place / f"{name}.bin"
        hashes[name] = hash_files(whole, name, place / f"{name}.bin")
    np.save(whole / "labels.npy", source.labels[keep])
    hashes["labels"] = hash_file(whole / "labels.npy")
    if source.test is not None:
        np.save(whole / "test.npy", source.test[keep])
        hashes["test"] = hash_file(whole / "test.npy")
    if source.names is not None:
        (whole / "files.json").write_text(json.dumps(list(compress(source.names, keep)), indent=0) + "\n")
    manifest = make_manifest(source, keep, broken, hashes, state.remarks)
    if bit_depth is not None:
        manifest["bit_depth"] = bit_depth
    (whole / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    for name, path in sources.items():
        os.replace(path, whole / name)
    return manifest


def _blank_masks(source: ImageSource, place: Path, rows: NDArray[np.int64]) -> None:
    """Sets the masks of some rows to undecided all over.

    Args:
        source: The source.
        place: Work folder.
        rows: Row numbers, (n,).
    """
    if not len(rows):
        return
    if source.encoded:
        with NpyRowWriter(index_of(place, "masks"), np.int64, (len(source.labels), 2)) as index:
            index.write(rows, np.zeros((len(rows), 2), dtype=np.int64))
        return
    dtype, shape = _arrays(source)["masks"]
    with NpyRowWriter(place / "masks.npy", dtype, shape) as masks:
        for row in rows:
            masks.write(np.array([row]), np.full((1, *shape[1:]), 255, dtype=np.uint8))
