"""Runs a search: a new Ray Tune experiment over the runs that the journal leaves to do."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ray import tune
from ray.tune.execution import class_cache

from pipeline.cluster.late_nodes import exclude_selector
from pipeline.cluster.storage import filesystem_of, join, list_dir, remove_best_effort
from pipeline.config import Values
from pipeline.data.prepared.prepared import open_prepared
from pipeline.models.model_config import Weights
from pipeline.tune.controller import SearchController
from pipeline.tune.journal.compatibility import check_same_code
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import JOURNAL, METHOD, STOP_FILE, SearchCallback, SearchHistory
from pipeline.tune.objectives.objectives import PARAMETERS, objectives_from_params
from pipeline.tune.objectives.parameter_count import parameter_counter
from pipeline.tune.outcome import SearchOutcome, Spent
from pipeline.tune.ray.callback import JournalCallback
from pipeline.tune.ray.controller_scheduler import ControllerScheduler
from pipeline.tune.ray.placement import Runtime, open_runtime
from pipeline.tune.ray.searcher import QueueSearcher
from pipeline.tune.ray.trial_spec import TrialSpec
from pipeline.tune.ray.worker_entry import enter_trial
from pipeline.tune.task import Resources, SearchTask

UNLIMITED = 100_000
"""Limit on concurrent trials that Ray Tune gets on a cluster, where nodes come and go and `Capacity` limits
them instead.
"""


def run_search(task: SearchTask, callbacks: Sequence[SearchCallback]) -> SearchOutcome:
    """Runs or resumes a search until every requested run has ended, or its budget is spent.

    The journal is replayed to the callbacks first, so that they see the whole search. An interruption at any
    point loses nothing that the journal has.

    Args:
        task: The search.
        callbacks: Called at every event.

    Raises:
        UserError: another process runs this search, its journal cannot be read, other code began it, or the
            disk is full.
    """
    resources = task.resources
    with Journal(task.folder / JOURNAL, task.header, gpus=resources.gpus) as journal:
        check_same_code(journal.history, task.header, task.folder)
        (task.folder / STOP_FILE).unlink(missing_ok=True)
        controller = SearchController(
            task.params,
            task.space,
            journal,
            callbacks,
            fingerprint=task.fingerprint,
            folder=task.folder,
            gpus=resources.gpus,
            max_concurrent=resources.max_concurrent,
            count=_counter(task),
        )
        controller.replay()
        if controller.max_remaining:
            with open_runtime(task) as runtime:
                _run(task, controller, runtime)
        spent = Spent(journal.history.seconds, journal.history.gpu_seconds)
        studies = {name: study.adapter for name, study in controller.studies.items()}
        return SearchOutcome(
            controller.requested_trials(),
            studies,
            controller.studies[METHOD].scheduler.rung_epochs,
            spent,
            controller.stopped,
            journal.scores,
        )


def _run(task: SearchTask, controller: SearchController, runtime: Runtime) -> None:
    """Runs Ray Tune until the controller has no further trial.

    Args:
        task: The search.
        controller: The search controller, after its replay.
        runtime: Place where trials run.
    """
    params, resources = task.params, task.resources
    scheduler = controller.studies[METHOD].scheduler
    shared = TrialSpec(
        params.model_dump(by_alias=True),
        task.prepared,
        task.split,
        scheduler.rung_epochs,
        scheduler.pauses,
        threads=resources.cpus,
        gpus=resources.gpus,
        weights={**_weights_by_original_spec(controller.journal.history, task.weights), **task.weights},
        bundle=runtime.bundle,
        admission=runtime.admission,
    )
    trainable = tune.with_resources(
        tune.with_parameters(enter_trial, task=shared), partial(_trial_resources, resources)
    )
    storage, path = filesystem_of(runtime.checkpoints)
    _keep_keys_out_of_logs()
    callback = JournalCallback(controller, runtime.capacity)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=QueueSearcher(controller, callback, runtime.capacity),
            scheduler=ControllerScheduler(controller, callback),
            num_samples=-1,  # no limit: runs that Ray gave up too early are queued again
            max_concurrent_trials=UNLIMITED if runtime.capacity else resources.max_concurrent,
            # A new process for each trial would take seconds of imports.
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.config["folder"],
        ),
        run_config=tune.RunConfig(
            name=_ray_name(runtime.checkpoints),
            storage_path=path,
            storage_filesystem=storage,
            callbacks=[callback],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            failure_config=tune.FailureConfig(max_failures=params.search.max_failures),
            verbose=0,
        ),
    )
    # The journal and the callbacks report why a trial failed. Ray would also print a traceback.
    logging.getLogger("ray.tune.execution.tune_controller").setLevel(logging.CRITICAL)
    try:
        tuner.fit()
    except Exception:
        # Ray wraps errors of its loop. An error that the user can fix was stored unwrapped by the callback.
        if callback.fatal_error is not None:
            raise callback.fatal_error from None
        raise


def _keep_keys_out_of_logs() -> None:
    """Stops Ray Tune from passing AWS keys to workers, which have them already, since Ray logs them on every node."""
    handed = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in handed if not name.startswith("AWS_")}


def _trial_resources(resources: Resources, config: Values) -> tune.PlacementGroupFactory:
    """Returns the resources of a trial, and the nodes that it must avoid."""
    away = exclude_selector(config["away_from"])
    options: dict[str, Any] = {"bundle_label_selector": [away]} if away else {}
    return tune.PlacementGroupFactory([{"CPU": resources.cpus, "GPU": resources.gpus}], **options)


def _counter(task: SearchTask) -> Callable[[Values], int] | None:
    """Returns a function that counts the parameters of a configuration; None if the objectives do not need it."""
    if PARAMETERS not in objectives_from_params(task.params).metrics:
        return None
    prepared = open_prepared(task.prepared)
    return parameter_counter(task.params, num_classes=len(prepared.classes), channels=prepared.channels)


def _weights_by_original_spec(history: SearchHistory, weights: Mapping[str, Weights]) -> dict[str, Weights]:
    """Returns weights by the specification with which the search began.

    A weights file may have been moved since then, and trials that were started before have the old path in
    their configurations. The hash shows that it is the same file.
    """
    by_hash = {each.sha256: each for each in weights.values()}
    begun: Mapping[str, Mapping[str, Any]] = history.header.get("weights", {})
    return {spec: by_hash[known["sha256"]] for spec, known in begun.items() if known["sha256"] in by_hash}


def _ray_name(checkpoints: str) -> str:
    """Returns a name for Ray's folder that no earlier start of this search has used, and removes earlier empty ones."""
    there = [address.rpartition("start-")[2] for address in list_dir(checkpoints)]
    starts = sorted(int(number) for number in there if number.isdecimal())
    held = [address.split("/")[-3:] for address in list_dir(checkpoints, 3)]
    filled = {start for start, _, name in held if name.startswith("checkpoint_")}
    remove_best_effort([join(checkpoints, f"start-{n}") for n in starts[:-1] if f"start-{n}" not in filled])
    return f"start-{starts[-1] + 1 if starts else 0}"
