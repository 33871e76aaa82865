"""What a trial measures of its network beside what training reports: its speed, and where its attention lies."""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipeline.assembly import TrainingData
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.score.latency import images_per_s, latency_ms
from pipeline.score.locate import location_scores, pick_head
from pipeline.score.metrics.chosen_metric import find_metric
from pipeline.score.similarity_maps import last_block_maps
from pipeline.train.compilation import original_network
from pipeline.tune.objectives.objectives import AUROC, JACCARD, LATENCY, THROUGHPUT, Objectives, metric_of


def measure_speed(model: nn.Module, data: TrainingData, objectives: Objectives) -> dict[str, float]:
    """What the objectives ask for of a network's speed, on the device that it lies on."""
    height, width = data.prepared.images.shape[1:3]
    measures = {LATENCY: latency_ms, THROUGHPUT: images_per_s}
    return {name: measures[name](model, (height, width), data.prepared.channels) for name in objectives.speed_metrics}


def score_classes(
    probabilities: NDArray[np.float32], data: TrainingData, objectives: Objectives, params: Params
) -> dict[str, float]:
    """What the objectives ask for of the probabilities (N, C) of the validation images.

    Raises:
        UserError: a user's function fails, or gives no number.
    """
    labels = np.asarray(data.prepared.labels[data.split.val])
    return {
        name: find_metric(metric_of(name, params)).value_of(probabilities, labels) for name in objectives.class_metrics
    }


def score_images(
    probabilities: NDArray[np.float32], data: TrainingData, objectives: Objectives, params: Params
) -> NDArray[np.float64] | None:
    """What each validation image counts for in the first objective, (N,): its pseudo-values; None where it has none.

    Args:
        probabilities: (N, C), of the validation images.
        data: Whose these are.
        objectives: Of the search.
        params: That name the user's function, where the first objective is one.

    Raises:
        UserError: a user's function fails, or gives no number.
    """
    metric = find_metric(metric_of(objectives.first, params))
    labels = np.asarray(data.prepared.labels[data.split.val])
    if metric.pseudo_values is None or len(labels) < 2:
        return None
    found = metric.pseudo_values_of(probabilities, labels)
    return found if np.isfinite(found).all() else None


def score_attention(model: nn.Module, data: TrainingData, objectives: Objectives) -> dict[str, float]:
    """What the objectives ask for of a trained network's attention against the masks of the validation images.

    Raises:
        UserError: the data have no masks.
        ValueError: none of these masks holds both object and background.
    """
    if not objectives.attention_metrics:
        return {}
    if data.prepared.masks is None:  # as of data that came back from DVC's cache, of which nobody noted what made them
        raise UserError(
            f"params.yaml: search: {', '.join(objectives.attention_metrics)}: attention is scored against masks, and "
            "the prepared set has none. Leave it out of search.objectives, search.constraints and "
            "search.choose.then, or give masks or boxes."
        )
    masks = data.prepared.masks[data.split.val]
    with original_network():
        maps = last_block_maps(model, data.batches("val"))
    found = location_scores(maps, masks, head=pick_head(maps, masks))
    scores = {JACCARD: found.jaccard_fixed_head, AUROC: found.auroc}
    return {name: float(scores[name] or 0.0) for name in objectives.attention_metrics}
