"""Parts of the procedure: a search and its retraining on all images and, with folds, outside of each fold.

Each part has its own split, seeds and search, so test images of a fold never influence the networks that are
tested on them. A fold's split is a file under `state/folds/`, made from `data/split.json`. Workers read both
in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Params, part_params
from pipeline.data.splits.split import Split, read_split, write_split
from pipeline.provenance.code_hash import content_hash
from pipeline.workspace import FOLDS, Workspace, part_folder

ALL_IMAGES = "all images"
"""Name of the part on all images."""


@dataclass(frozen=True)
class Part:
    """A search and its retraining.

    Attributes:
        number: number of the fold whose images are left out, from 1; 0 for all images.
        folds: number of folds; 0 without folds.
        params: parameters with the part's own seed.
        split: the part's roles.
        path: file of the split.
    """

    number: int
    folds: int
    params: Params
    split: Split
    path: Path

    @property
    def name(self) -> str:
        """Name beside the other parts: `fold 2 of 5`, `all images`; empty without folds."""
        return name_part(self.number, self.folds)

    def folder(self, whole: Path) -> Path:
        """Returns the folder of the part's results, from the folder of the results on all images."""
        return part_folder(whole, self.number)


def name_part(number: int, folds: int) -> str:
    """Returns the name of a part beside the others; empty without folds.

    Args:
        number: number of the fold; 0 for all images.
        folds: number of folds; 0 without folds.
    """
    return "" if not folds else f"fold {number} of {folds}" if number else ALL_IMAGES


def folds_hash(parts: Sequence[Part]) -> str:
    """Returns a hash of the folds' test images. It does not depend on the holdout or on roles within folds.

    Args:
        parts: the parts, of which the first is on all images.
    """
    return content_hash([part.split.test.tolist() for part in parts[1:]])


def fold_split(workspace: Workspace, data_hash: str, split_hash: str) -> Path:
    """Returns the file of a fold's split.

    Args:
        workspace: the checkout.
        data_hash: hash of the prepared set.
        split_hash: hash of the fold's split.
    """
    return workspace.state / FOLDS / f"{data_hash[:8]}-{split_hash[:16]}.json"


def split_parts(workspace: Workspace, params: Params, split: Split, *, data_hash: str) -> list[Part]:
    """Returns the parts of a split: first the one on all images, then the folds. Writes no files.

    Args:
        workspace: the checkout.
        params: its parameters.
        split: the split.
        data_hash: hash of the prepared set.
    """
    parts = [Part(0, len(split.folds), params, split, workspace.split)]
    for number, fold in enumerate(split.folds, start=1):
        path = fold_split(workspace, data_hash, fold.split_hash)
        parts.append(Part(number, len(split.folds), part_params(params, number), fold, path))
    return parts


def read_parts(workspace: Workspace, params: Params, *, data_hash: str) -> list[Part]:
    """Returns the parts of `data/split.json`, and writes the files of its folds if they are missing.

    Args:
        workspace: the checkout.
        params: its parameters.
        data_hash: hash of the prepared set.

    Raises:
        UserError: the split is missing, broken or of other data.
    """
    split = read_split(workspace.split, data_hash=data_hash)
    parts = split_parts(workspace, params, split, data_hash=data_hash)
    for part in parts[1:]:
        if not part.path.exists():
            write_split(part.split, part.path, data_hash=data_hash, seed=part.params.base.seed)
    return parts
