"""The guide of locality guidance: a small ResNet whose features guide those of a Vision Transformer.

He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385, in its form for CIFAR: 6 n + 2
layers in three stages of 16, 32 and 64 channels. Each stage after the first halves the side of the maps, and
there is no pooling before the first.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = (16, 32, 64)
"""Channels of the three stages."""

MOST_PIXELS = 32
"""Largest side of an image in pixels. Larger sides are resized to it, as for the published guides."""


@dataclass(frozen=True)
class GuideConfig:
    """The parameters from which a guide is trained.

    Attributes:
        depth: Number of layers, 6 n + 2.
        epochs: Epochs of training.
        flip: Whether training mirrors images.
        seed: Seed of the weights and of training.
    """

    depth: int
    epochs: int
    flip: bool
    seed: int

    def spec(self, *, data_hash: str, split_hash: str, role: str) -> str:
        """Returns the name of a guide: `guide/` and a hash of everything that determines it.

        Args:
            data_hash: Hash of the prepared set.
            split_hash: Hash of the split.
            role: Role of the images on which the guide is trained.
        """
        decides = json.dumps([asdict(self), data_hash, split_hash, role], sort_keys=True)
        return f"guide/{hashlib.sha256(decides.encode()).hexdigest()[:16]}"


class GuideNetwork(nn.Module):
    """The guide's network, with fresh weights.

    Args:
        depth: Number of layers, 6 n + 2, at least 8.
        num_classes: Number of classes.
        channels: Channels of the images.

    Raises:
        ValueError: If the depth is not 6 n + 2 or below 8.
    """

    def __init__(self, depth: int, *, num_classes: int, channels: int) -> None:
        # Imported here, since importing timm takes seconds.
        from timm.models.resnet import BasicBlock, downsample_conv

        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"guide_depth: given {depth}; allowed: 8, 14, 20, ... (6 n + 2)")
        self.num_classes = num_classes
        width = CHANNELS[0]
        first = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU())
        stages = []
        for number, wanted in enumerate(CHANNELS):
            shrink = downsample_conv(width, wanted, 1, stride=2) if number else None
            blocks = [BasicBlock(width, wanted, stride=2 if number else 1, downsample=shrink)]
            blocks += [BasicBlock(wanted, wanted) for _ in range((depth - 2) // 6 - 1)]
            stages.append(nn.Sequential(*blocks))
            width = wanted
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(width, num_classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, images: Tensor) -> list[Tensor]:
        """Computes the output of each stage.

        Args:
            images: (B, C, height, width). Sides above `MOST_PIXELS` are resized to it.

        Returns:
            For each stage (B, channels of the stage, h, w).
        """
        sides = images.shape[-2:]
        fewer = [min(side, MOST_PIXELS) for side in sides]
        if fewer != list(sides):
            images = F.interpolate(images, fewer, mode="bilinear", align_corners=False)
        found = [self.stem(images)]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found[1:]

    def forward(self, images: Tensor) -> Tensor:
        """Computes logits (B, classes) from images (B, C, height, width)."""
        logits: Tensor = self.head(self.maps(images)[-1].mean((-2, -1)))
        return logits


def stage_grids(height: int, width: int) -> list[tuple[int, int]]:
    """Returns (h, w) of each stage's maps for images of this height and width in pixels."""
    rows, columns = min(height, MOST_PIXELS), min(width, MOST_PIXELS)
    grids = [(rows, columns)]
    for _ in CHANNELS[1:]:
        rows, columns = -(-rows // 2), -(-columns // 2)
        grids.append((rows, columns))
    return grids
