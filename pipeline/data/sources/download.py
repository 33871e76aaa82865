"""Downloads a named set with torchvision, or unpacks it from its archives, atomically.

torchvision takes a set for complete once its folder exists, and unpacks into that folder. It therefore works
in a temporary folder, from which the complete set is moved. A later run reuses only the archives of an
interrupted one, whose checksums torchvision compares, and unpacks them anew.
"""

import errno
import os
import shutil
from pathlib import Path
from urllib.error import URLError

from pipeline.data.archive import format_names
from pipeline.data.sources.dataset_registry import DATASETS, DatasetInfo
from pipeline.data.sources.named_dataset import locate_dataset
from pipeline.data.sources.source_config import SourceConfig
from pipeline.data.sources.torchvision_datasets import READERS
from pipeline.errors import UserError


def fetch(config: SourceConfig) -> None:
    """Downloads or unpacks a named set that is missing, if the configuration allows it.

    Args:
        config: The user's description of the source.

    Raises:
        UserError: If the host cannot be reached or the data are damaged. Nothing incomplete is left.
    """
    if config.dataset not in DATASETS or not can_be_made(config):
        return
    known, root = DATASETS[config.dataset], config.root
    assert root is not None
    place = root / f".{config.dataset}.partial"
    try:
        _tidy(place, known)
        place.mkdir(parents=True, exist_ok=True)
        found = _archives_there(known, root)
        _unpack(found, place)
        READERS[config.dataset](place, config.download and not found)
    except Exception as error:
        shutil.rmtree(place, ignore_errors=True)
        raise UserError(_describe_archives(config, known, error)) from None
    for name in known.archives:
        if name not in known.markers:
            (place / name).unlink(missing_ok=True)
    _merge(place, root)


def can_be_made(config: SourceConfig) -> bool:
    """Returns whether the set is missing, and `fetch` would try to create it.

    Args:
        config: The user's description of the source, with a named set.
    """
    known, root = DATASETS[config.dataset], config.root
    if root is None or root.is_file() or locate_dataset(config.dataset, root) is not None:
        return False
    return bool(known.host and config.download) or bool(_archives_there(known, root))


def _archives_there(entry: DatasetInfo, root: Path) -> dict[str, Path]:
    """Returns the path of each archive, or nothing unless all are in the root or where torchvision puts them."""
    found = {}
    for name in entry.archives:
        there = next((path for path in (root / name, root / Path(name).name) if path.is_file()), None)
        if there is None:
            return {}
        found[name] = there
    return found


def _unpack(found: dict[str, Path], place: Path) -> None:
    """Unpacks archives.

    torchvision's own classes are not used for this: they would download an archive again, over the user's own
    file, if its checksum differs.
    """
    from torchvision.datasets.utils import extract_archive

    for name, path in found.items():
        to = place / name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.unlink(missing_ok=True)
        if name.startswith("ILSVRC"):
            to.symlink_to(path.resolve())  # torchvision's class compares the checksum, and never downloads
        elif path.suffix == ".mat":
            shutil.copy2(path, to)
        else:
            extract_archive(path, to.parent)


def _tidy(place: Path, entry: DatasetInfo) -> None:
    """Removes the files of an earlier download, except archives whose checksums torchvision compares."""
    keep = {place / name for name in entry.archives if entry.verified}
    for folder, _, files in os.walk(place, topdown=False):
        for name in files:
            if Path(folder) / name not in keep:
                (Path(folder) / name).unlink()
        if not os.listdir(folder):
            os.rmdir(folder)


def _merge(place: Path, root: Path) -> None:
    """Moves everything below one folder into another. Folders that exist in both are merged."""
    for entry in sorted(place.iterdir()):
        target = root / entry.name
        if entry.is_dir() and target.is_dir():
            _merge(entry, target)
        elif entry.is_symlink():
            entry.unlink()  # it points to an archive in the root
        else:
            os.replace(entry, target)
    place.rmdir()


def _describe_archives(config: SourceConfig, entry: DatasetInfo, error: Exception) -> str:
    """Returns the error message for a failed download or a damaged archive.

    Args:
        config: The user's description of the source.
        entry: The data set.
        error: The error that occurred.
    """
    where = f"{format_names(config.root_shown or str(config.root))}: {config.dataset} ({entry.title})"
    said = format_names(str(getattr(error, "reason", None) or error)).replace("\n", " ")[:200] or type(error).__name__
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{where}: no space left for it. Free some and run the same command again."
    if isinstance(error, PermissionError):
        return f"{where}: cannot be written there ({said}). Name a writable folder in prepare.root."
    if isinstance(error, URLError | ConnectionError | TimeoutError):
        return (
            f"{where}: cannot be fetched from {entry.host} ({said}). Is this machine without a network? Then fetch it "
            f"elsewhere and put it under prepare.root as {entry.layout}, or the archives themselves: "
            f"{', '.join(entry.archives)}. Nothing half-written was left."
        )
    return (
        f"{where}: cannot be made from the archives that were fetched or were already there ({type(error).__name__}: "
        f"{said}). Most likely one of them is cut short: remove it ({', '.join(entry.archives)}) and run the same "
        "command again."
    )
