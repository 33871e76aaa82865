"""Three roles that never mix: train and val for the search, test for `evaluate` alone. Ids only.

A split is stratified and seeded. Retraining uses train and val together; nothing but `evaluate` reads test.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Ids (row numbers of the prepared arrays), ascending, by role."""

    train: Ids
    val: Ids
    test: Ids

    @property
    def split_hash(self) -> str:
        content = json.dumps({role: ids.tolist() for role, ids in asdict(self).items()}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def make_split(labels: NDArray[np.int64], *, val_fraction: float, test_fraction: float, seed: int) -> Split:
    """Divide ids class by class.

    labels: (N,) int. test_fraction: share of all images for test; val_fraction: share of the rest for val; both are
    rounded within each class, and each class keeps at least one image in every role.

    Raises:
        UserError: a class with fewer than three images, which cannot be in every role.
    """
    roles: dict[str, list[Ids]] = {"train": [], "val": [], "test": []}
    for label in np.unique(labels):
        ids = np.flatnonzero(labels == label)
        if len(ids) < 3:
            raise UserError(
                f"class {label} has {len(ids)} image{'' if len(ids) == 1 else 's'}; "
                "each class needs at least 3, one each to train, validate and test on."
            )
        order = np.random.default_rng([seed, int(label)]).permutation(ids)
        test = _share(test_fraction, len(ids), leave=2)
        val = _share(val_fraction, len(ids) - test, leave=1)
        roles["test"].append(order[:test])
        roles["val"].append(order[test : test + val])
        roles["train"].append(order[test + val :])
    return Split(**{role: np.sort(np.concatenate(parts)) for role, parts in roles.items()})


def _share(fraction: float, count: int, *, leave: int) -> int:
    return min(max(1, round(fraction * count)), count - leave)


def write_split(split: Split, path: Path, *, data_hash: str, seed: int) -> None:
    """Write a split as JSON, with the hash of the data whose ids it names."""
    content = {"format": 1, "data_hash": data_hash, "split_hash": split.split_hash, "seed": seed}
    content |= {role: ids.tolist() for role, ids in asdict(split).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content) + "\n")
    partial.replace(path)


def read_split(path: Path, *, data_hash: str) -> Split:
    """Read a split and check that it was made of the data at hand.

    Raises:
        UserError: it is not there, broken, or names the ids of other data.
    """
    try:
        content: Mapping[str, Any] = json.loads(path.read_text())
        split = Split(**{role: np.asarray(content[role], dtype=np.int64) for role in ("train", "val", "test")})
        made_of = content["data_hash"]
    except FileNotFoundError:
        raise UserError(f"{path}: not there. Run `dvc repro split` first.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a split ({error}). Run `dvc repro --force split`.") from None
    if made_of != data_hash:
        raise UserError(f"{path}: made of other data than data/prepared holds. Run `dvc repro split`.")
    return split
