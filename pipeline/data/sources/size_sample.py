"""Sizes of a sample of a source's pictures, read before any picture is prepared."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.data.archive import Payload, read_files
from pipeline.data.decode.open_image import Size, open_image
from pipeline.data.decode.pictures import UndecodableImage
from pipeline.data.sources.dataset_registry import DATASETS
from pipeline.data.sources.image_source import SOURCES, list_image_folder
from pipeline.data.sources.named_dataset import read_catalogue
from pipeline.data.sources.source_config import SourceConfig

LOOKED_AT = 64
"""Number of pictures in a sample."""


def sample_sizes(config: SourceConfig, most: int = LOOKED_AT) -> list[Size]:
    """Returns (H, W) in pixels of some pictures, as stored in their files; none for a set that comes with a library.

    From a folder, pictures are taken at equal distances. From an archive, the first ones are taken, since
    later ones can only be reached by reading everything before them.

    Args:
        config: The user's description of the source.
        most: Largest number of pictures.

    Raises:
        UserError: If the source is missing or not laid out as required.
    """
    if config.dataset in SOURCES:
        return []
    if config.dataset in DATASETS:
        found = read_catalogue(config)
        if found.pixels:
            return [(piece.shape[1], piece.shape[2]) for piece in found.pixels]
        root, names, order = found.root, found.names, [name for name, _ in found.files]
    else:
        listing, layout = list_image_folder(config)
        if config.root is None:
            return []
        root, names, order = config.root, layout.names, [name for name, _ in listing.files]
    return list(_sizes(_some(root, names, order, most)))


def _some(root: Path, names: Sequence[str], order: Sequence[str], most: int) -> Iterator[Payload]:
    """Yields the files of a sample.

    Args:
        root: Folder or archive.
        names: Names of all pictures.
        order: Names of all files in the order of the archive.
        most: Largest number of pictures.
    """
    if root.is_dir():
        step = -(-len(names) // most)
        yield from (str(root / name) for name in names[::step])
        return
    pictures = set(names)
    wanted = [name for name in order if name in pictures][:most]
    files = read_files(root, set(wanted))
    for _ in wanted:  # not one more: a compressed archive would be read to its end in search of it
        found = next(files, None)
        if found is None:
            return
        yield found[1]


def _sizes(payloads: Iterator[Payload]) -> Iterator[Size]:
    for payload in payloads:
        try:
            yield open_image(payload, lambda image: (image.height, image.width))
        except UndecodableImage:
            continue  # `prepare` reports it
