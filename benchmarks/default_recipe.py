"""How good the network of params.yaml becomes on digits, and what a run costs, with the default recipe and with others.

Run: python benchmarks/default_recipe.py [--seeds 5]

Without a regulariser, on 1,078 images, validated on 359 others, with one thread; the recipes' runs take turns. All
recipes are ours: no claim is made against another's.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from digits import default_params, digits
from harness import header, keep, table

from pipeline.assembly import build_run
from pipeline.train.loop import fit

DEPTH = "model__drop_path"
RECIPES: dict[str, dict[str, Any]] = {
    "params.yaml": {},
    "16 epochs in batches of 64, stochastic depth 0.1, as it was": {
        "train__epochs": 16,
        "train__batch_size": 64,
        DEPTH: 0.1,
    },
    "10 epochs in batches of 32, stochastic depth 0.1": {"train__epochs": 10, DEPTH: 0.1},
    "10 epochs in batches of 32": {"train__epochs": 10},
    "8 epochs in batches of 32, stochastic depth 0.1": {DEPTH: 0.1},
    "8 epochs in batches of 32, lr 0.003": {"train__lr": 0.003},
    "6 epochs in batches of 24, lr 0.003": {"train__epochs": 6, "train__batch_size": 24, "train__lr": 0.003},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    data = digits(12)
    accuracies: dict[str, list[float]] = {name: [] for name in RECIPES}
    seconds: dict[str, list[float]] = {name: [] for name in RECIPES}
    for seed in range(seeds):
        for name, settings in RECIPES.items():
            params = default_params(**settings)
            run = build_run(params, data, seed=seed)
            began = time.process_time()
            epochs = fit(run.model, data.batches("train"), params.train.config(), val=data.batches("val"), seed=seed)
            last = list(epochs)[-1]
            seconds[name].append(time.process_time() - began)
            accuracies[name].append(last.metrics["val/accuracy"])
    rows = [
        (
            name,
            f"{statistics.fmean(accuracies[name]):.4f} +- {statistics.stdev(accuracies[name]):.4f}",
            f"{statistics.median(seconds[name]):.1f} s",
        )
        for name in RECIPES
    ]
    print(header("The default recipe on digits", ["torch", "timm"]))
    print(table(["recipe", f"validation accuracy, {seeds} seeds", "processor time of a run, median"], rows))
    keep("default_recipe", {name: {"accuracy": accuracies[name], "seconds": seconds[name]} for name in RECIPES})


if __name__ == "__main__":
    main()
