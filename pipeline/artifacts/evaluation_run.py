"""The evaluation's run in MLflow: written by `evaluate`, and again from `results/` where a store has lost it."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.artifacts.stage_results import read_json, search_run
from pipeline.config import Params
from pipeline.provenance.code_hash import content_hash
from pipeline.tracking.dataset_inputs import DataUsed
from pipeline.tracking.single_run import has_run, log_run, restore_run
from pipeline.tracking.store import Store, as_user_error, client
from pipeline.workspace import Workspace

KIND_TAG = "sar.kind"
PREDICTIONS = "predictions.npz"
READS_TAG = "sar.test_reads"


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
    about = {KIND_TAG: "evaluation", "sar.fingerprint": fingerprint, "sar.search_run": parent or ""}
    about[READS_TAG] = str(summary.get("test_reads", ""))
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


def reads_logged(store: Store, params: Params, data_hash: str) -> int:
    """How often the test set of these data has been read, as far as the experiment's evaluations tell.

    Raises:
        UserError: the store fails.
    """
    registry = client(store)
    with as_user_error(store, "counting evaluations"):
        experiment = registry.get_experiment_by_name(params.experiment)
        if experiment is None:
            return 0
        asked = f"tags.`{KIND_TAG}` = 'evaluation' and tags.`sar.data_hash` = '{data_hash}'"
        runs = registry.search_runs([experiment.experiment_id], asked, max_results=1000)
    told = [run.data.tags.get(READS_TAG, "") for run in runs]
    return max([len(runs), *(int(reads) for reads in told if reads.isdecimal())])


def evaluation_run(
    store: Store, params: Params, evaluation: Mapping[str, Any], workspace: Workspace, tags: Mapping[str, str]
) -> str:
    """The id of the evaluation's run, which is written again, with its files, where the store has it no more.

    Raises:
        UserError: the store fails.
    """
    run, folder = str(evaluation["mlflow_run"]), workspace.results / "evaluate"
    with as_user_error(store, f"looking for the run {run}"):
        there = has_run(client(store), run)
    if not there:
        metrics = read_json(folder / "metrics.json", made_by="evaluate")
        run = log_evaluation(store, params, evaluation, metrics, workspace, tags)
    restore_run(store, run, folder, file=PREDICTIONS)
    return run
