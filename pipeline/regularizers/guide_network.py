"""The small convolutional network whose features guide a Vision Transformer's: a ResNet for small images.

He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385, in its form for CIFAR: 6 n + 2 layers, three
stages of 16, 32 and 64 channels, each but the first at half the side of the one before, and no pooling before them.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = (16, 32, 64)
"""Of the stages."""

MOST_PIXELS = 32
"""Larger sides are resized to this one, as the images of the published guides are."""


@dataclass(frozen=True)
class GuideConfig:
    """How a guide is made. depth: its layers, 6 n + 2. epochs: of its training. flip: whether that mirrors images.
    seed: of its weights and its training.
    """

    depth: int
    epochs: int
    flip: bool
    seed: int

    def spec(self, *, data_hash: str, split_hash: str, role: str) -> str:
        """A name for the guide that is made so from the images of a role: guide/ and a hash of all that decides it."""
        decides = json.dumps([asdict(self), data_hash, split_hash, role], sort_keys=True)
        return f"guide/{hashlib.sha256(decides.encode()).hexdigest()[:16]}"


class GuideNetwork(nn.Module):
    """The network, with fresh weights. depth: as of `GuideConfig`. channels: of the images.

    Raises:
        ValueError: another depth.
    """

    def __init__(self, depth: int, *, num_classes: int, channels: int) -> None:
        # Here, since importing timm takes seconds.
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
        """What each stage makes of images (B, C, height, width): (B, channels of the stage, h, w)."""
        sides = images.shape[-2:]
        fewer = [min(side, MOST_PIXELS) for side in sides]
        if fewer != list(sides):
            images = F.interpolate(images, fewer, mode="bilinear", align_corners=False)
        found = [self.stem(images)]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found[1:]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.head(self.maps(images)[-1].mean((-2, -1)))
        return logits


def stage_grids(height: int, width: int) -> list[tuple[int, int]]:
    """(h, w) of each stage's maps of images of this size."""
    rows, columns = min(height, MOST_PIXELS), min(width, MOST_PIXELS)
    grids = [(rows, columns)]
    for _ in CHANNELS[1:]:
        rows, columns = -(-rows // 2), -(-columns // 2)
        grids.append((rows, columns))
    return grids
