"""Claims about how many seeds retraining takes: as asked, or as the search's summary says, the same at every run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from support.partial_results import filled_content

from pipeline.artifacts.retraining import ChosenSeeds
from pipeline.artifacts.search_result import SearchSummary
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.score.forecast import Components, Forecast, choose_seeds
from pipeline.stages.retrain.__main__ import choose_number, describe_duration
from pipeline.workspace import Workspace

FOUND = Components(
    config_seed=5e-5,
    residual=0.008,
    config_image=0.001,
    residual_error=0.001,
    image_error=0.0005,
    images=287,
    configurations=5,
    seeds=2,
)


def given(**settings: Any) -> Params:
    return Params().with_values({name.replace("__", "."): value for name, value in settings.items()}, where="test")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "results" / "search").mkdir(parents=True)
    summary = {
        "forecast": {**asdict(FOUND), "max_concurrent": 2, "gpus": 0.0},
        "epochs": {"spent": 100},
        "spent": {"hours": 0.5, "worker_hours": 1.0, "gpu_hours": 0.0},
    }
    (tmp_path / "results" / "search" / "summary.json").write_text(json.dumps(filled_content(SearchSummary, summary)))
    return Workspace(tmp_path, tmp_path)


def test_number_is_taken_as_it_is(tmp_path: Path) -> None:
    found = choose_number(Workspace(tmp_path, tmp_path), given(retrain__seeds=3), test_images=359)
    assert found == ChosenSeeds(asked=3, chosen=3, why="retrain.seeds says so")


def test_auto_takes_what_the_summary_says_and_the_same_again(workspace: Workspace) -> None:
    params = given(retrain__seeds="auto", evaluate__margin=0.02)
    first, again = (choose_number(workspace, params, test_images=359) for _ in range(2))
    assert first == again
    assert first.asked == "auto"
    assert first.chosen == choose_seeds(Forecast(FOUND, 359), 0.02, max_seeds=20).seeds
    assert first.why.startswith(f"{first.chosen} seeds each, the fewest with which, if there is no loss, four of five")
    assert first.why.endswith("by 5 configurations with 2 further seeds each, on 287 validation images of the search")


def test_auto_keeps_to_max_seeds_and_to_what_the_budget_has_left(workspace: Workspace) -> None:
    params = given(retrain__seeds="auto", evaluate__margin=0.003)
    assert choose_number(workspace, params, test_images=359).chosen > 4
    few = given(retrain__seeds="auto", evaluate__margin=0.003, retrain__max_seeds=3)
    assert choose_number(workspace, few, test_images=359).chosen == 3
    # An epoch took 36 seconds of a worker: four rounds of two runs of 360 seconds are left.
    poor = given(retrain__seeds="auto", evaluate__margin=0.003, search__budget__hours=0.9)
    assert choose_number(workspace, poor, test_images=359).chosen == 4


def test_auto_of_a_search_that_says_nothing_of_it_assumes_and_says_so(workspace: Workspace) -> None:
    path = workspace.results / "search" / "summary.json"
    summary = json.loads(path.read_text())
    del summary["forecast"]
    path.write_text(json.dumps(summary))
    found = choose_number(workspace, given(retrain__seeds="auto"), test_images=359)
    assert found.why.endswith("assumed, since no configuration has been confirmed yet")
    path.unlink()
    with pytest.raises(UserError, match=r"Run `dvc repro search` first\."):
        choose_number(workspace, given(retrain__seeds="auto"), test_images=359)


def test_duration_of_retraining_is_told_by_the_search_s_pace(workspace: Workspace, tmp_path: Path) -> None:
    params = given(train__epochs=8, split__val_fraction=0.2)
    # 36 s an epoch of a worker: 360 s a run on train and val, of which two go at a time.
    assert describe_duration(workspace, params, 5) == "about 18 min"
    assert describe_duration(workspace, params, 0) == ""
    assert describe_duration(workspace, given(retrain__workers_per_run=2), 5) == ""
    assert describe_duration(Workspace(tmp_path / "none", tmp_path), params, 5) == ""
