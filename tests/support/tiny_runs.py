"""Runs of a few steps: a small network, noise for images, SAR on all blocks."""

import numpy as np
import torch
from torch import nn

from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.prepared import Prepared
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.train_config import TrainConfig

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    epochs=2, batch_size=8, lr=1e-3, min_lr=0.0, warmup_epochs=0, weight_decay=0.1, label_smoothing=0.0, clip_grad=1.0
)


def network(depth: int = 2, *, drop_path: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    kwargs = {"patch_size": 2, "embed_dim": 16, "depth": depth, "num_heads": 2}
    config = ModelConfig("vit_tiny_patch16_224", kwargs, "xavier", drop_path)
    return build_model(config, num_classes=2, image_size=(12, 12), channels=1)


def images(count: int, device: torch.device = CPU, kind: type[ImageBatches] = ImageBatches) -> ImageBatches:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (count, 12, 12, 1), dtype=np.uint8)
    prepared = Prepared(pixels, np.arange(count, dtype=np.int64) % 2, None, {})
    return kind(prepared, range(count), Standardisation((0.4,), (0.3,)), device)


def sar(weight: float) -> dict[str, SpatialEntropy]:
    return {"spatial_entropy": SpatialEntropy(weight=weight, layers="all", schedule="constant", watch=True)}
