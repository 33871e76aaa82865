"""Three roles that never mix: train and val for the search, test for `evaluate` alone. Ids only.

A split is stratified and seeded. Retraining uses train and val together; nothing but `evaluate` reads test.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
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


def make_split(
    labels: NDArray[np.int64],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    train_fraction: float = 1.0,
    own_test: NDArray[np.bool_] | None = None,
    classes: Sequence[str] | None = None,
) -> Split:
    """Divide ids class by class.

    labels: (N,) int. own_test: (N,) bool, the set's own test split; without one, test_fraction is the share of all
    images for test. val_fraction: share of the rest for val. train_fraction: the share of train, and of val, that is
    kept; for one seed, what a smaller share keeps in a role, a larger one keeps in the same role. All are rounded
    within each class, and each class keeps at least one image in train, in val and, without own_test, in test.
    classes: names by label, for messages.

    Raises:
        UserError: a class with too few images to be in every role; test classes that train never has.
    """
    free = np.flatnonzero(~own_test) if own_test is not None else np.arange(len(labels))
    roles: dict[str, list[Ids]] = {"train": [], "val": [], "test": []}
    if own_test is not None:
        roles["test"].append(np.flatnonzero(own_test))
        _check_test_is_trained(np.setdiff1d(labels[own_test], labels[free]), classes)
    for label in np.unique(labels[free]):
        ids = free[labels[free] == label]
        _check_count(len(ids), int(label), own_test is not None, classes)
        order = np.random.default_rng([seed, int(label)]).permutation(ids)
        test = _share(test_fraction, len(ids), leave=2) if own_test is None else 0
        val = _share(val_fraction, len(ids) - test, leave=1)
        roles["test"].append(order[:test])
        for role, drawn in (("val", order[test : test + val]), ("train", order[test + val :])):
            roles[role].append(drawn[: _share(train_fraction, len(drawn), leave=0)])
    return Split(**{role: np.sort(np.concatenate(parts)) for role, parts in roles.items()})


def _check_test_is_trained(unseen: NDArray[np.int64], classes: Sequence[str] | None) -> None:
    if len(unseen):
        named = ", ".join(_named(int(label), classes) for label in unseen[:5]) + (" ..." if len(unseen) > 5 else "")
        raise UserError(f"the test set has classes that train does not have: {named}.")


def _check_count(count: int, label: int, own_test: bool, classes: Sequence[str] | None) -> None:
    needed, uses = (2, "train and validate") if own_test else (3, "train, validate and test")
    if count < needed:
        where = " outside the test set" if own_test else ""
        raise UserError(
            f"class {_named(label, classes)} has {count} image{'' if count == 1 else 's'}{where}; "
            f"each class needs at least {needed}, one each to {uses} on."
        )


def _named(label: int, classes: Sequence[str] | None) -> str:
    return str(label) if classes is None else classes[label]


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
