"""Array files that are written row by row, in any order and in several sessions.

`NpyRowWriter` writes a .npy file of its final length. `BlobWriter` writes an encoded file for each row
instead: all of them concatenated in <name>.bin, and begin and length of each in <name>.index.npy (N, 2)
int64. The length of a missing row is 0. Files are written without memory mapping: a full disk then raises an
error and does not kill the process.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pipeline.data.prepared.encoded import index_of

COPY_ROWS_BYTES = 8 * 2**20
"""Bytes that are copied at a time."""


class NpyRowWriter:
    """Context manager that writes a .npy file row by row, in any order.

    Args:
        path: The file. If it exists, it must have this type and shape, and its rows stay.
        dtype: Type of the array.
        shape: Shape of the whole array, rows first.
    """

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

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        self._file.close()

    def write(self, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Writes values (n, ...) to rows (n,). Consecutive rows are written in one piece."""
        if not len(rows):
            return
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        for start, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
            self._file.seek(self._start + int(rows[start]) * self._stride)
            write_all(self._file, memoryview(np.ascontiguousarray(values[start:end], dtype=self._dtype).data).cast("B"))

    def sync(self) -> None:
        os.fsync(self._file.fileno())


class BlobWriter:
    """Context manager that writes an encoded file for each row.

    Args:
        folder: Folder of the files.
        name: "images" or "masks".
        count: Number of rows.
        end: Valid bytes of <name>.bin; later bytes are cut off.

    Attributes:
        end: Bytes written so far.
    """

    def __init__(self, folder: Path, name: str, count: int, end: int = 0) -> None:
        self._path, self.end = folder / f"{name}.bin", end
        self._index = NpyRowWriter(index_of(folder, name), np.int64, (count, 2))

    def __enter__(self) -> Self:
        self._file: IO[bytes] = self._path.open("r+b" if self._path.exists() else "w+b", buffering=0)
        self._file.truncate(self.end)
        self._file.seek(self.end)
        self._index.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files."""
        self._file.close()
        self._index.__exit__()

    def write(self, rows: NDArray[np.int64], files: Sequence[bytes]) -> None:
        """Appends the files of rows (n,)."""
        lengths = np.array([len(file) for file in files], dtype=np.int64)
        begins = self.end + np.cumsum(lengths) - lengths
        write_all(self._file, memoryview(b"".join(files)))
        self.end += int(lengths.sum())
        self._index.write(rows, np.stack([begins, lengths], axis=1))

    def sync(self) -> None:
        os.fsync(self._file.fileno())
        self._index.sync()


def write_all(file: IO[bytes], chunk: memoryview) -> None:
    """Writes every byte, since an unbuffered file may accept fewer at a time."""
    while len(chunk):
        chunk = chunk[file.write(chunk) :]


def copy_rows(path: Path, to: Path, keep: NDArray[np.bool_]) -> None:
    """Copies selected rows of a .npy file to another, a few at a time.

    Args:
        path: The file to read.
        to: The file to write.
        keep: Which rows to copy, (N,).
    """
    array = np.load(path, mmap_mode="r")
    rows = np.flatnonzero(keep)
    step = max(1, COPY_ROWS_BYTES // int(array[0].nbytes))
    with NpyRowWriter(to, array.dtype, (len(rows), *array.shape[1:])) as copy:
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            copy.write(np.arange(start, start + len(part), dtype=np.int64), array[part])


def hash_files(folder: Path, name: str, data: Path) -> str:
    """Returns the SHA-256 over the encoded files in the order of their rows, in hexadecimal.

    The hash does not depend on the order in which the files were written.

    Args:
        folder: Folder of the index.
        name: "images" or "masks".
        data: The concatenated files.
    """
    digest = hashlib.sha256()
    with data.open("rb") as file:
        for begin, length in _spans(index_of(folder, name)):
            file.seek(begin)
            digest.update(length.to_bytes(8, "little"))
            digest.update(file.read(length))
    return digest.hexdigest()


def _spans(index: Path) -> Iterator[tuple[int, int]]:
    for begin, length in np.load(index, mmap_mode="r"):
        yield int(begin), int(length)
