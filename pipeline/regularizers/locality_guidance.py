"""Locality guidance: a small convolutional network of the same images guides a transformer's tokens.

Li, Yu, Wang, Yuan, Song and Chen, Locality Guidance for Improving Vision Transformers on Tiny Datasets, ECCV
2022, arXiv 2207.10026; equations as in its released code (lkhl/tiny-transformers). F_b are the patch tokens
after block b, as a map of H x W. T_s is the map of the guide's stage s. P_s is a linear projection of each
token, trained with the network.

    L = sum over the pairs (b, s) of the mean over images, channels and places of ( up(P_s F_b) - up(T_s) )^2

up is bilinear, to the larger of the two grids in either direction. Published: three pairs, with the first
block, the middle one (6 of 0 .. 11) and the last; a constant weight of 2.5; a ResNet-56 on images of 32 x 32
pixels.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.architecture import Architecture, describe_network
from pipeline.regularizers.base import (
    Features,
    Frozen,
    Regularizer,
    RegularizerOutput,
    RequiredFeatures,
    at_least_float32,
)
from pipeline.regularizers.guide_network import CHANNELS, GuideNetwork, stage_grids


class LocalityGuidance(Regularizer):
    """The loss of locality guidance. Monitor: `value`, the unweighted loss.

    Args:
        weight: Peak of the weight's schedule.
        blocks: The three blocks that are guided by the three stages, in this order; None: the first, the
            middle and the last block.
        guide_depth: Number of layers of the guide, which is created and trained elsewhere.
        guide_epochs: Epochs of the guide's training.
        schedule: One of `regularizer_config.SCHEDULES`.
        watch: Whether the monitors are computed on validation images at weight 0 too.
        guide: The trained guide. It may be None if only the options are checked; `prepare` needs it.
    """

    def __init__(
        self,
        *,
        weight: float,
        blocks: tuple[int, ...] | None = None,
        guide_depth: int = 20,
        guide_epochs: int = 30,
        schedule: str = "warmup_cosine",
        watch: bool = False,
        guide: GuideNetwork | None = None,
    ) -> None:
        super().__init__(weight, RequiredFeatures(inputs=True), schedule=schedule, watch=watch)
        self.blocks = blocks
        self.projections: nn.ModuleList | None = None
        self._given = [guide]  # in a list, so that torch does not register it as a trained module
        self._guide: Frozen | None = None

    def prepare(self, model: nn.Module, *, inputs_shape: tuple[int, ...]) -> None:
        """Creates the projections with fresh weights, and freezes the guide.

        Raises:
            ValueError: If the network has not three blocks on one grid or not the named blocks, if the
                guide's last stage has a side of one place on these images, or if there is no guide.
        """
        try:
            architecture = describe_network(model)
        except ValueError as error:
            raise ValueError(f"locality guidance needs patch tokens of several blocks: {error}") from None
        guided = self._guided(architecture, type(model).__name__)
        last = stage_grids(*architecture.inputs[1:])[-1]
        if min(last) < 2:
            height, width = architecture.inputs[1:]
            raise ValueError(
                f"locality guidance needs larger images: with {height} x {width} pixels the last stage of the guide "
                f"gives a map of {last[0]} x {last[1]} positions, too few for local features; the images need at least "
                "5 x 5 pixels"
            )
        if (guide := self._given[0]) is None:
            raise ValueError("locality guidance needs a guide, and there is none")
        dtype = torch.promote_types(next(model.parameters()).dtype, torch.float32)
        self._guide = Frozen(guide.to(dtype), beside=model)
        self.projections = nn.ModuleList(nn.Conv2d(architecture.width, each, 1) for each in CHANNELS).to(dtype)
        self.needs = RequiredFeatures(blocks=guided, inputs=True)

    def forward(self, features: Features) -> RegularizerOutput:
        if self._guide is None or self.projections is None:
            raise RuntimeError("locality guidance has not been prepared for a network")
        if features.blocks is None or features.inputs is None:
            raise ValueError("locality guidance needs the tokens of blocks and images, and they were not collected")
        with torch.no_grad():
            maps = self._guide.network.maps(features.inputs)  # type: ignore[operator]
        loss = locality_guidance(features.blocks, maps, self.projections)
        return RegularizerOutput(loss, {"value": loss.detach()})

    def _guided(self, architecture: Architecture, name: str) -> tuple[int, ...]:
        """Returns the three guided blocks.

        Raises:
            ValueError: If the network has too few blocks, or the named blocks are not three.
        """
        stage, needed = architecture.stage, len(CHANNELS)
        spread = (stage.start, stage.start + len(stage) // 2, stage.stop - 1)
        if self.blocks is None and len(set(spread)) < needed:
            raise ValueError(
                f"locality guidance needs {needed} blocks whose tokens are the final grid, and {name} has {len(stage)}"
            )
        guided = architecture.resolve(spread if self.blocks is None else self.blocks)
        if len(guided) != needed:
            raise ValueError(
                f"blocks: given {list(guided)}; locality guidance needs {needed}, one for each stage of the guide"
            )
        return guided


def locality_guidance(tokens: Tensor, maps: Sequence[Tensor], projections: Iterable[nn.Module]) -> Tensor:
    """Computes the squared difference of projected tokens and a guide's maps, a scalar.

    No gradient flows into the maps.

    Args:
        tokens: (B, L, H, W, D), floating point. Half precision is computed in float32.
        maps: L maps (B, C, h, w), each with its own C and grid.
        projections: L modules (B, D, H, W) -> (B, C, H, W).
    """
    grids = at_least_float32(tokens).permute(1, 0, 4, 2, 3)  # (L, B, D, H, W)
    losses = []
    for ours, theirs, project in zip(grids, maps, projections, strict=True):
        made = project(ours)
        rows, columns = (max(sides) for sides in zip(made.shape[-2:], theirs.shape[-2:], strict=True))
        losses.append(F.mse_loss(_resized(made, (rows, columns)), _resized(theirs.detach(), (rows, columns))))
    return torch.stack(losses).sum()


def _resized(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    return maps if tuple(maps.shape[-2:]) == grid else F.interpolate(maps, grid, mode="bilinear", align_corners=False)
