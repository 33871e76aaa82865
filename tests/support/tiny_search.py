"""A search on scikit-learn's digits whose trials train in seconds, with its data prepared and split."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.checkout import TINY
from support.prepared_digits import write_digits

from pipeline.config import Params
from pipeline.tune.space import load_space
from pipeline.tune.task import Resources, SearchTask

ROOT = Path(__file__).parents[2]
SETTINGS = {"search.sampler.startup_trials": 1, "search.confirm.top": 1, "search.confirm.seeds": 1}


def tiny_task(folder: Path, settings: Mapping[str, Any] | None = None, **resources: Any) -> SearchTask:
    """Trials of three epochs, one after the other; the best one is confirmed with one further seed.

    settings: by dotted path, on top. resources: fields of `Resources` that are to be others.
    """
    params = Params().with_values(TINY | SETTINGS | dict(settings or {}), where="the test")
    write_digits(folder, val=0.6, test=0.4)
    taken = {"cpus": 1, "gpus": 0.0, "max_concurrent": 1, "machine_cpus": 1, "machine_gpus": 0}
    return SearchTask(
        params=params,
        space=load_space(ROOT / "search_spaces" / "sar.yaml", params, shown_as="sar.yaml"),
        fingerprint="f" * 64,
        folder=folder / "state",
        prepared=folder / "prepared",
        split=folder / "split.json",
        resources=Resources(**(taken | resources)),
    )
