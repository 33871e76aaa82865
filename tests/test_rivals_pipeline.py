"""Claims about the rivals of SAR in the real line: a search and its retraining with several of them in one loss."""

import json
from pathlib import Path

import pytest
from support.checkout import TINY, Checkout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SPACE = """
parameters:
  regularizer.locality_guidance.weight: {type: float, low: 0.1, high: 1.0, log: true}
  regularizer.mask_supervision.heads: {type: categorical, choices: [each, mean]}
controls:
  baseline:
    regularizer.locality_guidance.weight: 0.0
    regularizer.mask_supervision.weight: 0.0
    regularizer.spatial_entropy.weight: 0.0
"""
SETTINGS = TINY | {
    "search.space": "search_spaces/rivals.yaml",
    "split.train_fraction": 0.2,
    "regularizer.locality_guidance.weight": 0.5,
    "regularizer.locality_guidance.guide_depth": 8,
    "regularizer.locality_guidance.guide_epochs": 2,
    "regularizer.mask_supervision.weight": 0.1,
    "regularizer.spatial_entropy.weight": 0.01,
    "train.augment": "light",
    "train.cutmix": 1.0,
    "train.mixup_prob": 0.5,
}


def test_search_and_retraining_train_a_guide_each_once_and_account_for_it(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "checkout", SETTINGS)
    (checkout.root / "search_spaces" / "rivals.yaml").write_text(SPACE)
    said = checkout.search("check")
    assert said.returncode == 0, said.stdout + said.stderr
    assert "guide     a ResNet-8, 2 epochs on the training images before the first trial" in said.stdout
    checkout.repro("retrain")
    kept = {path.name: json.loads((path / "checkpoint.json").read_text()) for path in (checkout.root / "state" / "guides").iterdir()}  # fmt: skip
    assert sorted(note["role"] for note in kept.values()) == ["train", "train+val"]
    summary = json.loads((checkout.root / "results" / "search" / "summary.json").read_text())
    retrain = json.loads((checkout.root / "results" / "retrain" / "retrain.json").read_text())
    by_role = {note["role"]: note["seconds"] for note in kept.values()}
    assert summary["spent"]["guide_hours"] == pytest.approx(by_role["train"] / 3600, abs=1e-4)
    assert summary["spent"]["hours"] > summary["spent"]["guide_hours"]
    assert retrain["guide_seconds"] == pytest.approx(by_role["train+val"], abs=0.1)
    assert retrain["method"] == "SAR and mask supervision and locality guidance"
    for name, guided in (("best-seed1", True), ("baseline-seed1", False)):
        sidecar = json.loads((checkout.root / "models" / name / "checkpoint.json").read_text())
        assert ("guide" in sidecar) == guided
        assert ("train/mask_supervision/value" in sidecar["curves"][-1]) == guided
        if guided:
            assert kept[sidecar["guide"]["spec"].removeprefix("guide/")]["role"] == "train+val"
    written = {path: path.stat().st_mtime_ns for path in (checkout.root / "state" / "guides").rglob("*")}
    for folder in ("search", "retrain"):
        done = checkout.run("dvc", "repro", "-s", "-f", folder)
        assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.stat().st_mtime_ns for path in (checkout.root / "state" / "guides").rglob("*")} == written


def test_network_without_three_blocks_is_refused_before_anything_trains(tmp_path: Path) -> None:
    few = {**SETTINGS, "model.kwargs": {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}}
    checkout = Checkout(tmp_path / "checkout", few)
    (checkout.root / "search_spaces" / "rivals.yaml").write_text(SPACE)
    done = checkout.search("check")
    assert done.returncode != 0
    assert "regularizer.locality_guidance: locality guidance needs 3 blocks" in done.stdout + done.stderr
