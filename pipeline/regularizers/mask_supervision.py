"""Attention supervised by masks, the upper bound for methods that have to find the object without masks.

For each map S of N patches, and a mask of which patch j holds the object's area o_j (of its decided pixels):

    A    = softmax of S over the patches with any decided pixel
    m_j  = o_j / sum of o
    L    = mean over images and heads of KL(m || A) = sum over j of m_j (ln m_j - ln A_j)

Published: the cross-entropy of attention against the normalised annotation (Liu, Mao, Sha and Yuille,
Attention Correctness in Neural Image Captioning, AAAI 2017, arXiv 1605.09553). Here the entropy of m is
subtracted, which changes no gradient and makes 0 the least value. Their attention is that of a captioning
network with one head. Ours are the CLS query of a Vision Transformer, and the choice between `each` head and
the `mean` of the heads' attention.
"""

import math

import torch
from torch import Tensor

from pipeline.models.model_config import LayerSpec
from pipeline.regularizers.base import Features, Regularizer, RegularizerOutput, RequiredFeatures, at_least_float32

HEADS = ("each", "mean")


class MaskSupervision(Regularizer):
    """Loss that draws attention to the object, by the masks of the training images.

    It is the mean over all images, and layers add up. An image without a usable mask (one with object and
    background) counts as 0, so that the loss of an image does not depend on the others. Monitors: `value`,
    the divergence (nats), and `masked_share`, the share of images with a usable mask.

    Args:
        weight: Peak of the weight's schedule.
        layers: Blocks whose similarity maps are supervised.
        query: Query of these maps, "cls" or "mean".
        heads: "each" supervises every head by itself; "mean" supervises the mean of the heads' attention, so
            that single heads may attend elsewhere.
        schedule: One of `regularizer_config.SCHEDULES`.
        watch: Whether the monitors are computed on validation images at weight 0 too.

    Raises:
        ValueError: If `heads` is neither "each" nor "mean".
    """

    def __init__(
        self,
        *,
        weight: float,
        layers: LayerSpec = "last",
        query: str = "cls",
        heads: str = "each",
        schedule: str = "warmup_cosine",
        watch: bool = False,
    ) -> None:
        needs = RequiredFeatures(similarity=layers, query=query, masks=True)
        super().__init__(weight, needs, schedule=schedule, watch=watch)
        if heads not in HEADS:
            raise ValueError(f"heads: unknown choice {heads!r}; known: {', '.join(HEADS)}")
        self.heads = heads

    def forward(self, features: Features) -> RegularizerOutput:
        maps, masks = features.similarity, features.masks
        if maps is None or masks is None:
            raise ValueError("mask supervision needs similarity maps and masks, and they were not collected")
        return _means(*mask_divergence(maps, masks, heads=self.heads))

    def of_members(self, features: Features, members: int) -> RegularizerOutput | None:
        """Computes the losses of a stack at once."""
        if features.similarity is None or features.masks is None:
            return None
        found = mask_divergence(features.similarity, features.masks, heads=self.heads)
        return _means(*(each.unflatten(0, (members, -1)) for each in found))  # type: ignore[no-untyped-call]


def _means(divergence: Tensor, usable: Tensor) -> RegularizerOutput:
    """Returns the loss and the monitors.

    Args:
        divergence: Divergences, (..., B, L).
        usable: Which masks are usable, (..., B).
    """
    by_layer = divergence.mean(dim=-2)  # (..., L)
    monitors = {"value": by_layer.detach().mean(-1), "masked_share": usable.to(by_layer.dtype).mean(-1)}
    return RegularizerOutput(by_layer.sum(-1), monitors)


def mask_divergence(similarity: Tensor, masks: Tensor, *, heads: str = "each") -> tuple[Tensor, Tensor]:
    """Computes the KL divergence of attention from the object's area.

    An image whose mask has no object, or no background, has 0 without a gradient.

    Args:
        similarity: (B, L, A, H, W), before softmax, floating point. Half precision is computed in float32.
        masks: Share of the object in every pixel, (B, height, width), from 0 to 1; NaN where that is
            undecided.
        heads: "each" takes the mean over heads of their divergences, "mean" the divergence of their mean
            attention.

    Returns:
        Divergences in nats, (B, L), and whether each mask is usable, (B,) bool.
    """
    maps = at_least_float32(similarity).flatten(-2)  # (B, L, A, N)
    inside, outside = patch_areas(masks, (similarity.shape[-2], similarity.shape[-1]))
    usable = (inside.sum(-1) > 0) & (outside.sum(-1) > 0)
    seen = (inside + outside > 0) | ~usable[:, None]
    # Not -inf: a logit far below all others gets no attention either, and its logarithm stays finite.
    logits = maps.masked_fill(~seen[:, None, None], torch.finfo(maps.dtype).min / 2)
    attention = logits.log_softmax(-1)
    if heads == "mean":
        attention = attention.logsumexp(2, keepdim=True) - math.log(maps.shape[2])
    target = (inside / inside.sum(-1, keepdim=True)).where(usable[:, None], 0.0).to(maps.dtype)
    crossed = (target[:, None, None] * attention).sum(-1)  # (B, L, A), or (B, L, 1) for the mean attention
    return torch.xlogy(target, target).sum(-1)[:, None] - crossed.mean(-1), usable


def patch_areas(masks: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Counts the pixels of object, and of background, that each patch holds.

    A pixel belongs to the nearest patch: pixel i of h to patch floor((i + 0.5) H / h). h need not be a
    multiple of H.

    Args:
        masks: As of `mask_divergence`.
        grid: (H, W).

    Returns:
        Pixels of object and pixels of background, each (B, H W) float64.
    """
    rows, columns = (_membership(pixels, side, masks) for pixels, side in zip(masks.shape[1:], grid, strict=True))
    decided = ~masks.isnan()
    shares = masks.double().nan_to_num(nan=0.0)
    inside, outside = ((rows @ each @ columns.mT).flatten(1) for each in (shares, (1 - shares) * decided))
    return inside, outside


def _membership(pixels: int, side: int, like: Tensor) -> Tensor:
    """Returns a 0/1 matrix of the patches in which pixels lie, along one side: (side, pixels) float64.

    Args:
        pixels: Pixels of the side.
        side: Patches of the side.
        like: Tensor whose device is taken.
    """
    patch = ((2 * torch.arange(pixels, device=like.device) + 1) * side) // (2 * pixels)
    return (patch == torch.arange(side, device=like.device)[:, None]).double()
