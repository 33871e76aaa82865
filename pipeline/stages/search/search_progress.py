"""Progress of a search: a line that a terminal keeps up to date, and a line that stays for every trial that ends."""

import time
from collections.abc import Callable, Collection

from rich.console import Console

from pipeline.console.format import config_name, format_count
from pipeline.console.progress import Pace, ProgressLine
from pipeline.state.status_words import count_runs
from pipeline.tune.budget import EPOCH_BUDGET
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, INFEASIBLE, METHOD, PRUNED, TRIAL, TrialRecord
from pipeline.tune.objectives.objectives import ACCURACY_ALONE, Objectives, format_metric, is_valid_result


class SearchProgress(ProgressLine):
    """Progress of a search, of which it is a `pipeline.tune.journal.records.SearchCallback`.

    Args:
        total: trials, controls and confirmations at most.
        epochs: epochs of each of them in full.
        budget: epochs of all together, to which progress is counted; None where the budget is a number of trials.
        confirmations: confirmations at most, for which the budget has reserved epochs.
        objectives: the objectives of the search.
        part: which of several searches it is, in words; empty for a single one.
        name_width: characters of the longest name of a run.
        expected: how long the search is expected to take, in words; empty if that is unknown.
        journaled: runs of earlier sessions.
        console: where it is printed; None for standard output.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        total: int,
        epochs: int,
        *,
        budget: int | None = None,
        confirmations: int = 0,
        objectives: Objectives = ACCURACY_ALONE,
        part: str = "",
        name_width: int = 9,
        expected: str = "",
        journaled: Collection[TrialRecord] = (),
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(self._parts, self._part_done, expected=expected, console=console, clock=clock)
        self._objectives, self._part, self._name_width = objectives, part, name_width
        self._total, self._epochs, self._budget, self._confirmations = total, epochs, budget, confirmations
        self._journaled, self._used_again = journaled, set[str]()
        self._trials: dict[str, TrialRecord] = {}
        self._paused_after: dict[str, int] = {}
        self._ending = self._is_replayed = False
        self._pace = Pace(clock)

    def replayed(self) -> None:
        """Notes that the events so far came from the journal, and that epochs are trained from now on.

        The plan has counted all runs of the journal. Confirmations are not counted here before their configurations are
        among the best again, so a line says how many there are.
        """
        self._is_replayed, self._last_printed = True, self._clock()
        aside = [run for run in self._journaled if run.role == CONFIRMATION and run.id not in self._trials]
        if aside:
            epochs = format_count(sum(run.trained_epochs for run in aside), "epoch")
            self.say(
                f"{format_count(len(aside), 'confirmation')} of earlier sessions ({epochs}) will count only if their "
                "configurations are among the best at the end"
            )

    def trial_started(self, trial: TrialRecord) -> None:
        self._trials[trial.id] = trial
        if self._is_replayed and trial.state is not None:
            self._used_again.add(trial.id)

    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None:
        if self._is_replayed:
            self._pace.count(self._trained_anew())
            self.beat()

    def trial_paused(self, trial: TrialRecord) -> None:
        """Prints that a trial is paused; nothing further is printed if it ends without having been resumed."""
        self._paused_after[trial.id] = trial.last_epoch
        self._say_trial(trial, f"paused after epoch {trial.last_epoch}")

    def trial_ended(self, trial: TrialRecord) -> None:
        if trial.state == PRUNED and self._paused_after.get(trial.id) == trial.last_epoch:
            return
        said = {COMPLETE: "ran in full", PRUNED: f"stopped early, after epoch {trial.last_epoch}"}
        said[INFEASIBLE] = f"not trained: {trial.reason}"
        again = " in an earlier session, used again" if trial.id in self._used_again else ""
        self._say_trial(trial, said.get(trial.state or "", f"failed: {_last_line(trial.reason)}") + again)

    def _say_trial(self, trial: TrialRecord, outcome: str) -> None:
        if not self._is_replayed:
            return
        first = self._objectives.first
        value = f"{trial.metric(first):.4f}" if trial.epochs else "-"
        further = self._objectives.shown_metrics
        value += "".join(f", {name} {format_metric(name, trial.metric(name))}" for name in further)
        runs = f"{self._ended():>{len(str(self._total))}} of {self._total} runs"
        place = runs if self._budget is None else self._count_epochs(len(str(self._budget)))
        name = f"{trial.id:<{self._name_width}}"
        self.say(f"[{place}] {name} {first} {value}  {outcome}  {config_name(trial.values)}")

    def ending_early(self, reason: str, running: int, left: int) -> None:
        """Prints why no further trial begins, and what becomes of the runs and of the rest of the budget.

        Args:
            reason: why no further trials begin.
            running: runs that are running.
            left: runs that are left.
        """
        if not self._is_replayed:
            return
        self._ending = True
        self._total = min(self._total, len(self._trials) + left)
        # A search with a budget of epochs normally ends when these are spent, which is not early.
        if self._budget is not None and reason.startswith(EPOCH_BUDGET):
            said = f"no further trials: {self._describe_budget(self._budget, running)}"
        else:
            said = f"ending early: {reason}"
        nothing_in_full = not self._in_full()
        sentences = [said]
        if running:
            one = running == 1
            sentences.append(f"{format_count(running, 'run')} {'goes' if one else 'go'} on to the end, or to a pause")
        if paused := sum(trial.paused for trial in self._trials.values()):
            but = ", but for the best, if no other runs in full" if nothing_in_full else ""
            verb = "stays" if paused == 1 else "stay"
            sentences.append(f"{format_count(paused, 'paused trial')} {verb} paused{but}")
        if left:
            sentences.append(f"Then the best are confirmed: {format_count(left, 'run')} at most")
        self.say(". ".join(sentences) + ".")

    def _describe_budget(self, budget: int, running: int) -> str:
        """Returns what the epochs of the budget are spent on and reserved for.

        Args:
            budget: the epochs of the budget.
            running: runs that are running.
        """
        confirming = [trial for trial in self._trials.values() if trial.role == CONFIRMATION]
        reserved = self._confirmations * self._epochs - sum(trial.trained_epochs for trial in confirming)
        rest = budget - self._trained() - max(0, reserved)
        said = [f"{self._count_epochs()} are spent"]
        if reserved > 0:
            runs = f"{format_count(self._confirmations, 'run')} of {format_count(self._epochs, 'epoch')}"
            said.append(f"{reserved} are reserved for confirmations (at most {runs})")
        uses = ["what runs now"] if running else []
        uses += [] if self._in_full() else ["one trial to run in full"]
        if rest > 0 and uses:
            said.append(f"{rest} are left for {' and for '.join(uses)}")
        elif rest > 0:
            said.append(f"{rest} are too few for a further trial")
        return "; ".join(said)

    def _in_full(self) -> int:
        """Returns the number of trials that have run in full."""
        return sum(trial.role == TRIAL and trial.state == COMPLETE for trial in self._trials.values())

    def _parts(self) -> list[str]:
        by_epochs = self._budget is not None
        parts = [
            *([self._part] if self._part else []),
            self._describe_time(self.seconds_left()),
            self._count_epochs() if by_epochs else f"{self._trained()} of at most {self._at_most()} epochs",
            *(count_runs(self._trials.values()) or ["no trial yet"]),
        ]
        trials = self._trials.values()
        tried = [trial for trial in trials if trial.study == METHOD and is_valid_result(trial, self._objectives)]
        if tried:
            best = max(tried, key=self._objectives.gain)
            parts.append(f"best so far {best.metric(self._objectives.first):.4f} ({best.id})")
        return parts

    def _part_done(self) -> float | None:
        left = self._epochs_left()
        return self._trained() / (self._trained() + left) if self._is_replayed and self._trained() + left else None

    def seconds_left(self) -> float | None:
        """Returns the seconds left by the pace since the first epoch; None before a second one."""
        return self._pace.seconds_left(self._trained_anew(), self._epochs_left())

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

    def _trained(self) -> int:
        return sum(trial.trained_epochs for trial in self._trials.values())

    def _trained_anew(self) -> int:
        """Returns the trained epochs without those of runs that are used again, which took no time in this session."""
        used_again = sum(trial.trained_epochs for name, trial in self._trials.items() if name in self._used_again)
        return self._trained() - used_again

    def _count_epochs(self, width: int = 0) -> str:
        return f"{self._trained():>{width}} of {self._budget} epochs"

    def _at_most(self) -> int:
        ended = sum(trial.last_epoch for trial in self._trials.values() if trial.state is not None)
        return ended + (self._total - self._ended()) * self._epochs


def _last_line(reason: str | None) -> str:
    lines = (reason or "").strip().splitlines()
    return lines[-1] if lines else "no reason given"
