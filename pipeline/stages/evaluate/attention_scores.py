"""Attention against masks, run by run, beside the baselines that look at no image."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.evaluation import Difference, Location
from pipeline.assembly import TrainingData
from pipeline.score.family import compare_family
from pipeline.score.fold_variance import Folds, can_be_compared
from pipeline.score.locate import (
    LocationScores,
    baseline_scores,
    by_class,
    can_be_ranked,
    location_scores,
    pick_head,
)

LOCATION = (
    *("jaccard_best_head", "jaccard_fixed_head", "auroc", "average_precision"),
    *("pointing_game_best_head", "pointing_game", "energy_best_head", "energy"),
)
COMPARED = ("jaccard_best_head", "jaccard_fixed_head", "auroc", "average_precision", "pointing_game", "energy")
"""Of these, what the report shows, and compares between the arms."""

Maps = NDArray[np.float32]
Masks = NDArray[np.uint8]
ClassRow = Mapping[str, str | int | float | None]


@dataclass(frozen=True)
class ScoredTables:
    """A score of the images that all runs can be scored on, (S, N) by arm. folds: of these images; None without."""

    best: NDArray[np.float64]
    control: NDArray[np.float64]
    folds: Folds | None


def usable_masks(data: TrainingData) -> tuple[Masks, Masks] | None:
    """Masks (n, H, W) of val, where the head is picked, and of test; None where attention cannot be scored by them."""
    masks = data.prepared.masks
    if masks is None:
        return None
    val, test = masks[data.split.val], masks[data.split.test]
    return (val, test) if can_be_ranked(val) and can_be_ranked(test) else None


def locate(val_maps: Maps, test_maps: Maps, masks: tuple[Masks, Masks]) -> LocationScores:
    """Scores of test images' maps (n, A, H, W), with the head that val images' maps picked. masks: of val, of test."""
    val, test = masks
    return location_scores(test_maps, test, head=pick_head(val_maps, val))


def baselines(maps: Maps, masks: tuple[Masks, Masks], seed: int) -> dict[str, LocationScores]:
    """The trivial baselines by name, on the grid and with the heads of maps (n, A, H, W)."""
    _, heads, rows, columns = maps.shape
    return baseline_scores(masks[1], (rows, columns), heads=heads, seed=seed)


def mean_location(found: Sequence[LocationScores]) -> Location:
    """Means over runs of what `LOCATION` names."""
    return Location(**{key: float(np.mean([getattr(scores, key) for scores in found])) for key in LOCATION})


def auroc_tables(
    best: Sequence[LocationScores], control: Sequence[LocationScores], folds: Folds | None = None
) -> ScoredTables | None:
    """AUROC of the fixed head, (S, N) by arm, of the images that every run of either arm can be scored on.

    best, control: a run each, in the order of their seeds. None where no two images can be, or one alone of a fold.
    """
    return _scored_tables(best, control, "auroc", folds) if best and control else None


def _scored_tables(
    best: Sequence[LocationScores], control: Sequence[LocationScores], key: str, folds: Folds | None
) -> ScoredTables | None:
    first, second = (np.stack([scores.per_image[key] for scores in found]) for found in (best, control))
    scored = ~(np.isnan(first).any(axis=0) | np.isnan(second).any(axis=0))
    if scored.sum() < 2 or (folds is not None and not can_be_compared(folds, folds[scored])):
        return None
    return ScoredTables(first[:, scored], second[:, scored], None if folds is None else folds[scored])


def differences(
    best: Sequence[LocationScores],
    control: Sequence[LocationScores],
    *,
    confidence: float,
    shared_seeds: bool = True,
    folds: Folds | None = None,
) -> dict[str, Difference]:
    """How much more the best configuration's attention scores than the control's, with intervals over seeds and images,
    by the names of `COMPARED`. The intervals hold
    together with the confidence. best, control: a run each, of the same images, in the order of their seeds.
    shared_seeds: whether these are the same. folds: the number of each image's fold; None without folds. What fewer
    than two images have, in all or in a fold, is left out.
    """
    found = {key: _scored_tables(best, control, key, folds) for key in COMPARED if best and control}
    tables = {key: each for key, each in found.items() if each is not None}
    pairs = {key: (each.best, each.control) for key, each in tables.items()}
    numbers = {key: each.folds for key, each in tables.items()}
    return {
        member.name: Difference(
            difference=member.comparison.difference, low=member.comparison.low, high=member.comparison.high
        )
        for member in compare_family(pairs, confidence=confidence, shared_seeds=shared_seeds, folds=numbers)
    }


def class_rows(
    runs: Mapping[str, Sequence[LocationScores]], labels: NDArray[np.int64], classes: Sequence[str]
) -> list[ClassRow]:
    """A row a kind of attention and class, of the means over runs; images: how many were scored.

    runs: their scores by kind of attention. labels: (n,) of the images that were scored.
    """
    table: list[ClassRow] = []
    for name, found in runs.items():
        if not found:
            continue
        means = [by_class(scores, labels, len(classes)) for scores in found]
        scored = ~np.isnan(found[0].per_image["jaccard_best_head"])
        counts = np.bincount(labels[scored], minlength=len(classes))
        for label, shown in enumerate(classes):
            values = {key: float(np.mean([mean[key][label] for mean in means])) for key in LOCATION}
            scores = {key: None if math.isnan(value) else value for key, value in values.items()}
            table.append({"attention": name, "class": shown, "images": int(counts[label]), **scores})
    return table


def write_class_rows(path: Path, rows: Iterable[ClassRow]) -> None:
    """Write the rows of `class_rows` as CSV; the header alone where nothing was scored."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["attention", "class", "images", *LOCATION])
        writer.writeheader()
        writer.writerows(rows)
