"""Bytes of picture files -> square uint8 arrays. Needs Pillow and numpy only: worker processes import this quickly.

A picture is turned as its EXIF orientation says, laid on white where it is transparent, made RGB, cut to its central
square and resized with antialiasing. A mask goes the same way without a blend: nearest pixel. What was done to a
picture that is not what its name says, and what is odd about a mask, is remarked.
"""

import io
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import parent_process

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.decode.bit_depth import BitDepth, describe_bit_depths, measure_bit_depth
from pipeline.data.decode.masks import Box, Meaning, decode_mask, draw_boxes
from pipeline.data.decode.open_image import Content, Size, UnreadableImage, open_image, upright_size
from pipeline.data.decode.pictures import Depth, depth_of, draft, loaded_turn, upright_square

SUFFIXES_OF = {"JPEG": "jpg jpeg", "MPO": "jpg jpeg mpo", "TIFF": "tif tiff", "PPM": "ppm pgm pbm pnm"}
MODES = {"L": "grey", "LA": "grey", "1": "black and white", "P": "a palette"}
JPEG_QUALITY = 95
"""Of pictures that are kept encoded.

A model that was trained on them sees these very pixels whenever they are read.
"""


@dataclass(frozen=True)
class DecodeTask:
    """One file to decode. row: of the prepared set. boxes: of what is in the picture, to be drawn as its mask.
    bit_depth: of grey pictures of more than 8 bits; None: what the file says.
    """

    row: int
    is_mask: bool
    payload: Content
    name: str = ""
    meaning: Meaning = "object"
    boxes: tuple[Box, ...] | None = None
    bit_depth: int | None = None


@dataclass(frozen=True)
class Decoded:
    """What came of some jobs, in their order.

    pixels: (side, side, 3) uint8 of a picture, (side, side) uint8 of a mask (0 background, 1 object, 255 undecided), or
    the reason why there are none. sizes: before resizing; (0, 0) of what is broken. warnings: what is odd about each.
    masks_of_boxes: masks made of boxes, or why they cannot be, by the place of their picture's job. depths: of the
    pictures of more than 8 bits a channel, by their place. encoded: JPEG and PNG files in the place of all arrays.
    """

    pixels: list[NDArray[np.uint8] | bytes | str]
    sizes: list[Size]
    warnings: list[tuple[str, ...]] = field(default_factory=list)
    masks_of_boxes: dict[int, NDArray[np.uint8] | bytes | str] = field(default_factory=dict)
    depths: dict[int, BitDepth] = field(default_factory=dict)


def decode_all(jobs: Sequence[DecodeTask], side: int, encode: bool = False) -> Decoded:
    """Decode every job; a broken file never stops the others. encode: give files of the squares, not arrays."""
    done = Decoded([], [])
    for place, job in enumerate(jobs):
        remarks: list[str] = []
        try:
            if job.is_mask:
                array, size = decode_mask(job.payload, side, job.meaning, remarks=remarks)
            else:
                depths: list[BitDepth] = []
                array, size = decode_image(
                    job.payload, side, name=job.name, remarks=remarks, bit_depth=job.bit_depth, depths=depths
                )
                if depths:
                    done.depths[place] = depths[0]
            done.pixels.append(_encoded(array) if encode else array)
            done.sizes.append(size)
            if job.boxes is not None and not job.is_mask:
                mask = draw_boxes(job.boxes, size, side)
                done.masks_of_boxes[place] = _encoded(mask) if encode and not isinstance(mask, str) else mask
        except UnreadableImage as error:
            done.pixels.append(str(error))
            done.sizes.append((0, 0))
        done.warnings.append(tuple(remarks))
    return done


def decode_image(
    payload: Content,
    side: int,
    *,
    name: str = "",
    remarks: list[str] | None = None,
    bit_depth: int | None = None,
    depths: list[BitDepth] | None = None,
) -> tuple[NDArray[np.uint8], Size]:
    """A picture as (side, side, 3) uint8, and its own size. remarks: gets what is odd about it, given its name.
    bit_depth: as of `DecodeTask`. depths: gets the depth of a picture of more than 8 bits a channel.

    Raises:
        UnreadableImage: it cannot be read, is no picture, or has more pixels than Pillow thinks sane.
    """

    def decode(image: Image.Image) -> tuple[NDArray[np.uint8], Size]:
        width, height = image.size
        depth = depth_of(image, bit_depth)
        draft(image, side)
        drafted = image.size != (width, height)
        turn = loaded_turn(image)
        if not drafted:
            width, height = image.size
        if remarks is not None:
            remarks.extend(_remarks(image, name, turn, depth))
        square = np.asarray(upright_square(image, side, turn, depth), dtype=np.uint8)
        if depths is not None and depth is not None:
            depths.append(measure_bit_depth(image, depth))
        return square, upright_size(width, height, turn)

    return open_image(payload, decode)


def _encoded(array: NDArray[np.uint8]) -> bytes:
    """A JPEG of a picture (colours at full resolution), a PNG of a mask."""
    stream = io.BytesIO()
    if array.ndim == 2:
        Image.fromarray(array).save(stream, "PNG")
    else:
        Image.fromarray(array).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def _remarks(image: Image.Image, name: str, turn: Image.Transpose | None, depth: Depth | None) -> list[str]:
    suffix, kind = name.rpartition(".")[2].lower(), image.format or ""
    found = []
    if "." in name and kind and suffix not in SUFFIXES_OF.get(kind, kind.lower()).split():
        found.append(f"a {kind} named .{suffix}")
    if image.has_transparency_data:
        found.append("transparency laid on white")
    if depth is not None:
        found.append(describe_bit_depths(depth))
    elif image.mode != "RGB":
        found.append(f"made RGB from {MODES.get(image.mode, image.mode)}")
    if turn is not None:
        found.append("turned as its EXIF orientation says")
    return found


def start_worker() -> None:
    """Prepare a worker process: an interruption is its parent's to handle, and it ends when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := parent_process()) is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
