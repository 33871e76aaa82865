"""Claims about the probe of the evaluation: its features, what is kept of them, and what it writes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.partial_results import filled
from support.prepared_digits import write_digits
from support.small_networks import PVT, SMALL, SWIN, network, pictures
from torch import nn

from pipeline.artifacts.evaluation import Evaluation
from pipeline.assembly import TrainingData, build_run, load_data
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.inputs.resolved_weights import resolve_weights
from pipeline.models.architecture import pooled_features
from pipeline.models.model_config import Weights
from pipeline.provenance.weights_record import to_json
from pipeline.score.metrics.metric import ACCURACY, LOG_LOSS
from pipeline.stages.evaluate import probe as module
from pipeline.stages.evaluate.probe import evaluate_probe, frozen_features, probe_weights
from pipeline.stages.evaluate.scores import flat_metrics
from pipeline.workspace import Workspace

pytestmark = pytest.mark.usefixtures("one_thread")
SOURCE = "regularizer.guided_transfer.source"


def tokens_by_hand(model: Any, images: torch.Tensor) -> torch.Tensor:
    """What the final norm puts out, read where it is put out, one image after the other."""
    last = model.stages[-1] if hasattr(model, "stages") else model.norm
    rows = []
    for image in images:
        seen: list[torch.Tensor] = []
        handle = last.register_forward_hook(lambda part, given, out, seen=seen: seen.append(out))
        with torch.no_grad():
            model(image[None])
        handle.remove()
        rows.append(seen[0][0])
    return torch.stack(rows)


@pytest.mark.parametrize("cls", [True, False])
def test_features_of_a_vit_are_cls_token_and_mean_of_patches_image_by_image(cls: bool) -> None:
    kwargs = SMALL | ({} if cls else {"class_token": False, "global_pool": "avg", "fc_norm": False})
    model = network(kwargs=kwargs)
    tokens = tokens_by_hand(model, pictures())
    expected = [sum(image[cls:]) / 36 for image in tokens]
    if cls:
        expected = [torch.cat([image[0], mean]) for image, mean in zip(tokens, expected, strict=True)]
    torch.testing.assert_close(pooled_features(model, pictures()), torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_what_timm_norms_after_pooling_is_normed_here() -> None:
    model = network(kwargs=SMALL | {"global_pool": "avg", "class_token": False})
    with torch.no_grad():
        features = pooled_features(model, pictures())
        torch.testing.assert_close(model.head(features), model(pictures()), atol=1e-5, rtol=1e-4)
    assert not isinstance(model.fc_norm, nn.Identity)


@pytest.mark.parametrize(("name", "kwargs", "size"), [("swin_tiny_patch4_window7_224", SWIN, (24, 24)), ("pvt_v2_b0", PVT, (40, 24))])  # fmt: skip
def test_features_of_stages_are_the_mean_of_the_final_grid(name: str, kwargs: Any, size: tuple[int, int]) -> None:
    model = network(name, kwargs, image_size=size)
    images = pictures(*size)
    tokens = tokens_by_hand(model, images)
    rows = tokens.flatten(1, 2) if name.startswith("swin") else tokens.flatten(2).transpose(1, 2)
    expected = torch.stack([sum(image) / len(image) for image in rows])
    torch.testing.assert_close(pooled_features(model, images), expected, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), train_fraction=0.1)


@pytest.fixture
def case(digits: Path, tmp_path: Path) -> Any:
    """A workspace with weights of its own, the data, and parameters that begin from the weights."""
    workspace = Workspace(tmp_path, tmp_path)
    data = load_data(digits / "prepared", digits / "split.json", "cpu")
    plain = Params().with_values({"model.kwargs": SMALL, "base.device": "cpu", "evaluate.probe": True}, where="test")
    save_file(build_run(plain, data, seed=7).model.state_dict(), tmp_path / "mine.safetensors")
    params = plain.with_values({"model.pretrained": "mine.safetensors"}, where="test")
    weights = resolve_weights(workspace, [("params.yaml", params)])["mine.safetensors"]
    return workspace, params, data, weights


def test_features_are_those_of_each_image_alone_without_augmentation(case: Any) -> None:
    workspace, params, data, weights = case
    table, _ = frozen_features(workspace, params, data, weights)
    model = build_run(params, data, seed=3, weights={weights.spec: weights}).model.eval()
    ids, scale = np.sort(np.concatenate([data.split.train, data.split.val, data.split.test])), data.scale("train")
    assert len(table) == len(ids)
    for place in (0, 5, len(ids) - 1):
        pixels = np.asarray(data.prepared.images[ids[place] : ids[place] + 1], dtype=np.float32) / 255
        pixels = (pixels - np.float32(scale.mean)) / np.float32(scale.std)
        with torch.no_grad():
            alone = pooled_features(model, torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)))
        np.testing.assert_allclose(table[place], alone[0], atol=1e-5, rtol=1e-4)


def test_second_run_takes_the_features_from_where_they_are_kept(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, params, data, weights = case
    passes: list[int] = []
    plain = module.pooled_features
    monkeypatch.setattr(module, "pooled_features", lambda model, images: (passes.append(1), plain(model, images))[1])
    first, path = frozen_features(workspace, params, data, weights)
    assert passes
    assert path.parent == workspace.state / "features"
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    passes.clear()
    again, same = frozen_features(workspace, params, data, weights)
    assert (passes, same) == ([], path)
    np.testing.assert_array_equal(again, first)
    # Other weights, another network, other images: other features.
    fewer = TrainingData(data.prepared, replace(data.split, train=data.split.train[1:]), data.device)
    deeper = params.with_values({"model.drop_path": 0.1}, where="test")
    with pytest.raises(UserError, match="has changed since its hash was recorded"):
        frozen_features(workspace, params, data, Weights(weights.spec, weights.path, "0" * 64))
    for other in ((deeper, data, weights), (params, fewer, weights)):
        passes.clear()
        assert frozen_features(workspace, *other)[1] != path
        assert passes
    path.write_bytes(b"cut off")
    np.testing.assert_array_equal(frozen_features(workspace, params, data, weights)[0], first)


def test_source_of_guided_transfer_is_probed_where_the_network_has_no_weights(case: Any) -> None:
    workspace, params, data, weights = case
    of_source = params.with_values({"model.pretrained": None, SOURCE: weights.spec}, where="test")
    network_table, path = frozen_features(workspace, params, data, weights)
    table, other = frozen_features(workspace, of_source, data, weights)
    assert other != path
    np.testing.assert_allclose(table, network_table, atol=1e-5, rtol=1e-4)


def test_evaluation_has_the_probe_with_its_figures(case: Any) -> None:
    workspace, params, data, weights = case
    labels = np.asarray(data.prepared.labels[data.split.test])
    perfect = np.eye(10, dtype=np.float32)[labels]
    wrong = np.roll(perfect, 1, axis=1)
    found = evaluate_probe(workspace, params, data, weights, ACCURACY, [perfect, wrong], [wrong])
    assert found.weights == "mine.safetensors"
    assert found.sha256 == weights.sha256
    assert found.features == 32
    assert found.images == len(data.split.train) + len(data.split.val)
    assert found.C in [row["C"] for row in found.validation]
    assert found.accuracy > 0.5  # random features of digits tell most of them
    beside = found.best_minus_probe
    assert beside.difference == pytest.approx(0.5 - found.accuracy)
    assert beside.low < beside.difference < beside.high
    assert found.control_minus_probe.difference == pytest.approx(-found.accuracy)
    by_loss = evaluate_probe(workspace, params, data, weights, LOG_LOSS, [perfect], [perfect])
    assert by_loss.value == pytest.approx(by_loss.nll)
    assert min(by_loss.validation, key=lambda row: float(row["log_loss"]))["C"] == by_loss.C


def test_classes_weigh_as_in_training(case: Any) -> None:
    params = case[1]
    labels, classes = np.array([0, 0, 0, 1]), ("a", "b")

    def weighs(**train: Any) -> Any:
        changed = params.with_values({f"train.{name}": value for name, value in train.items()}, where="test")
        return module._class_weights(changed, labels, classes)

    assert weighs() is None
    for asked in ({"class_weights": "balanced"}, {"sampling": "balanced"}, {"class_weights": "balanced", "sampling": "balanced"}):  # fmt: skip
        np.testing.assert_allclose(weighs(**asked), [4 / 6, 2])


def test_metrics_hold_the_probe_where_there_is_one() -> None:
    arm = {"accuracy": 0.9, "ece": 0.1, "nll": 0.3, "location": None}
    summary: dict[str, Any] = {"arms": {"best": arm, "baseline": arm}, "control": "baseline"}
    assert "probe" not in flat_metrics(filled(Evaluation, **summary)).test
    probe = {"accuracy": 0.8, "ece": 0.2, "nll": 0.5, "C": 1.0}
    found = flat_metrics(filled(Evaluation, **summary, probe=probe)).test
    assert found["probe"] == {"accuracy": 0.8, "ece": 0.2, "nll": 0.5}


def test_weights_are_those_that_the_search_recorded(case: Any) -> None:
    workspace, params, _, weights = case
    found = {
        "fingerprint": "f",
        "trial": "t",
        "best": {},
        "controls": {},
        "weights": to_json({weights.spec: weights}),
    }
    (workspace.results / "search").mkdir(parents=True)
    best = workspace.results / "search" / "best.yaml"
    best.write_text(json.dumps(found))
    assert probe_weights(workspace, params) == weights
    assert probe_weights(workspace, params.with_values({"evaluate.probe": False}, where="test")) is None
    # Of the source too, whether or not these parameters have it guide.
    of_source = params.with_values({"model.pretrained": None, SOURCE: weights.spec}, where="test")
    assert probe_weights(workspace, of_source) == weights
    best.write_text(json.dumps(found | {"weights": {}}))
    with pytest.raises(UserError, match="the search had no such weights"):
        probe_weights(workspace, params)
    nothing = params.with_values({"model.pretrained": None}, where="test")
    with pytest.raises(UserError, match="no pretrained weights whose features it could read"):
        probe_weights(workspace, nothing)
