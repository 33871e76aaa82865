"""Images or masks that are stored as encoded files, with the interface of an array.

Rows are decoded when they are indexed, and are not cached: the result is a new uint8 array. Pillow decodes
them, as it has encoded them, because torchvision's own decoders are deprecated. Its decoder for GPUs (nvJPEG)
would also give other pixels than Pillow, and scores must not depend on the machine.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import UserError, single_item_command


def index_of(folder: Path, name: str) -> Path:
    """Returns the path of the index file of encoded rows.

    Args:
        folder: Folder of the prepared set.
        name: "images" or "masks".
    """
    return folder / f"{name}.index.npy"


class EncodedRows:
    """N encoded files as a read-only array: images (N, H, W, C) or masks (N, H, W), uint8.

    It is indexed by a row number, a slice, row numbers (n,) int or flags (N,) bool. It can be sent to other
    processes, which open the files themselves.

    Args:
        folder: Folder of the prepared set.
        name: "images" or "masks".
        shape: Shape of each row.

    Raises:
        OSError: If a file is missing.
        ValueError: If the files do not fit each other.
    """

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...]) -> None:
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
        """Returns the file of a row, (bytes,) uint8, without copying it: a JPEG or PNG of H x W pixels.

        It is empty for a mask that is undecided all over.
        """
        begin, length = self._index[row]
        return self._data[begin : begin + length]

    def __getitem__(self, rows: int | np.integer[Any] | slice | NDArray[Any] | list[int]) -> NDArray[np.uint8]:
        """Returns the decoded rows: (n, ...), or (...) of a single row.

        Args:
            rows: A row number, a slice, row numbers (n,) or flags (N,).

        Raises:
            UserError: If a file is damaged.
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
"""Images or masks by row, as an array or as encoded files."""
