"""A sample of a source's files, read before any is prepared: sizes of pictures, and what is odd in masks."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.data.archive import Payload, read_files
from pipeline.data.decode.masks import decode_mask
from pipeline.data.decode.open_image import Size, open_image
from pipeline.data.decode.pictures import UndecodableImage
from pipeline.data.sources.dataset_registry import DATASETS
from pipeline.data.sources.image_source import SOURCES, list_image_folder
from pipeline.data.sources.named_dataset import read_catalogue
from pipeline.data.sources.source_config import SourceConfig

LOOKED_AT = 64
"""Number of pictures in a sample."""
MASKS_LOOKED_AT = 24
"""Number of masks in a sample, all pixels of which are read."""
MASK_SIDE = 64
"""Side to which they are resized."""


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


def sample_masks(config: SourceConfig, most: int = MASKS_LOOKED_AT) -> dict[str, tuple[str, ...]]:
    """Returns the remarks about some masks of the user's own pictures, by name.

    From a folder or a .zip, masks are taken at equal distances. From another archive, they are taken only from the part
    that `sample_sizes` reads.

    Args:
        config: The user's description of the source.
        most: Largest number of masks.

    Raises:
        UserError: If the source is missing or not laid out as required.
    """
    if config.dataset in SOURCES or config.dataset in DATASETS:
        return {}
    listing, layout = list_image_folder(config)
    if config.root is None or not layout.masks:
        return {}
    root, order = config.root, [name for name, _ in listing.files]
    if not root.is_dir() and root.suffix.lower() != ".zip":
        pictures = set(layout.names)
        order = order[: [place for place, name in enumerate(order) if name in pictures][:LOOKED_AT][-1]]
    names = [name for name in order if name in layout.masks]
    names = names[:: max(1, -(-len(names) // most))]
    return dict(zip(names, map(_mask_remarks, _contents(root, names)), strict=False))


def _mask_remarks(payload: Payload) -> tuple[str, ...]:
    remarks: list[str] = []
    try:
        decode_mask(payload, MASK_SIDE, remarks=remarks)
    except UndecodableImage as error:
        return (str(error),)
    return tuple(remarks)


def _contents(root: Path, names: Sequence[str]) -> Iterator[Payload]:
    """Yields the files with these names, which are in the order of the archive."""
    if root.is_dir():
        yield from (str(root / name) for name in names)
        return
    files = read_files(root, set(names))
    for _ in names:  # not one more: a compressed archive would be read to its end in search of it
        found = next(files, None)
        if found is None:
            return
        yield found[1]


def _some(root: Path, names: Sequence[str], order: Sequence[str], most: int) -> Iterator[Payload]:
    """Returns the files of a sample of pictures.

    Args:
        root: Folder or archive.
        names: Names of all pictures.
        order: Names of all files in the order of the archive.
        most: Largest number of pictures.
    """
    if root.is_dir():
        return _contents(root, names[:: -(-len(names) // most)])
    pictures = set(names)
    return _contents(root, [name for name in order if name in pictures][:most])


def _sizes(payloads: Iterator[Payload]) -> Iterator[Size]:
    for payload in payloads:
        try:
            yield open_image(payload, lambda image: (image.height, image.width))
        except UndecodableImage:
            continue  # `prepare` reports it
