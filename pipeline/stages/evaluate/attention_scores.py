"""Attention of each run against the masks, and baselines that look at no image."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.evaluation import Difference, Location
from pipeline.assembly import TrainingData
from pipeline.score.comparison import clip_to_possible
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
"""Scores of attention that evaluation.json holds."""
COMPARED = ("jaccard_best_head", "jaccard_fixed_head", "auroc", "average_precision", "pointing_game", "energy")
"""Scores of `LOCATION` that the report shows and compares between the arms."""

Maps = NDArray[np.float32]
Masks = NDArray[np.uint8]
ClassRow = Mapping[str, str | int | float | None]


@dataclass(frozen=True)
class ScoredTables:
    """One score of attention by seed and image, for the N images on which every run has the score.

    Attributes:
        best: Scores of the best configuration, (S, N).
        control: Scores of the control, (S2, N).
        folds: Number of each image's fold, (N,); None without folds.
    """

    best: NDArray[np.float64]
    control: NDArray[np.float64]
    folds: Folds | None


def usable_masks(data: TrainingData) -> tuple[Masks, Masks] | None:
    """Returns the masks against which attention is scored; None if there are none, or none with object and background.

    Returns:
        Masks (n, H, W) of the val images, by which the head is picked, and of the test images.
    """
    masks = data.prepared.masks
    if masks is None:
        return None
    val, test = masks[data.split.val], masks[data.split.test]
    return (val, test) if can_be_ranked(val) and can_be_ranked(test) else None


def locate(val_maps: Maps, test_maps: Maps, masks: tuple[Masks, Masks]) -> LocationScores:
    """Scores the similarity maps of the test images, with the head that scores best on the val images.

    Args:
        val_maps: Similarity maps of the val images, (n, A, H, W).
        test_maps: Similarity maps of the test images, (N, A, H, W).
        masks: Masks of the val and of the test images, as `usable_masks` returns them.
    """
    val, test = masks
    return location_scores(test_maps, test, head=pick_head(val_maps, val))


def baselines(maps: Maps, masks: tuple[Masks, Masks], seed: int) -> dict[str, LocationScores]:
    """Scores the trivial baselines on the test images.

    Args:
        maps: Similarity maps of a network, (N, A, H, W), from which the patch grid and the number of heads are taken.
        masks: Masks of the val and of the test images, as `usable_masks` returns them.
        seed: Seed of the random baseline.

    Returns:
        Scores by the baseline's name.
    """
    _, heads, rows, columns = maps.shape
    return baseline_scores(masks[1], (rows, columns), heads=heads, seed=seed)


def mean_location(found: Sequence[LocationScores]) -> Location:
    """Returns the means over runs of the scores in `LOCATION`."""
    return Location(**{key: float(np.mean([getattr(scores, key) for scores in found])) for key in LOCATION})


def scored_tables(
    best: Sequence[LocationScores], control: Sequence[LocationScores], key: str, folds: Folds | None = None
) -> ScoredTables | None:
    """Returns one score of both arms, for the images on which every run has it.

    Args:
        best: Scores of the best configuration's runs, in the order of their seeds.
        control: Scores of the control's runs, in the order of their seeds.
        key: Name of the score.
        folds: Number of each image's fold, (N,); None without folds.

    Returns:
        The tables; None if an arm has no run, or if fewer than two images, in all or in a fold, have the score.
    """
    if not best or not control:
        return None
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
    """Compares the attention of both arms, score by score, with intervals over seeds and images.

    Args:
        best: Scores of the best configuration's runs, in the order of their seeds.
        control: Scores of the control's runs on the same images, in the order of their seeds.
        confidence: Confidence with which all intervals hold together.
        shared_seeds: Whether the two arms have the same seeds.
        folds: Number of each image's fold, (N,); None without folds.

    Returns:
        Best minus control by the names of `COMPARED`. A score that fewer than two images have, in all or in a fold, is
        left out.
    """
    tables = {key: each for key in COMPARED if (each := scored_tables(best, control, key, folds)) is not None}
    pairs = {key: (each.best, each.control) for key, each in tables.items()}
    numbers = {key: each.folds for key, each in tables.items()}
    return {
        member.name: Difference(difference=found.difference, low=found.low, high=found.high)
        for member in compare_family(pairs, confidence=confidence, shared_seeds=shared_seeds, folds=numbers)
        if (found := clip_to_possible(member.comparison))
    }


def class_rows(
    runs: Mapping[str, Sequence[LocationScores]], labels: NDArray[np.int64], classes: Sequence[str]
) -> list[ClassRow]:
    """Returns a row for every kind of attention and class: the number of images scored, and means over runs.

    Args:
        runs: Scores of each run, by the kind of attention.
        labels: Class of each test image, (N,).
        classes: Names of the classes.
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
    """Writes the rows of `class_rows` as CSV; only the header if nothing was scored."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["attention", "class", "images", *LOCATION])
        writer.writeheader()
        writer.writerows(rows)
