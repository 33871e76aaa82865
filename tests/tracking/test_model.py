"""The program that travels with a model: images in, named classes out, whatever else the process has loaded."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.model_program import images, load, write_network
from torch.nn.functional import interpolate

from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig, SpatialPriorConfig
from pipeline.tracking.registry.model import ImageClassifier

Write = Callable[..., Path]


def direct(network: torch.nn.Module, given: np.ndarray) -> torch.Tensor:
    """Probabilities (B, classes) by plain torch, with the mean and deviation of `write_checkpoint`."""
    with torch.inference_mode():
        pixels = torch.tensor(given).permute(0, 3, 1, 2) / 255
        if given.shape[1:3] != (12, 12):
            pixels = interpolate(pixels, (12, 12), mode="bilinear", antialias=given.shape[1] > 12)
        probabilities: torch.Tensor = network((pixels - 0.4) / 0.3).softmax(1)
    return probabilities


@pytest.fixture
def classifier(tiny_network: torch.nn.Module, write_checkpoint: Write, networks: Path) -> ImageClassifier:
    return load(write_checkpoint(tiny_network), networks)


@pytest.mark.parametrize("size", [(12, 12), (30, 20), (6, 8)])
def test_probabilities_are_those_of_the_network(
    size: tuple[int, int], classifier: ImageClassifier, tiny_network: torch.nn.Module
) -> None:
    given = images(5, *size)
    rows = classifier.predict(None, given)
    expected = direct(tiny_network, given)
    found = torch.tensor([list(each.values()) for each in rows["probabilities"]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert [list(each) for each in rows["probabilities"]] == [["zero", "one", "two"]] * 5
    assert list(rows["name"]) == [["zero", "one", "two"][k] for k in expected.argmax(1)]
    assert list(rows["probability"]) == [max(each.values()) for each in rows["probabilities"]]


def test_images_go_through_in_batches_with_the_same_answers(
    classifier: ImageClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    classifier.network.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    whole = classifier.predict(None, images())
    parts = classifier.predict(None, images(), {"batch_size": 2})
    assert sizes == [5, 2, 2, 1]
    np.testing.assert_allclose(parts["probability"], whole["probability"], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="at least 1"):
        classifier.predict(None, images(), {"batch_size": 0})


def test_one_channel_needs_no_axis(classifier: ImageClassifier) -> None:
    assert classifier.predict(None, images()[..., 0]).equals(classifier.predict(None, images()))


def test_no_images_give_no_rows(classifier: ImageClassifier) -> None:
    rows = classifier.predict(None, images(0))
    assert len(rows) == 0
    assert list(rows.columns) == ["name", "probability", "probabilities", "error"]


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (images().astype(np.float32), ValueError, "0 to 255, not float32"),
        (images(channels=3), ValueError, r"\(B, H, W, 1\), not \(5, 12, 12, 3\)"),
        (images()[0, :, :, 0], ValueError, r"a single image needs a batch axis"),
        (images().tolist(), TypeError, "a numpy array, not a list"),
    ],
)
def test_other_input_is_refused_with_what_to_give(
    given: Any, error: type[Exception], says: str, classifier: ImageClassifier
) -> None:
    with pytest.raises(error, match=says):
        classifier.predict(None, given)


def test_loading_leaves_the_random_stream_and_the_folder_alone(
    write_checkpoint: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    code = write_network(tmp_path / "code", shift=0.0)
    checkpoint = write_checkpoint(torch.nn.Linear(144, 3))
    before, stream = sorted(tmp_path.rglob("*")), torch.get_rng_state()
    load(checkpoint, code)
    assert sorted(tmp_path.rglob("*")) == before
    assert torch.equal(torch.get_rng_state(), stream)


def test_dropout_is_off(write_checkpoint: Write, tmp_path: Path) -> None:
    assert not load(write_checkpoint(torch.nn.Linear(144, 3)), write_network(tmp_path / "code", 0.0)).network.training


def test_weights_of_another_network_are_refused(
    tiny_network: torch.nn.Module, write_checkpoint: Write, networks: Path
) -> None:
    with pytest.raises(ValueError, match="do not belong"):
        load(write_checkpoint(tiny_network, num_classes=4, classes=list("abcd")), networks)


def test_a_checkpoint_of_a_later_format_is_refused(
    tiny_network: torch.nn.Module, write_checkpoint: Write, networks: Path
) -> None:
    with pytest.raises(ValueError, match="format 1, not 2"):
        load(write_checkpoint(tiny_network, format=2), networks)


def test_two_versions_with_different_code_live_in_one_process(write_checkpoint: Write, tmp_path: Path) -> None:
    weights = torch.nn.Linear(144, 3)
    torch.nn.init.zeros_(weights.weight)
    torch.nn.init.zeros_(weights.bias)
    checkpoint = write_checkpoint(weights)
    old = load(checkpoint, write_network(tmp_path / "old", shift=0.0))
    new = load(checkpoint, write_network(tmp_path / "new", shift=5.0))
    assert old.predict(None, images())["probability"].tolist() == pytest.approx([1 / 3] * 5)
    assert new.predict(None, images())["probability"].min() > 0.98
    assert old.predict(None, images())["probability"].tolist() == pytest.approx([1 / 3] * 5)


def test_a_copy_of_a_model_needs_no_other_copy(write_checkpoint: Write, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(torch.nn.Linear(144, 3))
    copies = [write_network(tmp_path / name, shift=50.0) for name in ("first", "second")]
    for copy in copies:
        build = (copy / "build.py").read_text().replace("from .shift import SHIFT\n", "")
        late = build.replace("        return super", "        from .shift import SHIFT\n        return super")
        (copy / "build.py").write_text(late)
    load(checkpoint, copies[0])
    shutil.rmtree(copies[0])
    assert load(checkpoint, copies[1]).predict(None, images())["probability"].min() > 0.99


def test_a_folder_whose_code_has_changed_is_read_anew(write_checkpoint: Write, tmp_path: Path) -> None:
    checkpoint, code = write_checkpoint(torch.nn.Linear(144, 3)), write_network(tmp_path / "code", shift=0.0)
    load(checkpoint, code)
    (code / "shift.py").write_text("SHIFT = 50.0\n")
    assert load(checkpoint, code).predict(None, images())["probability"].min() > 0.99


def test_code_that_fails_to_load_can_be_mended_and_loaded(write_checkpoint: Write, tmp_path: Path) -> None:
    checkpoint, code = write_checkpoint(torch.nn.Linear(144, 3)), write_network(tmp_path / "code", shift=0.0)
    (code / "__init__.py").write_text("raise ImportError('half copied')\n")
    for _ in range(2):
        with pytest.raises(ImportError, match="half copied"):
            load(checkpoint, code)
    assert not [name for name in sys.modules if name.startswith("registered_network") and not sys.modules[name]]


def test_the_sidecar_may_say_more_than_is_needed(
    tiny_network: torch.nn.Module, write_checkpoint: Write, networks: Path
) -> None:
    checkpoint = write_checkpoint(tiny_network, epoch=12, data_hash="9a")
    assert json.loads((checkpoint / "checkpoint.json").read_text())["epoch"] == 12
    assert len(load(checkpoint, networks).predict(None, images())) == 5


def test_a_checkpoint_from_before_the_last_block_and_the_prior_could_be_chosen_loads(
    tiny_network: torch.nn.Module, write_checkpoint: Write, networks: Path
) -> None:
    tiny = {"patch_size": 2, "embed_dim": 16, "depth": 1, "num_heads": 2}
    today = asdict(ModelConfig("vit_tiny_patch16_224", tiny, "xavier", 0.0))
    earlier = {key: today[key] for key in ("name", "kwargs", "init", "drop_path")}
    assert len(today) > len(earlier)
    now = load(write_checkpoint(tiny_network, "now", model=today), networks).predict(None, images())
    then = load(write_checkpoint(tiny_network, "then", model=earlier), networks).predict(None, images())
    assert then.equals(now)


def test_a_network_with_a_prior_and_no_last_skip_is_built_of_the_code_that_travels_with_it(
    write_checkpoint: Write, networks: Path, tmp_path: Path
) -> None:
    prior = SpatialPriorConfig(1, 4, True)
    config = ModelConfig(
        "vit_tiny_patch16_224",
        {"patch_size": 2, "embed_dim": 16, "depth": 1, "num_heads": 2},
        "xavier",
        0.0,
        "no_skip",
        prior,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_model(config, num_classes=3, image_size=(12, 12), channels=1).eval()
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    copied = tmp_path / "code"
    shutil.copytree(networks, copied)
    model = load(write_checkpoint(network, model=asdict(config)), copied)
    kind = type(model.network.blocks[0])
    assert kind.__name__ == "NoSkipBlock"
    assert kind.__module__.startswith("registered_network_")
    expected = direct(network, images())
    found = torch.tensor([list(row.values()) for row in model.predict(None, images())["probabilities"]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
