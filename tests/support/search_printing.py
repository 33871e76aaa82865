"""A search for tests of what it prints, on a console that only keeps what is printed."""

import io
from typing import Any

from rich.console import Console

from pipeline.stages.search.search_progress import SearchProgress
from pipeline.tune.journal.records import CONFIRMATION, CONTROL, METHOD, TRIAL, TrialRecord


class Search:
    """A search that tells its progress, by a clock that only goes when it is told to."""

    def __init__(
        self,
        total: int = 4,
        epochs: int = 10,
        *,
        budget: int | None = None,
        terminal: bool = False,
        width: int = 200,
        **words: Any,
    ) -> None:
        self.now, self.paper = 0.0, io.StringIO()
        console = Console(file=self.paper, width=width, force_terminal=terminal, highlight=False, soft_wrap=True)
        self.progress = SearchProgress(total, epochs, budget=budget, console=console, clock=lambda: self.now, **words)
        self.trials: dict[str, TrialRecord] = {}

    def start(self, name: str, values: dict[str, Any] | None = None, *, epochs: int = 0) -> None:
        number = int(name[1:]) if name.startswith("t0") and "-" not in name else None
        role, study = (CONTROL, None) if number is None else (TRIAL, METHOD)
        role = CONFIRMATION if "-seed" in name else role
        self.trials[name] = TrialRecord(name, number, values or {"train.lr": 0.1}, role=role, study=study)
        self.progress.trial_started(self.trials[name])
        for _ in range(epochs):
            self.epoch(name)

    def epoch(self, name: str, accuracy: float = 0.5, *, takes: float = 0.0) -> None:
        self.now += takes
        trial = self.trials[name]
        trial.epochs[trial.last_epoch + 1] = {"val/accuracy": accuracy}
        self.progress.epoch_reported(trial, trial.last_epoch)

    def pause(self, name: str) -> None:
        self.trials[name].paused = True
        self.progress.trial_paused(self.trials[name])

    def go_on(self, name: str) -> None:
        self.trials[name].paused = False

    def end(self, name: str, state: str, reason: str | None = None) -> None:
        self.trials[name].state, self.trials[name].reason, self.trials[name].paused = state, reason, False
        self.progress.trial_ended(self.trials[name])

    @property
    def said(self) -> list[str]:
        return self.paper.getvalue().splitlines()


def by_epochs(budget: int = 40) -> Search:
    """A fresh search that may spend so many epochs, of trials that take ten in full."""
    made = Search(total=30, budget=budget)
    made.progress.replayed()
    return made
