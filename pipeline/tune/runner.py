"""Runs a search: a fresh Ray Tune experiment over what the ledger says is still to do."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.search import Searcher

from pipeline.cluster.runtime import local_ray
from pipeline.config import Params
from pipeline.tune.ledger import COMPLETE, FAILED, PRUNED, Ledger, SearchListener, TrialRecord
from pipeline.tune.scheduler import STOP, RungScheduler
from pipeline.tune.space import SearchSpace
from pipeline.tune.study import EMPTY_SHARE, Proposer
from pipeline.tune.trial import OBJECTIVE, TrialTask, run_trial

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


@dataclass(frozen=True)
class Resources:
    """cpus, gpus: of one trial. at_a_time: trials together. machine_cpus, machine_gpus: what Ray may use."""

    cpus: int
    gpus: float
    at_a_time: int
    machine_cpus: int
    machine_gpus: int


@dataclass(frozen=True)
class SearchTask:
    """A search. folder: its state, by fingerprint. prepared, split: the data. resources: of its trials."""

    params: Params
    space: SearchSpace
    fingerprint: str
    folder: Path
    prepared: Path
    split: Path
    resources: Resources


@dataclass(frozen=True)
class SearchOutcome:
    """Every trial of the ledger that was asked for, controls first, and the study of them."""

    trials: Sequence[TrialRecord]
    proposer: Proposer


def run_search(task: SearchTask, listeners: Sequence[SearchListener]) -> SearchOutcome:
    """Run, or go on with, a search until every asked-for trial and control has ended.

    What the ledger holds is told to the listeners first, so that they end up with the whole search. Interrupting it at
    any point loses nothing that the ledger has.

    Raises:
        UserError: another process runs this search, or its ledger cannot be read.
    """
    with Ledger(task.folder / "ledger.jsonl", {"fingerprint": task.fingerprint}) as ledger:
        search = _Search(task, ledger, listeners)
        search.replay()
        if search.left:
            resources = task.resources
            with local_ray(resources.machine_cpus, resources.machine_gpus):
                _run(task, search)
        return SearchOutcome(search.asked_for(), search.proposer)


def _run(task: SearchTask, search: "_Search") -> None:
    params, resources = task.params, task.resources
    shared = TrialTask(
        params.model_dump(by_alias=True),
        task.prepared,
        task.split,
        threads=resources.cpus,
        gpus=resources.gpus,
    )
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, task=shared), {"CPU": resources.cpus, "GPU": resources.gpus}
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Queue(search),
            scheduler=search.scheduler,
            num_samples=search.left,
            max_concurrent_trials=resources.at_a_time,
            # A fresh process costs seconds of imports a trial.
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.config["trial"],
        ),
        run_config=tune.RunConfig(
            name=search.ray_name(),
            storage_path=str(task.folder / "ray"),
            callbacks=[_Recorder(search)],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            failure_config=tune.FailureConfig(max_failures=params.search.max_failures),
            verbose=0,
        ),
    )
    tuner.fit()


class _Search:
    """A search in progress: study, rungs, ledger and listeners kept in step."""

    def __init__(self, task: SearchTask, ledger: Ledger, listeners: Sequence[SearchListener]) -> None:
        params = task.params.search
        self.task, self.ledger, self._listeners = task, ledger, listeners
        self.proposer = Proposer(
            task.space,
            sampler=params.sampler.name,
            startup_trials=params.sampler.startup_trials,
            seed=task.params.base.seed,
            name=task.fingerprint[:12],
        )
        epochs = task.params.train.epochs
        self.scheduler = RungScheduler(
            epochs=epochs,
            grace_period=params.scheduler.grace_period if params.scheduler.name == "asha" else epochs,
            reduction_factor=params.scheduler.reduction_factor,
        )
        self.queue: deque[TrialRecord] = deque()

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray pickles what the driver holds into snapshots that we never read; locks and files have no place there.
        return object, ()

    def replay(self) -> None:
        """Bring study, rungs and listeners to where the ledger is, and queue controls and trials not yet ended."""
        records = self.asked_for()
        for record in records:
            if record.number is not None:
                self.proposer.restore(record)
        for name, values in self.task.space.controls.items():
            if name not in self.ledger.trials:
                self.queue.append(TrialRecord(name, None, dict(values)))
        # In the order in which they came, since a rung judges a trial by those that were there before it. A trial that
        # went on after a report was not stopped there; only the word on its last one counts.
        asked_for = {record.id: record for record in records}
        decided = {}
        for name, epoch in dict.fromkeys(self.ledger.reports):
            if name in asked_for:
                decided[name] = self._replay_epoch(asked_for[name], epoch)
        stopped = {name for name, decision in decided.items() if decision == STOP}
        for record in records:
            self._tell(lambda listener, r=record: listener.trial_started(r))
            for epoch in sorted(record.epochs):
                self._tell(lambda listener, r=record, e=epoch: listener.epoch_reported(r, e))
            if record.state is not None:
                self._finish(record)
            elif record.id in stopped:
                self.end(record.id, _ending(record.last_epoch, self.task.params.train.epochs))
            else:
                self.queue.append(record)
        self._tell(lambda listener: listener.replayed())

    def _replay_epoch(self, record: TrialRecord, epoch: int) -> str:
        objective = record.epochs[epoch][OBJECTIVE]
        if record.number is not None:
            self.proposer.report(record.number, epoch, objective)
        return self.scheduler.replay(record, epoch, objective)

    @property
    def left(self) -> int:
        """Trials and controls still to run, of those asked for."""
        return len(self.queue) + max(0, self.task.params.search.trials - self.proposer.proposed)

    def asked_for(self) -> list[TrialRecord]:
        """Controls of the space and the first `search.trials` trials; an earlier search may have run more."""
        wanted = self.task.params.search.trials
        records = [r for r in self.ledger.trials.values() if r.number is None or r.number < wanted]
        return sorted(records, key=lambda r: -1 if r.number is None else r.number)

    def ray_name(self) -> str:
        """A name for Ray's own folder that no earlier start of this search has used."""
        folder = self.task.folder / "ray"
        return f"start-{len(list(folder.glob('start-*'))) if folder.exists() else 0}"

    def next(self) -> TrialRecord | None:
        """The next trial to start, recorded; None when all that was asked for has been started."""
        if self.queue:
            record = self.queue.popleft()
            if record.id in self.ledger.trials:
                return record
        elif self.proposer.proposed < self.task.params.search.trials:
            number, values = self.proposer.propose()
            record = TrialRecord(f"t{number:04d}", number, values)
        else:
            return None
        self.ledger.start(record)
        self._tell(lambda listener: listener.trial_started(record))
        return record

    def report(self, trial_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        record = self.ledger.trials[trial_id]
        self.ledger.report(trial_id, epoch, metrics)
        if record.number is not None:
            self.proposer.report(record.number, epoch, metrics[OBJECTIVE])
        self._tell(lambda listener: listener.epoch_reported(record, epoch))

    def end(self, trial_id: str, state: str, reason: str | None = None) -> None:
        self.ledger.end(trial_id, state, reason)
        self._finish(self.ledger.trials[trial_id])

    def _finish(self, record: TrialRecord) -> None:
        if record.number is not None:
            allowed = self.task.params.search.max_empty_share
            constraints = {EMPTY_SHARE: empty_share(record) - allowed} if record.epochs else {}
            assert record.state is not None
            self.proposer.finish(record.number, record.state, record.metric(OBJECTIVE), constraints=constraints)
        self._tell(lambda listener: listener.trial_ended(record))

    def _tell(self, say: Any) -> None:
        for listener in self._listeners:
            say(listener)


def empty_share(record: TrialRecord) -> float:
    """The largest share of empty maps of any method at a trial's last epoch, on the validation images."""
    metrics = record.epochs[record.last_epoch]
    return max((value for name, value in metrics.items() if name.endswith("/empty_share")), default=0.0)


def _ending(epoch: int, planned: int) -> str:
    # ASHA also "stops" a trial at its last epoch, which ran in full all the same.
    return COMPLETE if epoch >= planned else PRUNED


class _Queue(Searcher):
    """Ray Tune's way to ask for the next trial."""

    def __init__(self, search: _Search) -> None:
        super().__init__(metric="objective", mode="max")
        self._search = search

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration (see `pipeline.tune.trial.run_trial`), or FINISHED."""
        record = self._search.next()
        if record is None:
            return Searcher.FINISHED
        checkpoint = record.checkpoint if record.checkpoint and Path(record.checkpoint).is_dir() else None
        return {
            "trial": record.id,
            "control": record.control,
            "values": record.values,
            "checkpoint": checkpoint,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The recorder tells the study, since Ray tells this method less than it tells a callback."""

    def save(self, checkpoint_path: str) -> None:
        """The ledger is what a search is resumed from, so Ray's snapshot of the searcher stays empty."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is resumed from its ledger, never by Ray's restore")


class _Recorder(tune.Callback):
    """Writes what happens to trials into the search. Runs on Ray Tune's loop."""

    def __init__(self, search: _Search) -> None:
        self._search = search

    def on_trial_result(
        self, iteration: int, trials: "list[Trial]", trial: "Trial", result: dict[str, Any], **info: Any
    ) -> None:
        if not result["diverged"]:
            self._search.report(trial.config["trial"], result["epoch"], result["metrics"])

    def on_checkpoint(
        self, iteration: int, trials: "list[Trial]", trial: "Trial", checkpoint: Any, **info: Any
    ) -> None:
        self._search.ledger.checkpoint(trial.config["trial"], checkpoint.path)

    def on_trial_complete(self, iteration: int, trials: "list[Trial]", trial: "Trial", **info: Any) -> None:
        result = trial.last_result
        if result.get("diverged"):
            self._search.end(trial.config["trial"], FAILED, result["reason"])
        else:
            planned = self._search.task.params.train.epochs
            self._search.end(trial.config["trial"], _ending(result.get("epoch", 0), planned))

    def on_trial_error(self, iteration: int, trials: "list[Trial]", trial: "Trial", **info: Any) -> None:
        error = trial.get_error()
        self._search.end(trial.config["trial"], FAILED, f"{type(error).__name__}: {error}"[-2000:])
