"""Claims about DVC's cache: it holds a prepared set once, together with data/, and no stage writes into it."""

import hashlib
import os
from pathlib import Path

import pytest
from support.checkout import TINY, Checkout

pytestmark = pytest.mark.slow


def cached(root: Path) -> dict[str, Path]:
    """Files of the cache by the hash that they are named after."""
    return {path.parent.name + path.name: path for path in (root / ".dvc/cache/files/md5").rglob("*") if path.is_file()}


def used(root: Path) -> int:
    """Bytes that all files below take, each counted once however many names it has."""
    found = {(there.st_dev, there.st_ino): there.st_size for path in root.rglob("*") if (there := path.lstat())}
    return sum(found.values())


def check_cache(root: Path) -> None:
    for name, path in cached(root).items():
        assert hashlib.md5(path.read_bytes()).hexdigest() == name.removesuffix(".dir"), f"{path} was written to"


def test_prepared_set_lies_on_disk_once_and_the_cache_is_never_written_to(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "clone", TINY)
    checkout.set({"prepare.image_size": 48})
    before = used(checkout.root)
    checkout.repro("prepare")
    images = checkout.root / "data/prepared/images.npy"
    size = images.stat().st_size
    assert size > 4_000_000
    (twin,) = [path for path in cached(checkout.root).values() if os.path.samefile(images, path)]
    masks = (checkout.root / "data/prepared/masks.npy").stat().st_size
    assert used(checkout.root) - before < size + masks + 1_000_000
    first = images.read_bytes()

    checkout.set({"prepare.image_size": 50})
    checkout.repro("split")
    assert images.read_bytes() != first
    check_cache(checkout.root)

    checkout.set({"prepare.image_size": 48})
    checkout.repro("split")
    assert images.read_bytes() == first
    assert os.path.samefile(images, twin)
    check_cache(checkout.root)
