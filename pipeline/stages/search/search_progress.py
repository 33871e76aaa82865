"""Live progress of a search in the terminal: a line that is kept up to date, or, in a log, a line a trial."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.console.format import config_name, format_count
from pipeline.console.run_progress import HEARTBEAT_S, format_time_left
from pipeline.tune.budget import EPOCH_BUDGET
from pipeline.tune.journal.records import COMPLETE, INFEASIBLE, METHOD, PRUNED, TrialRecord
from pipeline.tune.objectives.objectives import ACCURACY_ALONE, Objectives, format_metric, is_valid_result


class SearchProgress:
    """Follows a search (see `pipeline.tune.journal.records.SearchCallback`). Use as a context manager around it.

    total: trials, controls and confirmations at most. epochs: of each in full. budget: epochs of all together, to which
    is counted where it is given. objectives: what they are to reach. part: which of several searches it is, in words.
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
        self._objectives, self._part = objectives, part
        self._total, self._epochs, self._budget, self._clock = total, epochs, budget, clock
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._trials: dict[str, TrialRecord] = {}
        self._paused_after: dict[str, int] = {}
        self._ending = False
        self._replayed = 0
        self._started: float | None = None
        self._first_epoch: float | None = None
        self._last_printed = 0.0
        self._live = Live(get_renderable=self._status, console=self._console, refresh_per_second=2, transient=True)

    def replayed(self) -> None:
        """The events so far came from the journal; from now on epochs are trained, and the clock runs."""
        self._started = self._last_printed = self._clock()
        if self._trials:
            paused = f", {count} are paused" if (count := self._num_paused()) else ""
            spent = "" if self._budget is None else f"{self._count_epochs()} spent, "
            of = f" of {self._total}" if self._budget is None else ""
            self._say(f"going on from the journal: {spent}{self._ended()}{of} trials have ended{paused}")

    def trial_started(self, trial: TrialRecord) -> None:
        self._trials[trial.id] = trial

    def epoch_reported(self, trial: TrialRecord, epoch: int) -> None:
        if self._started is None:
            return
        if self._first_epoch is None:
            # Workers spend seconds on imports before this, which the pace of training must not be judged by.
            self._first_epoch, self._replayed = self._clock(), self._trained()
        if not self._console.is_terminal and self._clock() - self._last_printed > HEARTBEAT_S:
            self._last_printed = self._clock()
            self._say(self._status())

    def trial_paused(self, trial: TrialRecord) -> None:
        """Say so; nothing more is said of it if it ends without having gone on."""
        self._paused_after[trial.id] = trial.last_epoch
        self._say_trial(trial, f"paused after epoch {trial.last_epoch}")

    def trial_ended(self, trial: TrialRecord) -> None:
        if trial.state == PRUNED and self._paused_after.get(trial.id) == trial.last_epoch:
            return
        said = {COMPLETE: "ran in full", PRUNED: f"stopped after epoch {trial.last_epoch}"}
        said[INFEASIBLE] = f"not trained: {trial.reason}"
        self._say_trial(trial, said.get(trial.state or "", f"failed: {_last_line(trial.reason)}"))

    def _say_trial(self, trial: TrialRecord, outcome: str) -> None:
        if self._started is None:
            return
        self._last_printed = self._clock()
        first = self._objectives.first
        value = f"{trial.metric(first):.4f}" if trial.epochs else "-"
        further = self._objectives.shown_metrics
        value += "".join(f", {name} {format_metric(name, trial.metric(name))}" for name in further)
        place = f"{self._ended()}/{self._total}" if self._budget is None else self._count_epochs()
        self._say(f"[{place}] {trial.id:<9} {first} {value}  {outcome}  {config_name(trial.values)}")

    def ending_early(self, reason: str, running: int, left: int) -> None:
        """Say so at once, and count to what is still to come."""
        if self._started is None:
            return
        self._ending = True
        self._total = min(self._total, len(self._trials) + left)
        paused = f"{format_count(count, 'paused trial')} may end there; " if (count := self._num_paused()) else ""
        # That the epochs are spent is how a search with such a budget ends.
        begins = "no further trials" if reason.startswith(EPOCH_BUDGET) else "ending early"
        self._say(
            f"{begins}: {reason}; {paused}what runs ({running} now) goes on to its end or is paused, then the best are "
            f"confirmed: "
            f"{self._total} runs at most"
        )

    def _say(self, text: str | Text) -> None:
        # A configuration or a reason may hold brackets, which are no markup.
        self._console.print(text, markup=False)

    def _status(self) -> Text:
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
        return Text(" | ".join(parts), no_wrap=True, overflow="ellipsis")

    def seconds_left(self) -> float | None:
        """From the pace since the first epoch, and the epochs to come: those left of the budget, or as many as trials
        that have ended, or are paused, have taken on average; None before that.
        """
        done = self._trained() - self._replayed
        if self._first_epoch is None or done <= 0:
            return None
        pace = (self._clock() - self._first_epoch) / done
        running = [t for t in self._trials.values() if t.state is None and not t.paused]
        to_start = self._total - len(self._trials)
        if self._budget is not None:
            left = max(0, self._budget - self._trained())
            in_full = sum(self._epochs - trial.last_epoch for trial in running) + self._epochs * to_start
            return (min(left, in_full) if self._ending else left) * pace
        ended = [t.last_epoch for t in self._trials.values() if t.state is not None or t.paused]
        usual = sum(ended) / len(ended) if ended else self._epochs
        to_come = sum(max(0.0, usual - trial.last_epoch) for trial in running) + usual * to_start
        return to_come * pace

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

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def _last_line(reason: str | None) -> str:
    lines = (reason or "").strip().splitlines()
    return lines[-1] if lines else "no reason given"
