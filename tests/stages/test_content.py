"""What the report's table of attention is made of; the page itself is tested in tests/figures."""

import json
from pathlib import Path

import numpy as np
import pytest
from copied import ROOT, set_parameters
from support.partial_results import filled, filled_content

from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.retraining import Retraining
from pipeline.artifacts.search_result import SearchSummary
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.score.classify import reliability_bins
from pipeline.score.maps import trivial_maps
from pipeline.score.metrics.metric import MACRO_F1
from pipeline.stages.evaluate.attention_scores import COMPARED, LOCATION
from pipeline.stages.report import __main__ as report
from pipeline.stages.report.content import ATTENTION_COLUMNS, BASELINES
from pipeline.stages.report.content import _attention_changes as attention_changes
from pipeline.stages.report.content import _attention_note as attention_note
from pipeline.stages.report.content import _attention_rows as attention_rows
from pipeline.stages.report.content import _merge_bins as merge_bins
from pipeline.stages.report.content import _score_rows as score_rows
from pipeline.stages.report.content import _seed_remarks as seed_remarks
from pipeline.workspace import Workspace


def scores(start: float) -> dict[str, float]:
    return {key: start + index / 100 for index, key in enumerate(LOCATION)}


def test_table_holds_both_arms_and_every_baseline() -> None:
    located = {"best": {"location": scores(0.1)}, "plain": {"location": scores(0.2)}}
    evaluation = filled(Evaluation, arms=located, baselines={name: scores(0.5) for name in BASELINES})
    arms = {"best": "best", "plain": "control: plain"}
    rows = attention_rows(evaluation, arms)
    assert rows is not None
    assert [row["row"] for row in rows] == ["best", "control: plain", *BASELINES.values()]
    for row, start in zip(rows, [0.1, 0.2, *[0.5] * len(BASELINES)], strict=True):
        assert (row["jaccard_best"], row["pointing_game"], row["energy"]) == pytest.approx((start, start + 0.05, start + 0.07))  # fmt: skip
    assert attention_rows(filled(Evaluation, arms=located), arms) is None


def test_ensembles_are_rows_under_the_arms_and_none_with_one_seed() -> None:
    row = {"seeds": 3, "accuracy": 0.9, "nll": 0.2, "ece": 0.01}
    found = {"best": row, "control": row | {"accuracy": 0.8}, "difference": 0.1, "low": 0.0, "high": 0.2}
    arms = {"best": "best", "plain": "control: plain"}
    single = {arm: {"seeds": [1, 2, 3], "accuracy": 0.7, "nll": 0.3, "ece": 0.02, "accuracy_sd": 0.1} for arm in arms}
    *both, _, _ = rows = score_rows(filled(Evaluation, arms=single, ensembles=found), arms)
    assert [(each["arm"], each["accuracy_sd"], each["seeds"]) for each in both] == [("best", 0.1, 3), ("control: plain", 0.1, 3)]  # fmt: skip
    rows = rows[2:]
    assert [(each["arm"], each["accuracy"]) for each in rows] == [("best, ensemble", 0.9), ("control: plain, ensemble", 0.8)]  # fmt: skip
    assert all(each["accuracy_sd"] is None and each["seeds"] == 3 for each in rows)
    assert score_rows(filled(Evaluation, arms=single), arms) == both


def test_changes_of_attention_stand_in_the_order_of_the_columns() -> None:
    found = {key: {"difference": index / 10, "low": None, "high": None} for index, key in enumerate(COMPARED) if index}
    changes = attention_changes(filled(Evaluation, attention_differences=dict(reversed(found.items()))))
    assert [change["difference"] for change in changes] == pytest.approx([None, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert list(ATTENTION_COLUMNS.values()) == list(COMPARED)
    assert attention_changes(filled(Evaluation)) == []


def test_note_says_what_the_masks_are_and_how_many_images_have_none() -> None:
    def note(left_out: int, **manifest: str) -> str | None:
        return attention_note(filled(Evaluation, arms={"best": {"left_out": left_out}}), manifest)

    boxes = "A mask here is the area of the picture's boxes; what else lies in one counts as object."
    assert note(0) is note(0, masks_from="trimaps") is None
    assert note(2, masks_from="masks") == "2 test images without a usable mask are left out."
    assert note(0, masks_from="boxes") == boxes
    assert note(2, masks_from="boxes") == f"{boxes} 2 test images without a usable mask are left out."


def test_every_baseline_has_a_name() -> None:
    assert set(BASELINES) == set(trivial_maps(1, 1, (2, 2), seed=0))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return Workspace(tmp_path, tmp_path)


def test_a_report_before_there_are_results_says_what_to_run(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="Run `dvc repro evaluate` first"):
        report.main(workspace)
    assert not workspace.results.exists()


def test_a_store_that_cannot_be_used_leaves_no_page(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workspace.results / "evaluate"
    folder.mkdir(parents=True)
    content = filled_content(Evaluation, {"fingerprint": "f1", "mlflow_run": "r1"})
    (folder / "evaluation.json").write_text(json.dumps(content))
    monkeypatch.setattr(report, "gather_report", lambda *_: None)
    monkeypatch.setattr(report, "render_report", lambda _: "<html>")
    (workspace.root / "taken").mkdir()
    set_parameters(workspace.params, {"tracking.uri": "sqlite:///taken"})
    with pytest.raises(UserError, match=r"tracking.uri: .*taken is a folder"):
        report.main(workspace)
    assert not (workspace.results / "report").exists()


def test_seeds_that_the_search_chose_and_what_was_to_be_expected_of_them_are_said() -> None:
    evaluation = filled(Evaluation, test_images=359, arms={"best": {"seeds": [1, 2, 3, 4, 5]}})
    asked = filled(Retraining, seeds={"asked": 5, "chosen": 5, "why": "retrain.seeds says so"})
    (expected,) = seed_remarks(Params(), filled(SearchSummary), evaluation, asked)
    assert expected == (
        "Forecast before the test, with 5 seeds: an interval of \N{PLUS-MINUS SIGN} 1.01 points, and a chance of 50 % to "
        "show no loss of more than 1 point where there is none (assumed, since no configuration has been confirmed yet)."
    )
    assert seed_remarks(Params(), filled(SearchSummary), evaluation, filled(Retraining)) == [expected]
    chosen = filled(Retraining, seeds={"asked": "auto", "chosen": 5, "why": "5 seeds each, since"})
    assert seed_remarks(Params(), filled(SearchSummary), evaluation, chosen) == [
        "Seeds: 5 seeds each, since (retrain.seeds: auto).",
        expected,
    ]


def test_probe_is_a_row_with_the_metric_where_another_one_is_asked_for() -> None:
    probe = {"accuracy": 0.9, "nll": 0.3, "ece": 0.1, "macro_f1": 0.8}
    row = {"arm": "probe (frozen features, no training)", "seeds": None, "accuracy_sd": None}
    row |= {"accuracy": 0.9, "nll": 0.3, "ece": 0.1}
    assert score_rows(filled(Evaluation), {}) == []
    assert score_rows(filled(Evaluation, probe=probe), {}) == [row]
    by_f1 = filled(Evaluation, metric=MACRO_F1.words.content(), probe=probe)
    assert score_rows(by_f1, {}, MACRO_F1.words) == [row | {"metric": 0.8, "metric_sd": None}]


def test_calibration_merges_ranges_of_confidence_with_few_images() -> None:
    confidence = np.array([0.55] * 3 + [0.75] * 12 + [0.95] * 20 + [1.0] * 2)
    right = np.array([0, 1, 1] + [1] * 9 + [0] * 3 + [1] * 22)
    bins = reliability_bins(np.stack([confidence, 1 - confidence], axis=1), 1 - right, bins=20)
    means, accuracy, count = merge_bins(bins, 10)
    assert count.tolist() == [15, 22]
    assert means == pytest.approx([(3 * 0.55 + 12 * 0.75) / 15, (20 * 0.95 + 2) / 22])
    assert accuracy == pytest.approx([11 / 15, 1.0])
    for least, counts in ((1, [3, 12, 20, 2]), (100, [37])):
        assert merge_bins(bins, least)[2].tolist() == counts
