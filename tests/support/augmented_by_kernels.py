"""What `EpochAugmenter` makes on a device with kernels, on a CPU in Triton's interpreter (see triton_interpreter.py)."""

from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from pipeline.data.augment import augment


def augmented(
    images: Tensor, masks: Tensor, ids: list[int], kernels: bool, **kind: Any
) -> tuple[bool, Tensor, Tensor, Tensor]:
    """Whether the host computes; images (B, C, H, W), their masks, and zeros that are erased; `kind` of Augmentation."""
    with patch.object(augment, "has_kernels", lambda _: kernels):
        augmenter = augment.EpochAugmenter(
            augment.Augmentation(**kind), (0.4,) * images.shape[1], images=100, seed=3, epoch=5
        )
        keys, cpu = np.array(ids, dtype=np.int64), torch.device("cpu")
        erased = augmenter.erase(torch.zeros(images.shape), keys)
        moved = augmenter.moved_masks(masks.numpy(), keys, cpu)
        return augmenter.on_host(cpu), augmenter.change(images, keys), moved, erased
