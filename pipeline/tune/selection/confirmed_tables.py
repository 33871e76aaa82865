"""What the confirmed configurations and the controls got right with the seeds that they share.

This is all that `pipeline.score.forecast` needs of a search. The search's own run of a configuration is left out, since
its value was picked for being high; so is a configuration that is the same as another one.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.score.forecast import estimate_components
from pipeline.tune.journal.correctness import CorrectImages
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, TrialRecord
from pipeline.tune.task import Resources

Table = NDArray[np.bool_]


def confirmed_tables(trials: Iterable[TrialRecord], correct: CorrectImages) -> dict[str, Table]:
    """Tables (seeds, images) by the id of a configuration or control, with one row for every seed that all have.

    Of configurations that lack seeds, those are left out without which there is most to compare: (configurations - 1) x
    (seeds - 1) is the largest. Empty where nothing was confirmed.
    """
    runs: dict[str, dict[int, Table]] = {}
    of: dict[str, str] = {}
    for trial in trials:
        right = correct.at(trial.id, trial.last_epoch)
        if trial.role != CONFIRMATION or trial.state != COMPLETE or right is None or not (trial.of and trial.seed):
            continue
        same = of.setdefault(json.dumps(trial.values, sort_keys=True, default=str), trial.of)
        if same == trial.of:
            runs.setdefault(trial.of, {})[trial.seed] = right
    sizes = [len(right) for each in runs.values() for right in each.values()]
    if len(set(sizes)) > 1:  # of a journal that was put together by hand; nothing can be compared image by image
        return {}
    chosen: dict[str, Table] = {}
    most = -1
    for least in sorted({len(each) for each in runs.values()}):
        named = [name for name, each in runs.items() if len(each) >= least]
        shared = sorted(set.intersection(*(set(runs[name]) for name in named)))
        freedom = (len(named) - 1) * (len(shared) - 1)
        if shared and freedom > most:
            most, chosen = freedom, {name: np.stack([runs[name][seed] for seed in shared]) for name in named}
    return chosen


def forecast_content(trials: Iterable[TrialRecord], correct: CorrectImages, resources: Resources) -> dict[str, Any]:
    """What summary.json has under `forecast`: the components of variance, and how trials shared the machine."""
    components = estimate_components(confirmed_tables(trials, correct))
    return {**components.content(), "max_concurrent": resources.max_concurrent, "gpus": resources.gpus}
