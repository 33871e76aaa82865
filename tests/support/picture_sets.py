"""Small sets of pictures on disk, and archives of them, for tests of what reads them."""

import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(value: int = 0, size: tuple[int, int] = (10, 8), kind: str = "PNG") -> bytes:
    """A colour picture (W, H) drawn from `value`."""
    width, height = size
    pixels = np.random.default_rng(value).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), kind)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pictures(counts: Mapping[str, int]) -> dict[str, bytes]:
    """So many pictures in each folder, by name."""
    names = [f"{folder}/{number}.png" for folder, count in counts.items() for number in range(count)]
    return {name: picture(index) for index, name in enumerate(names)}


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    """Files as a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_archive(path: Path, files: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
    """Files as an archive of the kind that the path's ending says, in their order."""
    entries = list(files.items() if isinstance(files, Mapping) else files)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries:
                archive.writestr(name, content)
        return path
    mode = {".xz": "w:xz", ".gz": "w:gz", ".tgz": "w:gz"}.get(path.suffix, "w")
    with tarfile.open(path, mode, encoding="utf-8", errors="surrogateescape") as tar:  # type: ignore[call-overload]
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
