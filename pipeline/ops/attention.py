"""Similarity maps of chosen images, for pictures and for scoring attention against masks."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.data.batches import ImageBatches
from pipeline.data.splits import Ids
from pipeline.models.anatomy import describe_network
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


def one_of_each(ids: Ids, labels: NDArray[np.int64], count: int) -> list[int]:
    """`count` of the ids (or all), going round the classes, always the same ones for the same split."""
    by_class: dict[int, list[int]] = {}
    for index in ids:
        by_class.setdefault(int(labels[index]), []).append(int(index))
    queues: Sequence[list[int]] = [by_class[label] for label in sorted(by_class)]
    turns = range(max((len(queue) for queue in queues), default=0))
    return [queue[turn] for turn in turns for queue in queues if turn < len(queue)][:count]
