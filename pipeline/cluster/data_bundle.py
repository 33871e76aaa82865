"""Data for the nodes of a cluster.

Git ignores the outputs of DVC, so a node has the data only if it shares the checkout or receives them. A
*bundle* names the files that trials read. A node that has the same files at the same paths, because the
checkout is shared, reads them there.

Small bundles are sent through Ray's object store, one copy a node, and are written once a node to its
temporary folder. The trials of a node map that copy together. Large bundles are copied once to the storage
that all nodes share, and are read there. From a bucket, every node fetches them once into its temporary
folder.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from pipeline.cluster.storage import copy_in, copy_out, exists, is_s3, join, write_text
from pipeline.errors import UserError
from pipeline.files.atomic import replace_folder
from pipeline.files.file_stats import hash_file
from pipeline.files.locks import FOREVER_S, locked

CHUNK_BYTES = 64 * 2**20
"""Bytes of one chunk that is sent, and so the memory that a worker needs for unpacking."""

HASHED_BYTES = 2**20
"""Files up to this size are compared by content, larger ones by size.

The small manifests hold the hashes of the large files.
"""

WHOLE = ".whole"
"""File that marks a complete copy of a bundle."""


@dataclass(frozen=True)
class DataBundle:
    """Files that runs read. Files are identified by a name, a relative path.

    Attributes:
        key: hash of the names, sizes and `hashes`.
        origins: path of each file on the driver's machine.
        sizes: bytes of each file.
        hashes: SHA-256 of each file of at most `HASHED_BYTES`.
        chunks: references into Ray's object store, in order, for each file; empty if nothing was sent.
        shared: address of a copy in storage, or None.
    """

    key: str
    origins: Mapping[str, Path]
    sizes: Mapping[str, int]
    hashes: Mapping[str, str]
    chunks: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    shared: str | None = None

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


def make_bundle(files: Mapping[str, Path]) -> DataBundle:
    """Returns a bundle of files of which nothing has been sent yet.

    Args:
        files: path of each file by its name, which may contain folders.
    """
    sizes = {name: path.stat().st_size for name, path in sorted(files.items())}
    hashes = {name: hash_file(path) for name, path in sorted(files.items()) if sizes[name] <= HASHED_BYTES}
    key = hashlib.sha256(repr((sorted(sizes.items()), sorted(hashes.items()))).encode()).hexdigest()[:16]
    return DataBundle(key, dict(files), sizes, hashes)


def send_bundle(bundle: DataBundle, *, limit_bytes: int, storage: str | None) -> DataBundle:
    """Makes a bundle available to the nodes, through the object store or, above a limit, through shared storage.

    Args:
        bundle: a bundle of `make_bundle`.
        limit_bytes: the largest bundle that the object store takes.
        storage: address of the shared storage, or None.

    Returns:
        The bundle with `chunks` or `shared` set.

    Raises:
        UserError: the bundle is larger than the limit, and there is no storage.
    """
    if bundle.bytes <= limit_bytes:
        return replace(bundle, chunks={name: tuple(_put(path)) for name, path in bundle.origins.items()})
    if storage is None:
        raise UserError(
            f"params.yaml: search.cluster.ship_limit_mb: the data are {bundle.bytes / 1e6:,.0f} MB, more than the "
            f"{limit_bytes / 1e6:,.0f} MB that are sent to nodes, and not every node shares this checkout. Name a "
            "folder that every node shares, or a bucket, in search.cluster.storage, or raise the limit."
        )
    place = place_in(storage, bundle)
    if not exists(join(place, WHOLE)):
        for name, origin in bundle.origins.items():
            copy_in(origin, join(place, name))
        write_text(join(place, WHOLE), "")
    return replace(bundle, shared=place)


def place_in(storage: str, bundle: DataBundle) -> str:
    """Returns the address of a bundle's copy in storage, whether or not it exists.

    Args:
        storage: address of the shared storage.
        bundle: the bundle.
    """
    return join(storage, "data", bundle.key)


def find_bundle(bundle: DataBundle) -> Mapping[str, Path] | None:
    """Returns where this node already has the files of a bundle, by name.

    Returns:
        The path of each file, or None if no place of this node has all of them.
    """
    for place in _places(bundle):
        if all(_is_same(path, bundle, name) for name, path in place.items()):
            return place
    return None


def open_bundle(bundle: DataBundle) -> Mapping[str, Path]:
    """Returns where this node has the files of a bundle, and unpacks them first if necessary, once a node.

    Args:
        bundle: a bundle of `send_bundle`.

    Returns:
        The path of each file by its name.

    Raises:
        UserError: this node does not have the files, and they were not sent.
    """
    here = find_bundle(bundle)
    if here is not None:
        return here
    if not bundle.chunks and bundle.shared is None:
        raise UserError(
            f"{os.uname().nodename} does not have the data: they were neither sent to it nor put into shared storage. "
            "See search.cluster.storage and search.cluster.ship_limit_mb."
        )
    folder = _own_folder()
    with locked(folder / f"{bundle.key}.lock", wait_s=FOREVER_S):
        if not (folder / bundle.key / WHOLE).is_file():
            _unpack(bundle, folder)
    return {name: folder / bundle.key / name for name in bundle.sizes}


def _unpack(bundle: DataBundle, folder: Path) -> None:
    shutil.rmtree(folder / bundle.key, ignore_errors=True)  # frees the disk space of an incomplete copy
    with replace_folder(folder / bundle.key) as whole:
        for name in bundle.sizes:
            (whole / name).parent.mkdir(parents=True, exist_ok=True)
            if bundle.shared is not None:
                copy_out(join(bundle.shared, name), whole / name)
                continue
            with (whole / name).open("wb") as file:
                for chunk in bundle.chunks[name]:
                    file.write(ray.get(chunk))
        (whole / WHOLE).touch()


def _places(bundle: DataBundle) -> Iterator[Mapping[str, Path]]:
    yield bundle.origins
    if bundle.shared is not None and not is_s3(bundle.shared):
        yield {name: Path(bundle.shared) / name for name in bundle.sizes}
    own = _own_place()
    if _is_ours(own):
        yield {name: own / bundle.key / name for name in bundle.sizes}


def _is_same(path: Path, bundle: DataBundle, name: str) -> bool:
    """Returns whether a file is the one of a bundle, by size and, if it is small, by content.

    Args:
        path: the file of this node.
        bundle: the bundle.
        name: name of the file in the bundle.
    """
    try:
        if path.stat().st_size != bundle.sizes[name]:
            return False
        return name not in bundle.hashes or hash_file(path) == bundle.hashes[name]
    except OSError:
        return False


def _own_place() -> Path:
    return Path(tempfile.gettempdir()) / f"sar-search-{os.getuid()}"


def _own_folder() -> Path:
    """Returns this user's folder among the temporary files. Raises a UserError if it belongs to another user."""
    folder = _own_place()
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(folder):
        raise UserError(f"{folder}: belongs to someone else; remove it, or set TMPDIR on {os.uname().nodename}.")
    return folder


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid()


def _put(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield ray.put(np.frombuffer(chunk, dtype=np.uint8))
