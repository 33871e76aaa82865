"""Scores of validation images of the confirmed configurations and the controls, over the seeds that they share.

`pipeline.score.forecast` needs nothing else of a search. The search's own run of a configuration is left out,
since its value was picked for being high. A configuration that is the same as another one is left out too.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.search_result import SearchForecast
from pipeline.config import Params
from pipeline.score.forecast import assumed_components, estimate_components
from pipeline.tune.journal.image_scores import ImageScores
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, TrialRecord
from pipeline.tune.objectives.objectives import is_searched_for
from pipeline.tune.selection.seed_table import degrees_of_freedom, shared_seeds
from pipeline.tune.task import Resources

Table = NDArray[Any]
"""Scores of the images, (seeds, images)."""


def confirmed_tables(trials: Iterable[TrialRecord], scores: ImageScores) -> dict[str, Table]:
    """Returns tables (seeds, images) by the id of a configuration or control, with a row for every seed that
    all of them have.

    Configurations that lack seeds are left out if that leaves most to compare, which means that (configurations
    - 1) x (seeds - 1) is the largest. The result is empty if nothing was confirmed.
    """
    runs: dict[str, dict[int, Table]] = {}
    of: dict[str, str] = {}
    for trial in trials:
        right = scores.at(trial.id, trial.last_epoch)
        if trial.role != CONFIRMATION or trial.state != COMPLETE or right is None or not (trial.of and trial.seed):
            continue
        same = of.setdefault(json.dumps(trial.values, sort_keys=True, default=str), trial.of)
        if same == trial.of:
            runs.setdefault(trial.of, {})[trial.seed] = right
    sizes = [len(right) for each in runs.values() for right in each.values()]
    if len(set(sizes)) > 1:  # a journal put together by hand, which cannot be compared image by image
        return {}
    names, shared = max(shared_seeds(runs), key=lambda found: degrees_of_freedom(*found), default=([], set[int]()))
    return {name: np.stack([runs[name][seed] for seed in sorted(shared)]) for name in names}


def forecast_content(
    trials: Iterable[TrialRecord], scores: ImageScores, resources: Resources, params: Params
) -> SearchForecast:
    """Returns the entry `forecast` of summary.json: components of variance, and how trials shared the machine.

    The components are for `evaluate.metric`. They are measured if the search optimised that metric, and assumed
    otherwise.

    Args:
        trials: Every record of the search.
        scores: Scores of the validation images, by run.
        resources: Resources of the search.
        params: All parameters.
    """
    first, metric = params.search.objectives[0], params.evaluate.metric
    if is_searched_for(params):
        components = estimate_components(confirmed_tables(trials, scores))
    else:
        components = assumed_components(f"the search was for {first}, and evaluate.metric is {metric}")
    return SearchForecast(**asdict(components), max_concurrent=resources.max_concurrent, gpus=resources.gpus)
