"""register: the retrained model -> a version in the MLflow registry, with the alias `challenger`.

Run by `dvc repro register`. A repeated run makes no second version. It moves the alias back to the version that the
files describe, and restores what the store has lost: the version, its files, the evaluation's run.

The stage's output is `persist: true` in dvc.yaml. Otherwise DVC could restore the file from its run cache and leave
the registry unchanged.
"""

import json
from pathlib import Path

import numpy as np

import pipeline.models
from pipeline.artifacts.agreement import check_agreement
from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.registration import Registration, arms_tag
from pipeline.artifacts.retraining import Retraining
from pipeline.artifacts.stage_results import search_run
from pipeline.config import load_params
from pipeline.data.prepared.prepared import open_prepared
from pipeline.entry import run_stage
from pipeline.files.file_stats import hash_file
from pipeline.provenance.trace import trace
from pipeline.stages.register.model_card import model_card, own_accuracy
from pipeline.tracking.evaluation_run import evaluation_run
from pipeline.tracking.registry.versions import OWN_ACCURACY_TAG, PROCEDURE_TAG, WEIGHTS_TAG, register_model
from pipeline.tracking.store import prepare_store, resolve_store
from pipeline.train.sidecar import WEIGHTS, read_sidecar
from pipeline.workspace import Workspace


def main(workspace: Workspace) -> None:
    """Registers the chosen weights and points `challenger` at them."""
    params = load_params(workspace.params)
    retrained = Retraining.read(workspace.results / "retrain")
    evaluation = Evaluation.read(workspace.results / "evaluate")
    check_agreement(workspace, params, retrained.fingerprint)
    prepared = open_prepared(workspace.prepared)
    chosen = retrained.to_register
    run = next(run for run in retrained.runs if run.folder == chosen)
    sidecar = read_sidecar(workspace.models / chosen)
    store = resolve_store(params.tracking.uri, workspace.anchor)
    prepare_store(store)
    tags = trace(workspace.root, prepared.data_hash)
    registered = register_model(
        store,
        name=params.model_name,
        checkpoint=workspace.models / chosen,
        code=Path(pipeline.models.__file__).parent,
        model_card=model_card(sidecar, evaluation, prepared.manifest),
        tags=tags
        | {
            "sar.fingerprint": retrained.fingerprint,
            "sar.search_run": search_run(workspace.state, retrained.fingerprint) or "",
            "sar.evaluation_run": evaluation_run(store, params, evaluation, workspace, tags),
            "sar.test_accuracy": f"{evaluation.best.accuracy:.4f}",
            **own_accuracy_tag(evaluation, run.seed),
            **metric_tags(evaluation),
            # Promotion reads these from the registry, which may be used from another checkout.
            "sar.split_hash": str(sidecar["split_hash"]),
            "sar.retrain_folder": chosen,
            "sar.comparison": json.dumps(arms_tag(evaluation).content()),
            **procedure_tags(evaluation),
            WEIGHTS_TAG: hash_file(workspace.models / chosen / WEIGHTS),
            "sar.input": "x".join(str(part) for part in (*sidecar["image_size"], sidecar["channels"])),
            "sar.licence": str(prepared.manifest["licence"]),
        },
        run_id=run.mlflow_run,
        input_example=np.asarray(prepared.images[:2]),
    )
    left = Registration(name=registered.name, version=registered.version, model_hash=registered.model_hash)
    left.write(workspace.results / "register")
    if registered.lost_run:
        print(
            f"{store.shown} has no run {registered.lost_run}, which trained this model: its version belongs to no run. "
            "`dvc repro -sf search` and then `dvc repro -sf retrain` log what state/ still has, without training."
        )
    print(
        f"models:/{registered.name}@challenger is version {registered.version}; `sar-search promote` makes it champion"
    )


def own_accuracy_tag(evaluation: Evaluation, seed: int) -> dict[str, str]:
    """Returns the tag with the accuracy of the registered network alone; none if it has seen every test image."""
    own = own_accuracy(evaluation, seed)
    return {} if own is None else {OWN_ACCURACY_TAG: f"{own:.4f}"}


def procedure_tags(evaluation: Evaluation) -> dict[str, str]:
    """Returns the tag by which promotion recognises that a version's figures are those of a procedure; none
    without folds.
    """
    if not evaluation.folds:
        return {}
    content = {
        "folds": len(evaluation.folds),
        "images": evaluation.test_images,
        "folds_hash": evaluation.folds_hash,
        "holdout": evaluation.holdout.images if evaluation.holdout else 0,
    }
    return {PROCEDURE_TAG: json.dumps(content)}


def metric_tags(evaluation: Evaluation) -> dict[str, str]:
    """Returns tags with the metric by which a version was judged, and its value.

    Accuracy is tagged too, because a version that is registered again may have been judged by another metric before.
    """
    metric = evaluation.words
    return {"sar.metric": metric.label, "sar.test_metric": f"{evaluation.best.value(metric):.4f}"}


if __name__ == "__main__":
    run_stage("register", main)
