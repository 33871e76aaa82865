"""What several methods came to: one family over metric and attention, and sentences that say no more than it shows."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.comparisons import comparison
from support.partial_results import filled_content

from pipeline.artifacts.best_config import BestConfig
from pipeline.artifacts.evaluation import Evaluation, Location
from pipeline.artifacts.retraining import Retraining
from pipeline.artifacts.search_result import SearchSummary
from pipeline.compared.compared_results import (
    ComparedResults,
    describe_answer,
    describe_family,
    gather_results,
    share_control,
    warn_of_looks,
)
from pipeline.compared.comparison_table import describe_compared, result_rows
from pipeline.score.comparison import at_confidence, compare_arms, compare_scores, p_value
from pipeline.score.metrics.wording import ACCURACY_WORDS
from pipeline.state.looks import warn_of_look
from pipeline.workspace import Workspace

SEEDS, IMAGES = 5, 2000
FINGERPRINT = "f" * 64


def table(accuracy: float, seed: int) -> Any:
    """Right and wrong by seed and image, mostly the same images for every arm."""
    shared = np.random.default_rng(0).random((1, IMAGES))
    return 0.9 * shared + 0.1 * np.random.default_rng(seed).random((SEEDS, IMAGES)) < accuracy


def areas(mean: float, seed: int) -> Any:
    return mean + 0.05 * np.random.default_rng(seed).standard_normal((SEEDS, IMAGES))


def leave(folder: Path, name: str, gain: float, area: float | None, *, look: int = 1, **further: Any) -> Workspace:
    """What the stages of a method leave, as far as it is read. further: further fields of its evaluation."""
    own = Workspace(folder, folder, folder / name)
    compared = compare_arms(table(0.7 + gain, len(name)), table(0.7, 99))
    attention = None if area is None else compare_scores(areas(0.6 + area, len(name)), areas(0.6, 99))
    evaluation = {
        "fingerprint": FINGERPRINT,
        "comparison": asdict(compared),
        "attention_comparison": None if attention is None else asdict(attention),
        "control": "baseline",
        "metric": ACCURACY_WORDS.content(),
        "margin": 0.01,
        "look": look,
        "networks": "n",
        "test_images": IMAGES,
        "data_hash": "d",
        **further,
    }
    retrained = {"setting": "weight=0.1", "against": "baseline, with the recipe", "seconds": 3.0}
    summary = {"epochs": {"spent": 20}, "spent": {"hours": 0.5}}
    for kind, content in ((Evaluation, evaluation), (Retraining, retrained), (SearchSummary, summary)):
        (own.results / kind.MADE_BY).mkdir(parents=True)
        (own.results / kind.MADE_BY / kind.FILE).write_text(json.dumps(filled_content(kind, content)))
    return own


def gather(folder: Path, *methods: tuple[str, float, float | None], look: int = 1) -> ComparedResults:
    left = {name: leave(folder, name, gain, area, look=look) for name, gain, area in methods}
    return gather_results(left, confidence=0.95, configuration="as the recipe has it", cost=None)


def test_metric_and_attention_of_all_methods_are_one_family(tmp_path: Path) -> None:
    found = gather(tmp_path, ("a", 0.05, 0.1), ("bb", 0.0, 0.0), ("ccc", -0.05, 0.1))
    assert found.size == 6
    members = [each for method in found.methods for each in (method.member, method.attention) if each is not None]
    plain = [p_value(member.comparison) or 0.0 for member in members]
    # Holm by its definition: the k-th smallest times (6 - k + 1), never falling.
    order, highest = sorted(range(6), key=lambda place: plain[place]), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (6 - rank) * plain[place]))
        assert members[place].p_holm == pytest.approx(highest)
    for member in members:
        wide = at_confidence(member.comparison, 1 - 0.05 / 6)
        assert (member.comparison.low, member.comparison.high) == pytest.approx((wide.low, wide.high))
    json.dumps(found.content())


def test_the_answer_names_what_helps_what_harms_and_what_is_not_known(tmp_path: Path) -> None:
    found = gather(tmp_path, ("a", 0.05, 0.1), ("bb", 0.0, 0.0), ("ccc", -0.05, 0.1))
    answer = " ".join(describe_answer(found))
    assert "a raises accuracy (+" in answer
    assert "ccc lowers accuracy (-" in answer
    assert "bb differs from the control by less than 1 point" in answer
    assert "a and ccc attend to the object better (AUROC +.10, +.10)" in answer
    assert "bb is not shown to attend to the object better than the control." in answer
    assert warn_of_looks(found) == ""


def test_without_masks_nothing_is_said_of_attention_and_no_method_is_made_to_help(tmp_path: Path) -> None:
    found = gather(tmp_path, ("a", -0.05, None), ("bb", 0.0, None), look=2)
    answer = " ".join(describe_answer(found))
    assert found.size == 2
    assert "No method is shown to raise accuracy." in answer
    assert "AUROC" not in answer + " ".join(describe_family(found))
    assert "Look 2: " in warn_of_looks(found)


def test_two_seeds_give_no_impossible_interval_and_say_what_to_raise(tmp_path: Path) -> None:
    few: dict[str, Any] = {"freedom": 1.0, "seeds": (2, 2), "images_error": 0.01}
    of_accuracy, of_attention = comparison(0.0, 0.1, control=0.5, **few), comparison(0.005, 0.018, control=0.61, **few)
    further = {"comparison": asdict(of_accuracy), "attention_comparison": asdict(of_attention)}
    own = {name: leave(tmp_path, name, 0.0, 0.0, **further) for name in ("a", "bb")}
    found = gather_results(own, confidence=0.95, configuration="as the recipe has it", cost=None)
    answer = " ".join(describe_answer(found))
    assert (
        "For a and bb there is not enough data to tell. 2 seeds are too few for a useful interval of accuracy: raise "
        "retrain.seeds." in answer
    )
    assert "Neither a nor bb is shown to attend to the object better than the control." in answer
    assert "2 seeds are too few for a useful interval of AUROC of attention" in answer
    assert "+0.005 (-0.610 to +0.390)" in "\n".join(describe_compared(found, result_rows(found)))


@pytest.mark.parametrize(
    ("centre", "said"),
    [
        (0.85, "an AUROC of .85, more than the attention of any method and of the control."),
        (0.55, "an AUROC of .55, less than the attention of every method and of the control."),
        (0.65, "an AUROC of .65; only the attention of a has more."),
    ],
)
def test_a_gaussian_in_the_centre_is_beside_the_methods(tmp_path: Path, centre: float, said: str) -> None:
    baselines = {"centre": filled_content(Location, {"auroc": centre})}
    own = {name: leave(tmp_path, name, 0.0, area, baselines=baselines) for name, area in (("a", 0.1), ("bb", 0.0))}
    found = gather_results(own, confidence=0.95, configuration="as the recipe has it", cost=None)
    assert said in " ".join(describe_answer(found))
    *_, row = rows = result_rows(found)
    assert (row["method"], row["value"], row["auroc"]) == ("Gaussian in the centre", None, centre)
    lines = "\n".join(describe_compared(found, rows)).splitlines()
    assert sum("Gaussian in the centre  " in line for line in lines) == 1  # in the table of attention alone
    assert found.content()["centred_attention"] == centre
    assert all(len(line) <= 100 for line in lines)


def test_all_methods_of_a_comparison_share_its_look_and_earlier_ones_are_named(tmp_path: Path) -> None:
    own = {"a": leave(tmp_path, "a", 0.0, None, look=3, first_look=1), "bb": leave(tmp_path, "bb", 0.0, None, look=3)}
    found = gather_results(own, confidence=0.95, configuration="as the recipe has it", cost=None)
    assert warn_of_looks(found) == f"{warn_of_look(3)} First tested before: a at look 1."
    assert warn_of_looks(found).startswith("Look 3: other networks were tested on these images before.")


def test_the_probe_is_a_row_outside_of_the_family_and_the_control_is_told_beside_it(tmp_path: Path) -> None:
    own = {name: leave(tmp_path, name, 0.05, 0.1) for name in ("a", "bb")}
    path = own["bb"].results / "evaluate" / "evaluation.json"
    beside = {"difference": -0.03, "low": -0.05, "high": -0.01, "confidence": 0.95}
    probe = {"C": 0.1, "weights": "models:/backbone@champion", "converged": True, "accuracy": 0.73}
    probe |= {"best_minus_probe": beside | {"difference": 0.02}, "control_minus_probe": beside}
    path.write_text(json.dumps(filled_content(Evaluation, json.loads(path.read_text()) | {"probe": probe})))
    found = gather_results(own, confidence=0.95, configuration="as the recipe has it", cost=None)
    assert found.size == 4
    *_, row = rows = result_rows(found)
    assert (row["method"], row["setting"], row["value"], row["difference"]) == (
        "probe (frozen features)",
        "C=0.1",
        0.73,
        None,
    )
    said = "\n".join(describe_compared(found, rows))
    assert "73.00" in said
    assert "The control's seeds minus the probe: -3.0 points" in " ".join(said.split())
    assert found.content()["probe"]["value"] == 0.73


def test_the_shared_control_takes_the_place_of_a_searchs_own(tmp_path: Path) -> None:
    own = Workspace(tmp_path, tmp_path, tmp_path / "a")
    for number in (0, 1):
        folder = own.results / "search" / (f"folds/{number}" if number else ".")
        folder.mkdir(parents=True, exist_ok=True)
        controls = {"baseline": {"train.lr": 0.1}, "paper": {"train.lr": 0.2}}
        summary = filled_content(SearchSummary, {"against": "baseline", "confirmations": 1})
        (folder / "summary.json").write_text(json.dumps(summary))
        BestConfig(fingerprint="f", trial="t1", best={"train.lr": 0.3}, controls=controls).write(folder)
    share_control(own, {0: {"train.lr": 0.5}, 1: {"train.lr": 0.6}}, "baseline", "baseline, tuned")
    whole, fold = BestConfig.read(own.results / "search"), BestConfig.read(own.results / "search" / "folds" / "1")
    assert (whole.controls["baseline"], fold.controls["baseline"]) == ({"train.lr": 0.5}, {"train.lr": 0.6})
    after = json.loads((own.results / "search" / "summary.json").read_text())
    assert after == summary | {"against": "baseline, tuned"}
    assert whole.controls["paper"] == {"train.lr": 0.2}
    assert (whole.best, whole.against) == ({"train.lr": 0.3}, "baseline, tuned")
