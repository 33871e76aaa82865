"""Baseline that needs no training of networks: a probe on the frozen features of pretrained weights.

It is scored on the same test images as the arms. Features are computed without augmentation, from images
standardised by the pixels of the training images. They are stored under `state/features/`, by a hash of everything
that determines them.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import pipeline.models
from pipeline.artifacts.best_config import BestConfig
from pipeline.artifacts.evaluation import ProbeDifference, ProbeScores
from pipeline.assembly import TrainingData, build_network, load_frozen
from pipeline.config import Params
from pipeline.data.batches.batches import ImageBatches
from pipeline.errors import UserError
from pipeline.files.atomic import replace_file
from pipeline.inputs.probe_weights import read_probe_weights
from pipeline.models.architecture import pooled_features
from pipeline.models.model_config import Weights
from pipeline.provenance.code_hash import code_digest, content_hash
from pipeline.score.classify import classification_scores
from pipeline.score.metrics.metric import Metric
from pipeline.score.paired_test import paired_score_difference
from pipeline.stages.evaluate.probe_fit import Probe, fit_probe
from pipeline.train.class_weights import BALANCED, count_classes, weights_by_label
from pipeline.workspace import Workspace

EVERY = "train+val+test"
"""The roles of all images whose features are computed."""


def probe_weights(workspace: Workspace, params: Params) -> Weights | None:
    """Returns the weights that are probed; None if `evaluate.probe` is false.

    Raises:
        UserError: As in `pipeline.inputs.probe_weights.read_probe_weights`.
    """
    if not params.evaluate.probe:
        return None
    return read_probe_weights(workspace, params, BestConfig.read(workspace.results / "search").weights)


def evaluate_probe(
    workspace: Workspace,
    params: Params,
    data: TrainingData,
    weights: Weights,
    metric: Metric,
    best: Sequence[NDArray[np.float32]],
    control: Sequence[NDArray[np.float32]],
) -> ProbeScores:
    """Fits and scores the probe, and returns its part of evaluation.json.

    Args:
        workspace: The checkout.
        params: All parameters.
        data: The prepared set with its split, on the device.
        weights: Pretrained weights that are probed.
        metric: Metric by which the probe's strength is chosen, and by which it is compared.
        best: Probabilities (N, C) of the test images, for each seed of the best configuration.
        control: Probabilities (N, C) of the test images, for each seed of the control.

    Raises:
        UserError: The weights cannot be read, or the training images are all of one class.
    """
    table, file = frozen_features(workspace, params, data, weights)
    ids, labels = data.ids(EVERY), np.asarray(data.prepared.labels)
    of = {role: (table[np.searchsorted(ids, data.ids(role))], labels[data.ids(role)]) for role in EVERY.split("+")}
    classes = data.prepared.classes
    try:
        found = fit_probe(
            of["train"],
            of["val"],
            of["test"][0],
            num_classes=len(classes),
            metric=metric,
            class_weights=_class_weights(params, of["train"][1], classes),
        )
    except ValueError as error:
        raise UserError(f"params.yaml: evaluate.probe: {error}") from None
    truth = of["test"][1]
    scores = classification_scores(found.probabilities, truth)
    return ProbeScores(
        weights=weights.spec,
        resolved=weights.resolved,
        sha256=weights.sha256,
        features=table.shape[1],
        features_file=file.name,
        C=found.strength,
        validation=[{"C": strength, metric.key: value} for strength, value in found.values.items()],
        trained_on="train+val",
        images=len(of["train"][1]) + len(of["val"][1]),
        converged=found.converged,
        accuracy=scores.accuracy,
        nll=scores.nll,
        ece=scores.ece,
        value=metric.value_of(found.probabilities, truth),
        best_minus_probe=_compare(metric, best, found, truth, params.evaluate.confidence),
        control_minus_probe=_compare(metric, control, found, truth, params.evaluate.confidence),
    )


def frozen_features(
    workspace: Workspace, params: Params, data: TrainingData, weights: Weights
) -> tuple[NDArray[np.float32], Path]:
    """Returns the features of every image that has a role; computed once, then read from their file.

    Args:
        workspace: The checkout.
        params: All parameters.
        data: The prepared set with its split, on the device.
        weights: Pretrained weights that are probed.

    Returns:
        Features (N, D) in the order of the images' ids, and the file that stores them.

    Raises:
        UserError: The weights cannot be read, have changed, or belong to another network.
    """
    ids, scale = data.ids(EVERY), data.scale("train")
    known = {
        "weights": [weights.sha256, weights.network],
        "of": "source" if params.model.pretrained is None else "network",
        "model": [asdict(params.model.config()), list(data.prepared.image_size), data.prepared.channels],
        "data": [data.prepared.data_hash, ids.tolist(), asdict(scale)],
        "code": [code_digest(Path(pipeline.models.__file__).parent), torch.__version__, data.device.type],
    }
    path = workspace.state / "features" / f"{content_hash(known)[:16]}.npy"
    try:
        table: NDArray[np.float32] = np.load(path)
    except (OSError, ValueError, EOFError):
        network = _network(params, data, weights)
        table = extract_features(network, data.batches(EVERY), data.device)
        with replace_file(path, concurrent=True) as partial, partial.open("wb") as file:
            np.save(file, table)
    return table, path


@torch.inference_mode()
def extract_features(
    network: nn.Module, images: ImageBatches, device: torch.device, *, batch_size: int = 256
) -> NDArray[np.float32]:
    """Returns `pooled_features` of images in the order of their ids, (N, D) float32, in evaluation mode.

    Args:
        network: Network with D features.
        images: Batches of N images.
        device: Device of the network.
        batch_size: Images of a batch.
    """
    network = network.to(device).eval()
    rows = [pooled_features(network, inputs).float().cpu() for inputs, _ in images.in_order(batch_size)]
    table: NDArray[np.float32] = torch.cat(rows).numpy()
    return table


def _network(params: Params, data: TrainingData, weights: Weights) -> nn.Module:
    """Returns the network that computes the features: `model` with its pretrained weights, or else the weights' own.

    Args:
        params: All parameters.
        data: The prepared set with its split, on the device.
        weights: Pretrained weights that are probed.

    Raises:
        UserError: The weights do not make a network.
    """
    known = {weights.spec: weights}
    if params.model.pretrained is not None:
        return build_network(params, data, seed=params.base.seed, weights=known)
    try:
        return load_frozen(weights.spec, params, known)
    except ValueError as error:
        raise UserError(f"params.yaml: evaluate.probe: {weights.spec}: {error}") from None


def _class_weights(params: Params, labels: NDArray[np.int64], classes: Sequence[str]) -> NDArray[np.float64] | None:
    """Returns the weight of an image of each class, (C,), so that the probe weighs classes as training does.

    The weights combine `train.class_weights` with balanced sampling, which draws all classes equally often.

    Args:
        params: All parameters.
        labels: Class of each training image, (N,).
        classes: Names of the C classes.

    Returns:
        The weights; None if all images weigh the same.
    """
    config = params.train.config()
    weights = weights_by_label(config, labels, classes)
    if config.sampling != BALANCED:
        return weights
    counts = count_classes(labels, classes)
    often = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return often if weights is None else weights * often


def _compare(
    metric: Metric, arm: Sequence[NDArray[np.float32]], probe: Probe, labels: NDArray[np.int64], confidence: float
) -> ProbeDifference:
    """Returns the mean of an arm's seeds minus the probe, with an interval over images if the metric has one.

    Args:
        metric: Metric by which the two are compared.
        arm: Probabilities (N, C) of the test images, for each seed.
        probe: The fitted probe.
        labels: Class of each test image, (N,).
        confidence: Confidence of the interval.
    """
    ours, theirs = np.stack(arm), probe.probabilities
    mean = float(np.mean([metric.value_of(each, labels) for each in ours]))
    low = high = None
    tables = metric.tables({"arm": ours, "probe": theirs[None]}, labels)
    if tables is not None and all(np.isfinite(table).all() for table in tables.values()):
        pair = paired_score_difference(tables["arm"].mean(axis=0), tables["probe"][0], confidence=confidence)
        low, high = pair.low, pair.high
    difference = mean - metric.value_of(theirs, labels)
    return ProbeDifference(difference=difference, low=low, high=high, confidence=confidence)
