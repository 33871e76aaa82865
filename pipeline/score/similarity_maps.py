"""Similarity maps of a network that has been trained, for pictures and for scoring attention against masks."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.data.batches.batches import ImageBatches
from pipeline.models.architecture import describe_network
from pipeline.models.tap import SimilarityTap


def last_block_maps(model: nn.Module, images: ImageBatches, *, batch_size: int = 256) -> NDArray[np.float32]:
    """Similarity maps of the last block, (N, A, H, W), of images in the order of their ids.

    Of the CLS query; in networks without that token, of the mean of the patches' queries.

    Raises:
        ValueError: a network whose last block has no such maps (see `SimilarityTap`).
    """
    model.eval()
    found = []
    with SimilarityTap(model, "last", describe_network(model).query) as tap, torch.inference_mode():
        for inputs, _ in images.in_order(batch_size):
            model(inputs)
            found.append(tap.maps()[:, 0].float().cpu().numpy())
    return np.concatenate(found)
