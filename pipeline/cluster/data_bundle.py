"""Data on every node. Git ignores what DVC makes, so a node has it only if it shares the checkout, or is sent it.

A *bundle* names the files that trials read. A node that has the same files in the same place, because the checkout is
shared, reads them there. Small bundles go through Ray's object store, one copy a node, and are written once a node to
its temporary folder, where the trials of the node map them together. Large ones go once to the storage that all nodes
share, and are read from there; out of a bucket, every node fetches them once into its temporary folder.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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
"""What is sent in one chunk: a worker that unpacks holds no more than this in memory."""

HASHED_BYTES = 2**20
"""Files up to this size are compared by content, larger ones by size: manifests, which hash those, are small."""

WHOLE = ".whole"


@dataclass(frozen=True)
class DataBundle:
    """Files that runs read. key: hash of what they are. origins: where each lies on the driver's machine, by name.

    sizes: in bytes. hashes: of small files. chunks: references into Ray's object store, empty where none were put.
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
    """A bundle of which nothing has been sent. files: by name, which may have folders in it."""
    sizes = {name: path.stat().st_size for name, path in sorted(files.items())}
    hashes = {name: hash_file(path) for name, path in sorted(files.items()) if sizes[name] <= HASHED_BYTES}
    key = hashlib.sha256(repr((sorted(sizes.items()), sorted(hashes.items()))).encode()).hexdigest()[:16]
    return DataBundle(key, dict(files), sizes, hashes)


def send_bundle(bundle: DataBundle, *, limit_bytes: int, storage: str | None) -> DataBundle:
    """Put a bundle where nodes can get it: into the object store, or, above the limit, into the shared storage.

    Raises:
        UserError: it is too large to be sent, and there is no storage.
    """
    if bundle.bytes <= limit_bytes:
        chunks = {name: tuple(_put(path)) for name, path in bundle.origins.items()}
        return DataBundle(bundle.key, bundle.origins, bundle.sizes, bundle.hashes, chunks)
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
    return DataBundle(bundle.key, bundle.origins, bundle.sizes, bundle.hashes, {}, place)


def place_in(storage: str, bundle: DataBundle) -> str:
    """Where a bundle lies in storage, if it is put there."""
    return join(storage, "data", bundle.key)


def find_bundle(bundle: DataBundle) -> Mapping[str, Path] | None:
    """Where this node has a bundle's files without being sent them, by name; None if it does not have all of them."""
    for place in _places(bundle):
        if all(_is_same(path, bundle, name) for name, path in place.items()):
            return place
    return None


def open_bundle(bundle: DataBundle) -> Mapping[str, Path]:
    """Where this node has a bundle's files, by name; unpacked first if need be, once a node.

    Raises:
        UserError: it has not got them, and they were not sent.
    """
    here = find_bundle(bundle)
    if here is not None:
        return here
    if not bundle.chunks and bundle.shared is None:
        raise UserError(f"{os.uname().nodename} has not got the data: they were neither sent nor put into storage.")
    folder = _own_folder()
    with locked(folder / f"{bundle.key}.lock", wait_s=FOREVER_S):
        if not (folder / bundle.key / WHOLE).is_file():
            _unpack(bundle, folder)
    return {name: folder / bundle.key / name for name in bundle.sizes}


def _unpack(bundle: DataBundle, folder: Path) -> None:
    shutil.rmtree(folder / bundle.key, ignore_errors=True)  # what it takes of the disk may be needed
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
    try:
        if path.stat().st_size != bundle.sizes[name]:
            return False
        return name not in bundle.hashes or hash_file(path) == bundle.hashes[name]
    except OSError:
        return False


def _own_place() -> Path:
    return Path(tempfile.gettempdir()) / f"sar-search-{os.getuid()}"


def _own_folder() -> Path:
    """This user's own folder among the temporary files; another user's of the same name is refused."""
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
