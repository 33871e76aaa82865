"""evaluate: retrained weights on the test set -> `results/evaluate/`. Run by `dvc repro evaluate`.

metrics.json      the figures that `dvc metrics` shows
evaluation.json   all figures, with the comparison of the arms, the endpoints and the verdict
predictions.npz   ids, labels, and every run's probabilities by its name; with folds the number of each image's fold,
                  and the registered network's predictions for the images kept apart (`holdout`), if there are any
confusion.csv     true and predicted class, a row for every test image and seed of the best configuration
attention_by_class.csv
                  attention against masks, a row for every class of either arm and of each baseline
attention.npz     similarity maps of the last block, for the images that the report shows

The images that each run got right are stored under `state/evaluations/` too, for `sar-search compare`, because the
next search replaces these files.
"""

import time
from typing import Any

import numpy as np

from pipeline.artifacts.agreement import check_agreement
from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.evaluations import correct_by_arm, seeds_by_arm, store_evaluation
from pipeline.artifacts.retraining import Retraining
from pipeline.artifacts.stage_results import BEST, describe_control
from pipeline.assembly import load_data
from pipeline.config import load_params
from pipeline.console.format import wrap_text
from pipeline.console.progress import CountProgress
from pipeline.data.splits.split import examples_by_class
from pipeline.entry import results_follow, run_stage
from pipeline.inputs.procedure import folds_hash, read_parts
from pipeline.provenance.trace import commit, trace
from pipeline.score.comparison import p_value
from pipeline.score.metrics.chosen_metric import chosen_metric, metric_hash
from pipeline.score.metrics.label_check import check_labels, labels_at_once
from pipeline.stages.evaluate.attention_scores import write_class_rows
from pipeline.stages.evaluate.fold_scores import describe_holdout, evaluate_folds, evaluate_holdout
from pipeline.stages.evaluate.probe import evaluate_probe, probe_weights
from pipeline.stages.evaluate.scores import evaluate_run, flat_metrics, predictions_of, summarise, write_confusion
from pipeline.state.looks import describe_look, hash_networks, read_comparison_look, record_look
from pipeline.tracking.dataset_inputs import DataUsed
from pipeline.tracking.evaluation_run import log_evaluation, log_probe, looks_logged, tested_networks
from pipeline.tracking.store import prepare_store, resolve_store
from pipeline.workspace import Workspace


def main(workspace: Workspace) -> None:
    """Scores every retrained network on the test set, and compares the arms."""
    began = time.monotonic()
    params = load_params(workspace.params)
    retrained = Retraining.read(workspace.results / "retrain")
    check_agreement(workspace, params, retrained.fingerprint, retrained.fold_fingerprints)
    data = load_data(workspace.prepared, workspace.split, params.base.device)
    data_hash, control = data.prepared.data_hash, retrained.control
    parts = read_parts(workspace, params, data_hash=data_hash)
    metric, seeds = chosen_metric(params), [run.seed for run in retrained.runs]
    for held in labels_at_once(metric, data.prepared.labels, data.split.tested):
        of_fold = metric.within_folds and bool(retrained.folds)
        check_labels(metric, held, data.prepared.classes, interval=len(set(seeds)) > 1, of_fold=of_fold)
    probed = probe_weights(workspace, params)
    store = resolve_store(params.tracking.uri, workspace.anchor)
    prepare_store(store)
    networks = tested_networks(workspace, retrained, holdout=bool(len(data.split.test)))
    logged, network_set = looks_logged(store, params, data_hash), hash_networks(networks)
    look = record_look(
        workspace.state,
        data_hash,
        networks,
        commit=commit(workspace.root),
        by="evaluate",
        counted=logged.count,
        prior=logged.by_networks.get(network_set),
    )
    look, first_look = _shared_look(workspace, look)
    runs, folded, kept_apart = [], None, {}
    with CountProgress("networks evaluated") as progress:
        if retrained.folds:
            folded = evaluate_folds(
                workspace,
                parts,
                retrained,
                progress,
                confidence=params.evaluate.confidence,
                images=params.report.attention_images,
                metric=metric,
            )
            runs, data = folded.runs, folded.data
            kept_apart = evaluate_holdout(workspace, parts[0], retrained.to_register)
        else:
            for run in retrained.runs:
                runs.append(evaluate_run(workspace.models / run.folder, run, data))
                progress(len(runs), len(retrained.runs))
    summary = summarise(
        runs,
        data,
        control=control,
        confidence=params.evaluate.confidence,
        margin=metric.words.margin,
        seed=params.base.seed,
        what=retrained.method,
        against=describe_control(retrained.against),
        metric=metric,
        folds=None if folded is None else folded.folds,
        look=look,
        first_look=first_look,
    )
    further: dict[str, Any] = {}
    if folded is not None:
        further = {"folds": folded.rows, "holdout": describe_holdout(kept_apart), "folds_hash": folds_hash(parts)}
    if probed is not None:
        best, others = ([run.probabilities for run in runs if run.arm == arm] for arm in (BEST, control))
        further["probe"] = evaluate_probe(workspace, params, data, probed, metric, best, others)
    evaluation = Evaluation(
        **dict(summary.compared),
        control=control,
        fingerprint=retrained.fingerprint,
        data_hash=data_hash,
        look=look,
        first_look=first_look,
        networks=network_set,
        margin=metric.margin,
        metric_hash=metric_hash(metric.name),
        method=retrained.method,
        p=p_value(summary.compared.comparison),
        **further,
    )
    metrics = flat_metrics(evaluation)
    folder = workspace.results / "evaluate"
    folder.mkdir(parents=True, exist_ok=True)
    test = data.split.test
    labels = data.prepared.labels[test]
    predictions = predictions_of(runs, labels)
    beside: dict[str, Any] = predictions | kept_apart | ({} if folded is None else {"folds": folded.folds})
    np.savez_compressed(folder / "predictions.npz", ids=test, **beside)
    correct = correct_by_arm(predictions, control)
    store_evaluation(
        workspace.state,
        evaluation,
        retrained,
        ids=test,
        labels=labels,
        best=correct[BEST],
        control=correct[control],
        seeds=seeds_by_arm(predictions, control),
        scores=summary.tables,
        folds=None if folded is None else folded.folds,
    )
    write_confusion(folder / "confusion.csv", runs, data)
    write_class_rows(folder / "attention_by_class.csv", summary.class_rows)
    shown = examples_by_class(test, data.prepared.labels, params.report.attention_images)
    rows = np.searchsorted(test, shown) if folded is None else np.arange(len(shown))  # with folds, only these are there
    maps: Any = {run.name: run.maps[rows] for run in runs}
    np.savez_compressed(folder / "attention.npz", ids=shown, **maps)
    metrics.write(folder)
    tags = trace(workspace.root, data_hash)
    name, source = str(data.prepared.manifest["dataset"]), str(workspace.prepared)
    used = [DataUsed(name, data_hash, source, "test", {"test": len(test)})]
    seconds = time.monotonic() - began
    run_id = log_evaluation(store, params, evaluation, metrics, workspace, tags, used, seconds)
    found = evaluation.probe
    probed_as = None if found is None else log_probe(store, params, evaluation, found, workspace, tags, used)
    evaluation.with_runs(run_id, probed_as).write(folder)
    if not results_follow():
        print(f"{wrap_text(evaluation.verdict)}\n{describe_look(look, first_look)}")


def _shared_look(workspace: Workspace, recorded: int) -> tuple[int, int | None]:
    """Returns the look of an evaluation, and the one at which its networks were first tested if that is another.

    The methods of a comparison share its look, at which all of them are judged, whenever each was tested first.

    Args:
        workspace: The checkout, or one method of a comparison.
        recorded: Number of the look that is recorded for these networks.
    """
    if workspace.own is None:
        return recorded, None
    look = read_comparison_look(workspace.own.parent)
    return look, recorded if recorded != look else None


if __name__ == "__main__":
    run_stage("evaluate", main)
