"""The baseline that needs no training, through the real commands in a clone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import save_file
from support.checkout import TINY, Checkout

from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS: dict[str, Any] = {
    "search.trials": 1,
    "search.max_concurrent_trials": 1,
    "search.confirm.top": 1,
    "search.confirm.seeds": 0,
    "evaluate.probe": True,
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A clone in which everything has run once, from weights of its own, after a plan without them was refused."""
    checkout = Checkout(tmp_path_factory.mktemp("clone"), TINY | SETTINGS)
    refused = checkout.search("check")
    assert refused.returncode
    assert "evaluate.probe: given true, but there are no pretrained weights" in refused.stdout + refused.stderr
    torch.manual_seed(0)
    config = ModelConfig("vit_tiny_patch16_224", TINY["model.kwargs"], "xavier", 0.0)
    network = build_model(config, num_classes=10, image_size=(12, 12), channels=1)
    save_file(network.state_dict(), checkout.root / "mine.safetensors")
    checkout.set({"model.pretrained": "mine.safetensors"})
    assert "frozen features of mine.safetensors" in checkout.search("check").stdout
    checkout.repro()
    return checkout


def test_the_probe_is_evaluated_logged_and_told_and_not_registered(done: Checkout) -> None:
    evaluation = json.loads((done.root / "results/evaluate/evaluation.json").read_text())
    probe = evaluation["probe"]
    assert probe["weights"] == "mine.safetensors"
    assert probe["accuracy"] > 0.5
    assert (done.root / "state/features" / probe["features_file"]).is_file()
    metrics = json.loads((done.root / "results/evaluate/metrics.json").read_text())
    assert metrics["test"]["probe"]["accuracy"] == probe["accuracy"]
    store = MlflowClient(f"sqlite:///{done.root}/mlflow.db")
    run = store.get_run(probe["mlflow_run"])
    assert run.data.tags["sar.kind"] == "probe"
    assert run.data.metrics["test/accuracy"] == pytest.approx(probe["accuracy"])
    assert run.data.params["C"] == str(probe["C"])
    (version,) = store.search_model_versions()
    assert version.run_id != run.info.run_id
    assert "probe (frozen features, no training)" in (done.root / "results/report/index.html").read_text()
    assert f"probe      test accuracy {probe['accuracy']:.4f}" in done.search("results").stdout


def test_a_second_evaluation_takes_its_features_from_the_first(done: Checkout) -> None:
    def features() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (done.root / "state/features").iterdir()}

    before, file = features(), done.root / "results/evaluate/evaluation.json"
    first = json.loads(file.read_text())["probe"]
    assert done.run("dvc", "repro", "--force", "--single-item", "evaluate").returncode == 0
    assert features() == before
    assert json.loads(file.read_text())["probe"] == first
