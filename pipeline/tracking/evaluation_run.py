"""The evaluation's run in MLflow: written by `evaluate`, and again from `results/` if a store has lost it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.artifacts.evaluation import Evaluation, ProbeScores, TestMetrics
from pipeline.artifacts.retraining import Retraining
from pipeline.artifacts.stage_results import search_run
from pipeline.config import Params
from pipeline.files.file_stats import hash_file
from pipeline.provenance.code_hash import content_hash
from pipeline.tracking.dataset_inputs import DataUsed
from pipeline.tracking.single_run import has_run, log_run, restore_run
from pipeline.tracking.store import Store, as_user_error, client
from pipeline.train.sidecar import WEIGHTS
from pipeline.workspace import Workspace

KIND_TAG = "sar.kind"
PREDICTIONS = "predictions.npz"
METRIC_TAG = "sar.metric"
"""The metric of an evaluation, named as in `evaluate.metric`."""
LOOK_TAG = "sar.look"
NETWORKS_TAG = "sar.networks"
FOLDS_TAG = "sar.folds"
READS_TAG = "sar.test_reads"
"""Tag of earlier versions, which counted readings of the test images instead of looks."""


@dataclass(frozen=True)
class LoggedLooks:
    """Looks at the test images of some data, according to the evaluations of an experiment.

    Attributes:
        count: number of looks.
        by_networks: number of each look, by the hash of its networks.
        by_run: number of each look, by the id of its run.
    """

    count: int
    by_networks: Mapping[str, int]
    by_run: Mapping[str, int]


def tested_networks(workspace: Workspace, retrained: Retraining, *, holdout: bool) -> list[str]:
    """Returns the SHA-256 of the weights of each network that an evaluation tests.

    These are the networks of all folds, if there are any, and with `holdout` the networks that were trained
    on all images.

    Args:
        workspace: the checkout, with the retrained models.
        retrained: the retraining's results.
        holdout: whether the split of all images has test images.
    """
    runs = [run for each in retrained.folds for run in each.runs]
    runs += retrained.runs if holdout else []
    return [hash_file(workspace.models / run.folder / WEIGHTS) for run in runs]


def log_evaluation(
    store: Store,
    params: Params,
    evaluation: Evaluation,
    metrics: TestMetrics,
    workspace: Workspace,
    tags: Mapping[str, str],
    datasets: Sequence[DataUsed] = (),
    seconds: float = 0.0,
) -> str:
    """Writes a run for the evaluation, under its search, with its figures and files, and returns the run's id.

    Args:
        store: the tracking store.
        params: the parameters, for the experiment's name.
        evaluation: the evaluation's results.
        metrics: metrics of the test images.
        workspace: the checkout, with the figures and files.
        tags: further tags of the run.
        datasets: data that the evaluation read.
        seconds: duration of the evaluation.

    Raises:
        UserError: the store fails.
    """
    fingerprint, look, networks = evaluation.fingerprint, evaluation.look, evaluation.networks
    parent = search_run(workspace.state, fingerprint)
    about = {KIND_TAG: "evaluation", "sar.fingerprint": fingerprint, "sar.search_run": parent or ""}
    # Results of an earlier version have neither look nor networks; these tags are then empty.
    about |= {LOOK_TAG: str(look or ""), NETWORKS_TAG: networks, METRIC_TAG: evaluation.words.name}
    about |= {FOLDS_TAG: str(len(evaluation.folds))} if evaluation.folds else {}
    content = evaluation.content()
    identity = [content["arms"], content["comparison"], fingerprint, *([look, networks] if networks else [])]
    return log_run(
        store,
        experiment=params.experiment,
        key=f"evaluate/{content_hash(identity)[:32]}",
        name=f"evaluation of best and {evaluation.control}",
        params={"test_images": evaluation.test_images, "data_hash": evaluation.data_hash},
        metrics={
            f"test/{group}/{name}": value for group, values in metrics.test.items() for name, value in values.items()
        },
        tags={**tags, **about, "sar.verdict": evaluation.verdict},
        parent_run_id=parent,
        artifacts={"": workspace.results / "evaluate"},
        datasets=datasets,
        seconds=seconds,
    )


def log_probe(
    store: Store,
    params: Params,
    evaluation: Evaluation,
    probe: ProbeScores,
    workspace: Workspace,
    tags: Mapping[str, str],
    datasets: Sequence[DataUsed] = (),
) -> str:
    """Writes a run for an evaluation's probe, under the evaluation's search, and returns the run's id.

    The probe's model is not registered.

    Args:
        store: the tracking store.
        params: the parameters, for the experiment's name.
        evaluation: the evaluation's results.
        probe: scores of the probe.
        workspace: the checkout, with the state of the search.
        tags: further tags of the run.
        datasets: data that the probe read.

    Raises:
        UserError: the store fails.
    """
    metric, fingerprint, data_hash = evaluation.words, evaluation.fingerprint, evaluation.data_hash
    parent = search_run(workspace.state, fingerprint)
    said = probe.model_dump(include={"weights", "sha256", "features", "C", "trained_on", "images"})
    test = {"accuracy": probe.accuracy, "log_loss": probe.nll, "ece": probe.ece, metric.key: probe.value}
    about = {KIND_TAG: "probe", "sar.fingerprint": fingerprint, "sar.search_run": parent or "", METRIC_TAG: metric.name}
    return log_run(
        store,
        experiment=params.experiment,
        key=f"probe/{content_hash([fingerprint, data_hash, test, *said.values()])[:32]}",
        name="probe (frozen features, no training)",
        params={**said, "data_hash": data_hash},
        metrics={f"test/{name}": value for name, value in test.items()},
        tags={**tags, **about},
        parent_run_id=parent,
        datasets=datasets,
    )


def looks_logged(store: Store, params: Params, data_hash: str) -> LoggedLooks:
    """Returns the looks at the test images of some data, according to the evaluations of the experiment.

    Args:
        store: the tracking store.
        params: the parameters, for the experiment's name.
        data_hash: hash of the prepared set.

    Raises:
        UserError: the store fails.
    """
    registry = client(store)
    with as_user_error(store, "counting evaluations"):
        experiment = registry.get_experiment_by_name(params.experiment)
        if experiment is None:
            return LoggedLooks(0, {}, {})
        asked = f"tags.`{KIND_TAG}` = 'evaluation' and tags.`sar.data_hash` = '{data_hash}'"
        runs = registry.search_runs([experiment.experiment_id], asked, max_results=1000)
    by_networks: dict[str, int] = {}
    by_run: dict[str, int] = {}
    for run in runs:
        tags = run.data.tags
        told = tags.get(LOOK_TAG) or tags.get(READS_TAG, "")
        if told.isdecimal():
            by_run[run.info.run_id] = int(told)
            if networks := tags.get(NETWORKS_TAG):
                by_networks[networks] = min(int(told), by_networks.get(networks, int(told)))
    unknown = sum(not run.data.tags.get(NETWORKS_TAG) for run in runs)
    return LoggedLooks(max([unknown + len(by_networks), *by_run.values()]), by_networks, by_run)


def evaluation_run(
    store: Store, params: Params, evaluation: Evaluation, workspace: Workspace, tags: Mapping[str, str]
) -> str:
    """Returns the id of the evaluation's run, which is written again, with its files, if the store has lost it.

    Args:
        store: the tracking store.
        params: the parameters, for the experiment's name.
        evaluation: the evaluation's results.
        workspace: the checkout, with the evaluation's files.
        tags: further tags, for a run that is written again.

    Raises:
        UserError: the store fails.
    """
    run, folder = evaluation.mlflow_run, workspace.results / "evaluate"
    with as_user_error(store, f"looking for the run {run}"):
        there = has_run(client(store), run)
    if not there:
        metrics = TestMetrics.read(folder)
        run = log_evaluation(store, params, evaluation, metrics, workspace, tags)
    restore_run(store, run, folder, file=PREDICTIONS)
    return run
