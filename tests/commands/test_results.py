"""`sar-search results`: which look it was, and the ensembles beside the single networks."""

import json
from pathlib import Path
from typing import Any

import pytest
from copied import ROOT
from support.partial_results import filled_content

from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.search_result import SearchSummary
from pipeline.commands.results import describe_results
from pipeline.score.metrics.metric import MACRO_F1
from pipeline.workspace import Workspace

ARM = {"accuracy": 0.9738, "accuracy_sd": 0.0061, "seeds": [1, 2, 3]}
ENSEMBLES = {
    "best": {"accuracy": 0.9805, "seeds": 3},
    "control": {"accuracy": 0.9777, "seeds": 3},
    "difference": 0.0028,
    "low": -0.0061,
    "high": 0.0116,
    "confidence": 0.95,
}


def describe(root: Path, **evaluation: Any) -> list[str]:
    """The lines of results with this in evaluation.json."""
    content = {"verdict": "No difference shown.", "control": "baseline", "arms": {"best": ARM, "baseline": ARM}}
    files = {
        "evaluate/evaluation.json": json.dumps(filled_content(Evaluation, content | evaluation)),
        "register/registered.json": "{}",
        "search/summary.json": json.dumps(filled_content(SearchSummary, {"against": "baseline"})),
        "search/best.yaml": json.dumps(
            {"fingerprint": "f", "trial": "t0000", "best": {"train.lr": 0.01}, "controls": {"baseline": {}}}
        ),
    }
    for name, text in files.items():
        path = root / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return describe_results(Workspace(root, root)).splitlines()


def test_ensembles_stand_beside_the_single_networks(tmp_path: Path) -> None:
    lines = describe(tmp_path, look=1, ensembles=ENSEMBLES)
    assert lines[2].startswith(
        "best       test accuracy 0.9738 (standard deviation 0.0061 over 3 seeds), 0.9805 as one ensemble"
    )
    assert ", 0.9777 as one ensemble" in lines[3]
    assert lines[5].startswith(
        "These two ensembles (each the mean of its seeds' probabilities) differ by +0.3 points (95 % "
    )


def test_one_seed_has_no_row_of_ensembles(tmp_path: Path) -> None:
    assert not any("ensemble" in line for line in describe(tmp_path, look=1, ensembles=None))


@pytest.mark.parametrize("told", [{"look": 2}, {"test_reads": 2}], ids=["now", "earlier"])
def test_results_say_which_look_it_was(tmp_path: Path, told: dict[str, int]) -> None:
    assert "This is look 2 at these test images." in describe(tmp_path, **told)


def test_results_say_that_pictures_have_copies_in_other_roles(tmp_path: Path) -> None:
    assert not any("The pictures" in line for line in describe(tmp_path, look=1))
    (tmp_path / "data").mkdir()
    copies = {"duplicates": {"exact": {"test": 2, "val": 0, "different_labels": 0}, "near": None}}
    (tmp_path / "data/split_report.json").write_text(json.dumps(copies))
    said = " ".join(describe(tmp_path, look=1))
    assert "The pictures: 2 images of test or val with exact copies in another role. The report says more." in said


def test_another_metric_stands_under_accuracy(tmp_path: Path) -> None:
    arm = ARM | {"macro_f1": 0.81, "macro_f1_sd": 0.012}
    ensembles = ENSEMBLES | {
        "best": {"accuracy": 0.98, "macro_f1": 0.83},
        "control": {"accuracy": 0.9, "macro_f1": 0.8},
    }
    words = MACRO_F1.words.content()
    lines = describe(
        tmp_path, look=1, metric=words, arms={"best": arm, "baseline": arm}, ensembles=ensembles | {"metric": words}
    )
    assert lines[2].startswith("best       test accuracy 0.9738")
    assert lines[3] == (
        "           test macro-F1 0.8100 (standard deviation 0.0120 over 3 seeds), 0.8300 as one ensemble"
    )
    assert lines[5].endswith("0.8000 as one ensemble")


def test_folds_are_told_one_by_one_with_what_the_registered_network_is(tmp_path: Path) -> None:
    rows = [
        {"fold": 1, "difference": 0.012, "low": -0.01, "high": 0.034, "setting": "weight=0.1"},
        {"fold": 2, "difference": -0.003, "low": None, "high": None, "setting": "weight=0.4"},
    ]
    lines = describe(tmp_path, look=1, folds=rows, holdout=None)
    assert "fold 1     +1.2 points (interval -1.0 to +3.4 points)    weight=0.1" in lines
    assert "fold 2     -0.3 points    weight=0.4" in lines
    assert lines[2] == "best of each fold     test accuracy 0.9738 (standard deviation 0.0061 over 3 seeds)"
    assert lines[3] == "baseline of each fold test accuracy 0.9738 (standard deviation 0.0061 over 3 seeds)"
    assert "registered lr=0.01" in lines  # the one line with the configuration of the search on all images
    assert sum("lr=0.01" in line for line in lines) == 1
    assert "was trained on all images, so none is left to test it." in " ".join(lines)
    lines = describe(tmp_path, look=1, folds=rows, holdout={"images": 90, "accuracy": 0.9556})
    assert "its accuracy on the 90 images kept apart is 0.9556." in " ".join(lines)


def test_probe_stands_beside_the_arms_with_what_it_is(tmp_path: Path) -> None:
    beside = {"difference": 0.04, "low": 0.01, "high": 0.07, "confidence": 0.95}
    probe = {"accuracy": 0.93, "C": 1.0, "weights": "vit.pt", "converged": True, "best_minus_probe": beside}
    lines = describe(tmp_path, look=1, probe=probe)
    assert lines[4] == "probe      test accuracy 0.9300    frozen features, no training"
    said = " ".join(lines[6:10])
    assert "on frozen features of vit.pt: no network was trained, so there are no seeds" in said
    assert "+4.0 points of accuracy" in said
    assert not any("frozen features" in line for line in describe(tmp_path, look=1))
