"""The scores of validation images of the confirmed configurations and the controls, with the seeds that they share.

This is all that `pipeline.score.forecast` needs of a search. The search's own run of a configuration is left out, since
its value was picked for being high; so is a configuration that is the same as another one.
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
from pipeline.tune.task import Resources

Table = NDArray[Any]


def confirmed_tables(trials: Iterable[TrialRecord], scores: ImageScores) -> dict[str, Table]:
    """Tables (seeds, images) by the id of a configuration or control, with one row for every seed that all have.

    Of configurations that lack seeds, those are left out without which there is most to compare: (configurations - 1) x
    (seeds - 1) is the largest. Empty where nothing was confirmed.
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


def forecast_content(
    trials: Iterable[TrialRecord], scores: ImageScores, resources: Resources, params: Params
) -> SearchForecast:
    """What summary.json has under `forecast`: the components of variance, and how trials shared the machine.

    They are of `evaluate.metric`, so they are measured where the search was for that, and assumed otherwise.
    """
    first, metric = params.search.objectives[0], params.evaluate.metric
    if is_searched_for(params):
        components = estimate_components(confirmed_tables(trials, scores))
    else:
        components = assumed_components(f"the search was for {first}, and evaluate.metric is {metric}")
    return SearchForecast(**asdict(components), max_concurrent=resources.max_concurrent, gpus=resources.gpus)
