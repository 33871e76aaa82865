"""Confirmed configurations whose validation images have pseudo-values of any metric."""

from typing import Any

import numpy as np

from pipeline.score.metrics.metric import MACRO_F1
from pipeline.tune.journal.image_scores import ImageScores, pack_scores
from pipeline.tune.journal.records import COMPLETE, METHOD, TrialRecord
from pipeline.tune.objectives.objectives import objective_of
from pipeline.tune.selection.confirm import confirmation_runs


class ByImages:
    """Confirmed configurations with random probabilities, and what follows from these."""

    def __init__(self, configs: int = 4, seeds: int = 2, images: int = 120, *, metric: Any = MACRO_F1) -> None:
        rng = np.random.default_rng(3)
        labels = rng.choice(3, size=images, p=[0.6, 0.3, 0.1])
        self.metric, self.labels, self.scores = metric, labels, ImageScores()
        self.records: list[TrialRecord] = []
        self.tables: dict[str, list[Any]] = {}
        name = objective_of(metric.name)
        for number in range(configs):
            first = TrialRecord(f"t{number:04d}", number, {"train.lr": 0.1 * number}, study=METHOD)
            self.tables[first.id] = []
            for run in (first, *confirmation_runs(first, seeds, base_seed=0)):
                truth = np.eye(3)[labels]
                shares = rng.dirichlet(np.ones(3), size=images) + (0.8 + 0.05 * number) * truth
                shares /= shares.sum(axis=1, keepdims=True)
                run.state = COMPLETE
                run.epochs = {1: {"val/loss": 1.0, "val/accuracy": 0.5, name: metric.value_of(shares, labels)}}
                pseudo = metric.pseudo_values_of(shares, labels)
                self.scores.add(run.id, 1, pack_scores(pseudo))
                self.tables[first.id].append(pseudo)
                self.records.append(run)
