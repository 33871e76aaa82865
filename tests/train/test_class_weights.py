"""Claims about class weights: what each class weighs, what a step's loss is with them, and what is refused.

In float64, against restatements image by image.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight
from support.double_precision import DoubleBatches
from support.run_comparison import untimed
from torch import Tensor, nn

from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.prepared import Prepared
from pipeline.train.class_weights import describe_problem, weights_by_label
from pipeline.train.loader import TrainLoader
from pipeline.train.loop import fit
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer
from pipeline.train.step import take_step
from pipeline.train.train_config import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = TrainConfig(2, 8, 2e-3, 0.0, 1, 0.1, 0.0, None)
CLASSES = ("cat", "dog", "owl")
LABELS = np.array([0] * 12 + [1] * 5 + [2] * 2, dtype=np.int64)


def weights(given: Any, labels: NDArray[np.int64] = LABELS, classes: Any = CLASSES, **recipe: Any) -> list[float]:
    found = weights_by_label(replace(PLAIN, class_weights=given, **recipe), labels, classes)
    assert found is not None
    return found.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_balanced_weights_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, classes = int(rng.integers(1, 300)), int(rng.integers(1, 12))
    labels = rng.choice(classes, size=count, p=rng.dirichlet(np.full(classes, 0.3))).astype(np.int64)
    found = np.array(weights("balanced", labels, [str(label) for label in range(classes)]))
    there = np.unique(labels)
    expected = compute_class_weight("balanced", classes=there, y=labels)
    assert found[there] == pytest.approx(expected, rel=1e-12)
    assert found[labels].mean() == pytest.approx(1.0, rel=1e-12)
    assert (np.setdiff1d(found, found[there]) == 1.0).all()  # of a class without images


def test_weights_of_a_mapping_keep_their_ratios_and_have_mean_1_over_the_images() -> None:
    found = weights({"owl": 6.0, "cat": 0.5})
    assert found[2] / found[1] == pytest.approx(6.0)
    assert found[0] / found[1] == pytest.approx(0.5)
    assert np.array(found)[LABELS].mean() == pytest.approx(1.0)
    assert weights({"owl": 60.0, "cat": 5.0, "dog": 10.0}) == pytest.approx(found)
    assert weights({}) == [1.0, 1.0, 1.0]
    assert weights({"cat": 1e6, "owl": 1e-6})[2] > 0


def test_weights_are_of_the_images_that_balanced_sampling_shows() -> None:
    """All classes come equally often there, so that balanced weights are all 1, and the mean is over classes."""
    assert weights_by_label(replace(PLAIN, class_weights="balanced", sampling="balanced"), LABELS, CLASSES) is None
    found = weights({"owl": 4.0}, sampling="balanced")
    assert found == pytest.approx([0.5, 0.5, 2.0])
    lacking = weights({"owl": 4.0}, np.array([0, 0, 0, 2]), sampling="balanced")
    assert lacking == pytest.approx([0.4, 0.4, 1.6])


def test_without_class_weights_there_are_none() -> None:
    assert weights_by_label(PLAIN, LABELS, CLASSES) is None
    assert weights_by_label(replace(PLAIN, sampling="balanced"), LABELS, CLASSES) is None


def test_class_is_found_in_any_spelling_that_leaves_no_doubt() -> None:
    accented = ("Katze", "Vo\u0308gel", "a", "A")
    labels = np.arange(4)
    assert weights({"V\u00f6gel": 3.0}, labels, accented) == pytest.approx(weights({"vo\u0308gel": 3.0}, labels, accented))  # fmt: skip
    assert weights({"A": 3.0}, labels, accented)[3] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("given", "counts", "said"),
    [
        ({"bird": 2.0}, (), "no class 'bird'; the classes are cat, dog, owl"),
        ({"cat": 1.0, "": 2.0}, (), "no class ''; the classes are cat, dog, owl"),
        ({"cat": 1.0, "Cat": 2.0}, (), "'cat' is the same class as 'Cat'; the classes are cat, dog, owl"),
        ({"owl": 2.0}, (3, 4, 0), "training has no image of 'owl'; the classes are cat, dog"),
    ],
)
def test_weights_of_a_class_that_is_not_there_are_told_with_the_classes(given: Any, counts: Any, said: str) -> None:
    assert describe_problem(given, CLASSES, counts) == f"train.class_weights: {said}"


def test_weights_without_a_problem_are_not_told() -> None:
    for given in ({}, {"owl": 2.0}):
        assert describe_problem(given, CLASSES, (5, 4, 1)) is None


def test_message_stays_short_however_many_classes_there_are_and_however_long_their_names() -> None:
    said = describe_problem({"x" * 5000: 1.0}, [f"{number}" + "y\n" * 500 for number in range(1000)])
    assert said is not None
    assert len(said) < 1800
    assert said.isprintable()
    assert "and 980 more" in said


# A step's loss.


def slow_loss(logits: Tensor, shares: Tensor, by_class: list[float]) -> float:
    """Image by image, class by class."""
    total = 0.0
    for row, wanted in zip(logits.tolist(), shares.tolist(), strict=True):
        top = max(row)
        log_sum = top + math.log(sum(math.exp(each - top) for each in row))
        total += sum(
            weight * share * (log_sum - each) for each, share, weight in zip(row, wanted, by_class, strict=True)
        )
    return total / len(logits)


class Given(nn.Module):
    """A network whose logits are its inputs, times 1."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1)[:, :3] * self.scale


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_loss_is_the_mean_over_images_of_each_classes_weighted_term(smoothing: float, size: float) -> None:
    rng = torch.Generator().manual_seed(0)
    by_class = weights({"owl": 8.0, "dog": 0.1})
    logits = size * torch.randn(19, 3, generator=rng, dtype=torch.float64)
    mixed = torch.rand(19, 3, generator=rng, dtype=torch.float64).softmax(-1)
    labels = torch.from_numpy(LABELS)
    smoothed = (1 - smoothing) * nn.functional.one_hot(labels, 3).double() + smoothing / 3
    with Objective(
        Given(), {}, planned_epochs=1, label_smoothing=smoothing, class_weights=np.array(by_class)
    ) as objective:
        hard, soft = objective.step(logits, labels, epoch=0), objective.step(logits, mixed, epoch=0)
        _, scored = objective.score(logits, labels)
    assert hard.total.item() == pytest.approx(slow_loss(logits, smoothed, by_class), rel=1e-12)
    assert hard.monitors["cross_entropy"] == hard.monitors["loss"] == hard.total
    assert soft.total.item() == pytest.approx(slow_loss(logits, mixed, by_class), rel=1e-12)
    # What is scored is weighed by nothing.
    plain = nn.functional.one_hot(labels, 3).double()
    assert scored["loss"].item() == pytest.approx(slow_loss(logits, plain, [1.0] * 3), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_of_all_training_images_is_that_of_torchs_own_loss_with_weights(smoothing: float) -> None:
    logits = torch.randn(19, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = {"owl": 8.0, "dog": 0.1}
    reference = nn.CrossEntropyLoss(
        weight=torch.tensor([1.0, 0.1, 8.0], dtype=torch.float64), label_smoothing=smoothing
    )
    with Objective(
        Given(), {}, planned_epochs=1, label_smoothing=smoothing, class_weights=np.array(weights(given))
    ) as objective:
        found = objective.step(logits, torch.from_numpy(LABELS), epoch=0).total
    assert found.item() == pytest.approx(reference(logits, torch.from_numpy(LABELS)).item(), rel=1e-12)


def images(kind: type[ImageBatches] = DoubleBatches, classes: tuple[str, ...] = CLASSES) -> ImageBatches:
    pixels = np.random.default_rng(0).integers(0, 256, (19, 2, 2, 1), dtype=np.uint8)
    prepared = Prepared(pixels, LABELS, None, {"classes": list(classes)})
    return kind(prepared, range(19), Standardisation((0.5,), (0.25,)), torch.device("cpu"))


def linear() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    model.num_classes = 3  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("recipe", [{}, {"label_smoothing": 0.2}, {"mixup": 0.8, "cutmix": 1.0}, {"clip_grad": 1e-2}])
@pytest.mark.parametrize("pieces", [2, 3, 19])
def test_micro_batches_have_the_weighted_gradient_of_the_batch(pieces: int, recipe: dict[str, float]) -> None:
    def step(accumulate: int) -> tuple[Tensor, dict[str, Tensor]]:
        model = linear()
        config = replace(PLAIN, batch_size=19, class_weights="balanced", accumulate=accumulate, **recipe)
        inputs, labels = next(TrainLoader(images(), config, model=model, seed=0).epoch(0))
        labels = labels.double() if labels.is_floating_point() else labels
        by_class = weights_by_label(config, LABELS, CLASSES)
        with Objective(
            model, {}, planned_epochs=2, label_smoothing=config.label_smoothing, class_weights=by_class
        ) as objective:
            optimizer = make_optimizer(model, config)
            monitors = take_step(model, objective, optimizer, inputs, labels, epoch=0, config=config)
        return model[1].weight.grad, monitors  # type: ignore[index, return-value, union-attr]

    whole, monitors = step(1)
    parts, also = step(pieces)
    assert whole.abs().max() > 1e-4
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(also, monitors, atol=1e-12, rtol=1e-12)


def run(config: TrainConfig, model: nn.Module | None = None) -> list[dict[str, float]]:
    train, val = images(), images()
    return [untimed(epoch) for epoch in fit(model or linear(), train, config, val=val, seed=3)]


def test_run_is_weighted_by_the_images_that_it_trains_on_and_scored_as_without() -> None:
    """At a rate that moves nothing, the losses of an epoch are those of the first weights."""
    still = replace(PLAIN, lr=1e-300, warmup_epochs=0, weight_decay=0.0, optimizer="sgd", epochs=1)
    weighted, plain = run(replace(still, class_weights="balanced"))[0], run(still)[0]
    logits = torch.cat([linear()(inputs) for inputs, _ in images().in_order(19)])
    shares = nn.functional.one_hot(torch.from_numpy(LABELS), 3).double()
    assert weighted["train/loss"] == pytest.approx(slow_loss(logits, shares, weights("balanced")), rel=1e-12)
    assert plain["train/loss"] == pytest.approx(slow_loss(logits, shares, [1.0] * 3), rel=1e-12)
    assert weighted["train/loss"] != pytest.approx(plain["train/loss"], rel=1e-3)
    assert weighted["val/loss"] == plain["val/loss"]


def test_class_weights_change_what_is_learnt_and_those_of_no_effect_do_not() -> None:
    plain, weighted = run(PLAIN), run(replace(PLAIN, class_weights="balanced"))
    assert weighted[-1]["val/loss"] != plain[-1]["val/loss"]
    alike = run(replace(PLAIN, class_weights={"cat": 2.0, "dog": 2.0, "owl": 2.0}))
    for one, other in zip(alike, plain, strict=True):
        assert one == pytest.approx(other, rel=1e-10)
    evenly = replace(PLAIN, sampling="balanced")
    assert run(replace(evenly, class_weights="balanced")) == run(evenly)


def test_run_with_weights_of_an_unknown_class_is_refused_before_any_step() -> None:
    model = linear()
    model.register_forward_pre_hook(lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=r"^train\.class_weights: no class 'bird'; the classes are cat, dog, owl$"):
        run(replace(PLAIN, class_weights={"bird": 2.0}), model)
