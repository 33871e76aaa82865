"""Claims about what a search leaves behind: which setting is the best, and what the files say."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.parsing import read_yaml
from pipeline.tune.ledger import COMPLETE, FAILED, PRUNED, TrialRecord
from pipeline.tune.results import choose_best, write_results
from pipeline.tune.runner import Resources, SearchOutcome, SearchTask, empty_share
from pipeline.tune.space import SearchSpace
from pipeline.tune.study import Proposer

LR, WEIGHT = "train.lr", "regularizer.spatial_entropy.weight"
LAYERS = "regularizer.spatial_entropy.layers"


def trial(
    number: int | None,
    accuracy: float = 0.5,
    *,
    loss: float = 1.0,
    empty: float = 0.0,
    state: str | None = COMPLETE,
    reason: str | None = None,
) -> TrialRecord:
    name = "baseline" if number is None else f"t{number:04d}"
    last = {"val/accuracy": accuracy, "val/loss": loss, "val/spatial_entropy/empty_share": empty}
    return TrialRecord(
        name, number, {LR: 0.1}, epochs={1: {**last, "val/accuracy": 0.99}, 2: last}, state=state, reason=reason
    )


def best(*trials: TrialRecord, max_empty_share: float = 0.05) -> str:
    return choose_best(trials, max_empty_share=max_empty_share).id


def test_best_is_the_highest_accuracy_of_the_last_epoch() -> None:
    assert best(trial(0, 0.6), trial(1, 0.8), trial(2, 0.7)) == "t0001"
    early = trial(3, 0.5)
    early.epochs[1]["val/accuracy"] = 1.0
    assert best(trial(0, 0.6), early) == "t0000"


def test_tie_is_broken_by_the_lower_loss_and_then_by_the_earlier_trial() -> None:
    assert best(trial(0, 0.8, loss=0.9), trial(1, 0.8, loss=0.7), trial(2, 0.8, loss=0.8)) == "t0001"
    assert best(trial(0, 0.8, loss=0.7), trial(1, 0.8, loss=0.7)) == "t0000"
    assert best(trial(1, 0.8, loss=0.7), trial(0, 0.8, loss=0.7)) == "t0000"


def test_best_is_no_control_and_has_run_in_full() -> None:
    ended_early = [trial(1, 0.9, state=PRUNED), trial(2, 0.9, state=FAILED), trial(3, 0.9, state=None)]
    assert best(trial(None, 0.9), *ended_early, trial(4, 0.1)) == "t0004"


def test_setting_that_leaves_too_many_maps_empty_is_not_chosen() -> None:
    assert best(trial(0, 0.9, empty=0.06), trial(1, 0.5, empty=0.05)) == "t0001"
    assert best(trial(0, 0.9, empty=0.06), trial(1, 0.5), max_empty_share=0.1) == "t0000"
    assert best(trial(0, 0.9, empty=1.0), max_empty_share=1.0) == "t0000"


def test_share_of_empty_maps_is_the_largest_of_any_method_at_the_last_epoch() -> None:
    record = trial(0, empty=0.25)
    record.epochs[1]["val/spatial_entropy/empty_share"] = 0.9
    assert empty_share(record) == 0.25
    record.epochs[2]["val/other/empty_share"] = 0.5
    assert empty_share(record) == 0.5
    assert empty_share(TrialRecord("t0000", 0, {}, epochs={1: {"val/accuracy": 0.5}})) == 0.0


def test_no_allowed_setting_is_told_with_the_smallest_share() -> None:
    with pytest.raises(UserError, match=r"at least 20% of its maps empty, more than search\.max_empty_share \(5%\)"):
        choose_best([trial(0, empty=0.4), trial(1, empty=0.2), trial(None)], max_empty_share=0.05)


def test_no_completed_trial_is_told_with_the_reasons_of_the_failures() -> None:
    failed = [trial(0, state=FAILED, reason="diverged: in epoch 3"), trial(1, state=FAILED, reason="OutOfMemoryError")]
    with pytest.raises(UserError) as told:
        choose_best([trial(None), *failed, trial(2, state=PRUNED)], max_empty_share=0.05)
    assert str(told.value).splitlines() == [
        "no trial of the search completed:",
        "  OutOfMemoryError",
        "  diverged: in epoch 3",
        "Change params.yaml or the space and run again.",
    ]


def test_no_completed_trial_and_no_failure_is_told_as_well() -> None:
    with pytest.raises(UserError, match="none failed; all were stopped early"):
        choose_best([trial(0, state=PRUNED)], max_empty_share=0.05)


def test_tie_is_not_won_by_a_loss_that_is_no_number() -> None:
    assert best(trial(0, 0.8, loss=math.nan), trial(1, 0.8, loss=0.7)) == "t0001"


SPACE = SearchSpace(
    "space.yaml",
    {
        WEIGHT: {"type": "float", "low": 0.003, "high": 1.0, "log": True},
        LAYERS: {"type": "categorical", "choices": ["last", [0, 1]]},
    },
    {"baseline": {WEIGHT: 0.0}, "low_rate": {WEIGHT: 0.0, LR: 1e-05}},
)


def searched(*, seconds: float = 2.0) -> tuple[SearchTask, SearchOutcome]:
    """A search of three epochs: two controls, a stopped trial, a failed one, and two that ran in full."""
    params = Params().with_values({"train.epochs": 3}, where="")
    proposer = Proposer(SPACE, sampler="random", startup_trials=1, seed=0, name="abc")
    records = [TrialRecord(name, None, dict(values), state=COMPLETE) for name, values in SPACE.controls.items()]
    for state in (COMPLETE, PRUNED, FAILED, COMPLETE):
        number, values = proposer.propose()
        records.append(TrialRecord(f"t{number:04d}", number, values, state=state))
    records[4].reason = "diverged, in epoch 1"
    lengths = {"baseline": 3, "low_rate": 3, "t0000": 3, "t0001": 2, "t0002": 0, "t0003": 3}
    levels = {"baseline": 0.0, "low_rate": 0.1, "t0000": 0.5, "t0001": 0.7, "t0002": 0.0, "t0003": 0.2}
    for record in records:
        for epoch in range(1, lengths[record.id] + 1):
            record.epochs[epoch] = {
                "val/accuracy": levels[record.id] + 0.125 * epoch,
                "val/loss": 1.0 / epoch if record.id != "low_rate" else math.nan,
                "val/spatial_entropy/empty_share": 0.01 * epoch,
                "seconds": seconds,
            }
        if record.number is not None:
            proposer.finish(record.number, record.state or "", record.metric("val/accuracy"), constraints={})
    nowhere = Path("nowhere")
    task = SearchTask(params, SPACE, "f00d" * 16, nowhere, nowhere, nowhere, Resources(1, 0, 1, 1, 0))
    return task, SearchOutcome(records, proposer)


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
    figures = {"metrics.json", "summary.json", "plot_curves.csv", "plot_trials.csv"}
    assert names == {"trials.csv", "curves.csv", "timings.csv", "best.yaml", "study.db"} | figures


def test_table_of_trials_has_a_row_a_trial_with_its_setting_and_end(written: Any) -> None:
    folder, outcome, _, _ = written
    rows = table(folder / "trials.csv")
    assert [row["trial"] for row in rows] == ["baseline", "low_rate", "t0000", "t0001", "t0002", "t0003"]
    assert [row["role"] for row in rows] == ["control"] * 2 + ["trial"] * 4
    assert [row["state"] for row in rows] == [COMPLETE] * 3 + [PRUNED, FAILED, COMPLETE]
    assert [row["epochs"] for row in rows] == ["3", "3", "3", "2", "0", "3"]
    assert [float(row["val/accuracy"] or "nan") for row in rows] == pytest.approx(
        [0.375, 0.475, 0.875, 0.95, math.nan, 0.575], nan_ok=True
    )
    assert [row["empty_share"] for row in rows] == ["0.03", "0.03", "0.03", "0.02", "", "0.03"]
    assert [row["reason"] for row in rows] == ["", "", "", "", "diverged, in epoch 1", ""]
    assert [float(row[WEIGHT]) for row in rows] == [record.values[WEIGHT] for record in outcome.trials]
    assert rows[0][LAYERS] == "last"  # what params.yaml says where a control says nothing
    assert [row[LR] for row in rows] == ["", "1e-05", "", "", "", ""]
    assert rows[1]["val/loss"] == ""  # a value that is not a number is left out


def test_table_of_curves_has_a_row_an_epoch(written: Any) -> None:
    rows = table(written[0] / "curves.csv")
    assert len(rows) == 14
    assert [(row["trial"], row["epoch"]) for row in rows[9:11]] == [("t0001", "1"), ("t0001", "2")]
    assert [float(row["val/accuracy"]) for row in rows[9:11]] == pytest.approx([0.825, 0.95])
    assert "seconds" not in rows[0]


def test_seconds_are_in_a_table_of_their_own(written: Any) -> None:
    rows = table(written[0] / "timings.csv")
    assert [row["seconds"] for row in rows] == ["6.0", "6.0", "6.0", "4.0", "0", "6.0"]


def test_best_setting_and_controls_are_readable_as_parameters(written: Any) -> None:
    folder, outcome, chosen, _ = written
    assert chosen.id == "t0000"
    content = read_yaml(folder / "best.yaml")
    assert content == {
        "fingerprint": "f00d" * 16,
        "trial": "t0000",
        "best": outcome.trials[2].values,
        "controls": {"baseline": {WEIGHT: 0.0}, "low_rate": {WEIGHT: 0.0, LR: 1e-05}},
    }
    assert Params().with_values(content["controls"]["low_rate"], where="").train.lr == 1e-05
    Params().with_values(content["best"], where="")


def test_summary_counts_trials_and_epochs(written: Any) -> None:
    folder, _, _, summary = written
    assert json.loads((folder / "summary.json").read_text())["trials"] == summary["trials"]
    assert summary["fingerprint"] == "f00d" * 16
    assert summary["trials"] == {COMPLETE: 2, PRUNED: 1, FAILED: 1}
    assert summary["epochs"] == {"spent": 14, "saved_by_stopping": 1}
    assert summary["trial_seconds"] == 28.0
    assert summary["best"] == {"trial": "t0000", "val_accuracy": pytest.approx(0.875), "val_loss": pytest.approx(1 / 3)}
    assert summary["controls"]["baseline"] == {"val_accuracy": 0.375, "val_loss": pytest.approx(1 / 3)}
    assert summary["importances"] == {}


def test_metrics_hold_the_best_and_every_control(written: Any) -> None:
    assert json.loads((written[0] / "metrics.json").read_text()) == {
        "val": {"best": pytest.approx(0.875), "baseline": 0.375, "low_rate": pytest.approx(0.475)},
        "epochs": 14,
    }


def test_plot_of_trials_follows_the_best_that_had_completed(written: Any) -> None:
    rows = table(written[0] / "plot_trials.csv")
    assert [row["trial"] for row in rows] == ["0", "1", "3"]  # the failed one has no epoch to show
    assert [float(row["accuracy"]) for row in rows] == pytest.approx([0.875, 0.95, 0.575])
    assert [float(row["best so far"]) for row in rows] == pytest.approx([0.875, 0.875, 0.875])


def test_plot_of_curves_shows_the_best_beside_the_first_control(written: Any) -> None:
    rows = table(written[0] / "plot_curves.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["best"]) for row in rows] == pytest.approx([0.625, 0.75, 0.875])
    assert [float(row["control"]) for row in rows] == pytest.approx([0.125, 0.25, 0.375])


def test_same_search_gives_the_same_tables_however_long_it_took(written: Any, tmp_path: Path) -> None:
    task, outcome = searched(seconds=77.0)
    write_results(task, outcome, tmp_path)
    for name in ("trials.csv", "curves.csv", "best.yaml", "metrics.json", "plot_trials.csv", "plot_curves.csv"):
        assert (tmp_path / name).read_bytes() == (written[0] / name).read_bytes()
    assert (tmp_path / "timings.csv").read_bytes() != (written[0] / "timings.csv").read_bytes()


def test_nothing_is_written_when_no_trial_is_fit_to_be_the_best(tmp_path: Path) -> None:
    task, outcome = searched()
    strict = replace(task, params=task.params.with_values({"search.max_empty_share": 0.0}, where=""))
    with pytest.raises(UserError, match=r"at least 3% of its maps empty"):
        write_results(strict, outcome, tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_summary_is_json_also_when_a_loss_is_no_number(written: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads((written[0] / "summary.json").read_text(), parse_constant=refuse)
