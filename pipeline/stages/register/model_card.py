"""The model card: what a registered model is, how good it is, and what it should not be used for."""

import math

from pipeline.artifacts.evaluation import Evaluation
from pipeline.console.format import config_name
from pipeline.data.prepared.prepared import Manifest
from pipeline.train.sidecar import Sidecar


def model_card(sidecar: Sidecar, evaluation: Evaluation, manifest: Manifest) -> str:
    """Returns the model card as Markdown.

    Args:
        sidecar: Sidecar of the model's checkpoint.
        evaluation: Result of the evaluation.
        manifest: Manifest of the prepared set.
    """
    scores, seed = evaluation.best, sidecar["seed"]
    what, own, images = _tested(evaluation, seed)
    chance = 196 * math.sqrt(own * (1 - own) / images)
    height, width = sidecar["image_size"]
    spread = f" (deviation {100 * scores.accuracy_sd:.1f})" if scores.accuracy_sd is not None else ""
    return f"""# {manifest["dataset"]}: {sidecar["model"]["name"]}

{evaluation.verdict}

| | |
|---|---|
| data | {manifest["dataset"]}, {manifest["images"]:,} images, {len(sidecar["classes"])} classes; {manifest["origin"]} |
| data licence | {manifest["licence"]} |
| data hash, split hash | {evaluation.data_hash[:16]}, {sidecar["split_hash"][:16]} |
| input | uint8 images (B, H, W, {sidecar["channels"]}), resized to {height} x {width} |
| configuration | {config_name(dict(sidecar["values"])) or "as in params.yaml"} |
| trained on | {sidecar["trained_on"]}, seed {seed}, {len(sidecar["curves"])} epochs, last weights |
{_metric_rows(evaluation, seed)}{_accuracy_rows(evaluation, seed, spread)}
| calibration error | {100 * scores.ece:.1f} % |
| search | {evaluation.fingerprint} |

Limits: the figures hold for images like those of the data above, and for these classes: an image of anything else gets
one of them too, often with a high probability. Other test images of the same kind would move {what} by
up to {chance:.1f} points (95 %), and another seed moves it besides. Attention is what the network reads by, not why it
decides. The seed was fixed before the test set was read; this was look {evaluation.look or 1} at these test images.
The weights were made of these data: mind what their licence asks.
"""


def _metric_rows(evaluation: Evaluation, seed: int) -> str:
    """Returns rows for the metric by which the arms are compared; none if it is accuracy."""
    if (metric := evaluation.other_metric) is None:
        return ""
    scores = evaluation.best
    deviation = scores.value(metric, "_sd")
    spread = f" (deviation {metric.format_value(deviation)})" if deviation is not None else ""
    mean = f"{metric.format_value(scores.value(metric))}{spread}"
    if evaluation.folds:
        return f"| {metric.label} of its procedure | {mean} |\n"
    own = scores.value(metric, "_by_seed")[scores.seeds.index(seed)]
    return (
        f"| test {metric.label} | {metric.format_value(own)} |\n"
        f"| test {metric.label}, {len(scores.seeds)} seeds | {mean} |\n"
    )


def _accuracy_rows(evaluation: Evaluation, seed: int, spread: str) -> str:
    """Returns the table's rows on accuracy: the model's own, or with folds that of its procedure, labelled as such.

    Args:
        evaluation: Result of the evaluation.
        seed: Seed of the model.
        spread: Deviation over seeds, as text that follows the mean.
    """
    scores, images = evaluation.best, evaluation.test_images
    mean = f"{100 * scores.accuracy:.1f} %{spread}"
    if not (folds := evaluation.folds):
        own = 100 * scores.accuracies[scores.seeds.index(seed)]
        of_seeds = f"| test accuracy, {len(scores.seeds)} seeds | {mean} |"
        return f"| test accuracy | {own:.1f} % on {images} images |\n{of_seeds}"
    rows = [
        f"| accuracy of its procedure | {mean}: {images} images in {len(folds)} folds, each tested by networks of the "
        f"other folds, {len(scores.seeds)} seeds |"
    ]
    if found := evaluation.holdout:
        rows.append(f"| accuracy of this model | {100 * found.accuracy:.1f} % on {found.images} images kept apart |")
    else:
        rows.append("| accuracy of this model | not measured: it was trained on every image |")
    return "\n".join(rows)


def own_accuracy(evaluation: Evaluation, seed: int) -> float | None:
    """Returns the accuracy of the registered network on images that it has not seen; None if there are none.

    Args:
        evaluation: Result of the evaluation.
        seed: Seed of the network.
    """
    if evaluation.folds:
        return evaluation.holdout.accuracy if evaluation.holdout else None
    return evaluation.best.accuracies[evaluation.best.seeds.index(seed)]


def _tested(evaluation: Evaluation, seed: int) -> tuple[str, float, int]:
    """Returns the accuracy that other test images would change: its name, its value, and its number of images."""
    scores, found = evaluation.best, evaluation.holdout
    if found:
        return "this model's accuracy", found.accuracy, found.images
    if evaluation.folds:
        return "the procedure's accuracy", scores.accuracy, evaluation.test_images
    return "this model's accuracy", scores.accuracies[scores.seeds.index(seed)], evaluation.test_images
