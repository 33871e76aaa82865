"""Report of a split: sizes, small and rare classes, masks, and copies of one image in several roles."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Params
from pipeline.data.prepared.encoded import EncodedRows
from pipeline.data.prepared.prepared import UNDECIDED, Prepared
from pipeline.data.splits.assignment import ROLES, TRAIN
from pipeline.data.splits.duplicates import can_be_near
from pipeline.data.splits.imbalance import describe_imbalance
from pipeline.data.splits.split import Ids, Split
from pipeline.errors import UserError, quote_name
from pipeline.files.atomic import write_whole
from pipeline.inputs.data_split import SplitInputs

Report = Mapping[str, Any]
"""The report, or a part of it, as data/split_report.json has it."""

FEW = 5
"""Number of images of a class in val or test below which the class is reported. With so few, each image counts for more
than 20 points of the class's accuracy.
"""
SHOWN = 3
"""Classes that a printed line names."""
LISTED = 1000
"""Unused entries, and pairs of copies, that the report lists at most."""
BLOCK = 1000
"""Masks that are in memory at once when they are counted."""
REFUSED = 5
"""Pairs of copies that an error message names."""


def split_report(inputs: SplitInputs, prepared: Prepared, params: Params, group_by: Report | None) -> Report:
    """Returns the report as plain data: images by role and class, masks, groups and copies.

    Args:
        inputs: The split and what it was made from.
        prepared: The prepared set.
        params: All parameters.
        group_by: What the groups were made from, as `group_by_content` returns it; None without split.group_by.
    """
    split = inputs.split
    counts = {role: _count_classes(getattr(split, role), prepared) for role in ROLES}
    grouped = None
    if inputs.groups is not None and group_by is not None:
        alone = int((inputs.groups.group_ids >= len(inputs.groups.names)).sum())
        grouped = {**group_by, "groups": len(inputs.groups.names), "images_on_their_own": alone}
        grouped |= {"unused_entries": list(inputs.groups.unused[:LISTED])}
    return {
        "images": {role: len(getattr(split, role)) for role in ROLES},
        "classes": {name: {role: counts[role][name] for role in ROLES} for name in prepared.classes},
        **({"folds": _folds(split, prepared)} if split.folds else {}),
        "masks": _count_masks(prepared),
        "group_by": grouped,
        "duplicates": _duplicates(inputs, prepared, params),
    }


def _count_masks(prepared: Prepared) -> int | None:
    """Returns how many images have a mask, one that is not undecided all over; None for a set without masks."""
    masks = prepared.masks
    if masks is None:
        return None
    if isinstance(masks, EncodedRows):
        return sum(len(masks.encoded(row)) > 0 for row in range(len(masks)))
    starts = range(0, len(masks), BLOCK)
    return sum(int((masks[start : start + BLOCK] != UNDECIDED).any(axis=(1, 2)).sum()) for start in starts)


def _count_classes(ids: Ids, prepared: Prepared) -> dict[str, int]:
    """Returns the number of these images in each class, by its name."""
    counts = np.bincount(prepared.labels[ids], minlength=len(prepared.classes))
    return dict(zip(prepared.classes, counts.tolist(), strict=True))


def _folds(split: Split, prepared: Prepared) -> list[Report]:
    """Returns, for each fold, the number of images by role and of test images by class."""
    return [
        {role: len(getattr(fold, role)) for role in ROLES} | {"test_by_class": _count_classes(fold.test, prepared)}
        for fold in split.folds
    ]


def _duplicates(inputs: SplitInputs, prepared: Prepared, params: Params) -> Report:
    """Returns the report's part on copies; only the parameters if copies were not looked for.

    Args:
        inputs: The split and what it was made from.
        prepared: The prepared set of N images.
        params: All parameters.
    """
    told: Report = {"action": params.split.duplicates, "distance": params.split.duplicate_distance}
    copies = inputs.copies
    if copies is None:
        return told
    count = len(prepared.labels)
    roles = _roles_of(inputs, count)
    exact, both = copies.clusters(count, near=False), copies.clusters(count)
    of_exact = _describe(exact, copies.exact, roles, prepared.labels, inputs.names)
    # An image with an exact copy is counted as exact, and not as near again.
    of_near = None
    if can_be_near(prepared.images, params.split.duplicate_distance):
        of_near = _describe(both, copies.near, roles, prepared.labels, inputs.names)
        for key in ("test", "val"):
            of_near[key] -= of_exact[key]
    return {**told, "moved": inputs.moved, "exact": of_exact, "near": of_near}


def _roles_of(inputs: SplitInputs, count: int) -> NDArray[np.int8]:
    """Returns the number of each image's role in `ROLES`, (count,); -1 for an image without a role."""
    roles = np.full(count, -1, dtype=np.int8)
    for number, role in enumerate(ROLES):
        roles[getattr(inputs.split, role)] = number
    return roles


def _describe(
    clusters: Ids, pairs: Ids, roles: NDArray[np.int8], labels: NDArray[np.int64], names: Sequence[str] | None
) -> dict[str, Any]:
    """Counts copies across roles, and lists the first pairs of them.

    Args:
        clusters: Number of each image's cluster of copies, (N,).
        pairs: Ids of the two images of each pair of copies, (P, 2).
        roles: Number of each image's role in `ROLES`, (N,); -1 for an image without a role.
        labels: Class of each image, (N,).
        names: Names of the images' files; None for a set that was not made from files.

    Returns:
        `test`: test images with a copy in train or val. `val`: val images with a copy in train. `different_labels`:
        pairs with two classes. `pairs`: the first pairs with two roles, each image as (name, role).
        `different_pairs`: the names of the first pairs with two classes.
    """
    has = np.zeros((clusters.max() + 1, len(ROLES)), dtype=np.bool_)
    used = roles >= 0
    has[clusters[used], roles[used]] = True
    train, val, _ = has[clusters].T
    across = [(a, b) for a, b in pairs if roles[a] != roles[b] and roles[a] >= 0 and roles[b] >= 0]
    differ = pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]]
    return {
        "test": int(((roles == 2) & (train | val)).sum()),
        "val": int(((roles == 1) & train).sum()),
        "different_labels": len(differ),
        "different_pairs": [[_name(row, names) for row in pair] for pair in differ[:LISTED]],
        "pairs": [[[_name(row, names), ROLES[roles[row]]] for row in pair] for pair in across[:LISTED]],
    }


def _name(row: int, names: Sequence[str] | None) -> str:
    return f"image {row}" if names is None else names[row]


def check_no_duplicates(report: Report) -> None:
    """Raises an error if split.duplicates is `refuse` and images of val or test have copies in another role.

    Raises:
        UserError: There are such copies; the message names the first few pairs.
    """
    found = report["duplicates"]
    if found["action"] != "refuse":
        return
    looked_for = [kind for kind in ("exact", "near") if found[kind]]
    count = sum(found[kind][role] for kind in looked_for for role in ("test", "val"))
    if not count:
        return
    kinds = [(kind, pair) for kind in looked_for for pair in found[kind]["pairs"]]
    lines = [f"params.yaml: split.duplicates: refuse: {_images(count)} of test or val with copies in another role:"]
    lines += [f"  {_pair(pair)}{', nearly' if kind == 'near' else ''}" for kind, pair in kinds[:REFUSED]]
    lines += [f"  and {len(kinds) - REFUSED:,} more pairs"] if len(kinds) > REFUSED else []
    lines.append("Take copies out of the set, or set split.duplicates: move, which takes all of them into train.")
    raise UserError("\n".join(lines))


def _pair(pair: Sequence[Sequence[str]]) -> str:
    (one, its_role), (other, other_role) = pair
    return f"{quote_name(one)} ({its_role}) = {quote_name(other)} ({other_role})"


def report_lines(report: Report) -> Iterator[str]:
    """Yields the report as lines of text: the sizes, and a line for each unusual finding."""
    yield ", ".join(f"{role} {report['images'][role]:,}" for role in ROLES) + " images"
    yield from _fold_lines(report.get("folds", []))
    grouped, found = report["group_by"], report["duplicates"]
    if grouped:
        alone = grouped["images_on_their_own"]
        yield f"{grouped['groups']:,} groups stay whole" + (f", {_images(alone)} on their own" if alone else "")
        if unused := len(grouped["unused_entries"]):
            yield f"{quote_name(grouped['given'])} names {_images(unused)} that the set does not have"
    yield from _class_lines(report["classes"])
    if found.get("moved"):
        yield (
            f"{_images(found['moved'])} moved into train, because they, or images of their group, have copies in "
            "another role"
        )
    for kind, words in (("exact", "exact copies"), ("near", "near copies")):
        if found.get(kind) and (line := _copy_line(found[kind], words)):
            yield line
    if found.get("exact") and (differ := found["exact"]["different_labels"]):
        one, other = found["exact"]["different_pairs"][0]
        named = f"{quote_name(one)} = {quote_name(other)}{', ...' * (differ > 1)}"
        yield f"{_images(differ)} with an exact copy that has another class ({named}; see data/split_report.json)"


def _fold_lines(folds: Sequence[Report]) -> Iterator[str]:
    if not folds:
        return
    sizes = [fold["test"] for fold in folds]
    span = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
    yield f"{len(folds)} folds of {span} test images, each trained and validated on the others"
    fewest = {name: min(fold["test_by_class"][name] for fold in folds) for name in folds[0]["test_by_class"]}
    if few := [name for name, count in fewest.items() if count < FEW]:
        yield f"{_classes(few)} with fewer than {FEW} test images in a fold ({_list_classes(few, fewest)})"


def _class_lines(classes: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    totals = {name: sum(counts.values()) for name, counts in classes.items()}
    if imbalance := describe_imbalance(list(totals), list(totals.values())):
        yield imbalance
    for role in ROLES[TRAIN + 1 :]:
        # A data set's own test split may lack a class; every other split has each class in every role.
        held = {name: counts[role] for name, counts in classes.items()}
        few = [name for name, count in held.items() if count < FEW]
        if few and any(held.values()):  # with folds, the test role may be empty
            yield f"{_classes(few)} with fewer than {FEW} {role} images ({_list_classes(few, held)})"


def _classes(names: Sequence[str]) -> str:
    return f"{len(names):,} class{'es' * (len(names) != 1)}"


def _list_classes(names: Sequence[str], counts: Mapping[str, int]) -> str:
    return ", ".join(f"{quote_name(name)} {counts[name]}" for name in names[:SHOWN]) + ", ..." * (len(names) > SHOWN)


def _copy_line(found: Report, words: str) -> str | None:
    parts = [f"{_images(found['test'], 'test ')} with {words} in train or val"] if found["test"] else []
    parts += [f"{_images(found['val'], 'val ')} with {words} in train"] if found["val"] else []
    if not parts:
        return None
    shown = "".join(f"{_pair(pair)}, ...; " for pair in found["pairs"][:1])
    return " and ".join(parts) + f" ({shown}see data/split_report.json)"


def _images(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}image{'s' * (count != 1)}"


def write_report(report: Report, path: Path) -> None:
    """Writes the report as JSON, with its lines of text but the first, which has the sizes, as `remarks`."""
    _, *remarks = report_lines(report)
    write_whole(path, json.dumps({**report, "remarks": remarks}, indent=1) + "\n")
