"""Claims about what of a search the forecast is made from: further seeds alone, shared by all, nothing twice."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Params
from pipeline.tune.journal.image_scores import ImageScores, pack_scores
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, CONTROL, FAILED, TRIAL, TrialRecord
from pipeline.tune.selection.confirmed_tables import confirmed_tables, forecast_content
from pipeline.tune.task import Resources

IMAGES = 6
RESOURCES = Resources(1, 0.5, 3, 4, 1)


class Search:
    """Runs of two epochs, with what they got right at the last one."""

    def __init__(self) -> None:
        self.trials: list[TrialRecord] = []
        self.scores = ImageScores()
        self._rng = np.random.default_rng(0)
        self.right: dict[str, NDArray[np.bool_]] = {}

    def add(
        self, of: str, seed: int | None = None, *, weight: float, state: str = COMPLETE, known: bool = True, images: int = IMAGES
    ) -> None:  # fmt: skip
        name = of if seed is None else f"{of}-seed{seed}"
        role = (TRIAL if of[0] == "t" else CONTROL) if seed is None else CONFIRMATION
        about: dict[str, Any] = {"role": role, "state": state, "seed": seed, "of": None if seed is None else of}
        record = TrialRecord(name, None, {"weight": weight}, **about)
        record.epochs = {1: {"val/accuracy": 0.5}, 2: {"val/accuracy": 0.6}}
        self.trials.append(record)
        self.right[name] = self._rng.random(images) < 0.7
        if known:
            self.scores.add(name, 1, pack_scores(~self.right[name]))
            self.scores.add(name, 2, pack_scores(self.right[name]))

    def confirm(self, of: str, *seeds: int, weight: float, **about: Any) -> None:
        self.add(of, weight=weight)
        for seed in seeds:
            self.add(of, seed, weight=weight, **about)

    def tables(self) -> dict[str, list[list[bool]]]:
        return {name: table.tolist() for name, table in confirmed_tables(self.trials, self.scores).items()}

    def rows(self, of: str, *seeds: int) -> list[list[bool]]:
        return [self.right[f"{of}-seed{seed}"].tolist() for seed in seeds]


def test_tables_are_of_the_further_seeds_of_candidates_and_controls_at_their_last_epoch() -> None:
    search = Search()
    search.confirm("baseline", 1001, 1002, weight=0.0)
    search.confirm("t0003", 1002, 1001, weight=0.3)
    search.add("t0004", weight=0.4)  # not confirmed
    assert search.tables() == {name: search.rows(name, 1001, 1002) for name in ("baseline", "t0003")}


def test_only_seeds_that_all_have_are_compared() -> None:
    search = Search()
    search.confirm("baseline", *range(1001, 1013), weight=0.0)  # a control whose budget went to seeds
    search.confirm("t0001", 1001, 1002, weight=0.1)
    search.confirm("t0002", 1001, 1002, weight=0.2)
    assert search.tables() == {name: search.rows(name, 1001, 1002) for name in ("baseline", "t0001", "t0002")}


def test_configuration_that_lacks_seeds_is_left_out_where_more_is_compared_without_it() -> None:
    search = Search()
    for number in range(4):
        search.confirm(f"t000{number}", 1001, 1002, 1003, weight=0.1 * number)
    search.confirm("t0009", 1001, weight=0.9)
    assert set(search.tables()) == {f"t000{number}" for number in range(4)}
    assert all(len(table) == 3 for table in search.tables().values())


def test_failed_runs_unknown_ones_and_those_under_way_are_no_rows() -> None:
    search = Search()
    search.confirm("t0001", 1001, 1002, weight=0.1)
    search.confirm("t0002", 1001, 1002, weight=0.2)
    others: list[dict[str, Any]] = [{"state": FAILED}, {"known": False}, {"state": None}]
    for number, about in enumerate(others, start=3):
        search.confirm(f"t000{number}", 1001, 1002, weight=0.1 * number, **about)
    assert set(search.tables()) == {"t0001", "t0002"}


def test_same_configuration_twice_is_compared_once() -> None:
    """As where a trial was given a control's configuration: their networks are the same, and not as if by luck."""
    search = Search()
    search.confirm("paper", 1001, 1002, weight=0.1)
    search.confirm("t0000", 1001, 1002, weight=0.1)
    search.confirm("t0001", 1001, 1002, weight=0.2)
    assert set(search.tables()) == {"paper", "t0001"}


def test_no_confirmations_and_other_images_give_no_tables() -> None:
    assert Search().tables() == {}
    search = Search()
    search.confirm("t0001", 1001, weight=0.1)
    search.confirm("t0002", 1001, weight=0.2, images=5)
    assert search.tables() == {}


def test_content_is_what_the_tables_say_and_how_trials_shared_the_machine() -> None:
    search = Search()
    assert forecast_content(search.trials, search.scores, RESOURCES, Params()).assumed
    for number in range(5):
        search.confirm(f"t000{number}", 1001, 1002, weight=0.1 * number)
    found = forecast_content(search.trials, search.scores, RESOURCES, Params())
    accuracies = np.array([search.right[f"t000{n}-seed{s}"].mean() for n in range(5) for s in (1001, 1002)]).reshape(
        5, 2
    )
    half = (accuracies[:, 0] - accuracies[:, 1]) / 2
    assert np.isclose(found.config_seed, 2 * ((half - half.mean()) ** 2).sum() / 4)
    assert found.assumed is None
    assert (found.configurations, found.seeds, found.images) == (5, 2, IMAGES)
    assert (found.max_concurrent, found.gpus) == (3, 0.5)
