"""Similarity maps of a trained network, for figures and for scores of attention against masks."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.data.batches.batches import ImageBatches
from pipeline.models.architecture import describe_network
from pipeline.models.tap import SimilarityTap


def last_block_maps(model: nn.Module, images: ImageBatches, *, batch_size: int = 256) -> NDArray[np.float32]:
    """Returns the similarity maps of the last block, (N, A, H, W), in the order of the images' ids.

    The query is that of CLS; in networks without that token it is the mean of the patches' queries.

    Args:
        model: The network, which is set to evaluation mode.
        images: The images.
        batch_size: Images of a forward pass.

    Raises:
        ValueError: If the last block of the network has no such maps (see `SimilarityTap`).
    """
    model.eval()
    found = []
    with SimilarityTap(model, "last", describe_network(model).query) as tap, torch.inference_mode():
        for inputs, _ in images.in_order(batch_size):
            model(inputs)
            found.append(tap.maps()[:, 0].float().cpu().numpy())
    return np.concatenate(found)
