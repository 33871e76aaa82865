"""The evaluation's run in MLflow: written by `evaluate`, and again from `results/` where a store has lost it."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import Params
from pipeline.ops.identity import content_hash
from pipeline.ops.results import read_json, search_run
from pipeline.track.datasets import DataUsed
from pipeline.track.once import bring_back, has_run, log_run
from pipeline.track.store import Store, client, reported
from pipeline.workspace import Workspace

PREDICTIONS = "predictions.npz"


def log_evaluation(
    store: Store,
    params: Params,
    summary: Mapping[str, Any],
    metrics: Mapping[str, Any],
    workspace: Workspace,
    tags: Mapping[str, str],
    datasets: Sequence[DataUsed] = (),
    seconds: float = 0.0,
) -> str:
    """A run for the evaluation, under its search, with its figures and files. seconds: what it took. Returns its id."""
    fingerprint = str(summary["fingerprint"])
    parent = search_run(workspace.state, fingerprint)
    about = {"sar.kind": "evaluation", "sar.fingerprint": fingerprint, "sar.search_run": parent or ""}
    return log_run(
        store,
        experiment=params.experiment,
        key=f"evaluate/{content_hash([summary['arms'], summary['comparison'], fingerprint])[:32]}",
        name=f"evaluation of best and {summary['control']}",
        params={"test_images": summary["test_images"], "data_hash": summary["data_hash"]},
        metrics={
            f"test/{group}/{name}": value for group, values in metrics["test"].items() for name, value in values.items()
        },
        tags={**tags, **about, "sar.verdict": summary["verdict"]},
        parent_run_id=parent,
        artifacts={"": workspace.results / "evaluate"},
        datasets=datasets,
        seconds=seconds,
    )


def evaluation_run(
    store: Store, params: Params, evaluation: Mapping[str, Any], workspace: Workspace, tags: Mapping[str, str]
) -> str:
    """The id of the evaluation's run, which is written again, with its files, where the store has it no more.

    Raises:
        UserError: the store fails.
    """
    run, folder = str(evaluation["mlflow_run"]), workspace.results / "evaluate"
    with reported(store, f"looking for the run {run}"):
        there = has_run(client(store), run)
    if not there:
        metrics = read_json(folder / "metrics.json", made_by="evaluate")
        run = log_evaluation(store, params, evaluation, metrics, workspace, tags)
    bring_back(store, run, folder, file=PREDICTIONS)
    return run
