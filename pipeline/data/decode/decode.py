"""Decodes picture files to square uint8 arrays, with Pillow and numpy only, so that workers import it quickly.

A picture is turned by its EXIF orientation, composited on white if it is transparent, converted to RGB, cut
to its central square, and resized with antialiasing. A mask is processed in the same way, but by the nearest
pixel. Conversions, and odd features of a mask, are recorded as remarks.
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
from pipeline.data.decode.open_image import Content, Size, open_image, upright_size
from pipeline.data.decode.pictures import Depth, UndecodableImage, depth_of, draft, loaded_turn, upright_square

SUFFIXES_OF = {"JPEG": "jpg jpeg", "MPO": "jpg jpeg mpo", "TIFF": "tif tiff", "PPM": "ppm pgm pbm pnm"}
"""Usual suffixes of a format, by Pillow's name of it, where they differ from this name."""
MODES = {"L": "grey", "LA": "grey", "1": "black and white", "P": "a palette"}
"""Words for Pillow's modes."""
JPEG_QUALITY = 95
"""Quality of pictures that are stored encoded. A model that trains on them always reads these same pixels."""


@dataclass(frozen=True)
class DecodeTask:
    """One file to decode.

    Attributes:
        row: Row of the picture in the prepared set.
        is_mask: Whether the file is the picture's mask.
        payload: The file, or its pixels.
        name: File name, for remarks.
        meaning: How a mask's values are read; see `decode_mask`.
        boxes: Boxes in the picture, from which its mask is drawn; None: no mask is drawn.
        bit_depth: Bits of grey pictures of more than 8 bits; None: each file's own depth.
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
    """Results of several tasks, in their order.

    Attributes:
        pixels: For a picture (side, side, 3) uint8, for a mask (side, side) uint8 with 0 background, 1
            object, 255 undecided. An encoded file instead, if that was requested; or a text that says why the
            file cannot be decoded.
        sizes: (H, W) before resizing; (0, 0) of files that cannot be decoded.
        warnings: Remarks about each file.
        masks_of_boxes: Masks drawn from boxes, or a text that says why one cannot be drawn, by the place of
            the picture's task.
        depths: Depths of pictures with more than 8 bits a channel, by the place of their task.
    """

    pixels: list[NDArray[np.uint8] | bytes | str]
    sizes: list[Size]
    warnings: list[tuple[str, ...]] = field(default_factory=list)
    masks_of_boxes: dict[int, NDArray[np.uint8] | bytes | str] = field(default_factory=dict)
    depths: dict[int, BitDepth] = field(default_factory=dict)


def decode_all(jobs: Sequence[DecodeTask], side: int, encode: bool = False) -> Decoded:
    """Decodes the files of several tasks. A broken file does not affect the others.

    Args:
        jobs: The tasks.
        side: Side of the squares in pixels.
        encode: Whether to return the squares as encoded files instead of arrays.
    """
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
        except UndecodableImage as error:
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
    """Decodes a picture.

    Args:
        payload: The file, or its pixels.
        side: Side of the square in pixels.
        name: File name. Its suffix is compared with the format.
        remarks: List to which remarks are appended; None: no remarks are made.
        bit_depth: Bits of grey pictures of more than 8 bits; None: the file's own depth.
        depths: List to which the depth of a picture of more than 8 bits a channel is appended, or None.

    Returns:
        The square (side, side, 3) uint8, and the size (H, W) of the picture before resizing.

    Raises:
        UndecodableImage: If it cannot be read, is no picture, or has more pixels than Pillow's limit.
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
    """Returns a picture as JPEG with colours at full resolution, or a mask as PNG."""
    stream = io.BytesIO()
    if array.ndim == 2:
        Image.fromarray(array).save(stream, "PNG")
    else:
        Image.fromarray(array).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def _remarks(image: Image.Image, name: str, turn: Image.Transpose | None, depth: Depth | None) -> list[str]:
    """Returns remarks about a picture.

    Args:
        image: The loaded picture.
        name: File name.
        turn: Transposition that makes the picture upright, or None.
        depth: Its depth, or None for 8 bits a channel or fewer.
    """
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
    """Prepares a worker process, which ignores interruptions, since its parent handles them, and ends with its
    parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := parent_process()) is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
