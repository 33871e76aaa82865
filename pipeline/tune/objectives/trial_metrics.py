"""Metrics that a trial measures of its network besides those of training: speed, classes and attention."""

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
    """Returns the requested metrics of a network's speed, on the device that it lies on.

    Args:
        model: The network.
        data: Prepared set, split and device of the trial.
        objectives: Objectives and constraints, which name the metrics.
    """
    height, width = data.prepared.images.shape[1:3]
    measures = {LATENCY: latency_ms, THROUGHPUT: images_per_s}
    return {name: measures[name](model, (height, width), data.prepared.channels) for name in objectives.speed_metrics}


def score_classes(
    probabilities: NDArray[np.float32], data: TrainingData, objectives: Objectives, params: Params
) -> dict[str, float]:
    """Returns the requested metrics of the class probabilities of the validation images.

    Args:
        probabilities: Class probabilities of the validation images, (N, C).
        data: Prepared set, split and device of the trial.
        objectives: Objectives and constraints, which name the metrics.
        params: All parameters; they name the user's function, if there is one.

    Raises:
        UserError: a user's function fails, or returns no number.
    """
    labels = np.asarray(data.prepared.labels[data.split.val])
    return {
        name: find_metric(metric_of(name, params)).value_of(probabilities, labels) for name in objectives.class_metrics
    }


def score_images(
    probabilities: NDArray[np.float32], data: TrainingData, objectives: Objectives, params: Params
) -> NDArray[np.float64] | None:
    """Returns the pseudo-values of the validation images in the first objective, (N,); None if it has none.

    Args:
        probabilities: Class probabilities of the validation images, (N, C).
        data: Prepared set, split and device of the trial.
        objectives: Objectives and constraints.
        params: All parameters; they name the user's function, if the first objective is one.

    Raises:
        UserError: a user's function fails, or returns no number.
    """
    metric = find_metric(metric_of(objectives.first, params))
    labels = np.asarray(data.prepared.labels[data.split.val])
    if metric.pseudo_values is None or len(labels) < 2:
        return None
    found = metric.pseudo_values_of(probabilities, labels)
    return found if np.isfinite(found).all() else None


def score_attention(model: nn.Module, data: TrainingData, objectives: Objectives) -> dict[str, float]:
    """Returns the requested metrics of a trained network's attention against the masks of the validation images.

    Args:
        model: The network.
        data: Prepared set, split and device of the trial.
        objectives: Objectives and constraints, which name the metrics.

    Raises:
        UserError: the data have no masks.
        ValueError: none of these masks contains both object and background.
    """
    if not objectives.attention_metrics:
        return {}
    # This happens with data restored from DVC's cache, for which there is no record of how they were prepared.
    if data.prepared.masks is None:
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
