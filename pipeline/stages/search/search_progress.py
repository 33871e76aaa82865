"""Live progress of a search in the terminal: a line that is kept up to date, or, in a log, a line a trial."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.console.format import config_name
from pipeline.console.run_progress import HEARTBEAT_S, format_time_left
from pipeline.tune.journal.records import COMPLETE, INFEASIBLE, METHOD, OBJECTIVE, PRUNED, TrialRecord
from pipeline.tune.objectives.objectives import ACCURACY_ALONE, Objectives, format_metric, is_valid_result


class SearchProgress:
    """Follows a search (see `pipeline.tune.journal.records.SearchCallback`). Use as a context manager around it.

    total: trials and controls asked for. epochs: planned for each. objectives: what they are to reach.
    """

    def __init__(
        self,
        total: int,
        epochs: int,
        *,
        objectives: Objectives = ACCURACY_ALONE,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objectives = objectives
        self._total, self._epochs, self._clock = total, epochs, clock
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._trials: dict[str, TrialRecord] = {}
        self._replayed = 0
        self._started: float | None = None
        self._first_epoch: float | None = None
        self._last_printed = 0.0
        self._live = Live(get_renderable=self._status, console=self._console, refresh_per_second=2, transient=True)

    def replayed(self) -> None:
        """The events so far came from the journal; from now on epochs are trained, and the clock runs."""
        self._started = self._last_printed = self._clock()
        if self._trials:
            ended = sum(trial.state is not None for trial in self._trials.values())
            self._say(f"going on from the journal: {ended} of {self._total} trials have ended")

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

    def trial_paused(self, trial: TrialRecord) -> None: ...

    def trial_ended(self, trial: TrialRecord) -> None:
        if self._started is None:
            return
        self._last_printed = self._clock()
        said = {COMPLETE: "ran in full", PRUNED: f"stopped after epoch {trial.last_epoch}"}
        said[INFEASIBLE] = f"not trained: {trial.reason}"
        outcome = said.get(trial.state or "", f"failed: {_last_line(trial.reason)}")
        value = f"{trial.metric(OBJECTIVE):.4f}" if trial.epochs else "-"
        ended = sum(t.state is not None for t in self._trials.values())
        further = self._objectives.shown_metrics
        value += "".join(f", {name} {format_metric(name, trial.metric(name))}" for name in further)
        self._say(f"[{ended}/{self._total}] {trial.id:<9} {OBJECTIVE} {value}  {outcome}  {config_name(trial.values)}")

    def ending_early(self, reason: str, running: int, left: int) -> None:
        """Say so at once, and count to what is still to come."""
        if self._started is None:
            return
        self._total = min(self._total, len(self._trials) + left)
        self._say(
            f"ending early: {reason}; what runs ({running} now) goes on to its end, then the best are confirmed: "
            f"{self._total} runs at most"
        )

    def _say(self, text: str | Text) -> None:
        # A configuration or a reason may hold brackets, which are no markup.
        self._console.print(text, markup=False)

    def _status(self) -> Text:
        trials = self._trials.values()
        ended = sum(trial.state is not None for trial in trials)
        stopped = sum(trial.state == PRUNED for trial in trials)
        parts = [
            f"trials {ended}/{self._total} done",
            f"{stopped} stopped early",
            f"{len(self._trials) - ended} running",
            f"epoch {self._trained()} of at most {self._at_most()}",
        ]
        tried = [trial for trial in trials if trial.study == METHOD and is_valid_result(trial, self._objectives)]
        if tried:
            best = max(tried, key=lambda trial: trial.metric(OBJECTIVE))
            parts.append(f"best so far {best.metric(OBJECTIVE):.4f} ({best.id})")
        if (left := self.seconds_left()) is not None:
            parts.append(format_time_left(left))
        return Text(" | ".join(parts), no_wrap=True, overflow="ellipsis")

    def seconds_left(self) -> float | None:
        """From the pace since the first epoch, and the mean length of the trials that have ended; None before that."""
        done = self._trained() - self._replayed
        if self._first_epoch is None or done <= 0:
            return None
        ended = [trial.last_epoch for trial in self._trials.values() if trial.state is not None]
        usual = sum(ended) / len(ended) if ended else self._epochs
        running = sum(max(0.0, usual - t.last_epoch) for t in self._trials.values() if t.state is None)
        to_come = running + usual * (self._total - len(self._trials))
        return to_come * (self._clock() - self._first_epoch) / done

    def _trained(self) -> int:
        return sum(trial.last_epoch for trial in self._trials.values())

    def _at_most(self) -> int:
        ended = sum(trial.last_epoch for trial in self._trials.values() if trial.state is not None)
        open_trials = self._total - sum(trial.state is not None for trial in self._trials.values())
        return ended + open_trials * self._epochs

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
