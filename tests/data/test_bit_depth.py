"""Claims about pictures of more than 8 bits: what a value means is the set's, and never a single picture's."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from support.picture_sets import encoded, write_folder

from pipeline.data.decode.decode import decode_image
from pipeline.data.decode.pictures import PNG, UndecodableImage, deep_values, depth_of, read_image
from pipeline.data.prepare.reader import open_source
from pipeline.data.prepare.writer import write_prepared
from pipeline.data.prepared.prepared import Prepared, open_prepared
from pipeline.data.sources.image_source import SourceConfig
from pipeline.errors import UserError

SIDE = 4


def grey(value: float, dtype: str = "u2") -> Image.Image:
    return Image.fromarray(np.full((SIDE, SIDE), value, dtype=dtype))


def tiff(image: Image.Image, **tags: int) -> bytes:
    """A TIFF with further tags, by their numbers."""
    extra = ImageFileDirectory_v2()
    for name, value in tags.items():
        extra[int(name[1:])] = value
    return encoded(image, "TIFF", tiffinfo=extra)


def pgm(value: int, white: int) -> bytes:
    return b"P5 %d %d %d\n" % (SIDE, SIDE, white) + struct.pack(">H", value) * SIDE**2


def raw_tiff(values: NDArray[np.generic], *, sample_format: int, photometric: int = 1) -> bytes:
    """An uncompressed TIFF of kinds that Pillow reads and does not write."""
    height, width = values.shape
    data, bits = values.tobytes(), values.dtype.itemsize * 8
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 3, height), (279, 4, len(data)), (339, 3, sample_format)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4)


def level(payload: bytes, bit_depth: int | None = None) -> int:
    """The one grey level that a picture becomes, for training and with a registered model."""
    pixels, _ = decode_image(payload, SIDE, bit_depth=bit_depth)
    # Of one picture alone nothing says whether it is that dark.
    with Image.open(io.BytesIO(payload)) as image:
        depth = depth_of(image, bit_depth)
    known = bit_depth if depth is None or depth.declared else depth.bits
    np.testing.assert_array_equal(pixels, read_image(payload, 3, SIDE, known))
    (found,) = np.unique(pixels)
    return int(found)


def prepared(root: Path, files: dict[str, bytes], bit_depth: int | None = None, skip_broken: bool = False) -> Prepared:
    folder = root.with_name("prepared")
    settings = SourceConfig("image_folder", SIDE, write_folder(root, files), root.name, bit_depth=bit_depth)
    write_prepared(open_source(settings, workers=1), folder, work=root.with_name("work"), skip_broken=skip_broken)
    return open_prepared(folder)


def two_classes(dark: bytes, bright: bytes) -> dict[str, bytes]:
    return {f"{name}/{n}.{n}": content for name, content in (("a", dark), ("b", bright)) for n in range(3)}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("value", [0, 255, 4095, 51_200, 65_535])
def test_sixteen_bits_are_the_range_of_their_format(kind: str, value: int) -> None:
    assert level(encoded(grey(value), kind)) == value >> 8


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (tiff(grey(2048), t281=4095), 128),
        (tiff(grey(2048), t341=4095), 128),
        (tiff(grey(2048), t281=2048), 8),  # what the picture reaches to, and not what its values may be
        (pgm(2048, 4095), 128),
        (raw_tiff(np.full((4, 4), 0x4000, "<u2"), sample_format=1, photometric=0), 191),
        (raw_tiff(np.full((4, 4), 2**31 + 5, "<u4"), sample_format=1), 128),
        (raw_tiff(np.full((4, 4), 2**14, "<i2"), sample_format=2), 128),
        (raw_tiff(np.full((4, 4), 2**30, "<i4"), sample_format=2), 128),
        (encoded(Image.merge("RGB", [Image.new("L", (4, 4), 9)] * 3)), 9),
    ],
)
def test_what_a_file_tells_of_its_range_is_taken(payload: bytes, expected: int) -> None:
    assert level(payload) == expected


@pytest.mark.parametrize(
    ("image", "bits", "expected"),
    [
        (grey(2048), 12, 128),
        (grey(255), 8, 255),
        (grey(3), 2, 255),
        (grey(0.5, "f4"), 1, 128),
        (grey(2047.5, "f4"), 12, 128),
        (grey(2**31 - 1, "i4"), 31, 255),
    ],
)
def test_the_parameter_says_what_the_file_does_not(image: Image.Image, bits: int, expected: int) -> None:
    assert level(encoded(image, "TIFF"), bits) == expected


@pytest.mark.parametrize(
    ("payload", "bits", "says"),
    [
        (encoded(grey(5000)), 12, "has values above 4,095, such as 5,000"),
        (raw_tiff(np.full((4, 4), -7, "<i2"), sample_format=2), None, "has values below 0, such as -7"),
        (encoded(grey(0.5, "f4"), "TIFF"), None, r"fractions, whose range is unknown.*prepare\.bit_depth"),
        (encoded(grey(np.nan, "f4"), "TIFF"), 1, "no numbers"),
    ],
)
def test_values_without_a_meaning_are_refused(payload: bytes, bits: int | None, says: str) -> None:
    with pytest.raises(UndecodableImage, match=says):
        decode_image(payload, SIDE, bit_depth=bits)
    with pytest.raises(UndecodableImage, match=says):
        read_image(payload, 3, SIDE, bits)


def test_a_darker_class_is_darker_when_it_is_prepared(tmp_path: Path) -> None:
    # Each by its own highest value, the first came out as 8 and the second as 250.
    files = two_classes(encoded(grey(250)), encoded(grey(2050)))
    with pytest.raises(
        UserError, match=r"6 PNG pictures of 16 bits .*none has a value above 2,050 of 65,535.*\(12 bits"
    ):
        prepared(tmp_path / "set", files)
    found = prepared(tmp_path / "set", files, 12)
    assert [int(image.max()) for image in found.images] == [15] * 3 + [128] * 3
    assert found.manifest["bit_depth"] == 12
    assert found.manifest["remarks"]["made RGB from grey of 12 bits, 0 to 4,095"]["files"] == 6


def test_what_all_files_tell_is_recorded(tmp_path: Path) -> None:
    found = prepared(tmp_path / "set", two_classes(tiff(grey(16), t281=4095), tiff(grey(32), t281=4095)))
    assert [int(image.max()) for image in found.images] == [1] * 3 + [2] * 3
    assert found.manifest["bit_depth"] == 12
    ordinary = prepared(tmp_path / "other", two_classes(encoded(grey(7, "u1")), encoded(grey(9, "u1"))))
    assert "bit_depth" not in ordinary.manifest


def test_pictures_of_different_depths_are_refused(tmp_path: Path) -> None:
    files = two_classes(tiff(grey(100), t281=4095), encoded(grey(60_000), "TIFF"))
    with pytest.raises(UserError, match=r"different depths: 3 of 12 bits \(a/0\.0, .*3 of 16 bits \(b/0\.0, "):
        prepared(tmp_path / "set", files)


def test_dark_sixteen_bits_are_taken_when_they_are_said_to_be(tmp_path: Path) -> None:
    found = prepared(tmp_path / "set", two_classes(encoded(grey(256)), encoded(grey(512))), 16)
    assert [int(image.max()) for image in found.images] == [1] * 3 + [2] * 3


def test_what_some_files_tell_says_nothing_about_others(tmp_path: Path) -> None:
    files = two_classes(encoded(grey(4095)), pgm(4095, 4095))
    with pytest.raises(
        UserError, match=r"3 PNG pictures of 16 bits \(a/0\.0.*none has a value above 4,095.*12 bits hold"
    ):
        prepared(tmp_path / "set", files)
    found = prepared(tmp_path / "set", files, 12)
    assert [int(image.max()) for image in found.images] == [255] * 6
    bright = two_classes(encoded(grey(4095)), encoded(grey(65_535), "TIFF"))
    with pytest.raises(UserError, match=r"3 PNG pictures of 16 bits.*none has a value above 4,095"):
        prepared(tmp_path / "bright", bright)


def test_full_range_colours_do_not_vouch_for_grey(tmp_path: Path) -> None:
    files = two_classes(encoded(grey(4095)), png16(np.full((SIDE, SIDE, 3), 65_535)))
    with pytest.raises(UserError, match=r"3 PNG pictures of 16 bits.*none has a value above 4,095"):
        prepared(tmp_path / "set", files)


def test_nothing_is_offered_for_colours_that_would_be_refused(tmp_path: Path) -> None:
    dark = png16(np.full((SIDE, SIDE, 3), 4095))
    with pytest.raises(UserError, match=r"in colours of 16 bits.*fewer bits, save them with 8 .*bit_depth .* to 16\."):
        prepared(tmp_path / "set", two_classes(dark, dark))
    found = prepared(tmp_path / "set", two_classes(dark, dark), 16)
    assert {int(image.max()) for image in found.images} == {15}
    with pytest.raises(UserError, match=r"different depths.*Save them alike, with 8 bits a channel\.$"):
        prepared(tmp_path / "other", two_classes(pgm(4095, 4095), png16(np.full((SIDE, SIDE, 3), 65_535))))


@pytest.mark.parametrize("white", [1000, 1023, 4095, 65_535])
@pytest.mark.parametrize("bit_depth", [None, 16])
def test_the_highest_value_in_a_pgms_header_is_white(white: int, bit_depth: int | None) -> None:
    assert level(pgm(white, white), bit_depth) == 255
    assert level(pgm(white // 2 + 1, white), bit_depth) == 128


def test_a_pgm_of_another_white_than_was_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UndecodableImage, match=r"header says that 1,023 is white, but with prepare\.bit_depth 12 white is 4,095"
    ):
        decode_image(pgm(9, 1023), SIDE, bit_depth=12)
    assert level(pgm(2048, 65_535), 12) == 128  # the room for its values, and not their white
    with pytest.raises(UserError, match=r"6 PPM pictures of 16 bits.*\(12 bits hold them"):
        prepared(tmp_path / "set", two_classes(pgm(4095, 65_535), pgm(7, 65_535)))


@pytest.mark.parametrize("bits", range(9, 16))
def test_the_values_of_a_pgm_come_out_as_its_file_has_them(bits: int) -> None:
    white = 2**bits - 1
    values = np.arange(2**bits, dtype=">u2").reshape(2, -1)
    with Image.open(io.BytesIO(b"P5 %d 2 %d\n" % (values.shape[1], white) + values.tobytes())) as image:
        depth = depth_of(image)
        assert depth is not None
        np.testing.assert_array_equal(deep_values(image, depth), values)


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_sixteen_bits_are_laid_on_white(channels: int) -> None:
    values = np.full((SIDE, SIDE, channels), 60_000)
    values[:2] = 5000
    pixels, _ = decode_image(png16(values, clear=5000), SIDE)
    assert np.unique(pixels[:2]).tolist() == [255]
    assert np.unique(pixels[2:]).tolist() == [60_000 >> 8]


def png16(values: NDArray[np.generic], clear: int | None = None) -> bytes:
    """A PNG of 16 bits a channel, (H, W, 1) or (H, W, 3), which Pillow reads and does not write."""
    height, width, channels = values.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 0 if channels == 1 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    key = b"" if clear is None else chunk(b"tRNS", struct.pack(">H", clear) * channels)
    return PNG + chunk(b"IHDR", header) + key + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
