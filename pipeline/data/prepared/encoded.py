"""Rows of images or masks that are kept as encoded files, read as if they were an array.

Nothing is decoded before it is asked for, and nothing is kept: what is indexed comes back as a uint8 array of its own.
Pillow decodes, as it has encoded: torchvision's own decoders are deprecated and will go.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import UserError, single_item_command


def index_of(folder: Path, name: str) -> Path:
    """Where the index of encoded rows lies."""
    return folder / f"{name}.index.npy"


class EncodedRows:
    """N encoded files as an array that cannot be written: images (N, H, W, C), or masks (N, H, W); uint8.

    It is indexed by a row number, or by a slice, numbers (n,) int or flags (N,) bool of rows. It can be sent to other
    processes, which open the files themselves.
    """

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...]) -> None:
        """shape: of each row. folder: of a prepared set. name: "images" or "masks".

        Raises:
            OSError: a file is missing.
            ValueError: the files do not fit each other.
        """
        self._folder, self._name = folder, name
        self._index: NDArray[np.int64] = np.load(index_of(folder, name), mmap_mode="r")
        self._data: NDArray[np.uint8] = np.memmap(folder / f"{name}.bin", dtype=np.uint8, mode="r")
        if len(self._index) and int(self._index.sum(axis=1).max()) > len(self._data):
            raise ValueError(f"{name}.bin is cut short")
        self.shape: tuple[int, ...] = (len(self._index), *shape)
        self.dtype = np.dtype(np.uint8)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return EncodedRows, (self._folder, self._name, self.shape[1:])

    def encoded(self, row: int) -> NDArray[np.uint8]:
        """The file (bytes,) uint8 of a row, not copied: a JPEG or PNG of H x W pixels; empty for a mask that is
        undecided all over.
        """
        begin, length = self._index[row]
        return self._data[begin : begin + length]

    def __getitem__(self, rows: int | np.integer[Any] | slice | NDArray[Any] | list[int]) -> NDArray[np.uint8]:
        """The decoded rows: (n, ...), or (...) of a single one.

        Raises:
            UserError: a file is damaged.
        """
        if isinstance(rows, int | np.integer):
            return self._decoded(int(rows))
        chosen = np.arange(len(self))[rows]
        found = np.empty((len(chosen), *self.shape[1:]), dtype=np.uint8)
        for place, row in enumerate(chosen):
            found[place] = self._decoded(int(row))
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.uint8, copy=False)

    def _decoded(self, row: int) -> NDArray[np.uint8]:
        file = self.encoded(row)
        if not len(file):
            return np.full(self.shape[1:], 255, dtype=np.uint8)
        try:
            with Image.open(io.BytesIO(file.tobytes()), formats=("JPEG", "PNG")) as image:
                array: NDArray[np.uint8] = np.asarray(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise self._damaged(row, str(error)) from None
        if array.shape != self.shape[1:]:
            raise self._damaged(row, f"{array.shape} where {self.shape[1:]} should be")
        return array

    def _damaged(self, row: int, said: str) -> UserError:
        first = said.strip().splitlines()[0] if said.strip() else "cannot be decoded"
        return UserError(
            f"{self._folder / self._name}.bin: row {row} is damaged ({first}). Run `{single_item_command('prepare')}`."
        )


ImageRows = NDArray[np.uint8] | EncodedRows
"""Images or masks by row, in either form."""
