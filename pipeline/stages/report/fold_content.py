"""The report's part on folds: what the figures of the folds are about, and how the registered network relates."""

from pipeline.artifacts.evaluation import Evaluation
from pipeline.console.format import format_percent


def describe_folds(evaluation: Evaluation) -> str:
    """Returns in words what the figures of the folds can and cannot show; an empty text without folds."""
    if not evaluation.folds:
        return ""
    return (
        f"The verdict speaks of these {len(evaluation.folds)} searches, tested on new images (Bayle, Bayle, Janson and "
        "Mackey, NeurIPS 2020), and not of another sample of images to search and to train on, of whose variance no "
        "unbiased estimate exists (Bengio and Grandvalet, 2004). An indication of it is how much the folds "
        "differ, and the configurations that their searches chose. Each fold's interval is its own."
    )


def registered_remarks(evaluation: Evaluation) -> list[str]:
    """Returns sentences on how the figures relate to the registered network; none without folds."""
    if not evaluation.folds:
        return []
    said = [
        "The registered network was trained on all images, with the configuration that a search over all of them chose."
        " It has seen every test image: the figures are those of the procedure, by networks that had not seen them."
    ]
    if found := evaluation.holdout:
        said = [
            "The registered network was trained on the images of all folds, with the configuration that a search over "
            f"them chose. On the {found.images:,} images that were kept apart (evaluate.holdout) it has an "
            f"accuracy of {format_percent(found.accuracy)}; the other figures are those of the procedure."
        ]
    return said
