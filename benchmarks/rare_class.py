"""What train.class_weights and train.sampling do for a rare class: recall and accuracy on digits of which one is rare.

Run: python benchmarks/rare_class.py [--digit 8] [--seeds 16] [--share 0.03]

The default network and recipe of params.yaml, without a regulariser and without a search. Of one digit, so many images
are left to train on that they are `share` of all; the images that are scored are as they are in the whole set. Every
seed draws other images of that digit to keep, and the recipes take turns on the same ones.
"""

import argparse
from typing import Any

import numpy as np
import torch
from digits import default_params, digits
from harness import header, keep, table
from numpy.typing import NDArray
from scipy import stats

from pipeline.assembly import TrainingData, build_run
from pipeline.data.splits.split import Split
from pipeline.train.loop import fit, predict

RECIPES: dict[str, dict[str, Any]] = {
    "params.yaml": {},
    "train.class_weights: balanced": {"train__class_weights": "balanced"},
    "train.sampling: balanced": {"train__sampling": "balanced"},
}


def with_rare(data: TrainingData, digit: int, share: float, *, seed: int) -> TrainingData:
    """The same set with few training images of one digit; all that is not trained on is there to score."""
    train, labels = data.split.train, data.prepared.labels
    others, own = train[labels[train] != digit], train[labels[train] == digit]
    count = max(1, round(share / (1 - share) * len(others)))
    left = np.random.default_rng([seed, digit]).permutation(own)[:count]
    scored = np.sort(np.concatenate([data.split.val, data.split.test]))
    split = Split(np.sort(np.concatenate([others, left])), scored, np.arange(0))
    return TrainingData(data.prepared, split, data.device)


def score_run(data: TrainingData, digit: int, settings: dict[str, Any], seed: int) -> dict[str, float]:
    """Recall and precision of the digit, and accuracy, of one run."""
    params = default_params(**settings)
    run, val = build_run(params, data, seed=seed), data.batches("val")
    *_, last = fit(run.model, data.batches("train"), params.train.config(), seed=seed)
    found, labels = predict(last.model, val).argmax(-1).numpy(), val.labels
    said = found == digit
    return {
        "recall": float(said[labels == digit].mean()),
        "precision": float((labels[said] == digit).mean()) if said.any() else float("nan"),
        "accuracy": float((found == labels).mean()),
    }


def interval(values: NDArray[np.float64]) -> str:
    """Mean of runs and its 95 % interval by Student's t."""
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return f"{values.mean():.3f} +- {half:.3f}"


def difference(values: NDArray[np.float64]) -> str:
    return interval(values) if values.mean() < 0 else f"+{interval(values)}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--digit", type=int, default=8, choices=range(10))
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--share", type=float, default=0.03)
    given = parser.parse_args()
    torch.set_num_threads(1)
    whole = digits(12)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in RECIPES}
    for seed in range(given.seeds):
        data = with_rare(whole, given.digit, given.share, seed=seed)
        for name, settings in RECIPES.items():
            runs[name].append(score_run(data, given.digit, settings, seed))
    measured = {
        name: {key: np.array([run[key] for run in each]) for key in ("recall", "precision", "accuracy")}
        for name, each in runs.items()
    }
    plain = measured["params.yaml"]
    rows = [
        (
            name,
            interval(values["recall"]),
            "" if values is plain else difference(values["recall"] - plain["recall"]),
            interval(values["precision"]),
            interval(values["accuracy"]),
            "" if values is plain else difference(values["accuracy"] - plain["accuracy"]),
        )
        for name, values in measured.items()
    ]
    train, labels = data.split.train, data.prepared.labels
    rare, scored = int((labels[train] == given.digit).sum()), data.split.val
    print(header(f"A rare class: digit {given.digit}", ["torch", "timm"]))
    print(table(["recipe", "recall of the rare digit", "more", "its precision", "accuracy", "more"], rows))
    print(
        f"\n{given.seeds} seeds, 95 % intervals; {rare} of {len(train):,} training images are of the digit "
        f"({100 * rare / len(train):.1f} %), and {int((labels[scored] == given.digit).sum())} of the {len(scored)} "
        "that are scored. `more`: than params.yaml, seed by seed."
    )
    keep("rare_class", {"digit": given.digit, "rare": rare, "train": len(train), "runs": runs})


if __name__ == "__main__":
    main()
