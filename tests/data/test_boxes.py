"""Claims about boxes.csv beside the user's own pictures: drawn as masks, refused in words."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.picture_sets import encoded, pictures, write_archive, write_folder

from pipeline.data.decode.masks import draw_boxes
from pipeline.data.decode.pictures import ORIENTATION
from pipeline.data.prepare.reader import open_source
from pipeline.data.prepare.writer import write_prepared
from pipeline.data.prepared.prepared import Prepared, open_prepared
from pipeline.data.sources.source_config import SourceConfig
from pipeline.errors import UserError

SIDE = 8
FILES = pictures({"cat": 3, "dog": 3})
HEADER = "file,left,top,right,bottom\n"


def prepared(root: Path, *, skip_broken: bool = False) -> Prepared:
    folder = root.with_name(root.name + "-prepared")
    write_prepared(
        open_source(SourceConfig("image_folder", SIDE, root, root.name), workers=1), folder, skip_broken=skip_broken
    )
    return open_prepared(folder)


@pytest.mark.parametrize("kind", ["set", "set.zip", "set.tar.gz"])
@pytest.mark.parametrize("base", ["", "photos/"])
def test_boxes_become_masks_and_pictures_without_one_are_undecided(tmp_path: Path, kind: str, base: str) -> None:
    # Pictures are 10 x 8: the square loses a column on either side, and is not shrunk.
    table = f"{HEADER}cat/1.png,1,0,4,2\ncat/1.png,8,6,10,8\n\ndog/0.png,0,0,10,8\n"
    files = {f"{base}{name}": content for name, content in FILES.items()} | {f"{base}boxes.csv": table.encode()}
    found = prepared((write_folder if kind == "set" else write_archive)(tmp_path / kind, files))
    assert found.classes == ("cat", "dog")
    assert found.manifest["masks_from"] == "boxes"
    assert found.masks is not None
    expected = np.zeros((SIDE, SIDE), dtype=np.uint8)
    expected[:2, :3] = 1
    expected[6:, 7:] = 1
    np.testing.assert_array_equal(found.masks[1], expected)
    assert (found.masks[3] == 1).all()
    assert (found.masks[[0, 2, 4, 5]] == 255).all()


@pytest.mark.parametrize("size", [(8, 8), (30, 50), (64, 9)])
def test_box_is_drawn_as_its_mask_would_be_resized(size: tuple[int, int]) -> None:
    height, width = size
    box = (width // 4, height // 3, width - 1, height)
    mask = np.zeros(size, dtype=np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    side = min(size)
    left, top = (width - side) / 2, (height - side) / 2
    square = Image.fromarray(mask).resize(
        (SIDE, SIDE), Image.Resampling.NEAREST, box=(left, top, left + side, top + side)
    )
    np.testing.assert_array_equal(draw_boxes([box], size, SIDE), np.asarray(square))


def slow_mask(boxes: list[tuple[float, float, float, float]], size: tuple[int, int], side: int) -> NDArray[np.uint8]:
    height, width = size
    edge = min(size)
    mask = np.zeros((side, side), dtype=np.uint8)
    for i in range(side):
        for j in range(side):
            x = (width - edge) / 2 + (j + 0.5) * edge / side
            y = (height - edge) / 2 + (i + 0.5) * edge / side
            mask[i, j] = int(any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes))
    return mask


@pytest.mark.parametrize("first", range(0, 240, 40))
def test_random_boxes_agree_with_the_restatement(first: int) -> None:
    for seed in range(first, first + 40):
        rng = np.random.default_rng([12, seed])
        # An edge and a side of powers of two, so that centres that meet a box's edge are the same number in both.
        edge, side, more = int(2 ** rng.integers(2, 6)), int(2 ** rng.integers(0, 4)), 2 * int(rng.integers(0, 9))
        height, width = size = (edge, edge + more) if seed % 2 else (edge + more, edge)
        boxes = []
        for _ in range(rng.integers(1, 5)):
            (x0, x1), (y0, y1) = (np.sort(2 * limit * rng.random(2)).round() / 2 for limit in (width, height))
            if x0 < x1 and y0 < y1:
                boxes.append((float(x0), float(y0), float(x1), float(y1)))
        np.testing.assert_array_equal(draw_boxes(boxes, size, side), slow_mask(boxes, size, side))


def test_boxes_are_of_the_picture_as_it_is_looked_at(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = encoded(Image.new("RGB", (16, 8)), "JPEG", exif=exif)
    table = f"{HEADER}cat/9.jpg,0,0,8,8\n"
    found = prepared(write_folder(tmp_path / "set", FILES | {"cat/9.jpg": turned, "boxes.csv": table.encode()}))
    assert found.masks is not None
    np.testing.assert_array_equal(found.masks[3], (np.indices((SIDE, SIDE))[0] < 4).astype(np.uint8))


@pytest.mark.parametrize("box", ["0,0,11,8", "0,0,10,9", "-1,0,4,4", "4,4,4,6", "nan,0,1,1"])
def test_box_that_leaves_its_picture_is_refused_or_taken_as_undecided(tmp_path: Path, box: str) -> None:
    root = write_folder(tmp_path / "set", FILES | {"boxes.csv": f"{HEADER}cat/1.png,{box}\n".encode()})
    with pytest.raises(
        UserError, match=r"1 of 6 files cannot be used:\n  the boxes of cat/1\.png: box .* leaves the picture, 10 x 8"
    ):
        prepared(root)
    found = prepared(root, skip_broken=True)
    assert found.masks is not None
    assert len(found.images) == 6
    assert (found.masks[1] == 255).all()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"", "it is empty"),
        (
            b"cat/1.png,0,0,1,1\n",
            "its first line must name the columns file, left, top, right, bottom; it has cat/1.png",
        ),
        (b"\xff\xfe", "it is empty"),
        (
            HEADER.encode() + b"caf\xe9/1.png,0,0,1,1\n",
            "boxes.csv: cannot be read (line 2: byte 0xe9 is not UTF-8; save",
        ),
        (f"{HEADER}cat/7.png,0,0,1,1\n".encode(), "boxes.csv, line 2: no picture cat/7.png"),
        (f"{HEADER}cat/1.png,0,0,1\n".encode(), "line 2 has fewer columns than the first"),
        (f"{HEADER}cat/1.png,0,0,1,x\n".encode(), "boxes.csv, line 2: needs a file and four numbers"),
        ((HEADER + "no,0,0,1,1\n" * 50).encode(), "and 41 more mistakes"),
    ],
)
def test_table_that_cannot_be_read_is_told(tmp_path: Path, table: bytes, said: str) -> None:
    with pytest.raises(UserError) as refusal:
        prepared(write_folder(tmp_path / "set", FILES | {"boxes.csv": table}))
    assert said in str(refusal.value)
    assert len(str(refusal.value).splitlines()) <= 11


@pytest.mark.parametrize("path", ["cat/1.png", "photos/cat/1.png"])
def test_boxes_beside_the_folder_around_it_all_are_taken(tmp_path: Path, path: str) -> None:
    table = f"{HEADER}{path},1,0,4,2\n".encode()
    files = {f"photos/{name}": content for name, content in FILES.items()} | {"boxes.csv": table}
    found = prepared(write_folder(tmp_path / "set", files))
    assert found.masks is not None
    assert [bool((mask == 1).any()) for mask in found.masks] == [False, True, False, False, False, False]


def test_boxes_that_are_damaged_in_their_archive_are_told_as_that(tmp_path: Path) -> None:
    marker = HEADER.encode() + b"cat/1.png,1,0,4,2\n"
    root = write_archive(tmp_path / "set.zip", FILES | {"boxes.csv": marker})
    root.write_bytes(root.read_bytes().replace(marker, marker.replace(b"4", b"5")))
    with pytest.raises(UserError, match=r"boxes\.csv: cannot be read \(damaged in the archive"):
        prepared(root)


def test_boxes_beside_masks_are_refused(tmp_path: Path) -> None:
    files = FILES | {"boxes.csv": HEADER.encode(), "masks/cat/1.png": encoded(Image.new("L", (10, 8), 1))}
    with pytest.raises(UserError, match=r"has boxes\.csv and masks/, each of which"):
        prepared(write_folder(tmp_path / "set", files))


@pytest.mark.parametrize(("encoding", "delimiter"), [("utf-8-sig", ","), ("utf-16", "\t"), ("utf-8", ";")])
def test_boxes_as_spreadsheets_save_them(tmp_path: Path, encoding: str, delimiter: str) -> None:
    decimal = "." if delimiter == "," else ","
    lines = [HEADER.strip().split(","), ["CAT\\1.PNG", "1" + decimal + "6", "0", "4", "2"], ["", "", "", "", "", ""]]
    table = "\r\n".join(delimiter.join(cells) for cells in lines).encode(encoding)
    found = prepared(write_folder(tmp_path / "set", FILES | {"boxes.csv": table}))
    assert found.masks is not None
    expected = np.zeros((SIDE, SIDE), dtype=np.uint8)
    expected[:2, 1:3] = 1
    np.testing.assert_array_equal(found.masks[1], expected)
