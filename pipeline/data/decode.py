"""Bytes of picture files -> square uint8 arrays. Needs Pillow and numpy only: worker processes import this quickly.

A picture is turned as its EXIF orientation says, laid on white where it is transparent, made RGB, cut to its central
square and resized with antialiasing. A mask goes the same way without a blend: nearest pixel.
"""

import io
import os
import signal
import struct
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.data.listing import Payload, Unreadable

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Pillow knows more, among them some that start other programs or that nobody keeps photographs in."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each value of EXIF's tag Orientation."""

ORIENTATION = 0x0112

Size = tuple[int, int]
"""(H, W) of a picture as it is to be looked at, in pixels."""


_Result = TypeVar("_Result")


class Broken(Exception):
    """A file that is no picture; says why."""


@dataclass(frozen=True)
class Job:
    """One file to decode. row: of the prepared set."""

    row: int
    is_mask: bool
    payload: Payload


@dataclass(frozen=True)
class Decoded:
    """What came of some jobs, in their order.

    pixels: (side, side, 3) uint8 of a picture, (side, side) uint8 of a mask (0 background, 1 object, 255 undecided), or
    the reason why there are none. sizes: before resizing; (0, 0) of what is broken.
    """

    pixels: list[NDArray[np.uint8] | str]
    sizes: list[Size]


def decode_all(jobs: Sequence[Job], side: int) -> Decoded:
    """Decode every job; a broken file never stops the others."""
    pixels: list[NDArray[np.uint8] | str] = []
    sizes: list[Size] = []
    for job in jobs:
        try:
            array, size = (decode_mask if job.is_mask else decode_image)(job.payload, side)
            pixels.append(array)
            sizes.append(size)
        except Broken as error:
            pixels.append(str(error))
            sizes.append((0, 0))
    return Decoded(pixels, sizes)


def decode_image(payload: Payload, side: int) -> tuple[NDArray[np.uint8], Size]:
    """A picture as (side, side, 3) uint8, and its own size.

    Raises:
        Broken: it cannot be read, is no picture, or has more pixels than Pillow thinks sane.
    """

    def decode(image: Image.Image) -> tuple[NDArray[np.uint8], Size]:
        width, height = image.size
        # JPEG can be decoded at an eighth to a half of its size; twice the asked size leaves the resizing its quality.
        image.draft(None, (2 * side, 2 * side))
        drafted = image.size != (width, height)
        turn = _loaded_turn(image)
        if not drafted:
            width, height = image.size
        square = _as_rgb(image).resize((side, side), Image.Resampling.BICUBIC, box=_central_square(image.size))
        upright = square if turn is None else square.transpose(turn)
        return np.asarray(upright, dtype=np.uint8), _upright_size(width, height, turn)

    return _opened(payload, decode)


def decode_mask(payload: Payload, side: int) -> tuple[NDArray[np.uint8], Size]:
    """A mask as (side, side) uint8: 0 background, 1 object, 255 undecided; and its own size.

    In a file whose only values are 0 and 255, 255 is the object; in any other 255 is undecided, and everything between
    is the object. Values are grey levels, or the numbers of a palette's colours.

    Raises:
        Broken: as `decode_image`.
    """

    def decode(image: Image.Image) -> tuple[NDArray[np.uint8], Size]:
        turn = _loaded_turn(image)
        plain = image if image.mode in ("L", "P") or image.mode.startswith("I") else image.convert("L")
        values = np.asarray(plain)
        undecided = values == 255
        if not (values[~undecided] != 0).any():
            undecided = np.zeros_like(undecided)
        mask = Image.fromarray(np.where(undecided, np.uint8(255), (values != 0).astype(np.uint8)))
        square = mask.resize((side, side), Image.Resampling.NEAREST, box=_central_square(image.size))
        upright = square if turn is None else square.transpose(turn)
        return np.asarray(upright, dtype=np.uint8), _upright_size(*image.size, turn)

    return _opened(payload, decode)


def start_worker() -> None:
    """Prepare a worker process: an interruption is its parent's to handle, and it ends when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := parent_process()) is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def _opened(payload: Payload, decode: Callable[[Image.Image], _Result]) -> _Result:
    if isinstance(payload, Unreadable):
        raise Broken(payload.reason)
    try:
        if not (len(payload) if isinstance(payload, bytes) else os.stat(payload).st_size):
            raise Broken("an empty file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(payload) if isinstance(payload, bytes) else payload, formats=FORMATS) as image:
                return decode(image)
    except Broken:
        raise
    except UnidentifiedImageError:
        raise Broken("not a picture, or of a kind that is not read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise Broken(f"more than {most} million pixels (a decompression bomb?)") from None
    except Exception as error:
        # Decoders meet damaged bytes with errors of any type.
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Broken(f"damaged ({said or type(error).__name__})") from None


def _loaded_turn(image: Image.Image) -> Image.Transpose | None:
    """Decode the pixels, and say how they must be turned. Pillow turns TIFFs by itself, and then says so."""
    image.load()
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error):
        return None  # what else the camera noted is damaged; the picture is not


def _upright_size(width: int, height: int, turn: Image.Transpose | None) -> Size:
    lies = turn in (TURNS[5], TURNS[6], TURNS[7], TURNS[8])
    return (width, height) if lies else (height, width)


def _central_square(size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise Broken("its pixels are fractions, whose range is unknown; save it with 8 bits a channel")
    if image.mode.startswith("I"):
        # Sixteen bits of grey, which Pillow would clip at 255.
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(values // 256 if values.max() > 255 else values, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")
