"""The parts of the procedure: a search and its retraining on all images and, with folds, one outside of each fold.

Each part has its own split, seeds and search, so that nothing of a fold's test images comes into what is tested on
them. A fold's split is a file of its own under `state/folds/`, made from `data/split.json`, which workers read as they
read that one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Params, part_params
from pipeline.data.splits.split import Split, read_split, write_split
from pipeline.provenance.code_hash import content_hash
from pipeline.workspace import FOLDS, Workspace, part_folder

ALL_IMAGES = "all images"


@dataclass(frozen=True)
class Part:
    """A search and its retraining.

    number: of the fold whose images are left out, from 1; 0: of all images. folds: how many there are, 0 without.
    params: with the part's own seed. split: its roles, path: the file that has them.
    """

    number: int
    folds: int
    params: Params
    split: Split
    path: Path

    @property
    def name(self) -> str:
        """What it is called beside the others: `fold 2 of 5`, `all images`; "" without folds."""
        return name_part(self.number, self.folds)

    def folder(self, whole: Path) -> Path:
        """Where its results are, by where those of all images are."""
        return part_folder(whole, self.number)


def name_part(number: int, folds: int) -> str:
    """What a part is called beside the others; "" without folds."""
    return "" if not folds else f"fold {number} of {folds}" if number else ALL_IMAGES


def folds_hash(parts: Sequence[Part]) -> str:
    """What the folds' test images are known by, whatever the holdout and the roles inside of them."""
    return content_hash([part.split.test.tolist() for part in parts[1:]])


def fold_split(workspace: Workspace, data_hash: str, split_hash: str) -> Path:
    """The file of a fold's split."""
    return workspace.state / FOLDS / f"{data_hash[:8]}-{split_hash[:16]}.json"


def split_parts(workspace: Workspace, params: Params, split: Split, *, data_hash: str) -> list[Part]:
    """The parts of a split: first that of all images, then the folds. Files of folds are named, and not written."""
    parts = [Part(0, len(split.folds), params, split, workspace.split)]
    for number, fold in enumerate(split.folds, start=1):
        path = fold_split(workspace, data_hash, fold.split_hash)
        parts.append(Part(number, len(split.folds), part_params(params, number), fold, path))
    return parts


def read_parts(workspace: Workspace, params: Params, *, data_hash: str) -> list[Part]:
    """The parts of `data/split.json`, with the files of its folds written.

    Raises:
        UserError: it is not there, broken or of other data.
    """
    split = read_split(workspace.split, data_hash=data_hash)
    parts = split_parts(workspace, params, split, data_hash=data_hash)
    for part in parts[1:]:
        if not part.path.exists():
            write_split(part.split, part.path, data_hash=data_hash, seed=part.params.base.seed)
    return parts
