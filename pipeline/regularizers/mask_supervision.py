"""Attention supervised by masks: the bound of what a method that has none can do for where a network looks.

For each map S of N patches, and a mask of which patch j holds the object's area o_j (of what is decided in it):

    A    = softmax of S over the patches of which anything is decided
    m_j  = o_j / sum of o
    L    = mean over images and heads of KL(m || A) = sum over j of m_j (ln m_j - ln A_j)

An attention that is told its regions by the cross-entropy against the normalised annotation is that of Liu, Mao, Sha
and Yuille, Attention Correctness in Neural Image Captioning, AAAI 2017 (arXiv 1605.09553); the entropy of m, which is
subtracted here, changes no gradient and makes 0 the least value. Theirs is the attention of a captioning network with
one head; that it is the CLS query's in a Vision Transformer, and the choice between `each` head and the `mean` of their
attention, is ours.
"""

import math

import torch
from torch import Tensor

from pipeline.models.model_config import LayerSpec
from pipeline.regularizers.base import Features, Regularizer, RegularizerOutput, RequiredFeatures, at_least_float32

HEADS = ("each", "mean")


class MaskSupervision(Regularizer):
    """Attention drawn to the object by the masks of the training images.

    By layer the mean over all images, of which those without a usable mask (one with object and background in it)
    count 0, so that what an image is told depends on no other; layers add up. Monitors: `value`, the divergence (nats),
    and `masked_share`, the share of images with a usable mask.

    layers, query: the similarity maps that are supervised. heads: "each" head by itself, or the "mean" of the heads'
    attention, of which single heads may then look elsewhere.

    Raises:
        ValueError: another choice of heads.
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
        divergence, usable = mask_divergence(maps, masks, heads=self.heads)
        by_layer = divergence.mean(dim=0)  # (L,)
        monitors = {"value": by_layer.detach().mean(), "masked_share": usable.to(by_layer.dtype).mean()}
        return RegularizerOutput(by_layer.sum(), monitors)


def mask_divergence(similarity: Tensor, masks: Tensor, *, heads: str = "each") -> tuple[Tensor, Tensor]:
    """How far attention is from the object, as KL divergence, (B, L) in nats; and which masks are usable, (B,) bool.

    similarity: (B, L, A, H, W), before softmax, floating point; half precision is computed in float32. masks: (B,
    height, width), of every pixel how much of it is object, 0 to 1, NaN where that is not decided. heads: "each" takes
    the mean over heads of their divergences, "mean" the divergence of their mean attention.

    An image whose mask has no object, or no background, has 0 without a gradient.
    """
    maps = at_least_float32(similarity).flatten(-2)  # (B, L, A, N)
    inside, outside = patch_areas(masks, (similarity.shape[-2], similarity.shape[-1]))
    usable = (inside.sum(-1) > 0) & (outside.sum(-1) > 0)
    seen = (inside + outside > 0) | ~usable[:, None]
    # Not infinite: what is far below every product has no attention either, and an exact 0 has no logarithm to lead on.
    logits = maps.masked_fill(~seen[:, None, None], torch.finfo(maps.dtype).min / 2)
    attention = logits.log_softmax(-1)
    if heads == "mean":
        attention = attention.logsumexp(2, keepdim=True) - math.log(maps.shape[2])
    target = (inside / inside.sum(-1, keepdim=True)).where(usable[:, None], 0.0).to(maps.dtype)
    crossed = (target[:, None, None] * attention).sum(-1)  # (B, L, A), or of a single mean head
    return torch.xlogy(target, target).sum(-1)[:, None] - crossed.mean(-1), usable


def patch_areas(masks: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How many pixels of object, and of background, each patch holds: twice (B, H W) float64.

    masks: as of `mask_divergence`. grid: (H, W). A pixel belongs to the nearest patch: pixel i of h to patch
    floor((i + 0.5) H / h), where h need not be a multiple of H.
    """
    rows, columns = (_membership(pixels, side, masks) for pixels, side in zip(masks.shape[1:], grid, strict=True))
    decided = ~masks.isnan()
    shares = masks.double().nan_to_num(nan=0.0)
    inside, outside = ((rows @ each @ columns.mT).flatten(1) for each in (shares, (1 - shares) * decided))
    return inside, outside


def _membership(pixels: int, side: int, like: Tensor) -> Tensor:
    """Which of a side's patches each pixel lies in, (side, pixels) float64."""
    patch = ((2 * torch.arange(pixels, device=like.device) + 1) * side) // (2 * pixels)
    return (patch == torch.arange(side, device=like.device)[:, None]).double()
