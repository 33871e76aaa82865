"""Claims about what a search leaves behind: which setting is the best, and what the files say."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Params
from pipeline.config.schema.search_section import SamplerParams
from pipeline.config.yaml import read_yaml
from pipeline.errors import UserError
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, CONTROL, FAILED, PRUNED, TrialRecord
from pipeline.tune.outcome import SearchOutcome, Spent
from pipeline.tune.selection.result_files import write_results
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.study import StudyAdapter
from pipeline.tune.task import Resources, SearchTask

LR, WEIGHT = "train.lr", "regularizer.spatial_entropy.weight"
LAYERS = "regularizer.spatial_entropy.layers"


SPACE = SearchSpace(
    "space.yaml",
    {
        WEIGHT: {"type": "float", "low": 0.003, "high": 1.0, "log": True},
        LAYERS: {"type": "categorical", "choices": ["last", [0, 1]]},
    },
    {"baseline": {WEIGHT: 0.0}, "low_rate": {WEIGHT: 0.0, LR: 1e-05}},
)


LEVELS = {
    "baseline": (3, 0.0),
    "low_rate": (3, 0.1),
    "t0000": (3, 0.5),
    "t0001": (2, 0.7),
    "t0002": (0, 0.0),
    "t0003": (3, 0.2),
    "baseline-seed1001": (3, 0.02),
    "t0000-seed1001": (3, 0.4),
    "t0003-seed1001": (3, 0.25),
}
"""Epochs, and what the accuracy is above an eighth an epoch, by run."""


def searched(*, seconds: float = 2.0) -> tuple[SearchTask, SearchOutcome]:
    """A search of three epochs: two controls, a stopped trial, a failed one, two that ran in full; and confirmations.

    low_rate could not be confirmed any more.
    """
    params = Params().with_values({"train.epochs": 3, "search.confirm.seeds": 1}, where="")
    proposer = StudyAdapter(SPACE, SamplerParams(name="random", startup_trials=1), seed=0, name="abc")
    records = [
        TrialRecord(name, None, dict(values), state=COMPLETE, role=CONTROL) for name, values in SPACE.controls.items()
    ]
    for state in (COMPLETE, PRUNED, FAILED, COMPLETE):
        number, values = proposer.ask()
        records.append(TrialRecord(f"t{number:04d}", number, values, state=state, study="search"))
    records[4].reason = "diverged, in epoch 1"
    for of in (records[0], records[2], records[5]):
        again = TrialRecord(f"{of.id}-seed1001", None, of.values, role=CONFIRMATION, seed=1001, of=of.id)
        again.state = COMPLETE
        records.append(again)
    for record in records:
        length, level = LEVELS[record.id]
        for epoch in range(1, length + 1):
            record.epochs[epoch] = {
                "val/accuracy": level + 0.125 * epoch,
                "val/loss": 1.0 / epoch if record.id != "low_rate" else math.nan,
                "val/spatial_entropy/empty_share": 0.01 * epoch,
                "seconds": seconds,
            }
        record.busy_s, record.gpu_s = length * (seconds + 1), length * (seconds + 1) / 2
        if record.number is not None:
            proposer.tell(record.number, record.state or "", record.metric("val/accuracy"), constraints={})
    nowhere = Path("nowhere")
    task = SearchTask(params, nowhere, nowhere, nowhere, Resources(1, 0, 1, 1, 0), space=SPACE, fingerprint="f00d" * 16)
    spent = Spent(3600.0, sum(record.gpu_s for record in records))
    return task, SearchOutcome(records, {"search": proposer}, [1, 2], spent, "search.budget.hours: spent")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchOutcome, TrialRecord, dict[str, Any]]:
    task, outcome = searched()
    folder = tmp_path_factory.mktemp("results") / "search"
    return folder, outcome, *write_results(task, outcome, folder)


def test_results_are_these_files(written: Any) -> None:
    names = {path.name for path in written[0].iterdir()}
    figures = {"metrics.json", "summary.json", "pareto.csv", "plot_curves.csv", "plot_trials.csv"}
    assert names == {"trials.csv", "curves.csv", "timings.csv", "best.yaml", "study.db"} | figures


def test_table_of_trials_has_a_row_a_trial_with_its_setting_and_end(written: Any) -> None:
    folder, outcome, _, _ = written
    rows = table(folder / "trials.csv")
    assert [row["trial"] for row in rows] == list(LEVELS)
    assert [row["role"] for row in rows] == ["control"] * 2 + ["trial"] * 4 + ["confirmation"] * 3
    assert [row["study"] for row in rows] == [""] * 2 + ["search"] * 4 + [""] * 3
    assert [row["seed"] for row in rows] == ["0"] * 6 + ["1001"] * 3
    assert [row["state"] for row in rows] == [COMPLETE] * 3 + [PRUNED, FAILED] + [COMPLETE] * 4
    assert [row["epochs"] for row in rows] == ["3", "3", "3", "2", "0", "3", "3", "3", "3"]
    assert [float(row["val/accuracy"] or "nan") for row in rows] == pytest.approx(
        [0.375, 0.475, 0.875, 0.95, math.nan, 0.575, 0.395, 0.775, 0.625], nan_ok=True
    )
    assert [row["empty_share"] for row in rows] == ["0.03", "0.03", "0.03", "0.02", "", "0.03"] + ["0.03"] * 3
    assert [row["reason"] for row in rows] == ["", "", "", "", "diverged, in epoch 1", "", "", "", ""]
    assert [float(row[WEIGHT]) for row in rows] == [record.values[WEIGHT] for record in outcome.trials]
    assert rows[0][LAYERS] == "last"  # what params.yaml says where a control says nothing
    assert [row[LR] for row in rows] == ["", "1e-05"] + [""] * 7
    assert rows[1]["val/loss"] == ""  # a value that is not a number is left out


def test_table_of_curves_has_a_row_an_epoch(written: Any) -> None:
    rows = table(written[0] / "curves.csv")
    assert len(rows) == 23
    assert [(row["trial"], row["epoch"]) for row in rows[9:11]] == [("t0001", "1"), ("t0001", "2")]
    assert [float(row["val/accuracy"]) for row in rows[9:11]] == pytest.approx([0.825, 0.95])
    assert "seconds" not in rows[0]


def test_seconds_are_in_a_table_of_their_own(written: Any) -> None:
    rows = table(written[0] / "timings.csv")
    assert [row["training_seconds"] for row in rows[:6]] == ["6.0", "6.0", "6.0", "4.0", "0", "6.0"]
    assert [float(row["worker_seconds"]) for row in rows[:6]] == [9.0, 9.0, 9.0, 6.0, 0.0, 9.0]
    assert [float(row["gpu_seconds"]) for row in rows[:6]] == [4.5, 4.5, 4.5, 3.0, 0.0, 4.5]


def test_what_trials_used_is_with_their_seconds_and_in_the_summary_alone(written: Any, tmp_path: Path) -> None:
    assert "cpu_busy" not in table(written[0] / "timings.csv")[0]  # it was not measured
    assert "usage" not in json.loads((written[0] / "summary.json").read_text())["spent"]
    task, outcome = searched()
    for record in outcome.trials[:2]:
        share = 100.0 if record is outcome.trials[0] else 50.0
        used = {"system/process_cpu_utilization_percentage": share, "system/data_wait_percentage": share / 10}
        record.usage = dict.fromkeys(record.epochs, used)
    write_results(task, outcome, tmp_path)
    rows = table(tmp_path / "timings.csv")
    assert [(row["cpu_busy"], row["data_wait"]) for row in rows[:3]] == [("1.0", "0.1"), ("0.5", "0.05"), ("", "")]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["spent"]["usage"] == {"cpu_busy": 0.75, "data_wait": 0.075}
    for path in written[0].iterdir():
        if path.name not in ("timings.csv", "summary.json", "study.db"):
            assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_best_setting_and_controls_are_readable_as_parameters(written: Any) -> None:
    folder, outcome, chosen, _ = written
    assert chosen.id == "t0000"
    content = read_yaml(folder / "best.yaml")
    assert content == {
        "fingerprint": "f00d" * 16,
        "trial": "t0000",
        "best": outcome.trials[2].values,
        "controls": {"baseline": {WEIGHT: 0.0}, "low_rate": {WEIGHT: 0.0, LR: 1e-05}},
        "against": "baseline, with the recipe of params.yaml (the search varies none of it)",
        "parameters": content["parameters"],
    }
    assert content["parameters"]["train.epochs"] == searched()[0].params.train.epochs
    assert Params().with_values(content["controls"]["low_rate"], where="").train.lr == 1e-05
    Params().with_values(content["best"], where="")


def test_metrics_hold_the_best_and_every_control(written: Any) -> None:
    assert json.loads((written[0] / "metrics.json").read_text()) == {
        "val": {"best": pytest.approx(0.875), "baseline": 0.375, "low_rate": pytest.approx(0.475)},
        "epochs": 23,
    }


def test_plot_of_trials_follows_the_best_that_had_completed(written: Any) -> None:
    rows = table(written[0] / "plot_trials.csv")
    assert [row["trial"] for row in rows] == ["0", "1", "3"]  # the failed one has no epoch to show
    assert [float(row["objective"]) for row in rows] == pytest.approx([0.875, 0.95, 0.575])
    assert [float(row["best so far"]) for row in rows] == pytest.approx([0.875, 0.875, 0.875])


def test_plot_of_curves_shows_the_best_beside_the_first_control(written: Any) -> None:
    rows = table(written[0] / "plot_curves.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["best"]) for row in rows] == pytest.approx([0.625, 0.75, 0.875])
    assert [float(row["control"]) for row in rows] == pytest.approx([0.125, 0.25, 0.375])


def test_same_search_gives_the_same_tables_however_long_it_took(written: Any, tmp_path: Path) -> None:
    task, outcome = searched(seconds=77.0)
    write_results(task, outcome, tmp_path)
    tables = ("trials.csv", "curves.csv", "best.yaml", "metrics.json", "plot_trials.csv", "plot_curves.csv")
    for name in tables:
        assert (tmp_path / name).read_bytes() == (written[0] / name).read_bytes()
    assert (tmp_path / "timings.csv").read_bytes() != (written[0] / "timings.csv").read_bytes()


def test_nothing_is_written_when_no_trial_is_fit_to_be_the_best(tmp_path: Path) -> None:
    task, outcome = searched()
    strict = replace(task, params=task.params.with_values({"search.max_empty_share": 0.0}, where=""))
    with pytest.raises(UserError, match=r"at least 3% of the maps were empty"):
        write_results(strict, outcome, tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_summary_is_json_also_when_a_loss_is_no_number(written: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads((written[0] / "summary.json").read_text(), parse_constant=refuse)


def test_best_is_the_one_that_the_further_seeds_confirm(tmp_path: Path) -> None:
    task, outcome = searched()
    runs = {record.id: record for record in outcome.trials}
    runs["t0000-seed1001"].epochs[3]["val/accuracy"] = 0.2  # 0.875 was luck
    chosen, written = write_results(task, outcome, tmp_path)
    summary = written.content()
    assert chosen.id == "t0003"
    assert summary["best"]["val_accuracy"] == pytest.approx(0.575)
    assert summary["best"]["further_mean"] == pytest.approx(0.625)
    assert read_yaml(tmp_path / "best.yaml")["best"] == runs["t0003"].values


def same_budget(*, completed: bool = True) -> tuple[SearchTask, SearchOutcome]:
    """The search with a study of the control's own, over the learning rate, of one trial."""
    task, outcome = searched()
    dimensions = {**SPACE.dimensions, LR: {"type": "float", "low": 0.001, "high": 1.0}}
    task = replace(
        task,
        space=replace(SPACE, dimensions=dimensions),
        params=task.params.with_values({"search.compare": "same_budget"}, where=""),
    )
    for record in outcome.trials:
        if record.study == "search":
            record.values[LR] = 0.1
    tuned = TrialRecord("c0000", 0, {LR: 0.05, WEIGHT: 0.0}, study="control_study")
    tuned.epochs = {epoch: {"val/accuracy": 0.3 * epoch, "val/loss": 0.5} for epoch in range(1, 4)}
    tuned.state = COMPLETE if completed else PRUNED
    trials = [*outcome.trials, tuned]
    return task, replace(outcome, trials=trials, studies={**outcome.studies, "control_study": outcome.adapter})


def test_tuned_control_takes_the_place_of_the_one_that_was_not_tuned(tmp_path: Path) -> None:
    task, outcome = same_budget()
    chosen, written = write_results(task, outcome, tmp_path)
    summary = written.content()
    assert chosen.id == "t0000"  # though the control's trial was better
    content = read_yaml(tmp_path / "best.yaml")
    assert content["controls"] == {
        "baseline": {LR: 0.05, WEIGHT: 0.0},
        "low_rate": {WEIGHT: 0.0, LR: 1e-05},
    }
    assert content["against"] == summary["against"]
    assert summary["tuned_control"]["trial"] == "c0000"
    assert summary["trials"] == {COMPLETE: 2, PRUNED: 1, FAILED: 1}
    assert [row["trial"] for row in table(tmp_path / "plot_trials.csv")] == ["0", "1", "3"]


def test_control_whose_own_study_has_nothing_to_show_is_told_with_the_budget(tmp_path: Path) -> None:
    task, outcome = same_budget(completed=False)
    with pytest.raises(UserError, match=r"no trial of baseline's own study completed:\n.*\n  ended early by search\.b"):
        write_results(task, outcome, tmp_path)
