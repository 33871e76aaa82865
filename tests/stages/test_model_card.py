"""The model card says what a version is, how good it is, and what its figures do not hold for."""

from typing import Any

from support.partial_results import filled

from pipeline.artifacts.evaluation import Evaluation
from pipeline.score.metrics.metric import LOG_LOSS
from pipeline.stages.register.model_card import model_card

SCORES = {"seeds": [1, 2], "accuracies": [0.91, 0.93], "accuracy": 0.92, "accuracy_sd": 0.0141, "ece": 0.034}
EVALUATION: dict[str, Any] = {"arms": {"best": SCORES}, "verdict": "No difference shown.", "data_hash": "d" * 64, "test_images": 360, "look": 3, "fingerprint": "f" * 8}  # fmt: skip
SIDECAR = {"seed": 2, "image_size": [12, 16], "model": {"name": "vit"}, "channels": 1, "classes": ["a", "b"], "values": {"regularizer.spatial_entropy.weight": 0.1}, "trained_on": "train+val", "curves": [{}, {}], "split_hash": "s" * 64}  # fmt: skip
MANIFEST = {"dataset": "digits", "images": 1797, "origin": "scikit-learn", "licence": "CC BY 4.0"}


def card_of(sidecar: dict[str, Any], evaluation: dict[str, Any], manifest: dict[str, Any]) -> str:
    return model_card(sidecar, filled(Evaluation, **evaluation), manifest)


def test_a_card_has_data_setting_figures_licence_and_limits() -> None:
    card = card_of(SIDECAR, EVALUATION, MANIFEST)
    for words in (
        "# digits: vit",
        "No difference shown.",
        "1,797 images, 2 classes; scikit-learn",
        "| data licence | CC BY 4.0 |",
        "dddddddddddddddd, ssssssssssssssss |",
        "12 x 16",
        "weight=0.1",
        "train+val, seed 2, 2 epochs",
        "| test accuracy | 93.0 % on 360 images |",
        "92.0 % (deviation 1.4)",
        "| calibration error | 3.4 % |",
        "by\nup to 2.6 points (95 %)",
        "this was look 3 at these test images",
    ):
        assert words in card


def test_one_seed_has_no_deviation() -> None:
    scores = SCORES | {"seeds": [2], "accuracies": [0.93], "accuracy_sd": None}
    assert "(deviation" not in card_of(SIDECAR, EVALUATION | {"arms": {"best": scores}}, MANIFEST)


def test_another_metric_stands_before_accuracy() -> None:
    scores = SCORES | {"log_loss": 0.31, "log_loss_by_seed": [0.33, 0.29], "log_loss_sd": 0.028}
    by_loss = EVALUATION | {"arms": {"best": scores}, "metric": LOG_LOSS.words.content()}
    card = card_of(SIDECAR, by_loss, MANIFEST)
    assert "| test log loss | 0.290 |\n| test log loss, 2 seeds | 0.310 (deviation 0.028) |\n| test accuracy |" in card
    assert "log loss" not in card_of(SIDECAR, EVALUATION, MANIFEST)


def test_figures_of_folds_are_called_the_procedures() -> None:
    folded = EVALUATION | {"folds": [{}] * 5, "holdout": None}
    card = card_of(SIDECAR | {"seed": 77}, folded, MANIFEST)
    assert "| accuracy of its procedure | 92.0 % (deviation 1.4): 360 images in 5 folds, each tested by networks of the other folds, 2 seeds |" in card  # fmt: skip
    assert "| accuracy of this model | not measured: it was trained on every image |" in card
    assert "would move the procedure's accuracy by\nup to 2.8 points" in card
    kept = folded | {"holdout": {"images": 40, "accuracy": 0.9, "ece": 0.1, "nll": 1.0}}
    card = card_of(SIDECAR | {"seed": 77}, kept, MANIFEST)
    assert "| accuracy of this model | 90.0 % on 40 images kept apart |" in card
    assert "would move this model's accuracy by\nup to 9.3 points" in card
