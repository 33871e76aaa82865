"""Searcher: Ray Tune asks it for the next trial, and it asks the controller."""

from collections import Counter
from typing import Any

from ray.tune.search import Searcher

from pipeline.cluster.connect import Capacity
from pipeline.cluster.storage import exists
from pipeline.tune.controller import SearchController, Wait
from pipeline.tune.journal.records import TrialRecord
from pipeline.tune.ray.callback import JournalCallback
from pipeline.tune.ray.trial_spec import STACK


class QueueSearcher(Searcher):
    """Searcher that gives Ray Tune the controller's next trial.

    Args:
        controller: The search controller.
        callback: Callback that stores errors which end the search.
        capacity: Capacity of a cluster; None on this machine alone.
    """

    def __init__(self, controller: SearchController, callback: JournalCallback, capacity: Capacity | None) -> None:
        super().__init__(metric="objective", mode="max")
        self._controller = controller
        self._callback = callback
        self._capacity = capacity
        self._given: Counter[str] = Counter()

    def suggest(self, trial_id: str) -> Any:
        """Returns the configuration of the next trial (see `pipeline.tune.ray.trainable.run_trial`), or of a stack
        (see `pipeline.tune.ray.stacked_trial.run_stack`).

        Returns:
            The configuration; FINISHED at the end of the search; None to be asked again later.
        """
        if self._capacity is not None and self._controller.num_running >= self._capacity.free_slots():
            return None
        with self._callback.capture_fatal():
            record = self._controller.next_trial()
        if record is None:
            return Searcher.FINISHED
        if isinstance(record, Wait):
            return None
        with self._callback.capture_fatal():
            further = self._controller.next_companions(record)
            runs = [self._run(each) for each in (record, *further)]
        self._given[record.id] += 1
        times = self._given[record.id]
        stack = {STACK: runs, "measure": self._controller.stack_sizes.is_measured(record.of or "")} if further else {}
        return runs[0] | {
            # A resumed trial needs a new folder: Ray numbers checkpoints from 0 and would overwrite the earlier ones.
            "folder": record.id if times == 1 else f"{record.id}-{times}",
            "study": record.study,
            "values": record.values,
            "away_from": self._capacity.excluded if self._capacity else [],
            **stack,
        }

    def _run(self, record: TrialRecord) -> dict[str, Any]:
        """Returns what a worker needs to know of a run besides its values."""
        there = record.checkpoint is not None and exists(record.checkpoint)
        checkpoint = record.checkpoint if there else None
        return {"trial": record.id, "seed": record.seed, "checkpoint": checkpoint, "measured": record.measured}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: the callback tells the study, since Ray passes more to a callback than to this method.

        Args:
            trial_id: Ray's id of the trial.
            result: Its last report.
            error: Whether it failed.
        """

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: a search is resumed from its journal, so Ray's snapshot of the searcher stays empty."""

    def restore(self, checkpoint_path: str) -> None:
        """Raises an error, since a search is resumed from its journal alone."""
        raise NotImplementedError("a search is resumed from its journal, never by Ray's restore")
