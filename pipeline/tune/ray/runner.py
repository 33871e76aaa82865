"""Runs a search: a fresh Ray Tune experiment over what the ledger says is still to do."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.search import Searcher

from pipeline.cluster.connect import Room
from pipeline.cluster.late_nodes import away_from
from pipeline.cluster.storage import exists, filesystem_of, let_go, listed, under
from pipeline.data.prepared.prepared import open_prepared
from pipeline.models.model_config import Weights
from pipeline.tune.controller import Course, Wait
from pipeline.tune.journal.compatibility import check_same_code
from pipeline.tune.journal.journal import LEDGER, METHOD, STOP_FILE, History, Ledger, SearchListener
from pipeline.tune.objectives.objectives import PARAMETERS, goals_of
from pipeline.tune.objectives.parameter_count import parameter_counter
from pipeline.tune.outcome import SearchOutcome, Spent
from pipeline.tune.ray.callback import Recorder
from pipeline.tune.ray.placement import Place, placed
from pipeline.tune.ray.trial_spec import TrialTask
from pipeline.tune.ray.worker_entry import enter_trial
from pipeline.tune.task import Resources, SearchTask

MANY = 100_000
"""Trials together at most, as Ray Tune takes it, where nodes come and go: `Room` says how many there are to be."""


def run_search(task: SearchTask, listeners: Sequence[SearchListener]) -> SearchOutcome:
    """Run, or go on with, a search until everything that was asked for has ended, or its budget is spent.

    What the ledger holds is told to the listeners first, so that they end up with the whole search. Interrupting it at
    any point loses nothing that the ledger has.

    Raises:
        UserError: another process runs this search, its ledger cannot be read, it was made by other code, or the disk
            is full.
    """
    resources = task.resources
    with Ledger(task.folder / LEDGER, task.header, gpus=resources.gpus) as ledger:
        check_same_code(ledger.history, task.header, task.folder)
        (task.folder / STOP_FILE).unlink(missing_ok=True)
        course = Course(
            task.params,
            task.space,
            ledger,
            listeners,
            fingerprint=task.fingerprint,
            folder=task.folder,
            gpus=resources.gpus,
            at_a_time=resources.at_a_time,
            count=_counter(task),
        )
        course.replay()
        if course.left:
            with placed(task) as place:
                _run(task, course, place)
        spent = Spent(ledger.history.seconds, ledger.history.gpu_seconds)
        arms = {name: arm.proposer for name, arm in course.arms.items()}
        return SearchOutcome(course.asked_for(), arms, course.arms[METHOD].rule.milestones, spent, course.stopped)


def _run(task: SearchTask, course: Course, place: Place) -> None:
    params, resources = task.params, task.resources
    shared = TrialTask(
        params.model_dump(by_alias=True),
        task.prepared,
        task.split,
        threads=resources.cpus,
        gpus=resources.gpus,
        weights={**_known_before(course.ledger.history, task.weights), **task.weights},
        parcel=place.parcel,
        admission=place.admission,
    )
    trainable = tune.with_resources(tune.with_parameters(enter_trial, task=shared), partial(_takes, resources))
    storage, path = filesystem_of(place.checkpoints)
    _keep_keys_out_of_logs()
    recorder = Recorder(course, place.room)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Queue(course, recorder, place.room),
            scheduler=course.scheduler,
            num_samples=-1,  # as many as the queue has: a run that Ray gave up too early is handed out again
            max_concurrent_trials=MANY if place.room else resources.at_a_time,
            # A fresh process costs seconds of imports a trial.
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.config["folder"],
        ),
        run_config=tune.RunConfig(
            name=_ray_name(place.checkpoints),
            storage_path=path,
            storage_filesystem=storage,
            callbacks=[recorder],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            failure_config=tune.FailureConfig(max_failures=params.search.max_failures),
            verbose=0,
        ),
    )
    # Why a trial failed is in the ledger and told by the listeners; Ray would print a traceback besides.
    logging.getLogger("ray.tune.execution.tune_controller").setLevel(logging.CRITICAL)
    try:
        tuner.fit()
    except Exception:
        # Ray wraps what its loop meets; what a user can mend was kept as it was.
        if recorder.broke is not None:
            raise recorder.broke from None
        raise


def _keep_keys_out_of_logs() -> None:
    """Have Ray Tune not hand AWS's keys to workers, which have them already: its way is logged on every node."""
    handed = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in handed if not name.startswith("AWS_")}


def _takes(resources: Resources, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial takes, and which nodes it is kept away from."""
    away = away_from(config["away_from"])
    options: dict[str, Any] = {"bundle_label_selector": [away]} if away else {}
    return tune.PlacementGroupFactory([{"CPU": resources.cpus, "GPU": resources.gpus}], **options)


def _counter(task: SearchTask) -> Callable[[Mapping[str, Any]], int] | None:
    """Counts the parameters of settings, where the search's goals ask for them."""
    if PARAMETERS not in goals_of(task.params).metrics:
        return None
    prepared = open_prepared(task.prepared)
    return parameter_counter(task.params, num_classes=len(prepared.classes), channels=prepared.channels)


def _known_before(history: History, weights: Mapping[str, Weights]) -> dict[str, Weights]:
    """Weights by the specification that the search was begun with: a file that has been moved since is the same one,
    and trials that had been started have its old place in their settings.
    """
    by_hash = {each.sha256: each for each in weights.values()}
    begun: Mapping[str, Mapping[str, Any]] = history.header.get("weights", {})
    return {spec: by_hash[known["sha256"]] for spec, known in begun.items() if known["sha256"] in by_hash}


def _ray_name(checkpoints: str) -> str:
    """A name for Ray's own folder that no earlier start of this search has used. Empty ones of these are removed."""
    there = [address.rpartition("start-")[2] for address in listed(checkpoints)]
    starts = sorted(int(number) for number in there if number.isdecimal())
    held = [address.split("/")[-3:] for address in listed(checkpoints, 3)]
    filled = {start for start, _, name in held if name.startswith("checkpoint_")}
    let_go([under(checkpoints, f"start-{n}") for n in starts[:-1] if f"start-{n}" not in filled])
    return f"start-{starts[-1] + 1 if starts else 0}"


class _Queue(Searcher):
    """Ray Tune's way to ask for the next trial."""

    def __init__(self, course: Course, recorder: Recorder, room: Room | None) -> None:
        super().__init__(metric="objective", mode="max")
        self._course = course
        self._recorder = recorder
        self._room = room
        self._given: Counter[str] = Counter()

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration (see `pipeline.tune.ray.trainable.run_trial`), FINISHED, or None to be asked
        later.
        """
        if self._room is not None and self._course.at_work >= self._room.now():
            return None
        with self._recorder.watched():
            record = self._course.next()
        if record is None:
            return Searcher.FINISHED
        if isinstance(record, Wait):
            return None
        with self._recorder.watched():
            checkpoint = record.checkpoint if record.checkpoint and exists(record.checkpoint) else None
        self._given[record.id] += 1
        times = self._given[record.id]
        return {
            "trial": record.id,
            # Ray numbers checkpoints from 0 in each, and would write over those that are gone on from.
            "folder": record.id if times == 1 else f"{record.id}-{times}",
            "study": record.study,
            "seed": record.seed,
            "values": record.values,
            "checkpoint": checkpoint,
            "away_from": self._room.refused if self._room else [],
            "measured": record.measured,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The recorder tells the study, since Ray tells this method less than it tells a callback."""

    def save(self, checkpoint_path: str) -> None:
        """The ledger is what a search is resumed from, so Ray's snapshot of the searcher stays empty."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is resumed from its ledger, never by Ray's restore")
