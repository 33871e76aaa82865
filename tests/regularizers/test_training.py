"""Claims about training with each method: its own value goes down against a control's that only watches it."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from pipeline.data.batches.batches import ImageBatches, standardisation
from pipeline.data.prepared.prepared import Prepared
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.regularizers.guide_network import GuideNetwork
from pipeline.regularizers.registry import METHODS, build_regularizers
from pipeline.train.loop import fit
from pipeline.train.train_config import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = TrainConfig(5, 64, 2e-3, 0.0, 1, 0.3, 0.0, None)

SETTINGS: dict[str, dict[str, Any]] = {
    "spatial_entropy": {"weight": 1.0},
    "total_variation": {"weight": 0.01},
    "head_disagreement": {"weight": 1.0},
    "relative_localisation": {"weight": 1.0},
    "guided_transfer": {"weight": 1.0, "source": "another network"},
    "mask_supervision": {"weight": 1.0},
    "locality_guidance": {"weight": 1.0},
}


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    kwargs = {"patch_size": 1, "embed_dim": 32, "depth": 3, "num_heads": 2}
    config = ModelConfig("vit_tiny_patch16_224", kwargs, "xavier", 0.0)
    return build_model(config, num_classes=10, image_size=(8, 8), channels=1)


def last_value(method: str, **options: Any) -> float:
    """The method's value on validation images after a short training run on digits."""
    digits = load_digits()
    images = (digits.images * 15.9).astype(np.uint8)[..., None]
    prepared = Prepared(images, digits.target.astype(np.int64), (images[..., 0] > 63).astype(np.uint8), {})
    scale = standardisation(images)
    train, val = (ImageBatches(prepared, ids, scale, torch.device("cpu")) for ids in (range(1000), range(1400, 1797)))
    guide = GuideNetwork(8, num_classes=10, channels=1)
    methods = build_regularizers({method: {"watch": True, **options}}, load_source=lambda _: network(7), guide=guide)
    *_, last = fit(network(0), train, RECIPE, val=val, regularizers=methods, seed=1)
    assert last.metrics["val/accuracy"] > 0.5
    return last.metrics[f"val/{method}/value"]


def test_every_method_is_among_those_that_are_tried() -> None:
    assert SETTINGS.keys() == METHODS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("method", SETTINGS)
def test_training_with_a_method_brings_its_value_down_against_the_controls(method: str) -> None:
    with_it, control = last_value(method, **SETTINGS[method]), last_value(method, **SETTINGS[method] | {"weight": 0.0})
    assert with_it < 0.8 * control if control > 0 else with_it < control - 0.1
