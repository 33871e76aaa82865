"""Claims about ASHA as its paper has it: who pauses, and who goes on, as algorithm 2 says it, restated."""

import math
import random
from collections.abc import Iterator

import pytest

from pipeline.tune.schedulers.pausing import PausingASHA
from pipeline.tune.schedulers.scheduler import Decision

ACCURACY, AUROC = "val/accuracy", "val/attention/auroc"
EPOCHS = 16


def asha(*, first: int = 1, factor: float = 3.0, metrics: tuple[str, ...] = (ACCURACY,)) -> PausingASHA:
    rungs = [rung for power in range(EPOCHS) if (rung := math.ceil(first * factor**power - 1e-9)) < EPOCHS]
    return PausingASHA(rungs, factor, EPOCHS, metrics)


def made_up(seed: int) -> Iterator[float]:
    """Values of which some are equal, and a few are no numbers."""
    dice = random.Random(seed)
    while True:
        yield math.nan if dice.random() < 0.05 else round(dice.random(), 1)


class Restated:
    """Algorithm 2 of the paper, looking through everything each time."""

    def __init__(self, rungs: list[int], factor: float) -> None:
        self.factor = factor
        self.came: dict[int, dict[int, dict[str, float]]] = {rung: {} for rung in rungs}
        self.promoted: set[tuple[int, int]] = set()

    def best(self, rung: int) -> list[int]:
        """Numbers of trials that are in the best 1/factor of a rung by any metric."""
        found = []
        for name in (ACCURACY, AUROC):
            known = {
                number: values[name]
                for number, values in self.came[rung].items()
                if not math.isnan(values.get(name, math.nan)) and not math.isnan(values[ACCURACY])
            }
            ranked = sorted(known, key=lambda number: (-known[number], number))
            found += ranked[: int(len(known) / self.factor + 1e-9)]
        return found

    def job(self, free: set[int]) -> int | None:
        """The trial that is promoted next, of those that no worker has; None for a new one."""
        for rung in sorted(self.came, reverse=True):
            for number in self.best(rung):
                if (rung, number) not in self.promoted and number in free:
                    self.promoted.add((rung, number))
                    return number
        return None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("metrics", [(ACCURACY,), (ACCURACY, AUROC)])
@pytest.mark.parametrize(("first", "factor"), [(1, 2.0), (1, 3.0), (2, 4.0), (1, 1.5)])
@pytest.mark.parametrize("workers", [1, 4])
def test_trials_pause_and_go_on_as_in_algorithm_2(
    first: int, factor: float, metrics: tuple[str, ...], seed: int, workers: int
) -> None:
    of = asha(first=first, factor=factor, metrics=metrics)
    restated = Restated(of.rung_epochs, factor)
    dice, values = random.Random(seed), made_up(seed)
    epoch_of: dict[int, int] = {}
    at_work: set[int] = set()
    paused: set[int] = set()
    in_full = resumed = 0
    while len(epoch_of) < 80:
        while len(at_work) < workers:
            expected = restated.job(paused)
            name = of.next_to_resume({f"t{number:04d}" for number in paused})
            assert name == (None if expected is None else f"t{expected:04d}")
            if name is None or expected is None:
                expected = len(epoch_of)
                epoch_of[expected] = 0
            else:
                of.resume(name)
                paused.discard(expected)
                resumed += 1
            at_work.add(expected)
        number = dice.choice(sorted(at_work))
        epoch_of[number] += 1
        epoch, metrics_now = epoch_of[number], {name: next(values) for name in metrics}
        decision = of.report(f"t{number:04d}", epoch, metrics_now)
        if epoch == EPOCHS:
            assert decision is Decision.STOP
            in_full += 1
        elif epoch in of.rung_epochs:
            restated.came[epoch][number] = metrics_now
            if number in restated.best(epoch):
                restated.promoted.add((epoch, number))
                assert decision is Decision.CONTINUE
            else:
                assert decision is Decision.PAUSE
                paused.add(number)
        else:
            assert decision is Decision.CONTINUE
        if decision is not Decision.CONTINUE:
            at_work.remove(number)
    assert resumed > 3
    assert in_full > 0


def test_trial_waits_until_others_make_it_one_of_the_best() -> None:
    of = asha(first=4, factor=2.0)
    assert of.report("t0000", 4, {ACCURACY: 0.5}) is Decision.PAUSE
    assert of.next_to_resume({"t0000"}) is None
    assert of.report("t0001", 4, {ACCURACY: 0.5}) is Decision.PAUSE  # of equals the earlier one is the better
    assert of.next_to_resume({"t0000", "t0001"}) == "t0000"
    assert of.next_to_resume({"t0001"}) is None  # the other is still at work
    of.resume("t0000")
    assert of.next_to_resume({"t0001"}) is None
    assert of.report("t0002", 4, {ACCURACY: 0.4}) is Decision.PAUSE
    assert of.report("t0003", 4, {ACCURACY: 0.3}) is Decision.PAUSE
    assert of.next_to_resume({"t0001", "t0002", "t0003"}) == "t0001"


def test_better_trial_goes_on_at_once() -> None:
    of = asha(first=4, factor=2.0)
    assert of.report("t0000", 4, {ACCURACY: 0.5}) is Decision.PAUSE
    assert of.report("t0001", 4, {ACCURACY: 0.6}) is Decision.CONTINUE
    assert of.next_to_resume({"t0000"}) is None


def test_report_that_was_heard_before_changes_nothing() -> None:
    of = asha(first=4, factor=2.0)
    of.report("t0000", 4, {ACCURACY: 0.5})
    assert of.report("t0000", 4, {ACCURACY: 0.9}) is Decision.PAUSE
    of.report("t0001", 4, {ACCURACY: 0.4})
    of.resume("t0000")
    assert of.report("t0000", 4, {ACCURACY: 0.1}) is Decision.CONTINUE  # begun again, on its way to where it was
    assert of.report("t0002", 4, {ACCURACY: 0.45}) is Decision.PAUSE


def test_any_one_is_the_best_of_the_highest_rung_that_anybody_waits_at() -> None:
    of = asha(first=2, factor=2.0)
    for number, value in enumerate((0.1, 0.3, 0.2)):
        of.report(f"t{number:04d}", 2, {ACCURACY: value})
    everyone = {"t0000", "t0001", "t0002"}
    assert of.next_to_resume(everyone, anyone=True) == "t0002"  # t0001 went on
    of.report("t0001", 4, {ACCURACY: 0.1})
    assert of.next_to_resume(everyone, anyone=True) == "t0001"
    assert of.next_to_resume(set(), anyone=True) is None


def test_prospects_are_ranks_as_shares_of_the_rung() -> None:
    of = asha(first=2, factor=2.0, metrics=(ACCURACY, AUROC))
    for number, (value, auroc) in enumerate(((0.1, 0.9), (0.4, 0.8), (0.3, 0.7), (0.2, 0.6))):
        of.report(f"t{number:04d}", 2, {ACCURACY: value, AUROC: auroc})
    assert [of.prospects(f"t{number:04d}") for number in range(4)] == [0.0, 0.0, 0.25, 0.5]
    assert of.prospects("t0009") == math.inf
