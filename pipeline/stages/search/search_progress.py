"""Progress of a search: a line that a terminal keeps up to date, and a line that stays for every trial that ends."""

import time
from collections.abc import Callable

from rich.console import Console

from pipeline.console.format import config_name, format_count, format_time_left
from pipeline.console.progress import Pace, ProgressLine
from pipeline.tune.budget import EPOCH_BUDGET
from pipeline.tune.journal.records import COMPLETE, INFEASIBLE, METHOD, PRUNED, TrialRecord
from pipeline.tune.objectives.objectives import ACCURACY_ALONE, Objectives, format_metric, is_valid_result


class SearchProgress(ProgressLine):
    """Progress of a search, of which it is a `pipeline.tune.journal.records.SearchCallback`.

    Args:
        total: trials, controls and confirmations at most.
        epochs: epochs of each of them in full.
        budget: epochs of all together, to which progress is counted; None where the budget is a number of trials.
        objectives: the objectives of the search.
        part: which of several searches it is, in words; empty for a single one.
        console: where it is printed; None for standard output.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        total: int,
        epochs: int,
        *,
        budget: int | None = None,
        objectives: Objectives = ACCURACY_ALONE,
        part: str = "",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(self._parts, self._part_done, console=console, clock=clock)
        self._objectives, self._part = objectives, part
        self._total, self._epochs, self._budget = total, epochs, budget
        self._trials: dict[str, TrialRecord] = {}
        self._paused_after: dict[str, int] = {}
        self._ending = self._is_replayed = False
        self._pace = Pace(clock)

    def replayed(self) -> None:
        """Notes that the events so far came from the journal, and that epochs are trained from now on."""
        self._is_replayed, self._last_printed = True, self._clock()
        if self._trials:
            paused = f", {count} are paused" if (count := self._num_paused()) else ""
            spent = "" if self._budget is None else f"{self._count_epochs()} spent, "
            of = f" of {self._total}" if self._budget is None else ""
            self.say(f"going on from the journal: {spent}{self._ended()}{of} trials have ended{paused}")

    def trial_started(self, trial: TrialRecord) -> None:
        self._trials[trial.id] = trial

    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None:
        if self._is_replayed:
            self._pace.count(self._trained())
            self.beat()

    def trial_paused(self, trial: TrialRecord) -> None:
        """Prints that a trial is paused; nothing further is printed if it ends without having been resumed."""
        self._paused_after[trial.id] = trial.last_epoch
        self._say_trial(trial, f"paused after epoch {trial.last_epoch}")

    def trial_ended(self, trial: TrialRecord) -> None:
        if trial.state == PRUNED and self._paused_after.get(trial.id) == trial.last_epoch:
            return
        said = {COMPLETE: "ran in full", PRUNED: f"stopped after epoch {trial.last_epoch}"}
        said[INFEASIBLE] = f"not trained: {trial.reason}"
        self._say_trial(trial, said.get(trial.state or "", f"failed: {_last_line(trial.reason)}"))

    def _say_trial(self, trial: TrialRecord, outcome: str) -> None:
        if not self._is_replayed:
            return
        first = self._objectives.first
        value = f"{trial.metric(first):.4f}" if trial.epochs else "-"
        further = self._objectives.shown_metrics
        value += "".join(f", {name} {format_metric(name, trial.metric(name))}" for name in further)
        place = f"{self._ended()}/{self._total}" if self._budget is None else self._count_epochs()
        self.say(f"[{place}] {trial.id:<9} {first} {value}  {outcome}  {config_name(trial.values)}")

    def ending_early(self, reason: str, running: int, left: int) -> None:
        """Prints the reason, and counts up to the runs that are still to come.

        Args:
            reason: why no further trials begin.
            running: trials that are running.
            left: runs that are left.
        """
        if not self._is_replayed:
            return
        self._ending = True
        self._total = min(self._total, len(self._trials) + left)
        paused = f"{format_count(count, 'paused trial')} may end there; " if (count := self._num_paused()) else ""
        # A search with a budget of epochs normally ends when these are spent, which is not early.
        begins = "no further trials" if reason.startswith(EPOCH_BUDGET) else "ending early"
        self.say(
            f"{begins}: {reason}; {paused}running trials ({running} now) go on to their end or are paused, then the "
            f"best are confirmed: "
            f"{self._total} runs at most"
        )

    def _parts(self) -> list[str]:
        trials = self._trials.values()
        stopped = sum(trial.state == PRUNED for trial in trials)
        by_epochs = self._budget is not None
        parts = [
            *([self._part] if self._part else []),
            f"trials {self._ended()} done" if by_epochs else f"trials {self._ended()}/{self._total} done",
            f"{stopped} stopped early",
            *([f"{paused} paused"] if (paused := self._num_paused()) else []),
            f"{len(self._trials) - self._ended() - paused} running",
            self._count_epochs() if by_epochs else f"epoch {self._trained()} of at most {self._at_most()}",
        ]
        tried = [trial for trial in trials if trial.study == METHOD and is_valid_result(trial, self._objectives)]
        if tried:
            best = max(tried, key=self._objectives.gain)
            parts.append(f"best so far {best.metric(self._objectives.first):.4f} ({best.id})")
        if (left := self.seconds_left()) is not None:
            parts.append(format_time_left(left))
        return parts

    def _part_done(self) -> float | None:
        left = self._epochs_left()
        return self._trained() / (self._trained() + left) if self._is_replayed and self._trained() + left else None

    def seconds_left(self) -> float | None:
        """Returns the seconds left by the pace since the first epoch; None before a second one."""
        return self._pace.seconds_left(self._trained(), self._epochs_left())

    def _epochs_left(self) -> float:
        """Returns the epochs to come: those left of the budget, or as many a trial as ended and paused ones took."""
        running = [t for t in self._trials.values() if t.state is None and not t.paused]
        to_start = self._total - len(self._trials)
        if self._budget is not None:
            left = max(0, self._budget - self._trained())
            in_full = sum(self._epochs - trial.last_epoch for trial in running) + self._epochs * to_start
            return min(left, in_full) if self._ending else left
        ended = [t.last_epoch for t in self._trials.values() if t.state is not None or t.paused]
        usual = sum(ended) / len(ended) if ended else self._epochs
        return sum(max(0.0, usual - trial.last_epoch) for trial in running) + usual * to_start

    def _ended(self) -> int:
        return sum(trial.state is not None for trial in self._trials.values())

    def _num_paused(self) -> int:
        return sum(trial.paused for trial in self._trials.values())

    def _trained(self) -> int:
        return sum(trial.trained_epochs for trial in self._trials.values())

    def _count_epochs(self) -> str:
        return f"{self._trained()} of {self._budget} epochs"

    def _at_most(self) -> int:
        ended = sum(trial.last_epoch for trial in self._trials.values() if trial.state is not None)
        return ended + (self._total - self._ended()) * self._epochs


def _last_line(reason: str | None) -> str:
    lines = (reason or "").strip().splitlines()
    return lines[-1] if lines else "no reason given"
