"""The digits, prepared and split on disk as the first two stages leave them."""

from pathlib import Path

from pipeline.data.prepare.writer import write_prepared
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.sources.image_source import read_digits
from pipeline.data.splits.split import make_split, write_split


def write_digits(folder: Path, *, train_fraction: float = 1.0, val: float = 0.2, test: float = 0.2) -> Path:
    """All digits in `prepared/` and a split of them in `split.json`. Returns the folder."""
    write_prepared(read_digits(12), folder / "prepared")
    opened = open_prepared(folder / "prepared")
    split = make_split(opened.labels, val_fraction=val, test_fraction=test, train_fraction=train_fraction, seed=0)
    write_split(split, folder / "split.json", data_hash=opened.data_hash, seed=0)
    return folder
