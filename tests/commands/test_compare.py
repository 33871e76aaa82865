"""`sar-search compare`: only the same test images are compared, as one family, from evaluations that are kept."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from copied import ROOT, set_parameters
from support.partial_results import filled

from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.evaluations import StoredEvaluation, read_evaluations, store_evaluation
from pipeline.artifacts.retraining import Retraining
from pipeline.cli import cli
from pipeline.commands.compare import describe_comparison
from pipeline.errors import UserError
from pipeline.score.comparison import compare_arms, compare_scores
from pipeline.score.family import holm, p_value
from pipeline.score.metrics.metric import METRICS
from pipeline.workspace import Workspace

IMAGES = 400


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return Workspace(tmp_path, tmp_path)


def table(accuracy: float, seed: int, seeds: int = 4) -> Any:
    return np.random.default_rng(seed).random((seeds, IMAGES)) < accuracy


def keep(
    workspace: Workspace,
    letter: str,
    gain: float,
    *,
    first_id: int = 0,
    seeds: int = 4,
    against: str = "plain",
    first_seed: int = 1,
    first_control_seed: int = 1,
    metric: dict[str, Any] | None = None,
    metric_hash: str = "",
    scores: dict[str, Any] | None = None,
) -> tuple[Any, Any]:
    best, control = table(0.7 + gain, ord(letter), seeds), table(0.7, 1, seeds)
    summary: dict[str, Any] = {"fingerprint": letter * 64, "method": f"method {letter}", "control": "baseline"}
    summary |= {"data_hash": "d", "metric_hash": metric_hash} | ({} if metric is None else {"metric": metric})
    store_evaluation(
        workspace.state,
        filled(Evaluation, **summary, look=3),
        filled(Retraining, setting="weight=0.1", against=against),
        ids=np.arange(IMAGES) + first_id,
        labels=np.zeros(IMAGES, dtype=np.int64),
        best=best,
        control=control,
        seeds={
            "best": [first_seed + index for index in range(seeds)],
            "baseline": [first_control_seed + index for index in range(seeds)],
        },
        scores=scores,
    )
    return best, control


def test_each_search_is_compared_with_its_control_and_corrected_for_their_number(workspace: Workspace) -> None:
    tables = [keep(workspace, letter, gain) for letter, gain in (("a", 0.2), ("b", 0.03), ("c", 0.0))]
    lines = list(describe_comparison(workspace))
    assert lines[0].split()[:3] == ["search", "seeds", "accuracy"]
    assert lines[5].split() == ["search", "method", "configuration"]
    assert "aaaaaaaa  method a  weight=0.1" in lines[6:9]
    assert all(len(line) <= 120 for line in lines[:10])
    rows = {line.split()[0]: line for line in lines[1:4]}
    assert set(rows) == {"aaaaaaaa", "bbbbbbbb", "cccccccc"}
    plain = [compare_arms(*pair) for pair in tables]
    corrected = holm([p_value(comparison) for comparison in plain])
    for letter, comparison, p in zip("abc", plain, corrected, strict=True):
        row = rows[letter * 8]
        assert f"{100 * comparison.best_mean:.2f}" in row
        assert f"baseline {100 * comparison.control_mean:.2f}" in row
        assert f"{100 * comparison.difference:+.2f}" in row
        assert f" {p:.3f} " in row
    wide = compare_arms(*tables[0], confidence=1 - 0.05 / 3)
    assert wide.low is not None
    assert wide.high is not None
    assert f"{100 * wide.low:+.2f} to {100 * wide.high:+.2f}" in rows["aaaaaaaa"]
    assert rows["aaaaaaaa"].rstrip().endswith("raised")
    assert "not enough data (finds " in rows["cccccccc"]
    assert any(
        "the same 400 test images; the latest of these evaluations was look 3 at them, so a chance result" in line
        for line in lines
    )
    assert any("family of 3 comparisons: p corrected by Holm" in line for line in lines)
    assert not any("controls differ" in line for line in lines)


def test_two_seeds_give_no_impossible_interval_and_say_what_to_raise(workspace: Workspace) -> None:
    # With one seed the best arm is right on all images, with the other one on none.
    apart = np.repeat([[True], [False]], IMAGES, axis=1)
    summary: dict[str, Any] = {
        "fingerprint": "a" * 64,
        "method": "m",
        "control": "baseline",
        "data_hash": "d",
        "look": 1,
    }
    store_evaluation(
        workspace.state,
        filled(Evaluation, **summary, metric_hash=""),
        filled(Retraining, setting="weight=0.1", against="plain"),
        ids=np.arange(IMAGES),
        labels=np.zeros(IMAGES, dtype=np.int64),
        best=apart,
        control=table(0.7, 1, 2),
        seeds={"best": [1, 2], "baseline": [1, 2]},
    )
    row = next(line for line in describe_comparison(workspace) if line.startswith("aaaaaaaa"))
    assert table(0.7, 1, 2).mean() == 0.68375
    assert "-68.38 to +31.63" in row
    assert row.endswith("not enough data (raise retrain.seeds)")


def test_what_a_control_is_is_said_where_it_is_not_the_same(workspace: Workspace) -> None:
    keep(workspace, "a", 0.0)
    keep(workspace, "b", 0.0, against="baseline, tuned")
    assert any("The controls differ: " in line and "bbbbbbbb: baseline, tuned" in line for line in describe_comparison(workspace))  # fmt: skip


def test_searches_can_be_chosen_and_compared_with_one_of_them(workspace: Workspace) -> None:
    best = {letter: keep(workspace, letter, gain)[0] for letter, gain in (("a", 0.2), ("b", 0.0), ("c", 0.1))}
    lines = list(describe_comparison(workspace, against="b"))
    rows = {line.split()[0]: line for line in lines[1:3]}
    assert set(rows) == {"aaaaaaaa", "cccccccc"}
    found = compare_arms(best["a"], best["b"])
    assert f"bbbbbbbb {100 * found.control_mean:.2f}" in rows["aaaaaaaa"]
    assert f"{100 * found.difference:+.2f}" in rows["aaaaaaaa"]
    only = list(describe_comparison(workspace, ["c"]))
    assert any("family of 1 comparison:" in line for line in only)
    assert not any("aaaaaaaa" in line for line in only)


@pytest.mark.parametrize(
    ("arguments", "shown"), [(["a", "c"], {"a", "c"}), (["--against", "b"], {"a", "c"}), ([], {"a", "b", "c"})]
)
def test_the_command_takes_searches_and_one_to_compare_with(
    workspace: Workspace, arguments: list[str], shown: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for letter in "abc":
        keep(workspace, letter, 0.1)
    (workspace.root / "dvc.yaml").touch()
    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(cli, ["compare", *arguments])
    assert done.exit_code == 0, done.exception
    assert {line[0] for line in done.stdout.splitlines() if line[:8] in {letter * 8 for letter in "abc"}} == shown


def test_arms_are_paired_where_their_seeds_are_the_same_ones(workspace: Workspace) -> None:
    tables = {
        letter: keep(workspace, letter, 0.1, first_seed=first, first_control_seed=control)
        for letter, first, control in (("a", 1, 1), ("b", 1, 7), ("c", 7, 7))
    }
    lines = list(describe_comparison(workspace))
    for letter, shared in (("a", True), ("b", False), ("c", True)):
        row = next(line for line in lines if line.startswith(letter * 8))
        found = compare_arms(*tables[letter], confidence=1 - 0.05 / 3, shared_seeds=shared)
        assert found.low is not None
        assert f" {100 * found.low:+.2f} to" in row
    assert any(line.startswith("bbbbbbbb: compared as arms of independent seeds") for line in lines)
    # Of two searches the seeds of both best arms count.
    lines = list(describe_comparison(workspace, against="a"))
    assert any(line.startswith("cccccccc: compared as arms of independent seeds") for line in lines)


def test_an_evaluation_whose_seeds_were_not_kept_is_compared_as_independent(workspace: Workspace) -> None:
    keep(workspace, "a", 0.1)
    path = workspace.state / "evaluations" / ("a" * 16) / "evaluation.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if "seeds" not in key}))
    (kept,) = read_evaluations(workspace.state)
    assert kept.seeds is kept.control_seeds is None
    assert any("aaaaaaaa: compared as arms of independent seeds" in line for line in describe_comparison(workspace))


def test_other_test_images_are_left_out_and_refused_where_asked_for(workspace: Workspace) -> None:
    keep(workspace, "a", 0.0, first_id=7)
    keep(workspace, "b", 0.0)
    lines = list(describe_comparison(workspace))
    assert lines[-1] == "left out: aaaaaaaa, tested on other images"
    with pytest.raises(UserError, match="bbbbbbbb and aaaaaaaa were tested on different images"):
        list(describe_comparison(workspace, ["a", "b"]))
    with pytest.raises(UserError, match="no other search on the test images of aaaaaaaa"):
        list(describe_comparison(workspace, against="a"))


def test_one_seed_has_no_interval_and_is_not_counted(workspace: Workspace) -> None:
    keep(workspace, "a", 0.1)
    keep(workspace, "b", 0.1, seeds=1)
    lines = list(describe_comparison(workspace))
    row = next(line for line in lines if line.startswith("bbbbbbbb"))
    assert row.rstrip().endswith("no interval")
    assert any("family of 1 comparison:" in line for line in lines)
    assert any(line.startswith("bbbbbbbb: with one seed in an arm there is no interval") for line in lines)


def test_what_cannot_be_compared_is_said(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="there is no evaluation in this checkout yet"):
        list(describe_comparison(workspace))
    keep(workspace, "a", 0.0)
    with pytest.raises(UserError, match=r"ff is the beginning of no search .* aaaaaaaa"):
        list(describe_comparison(workspace, ["ff"]))
    path = workspace.state / "evaluations" / ("a" * 16) / "correct.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read"):
        list(describe_comparison(workspace))


def test_an_evaluation_that_an_earlier_version_kept_can_be_read(workspace: Workspace) -> None:
    keep(workspace, "a", 0.0)
    path = workspace.state / "evaluations" / ("a" * 16) / "evaluation.json"
    content = json.loads(path.read_text())
    assert content.pop("look") == 3
    path.write_text(json.dumps(content | {"test_reads": 1}))
    (kept,) = read_evaluations(workspace.state)
    assert kept.look == 1
    assert any("was look 1 at them." in line for line in describe_comparison(workspace))


def test_the_newest_evaluation_of_a_search_is_kept_whole(workspace: Workspace) -> None:
    keep(workspace, "a", 0.0)
    best, control = keep(workspace, "a", 0.1, seeds=2)
    half = workspace.state / "evaluations" / ("b" * 16 + ".partial")
    half.mkdir()  # as a killed stage leaves it
    (kept,) = read_evaluations(workspace.state)
    assert kept.best.tolist() == best.tolist()
    assert kept.control_correct.tolist() == control.tolist()
    assert abs(kept.time - time.time()) < 60
    content = json.loads((workspace.state / "evaluations" / ("a" * 16) / "evaluation.json").read_text())
    assert content["fingerprint"] == "a" * 64
    by_another_metric = {"metric", "metric_hash", "scores", "control_scores"}
    tables = {"best", "control_correct", "folds"}
    assert set(StoredEvaluation.model_fields) - tables - by_another_metric == set(content)


def scored(letter: str, difference: float) -> dict[str, Any]:
    rng = np.random.default_rng(ord(letter))
    return {"best": 0.3 + difference + rng.normal(size=(4, IMAGES)), "control": 0.3 + rng.normal(size=(4, IMAGES))}


def test_another_metric_is_compared_by_its_pseudo_values(workspace: Workspace) -> None:
    words = METRICS["log_loss"].words.content()
    tables = {letter: scored(letter, gain) for letter, gain in (("a", -0.5), ("b", 0.0))}
    for letter, table_of in tables.items():
        keep(workspace, letter, 0.0, metric=words, scores=table_of)
    keep(workspace, "c", 0.2)  # by accuracy
    set_parameters(workspace.params, {"evaluate.metric": "log_loss"})
    lines = list(describe_comparison(workspace))
    assert lines[0].split()[2:4] == ["log", "loss"]
    rows = {line.split()[0]: line for line in lines[1:3]}
    for letter, table_of in tables.items():
        comparison = compare_scores(table_of["best"], table_of["control"])
        assert f"{comparison.best_mean:.4f}" in rows[letter * 8]
        assert f"{comparison.difference:+.4f}" in rows[letter * 8]
    assert rows["aaaaaaaa"].rstrip().endswith("lowered")
    assert any(line.startswith("Log loss, less of which is better, and its differences as they are,") for line in lines)
    assert any("left out: cccccccc, not evaluated by log_loss" in line for line in lines)
    with pytest.raises(UserError, match=r"cccccccc cannot be compared by log_loss \(evaluate\.metric\)"):
        list(describe_comparison(workspace, ["a", "c"]))
    # By accuracy all of them can be.
    set_parameters(workspace.params, {"evaluate.metric": "accuracy"})
    assert len([line for line in describe_comparison(workspace) if "method" in line[:40]]) == 4


def test_other_code_of_a_users_metric_is_another_metric(workspace: Workspace) -> None:
    words = METRICS["log_loss"].words.content() | {"name": "mine:score", "key": "metric", "label": "score"}
    for letter, code in (("a", "1" * 12), ("b", "2" * 12)):
        keep(workspace, letter, 0.0, metric=words, metric_hash=code, scores=scored(letter, 0.1))
        time.sleep(0.01)
    set_parameters(workspace.params, {"evaluate.metric": "mine:score"})
    lines = list(describe_comparison(workspace))
    assert any("left out: aaaaaaaa, not evaluated by mine:score" in line for line in lines)
    assert lines[1].startswith("bbbbbbbb")


def test_evaluations_in_folds_are_compared_fold_by_fold_and_with_the_same_folds_alone(workspace: Workspace) -> None:
    def keep_folded(letter: str, folds: Any) -> Any:
        best, control = table(0.8, ord(letter)), table(0.7, 1)
        summary = {"fingerprint": letter * 64, "method": "m", "control": "baseline", "data_hash": "d", "look": 1}
        store_evaluation(workspace.state, filled(Evaluation, **summary), filled(Retraining), ids=np.arange(IMAGES), labels=np.zeros(IMAGES, dtype=np.int64), best=best, control=control, seeds={"best": [1, 2, 3, 4], "baseline": [1, 2, 3, 4]}, folds=folds)  # fmt: skip
        return best, control

    folds = np.arange(IMAGES) % 5
    best, control = keep_folded("a", folds)
    keep_folded("b", folds)
    kept, _ = sorted(read_evaluations(workspace.state), key=lambda each: each.fingerprint)
    np.testing.assert_array_equal(kept.folds, folds)
    lines = list(describe_comparison(workspace, ["a", "b"]))
    alone = compare_arms(best, control, confidence=1 - 0.05 / 2, folds=folds)
    row, _ = [line for line in lines if line.startswith("aaaaaaaa")]
    assert f"{100 * (alone.low or 0):+.2f} to {100 * (alone.high or 0):+.2f}" in row
    keep(workspace, "c", 0.1)
    keep_folded("d", (np.arange(IMAGES) + 1) % 5)
    for other in ("c", "d"):
        with pytest.raises(UserError, match="were tested on different images"):
            list(describe_comparison(workspace, ["a", other]))
