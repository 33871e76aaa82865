"""SAR: the spatial entropy of similarity maps.

E. Peruzzo et al., Spatial Entropy as an Inductive Bias for Vision Transformers, arXiv 2206.04636; Machine Learning 113,
2024. Published are t = 0, the last block, 8 neighbours, the CLS query, a weight of 0.01 and the schedule warmup_cosine;
the released code throws the loss of a whole batch away where one map has nothing above its cut. Other thresholds,
several blocks, 4 neighbours, any grid, and the mean of the patches' queries are generalisations.

A similarity map is cut at its mean plus `threshold` standard deviations; what lies above falls apart into connected
components; the entropy of how the mass above the cut is shared among them is low when attention forms few blobs. With
S the map of N patches, m its mean, s its population standard deviation and t the threshold (t = 0 is the paper's):

    cut = m + t s      M = [S > cut]      B = relu(S - cut)      C_1 .. C_K = components of M
    P_k = sum_{j in C_k} B_j / sum_{j in M} B_j                  H = - sum_k P_k ln P_k   (nats)

The cut carries gradient, the components do not. With g_j = -(ln P_c + H) / sum(B) on a pixel of component c and 0
elsewhere, and G = sum_j g_j:

    dH/dS_j = g_j - G / N - t G (S_j - m) / (N s)

A map is *empty* when it has nothing above the cut, when it is nearly constant (s < 1e-4: entropy ignores scale, so its
gradient grows as 1 / s) or when it is not finite. Empty maps have no gradient and are left out of means; scoring them 0
would reward emptiness.
"""

from typing import Any

import torch
from scipy import ndimage
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.models.settings import LayerSpec
from pipeline.regularizers.base import Features, Needs, Penalty, Regularizer

NEARLY_CONSTANT = 1e-4
"""A map whose standard deviation is below this is empty."""


class SpatialEntropy(Regularizer):
    """The loss of SAR: by layer the mean over images and heads of the entropy of the maps that are not empty, summed.

    Layers add up, since a mean would tie the weight to their number. Monitors: `value`, the mean entropy over all maps
    that are not empty (nats), and `empty_share`, the share of empty maps.

    layers, query: the similarity maps that it looks at. threshold: cut of a map, in standard deviations above its mean.
    connectivity: 4 or 8 neighbours. It is watched at weight 0 too, so that a control's maps can be compared.
    """

    def __init__(
        self,
        *,
        weight: float,
        layers: LayerSpec = "last",
        query: str = "cls",
        threshold: float = 0.0,
        connectivity: int = 8,
        schedule: str = "warmup_cosine",
        watch: bool = True,
    ) -> None:
        super().__init__(weight, Needs(similarity=layers, query=query), schedule=schedule, watch=watch)
        self.threshold = threshold
        self.connectivity = connectivity

    def forward(self, features: Features) -> Penalty:
        maps = features.similarity
        if maps is None:
            raise ValueError("spatial entropy needs similarity maps, and none were collected")
        entropy, empty = entropy_and_empty(maps, threshold=self.threshold, connectivity=self.connectivity)
        filled = ~empty
        # (B, L, A) -> (L,); a layer whose maps are all empty adds 0. Empty maps have entropy 0 and so add nothing.
        by_layer = entropy.sum(dim=(0, 2)) / filled.sum(dim=(0, 2)).clamp(min=1)
        value = entropy.detach().sum() / filled.sum().clamp(min=1)
        return Penalty(by_layer.sum(), {"value": value, "empty_share": empty.float().mean()})


def spatial_entropy(similarity: Tensor, *, threshold: float = 0.0, connectivity: int = 8) -> Tensor:
    """Spatial entropy of each map, differentiable.

    similarity: (..., H, W), floating point; half precision is computed in float32. threshold: standard deviations above
    the mean at which a map is cut. connectivity: 4 or 8 neighbours.

    Returns entropies in nats, (...), float32 (float64 for float64). An empty map (see the module) gives 0 without a
    gradient; `entropy_and_empty` tells which those are, and a mean must leave them out.

    Raises:
        ValueError: fewer than two dimensions, no patch, a dtype that is not floating point, another connectivity.
    """
    return entropy_and_empty(similarity, threshold=threshold, connectivity=connectivity)[0]


def entropy_and_empty(similarity: Tensor, *, threshold: float = 0.0, connectivity: int = 8) -> tuple[Tensor, Tensor]:
    """As `spatial_entropy`, and beside it which maps are empty: (...) bool."""
    if similarity.ndim < 2 or 0 in similarity.shape[-2:]:
        raise ValueError(f"similarity maps must be (..., H, W) with at least one patch, not {tuple(similarity.shape)}")
    if not similarity.is_floating_point():
        raise ValueError(f"similarity maps must be floating point, not {similarity.dtype}")
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity must be 4 or 8, not {connectivity}")
    maps = similarity if similarity.dtype == torch.float64 else similarity.float()
    if maps.numel() == 0:
        return maps.sum(dim=(-2, -1)), torch.zeros(maps.shape[:-2], dtype=torch.bool, device=maps.device)
    entropy, empty = _SpatialEntropy.apply(maps.reshape(-1, *maps.shape[-2:]), float(threshold), connectivity)
    return entropy.view(maps.shape[:-2]), empty.view(maps.shape[:-2])


class _SpatialEntropy(torch.autograd.Function):
    """The equations of the module on maps (n, H, W); value and gradient are computed together, in closed form."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, threshold: float, connectivity: int) -> tuple[Tensor, Tensor]:
        # float64 whatever the maps are of: where little lies above the cut, the gradient is large, and so would be the
        # rounding of the cut in it; and which pixels are above the cut does not depend on how a sum was rounded.
        patches = maps.detach().flatten(1).double()
        mean = patches.mean(1, keepdim=True)
        centred = patches - mean
        deviation = centred.square().mean(1, keepdim=True).sqrt()
        excess = (centred - threshold * deviation).clamp(min=0)
        # Written so that NaN fails it; an infinity anywhere makes the mean, and so the deviation, not finite.
        usable = (deviation >= NEARLY_CONSTANT) & deviation.isfinite() & (excess.amax(1, keepdim=True) > 0)
        excess = excess.where(usable, 0.0)

        labels, owner = label_components((excess > 0).view_as(maps), connectivity)
        labels = labels.flatten()
        # Index 0 is the background: no mass, and owned by map 0 without consequence.
        mass = excess.new_zeros(len(owner)).index_add_(0, labels, excess.flatten())
        total = excess.sum(1)
        share = mass / total[owner]
        share[0] = 1.0  # so that the background adds - 1 ln 1 = 0
        log_share = share.clamp(min=torch.finfo(share.dtype).tiny).log()
        entropy = excess.new_zeros(len(patches)).index_add_(0, owner, -share * log_share)

        if ctx.needs_input_grad[0]:
            inside = excess > 0
            slope = (-(log_share[labels].view_as(excess) + entropy[:, None]) / total[:, None]).where(inside, 0.0)
            pull = slope.mean(1, keepdim=True)
            gradient = slope - pull - threshold * pull * centred / deviation
            ctx.save_for_backward(gradient.where(usable, 0.0).view_as(maps).to(maps.dtype))
        empty = ~usable[:, 0]
        ctx.mark_non_differentiable(empty)
        return entropy.to(maps.dtype), empty

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None, None], None, None


def label_components(mask: Tensor, connectivity: int) -> tuple[Tensor, Tensor]:
    """Connected components of masks (n, H, W), all maps in one call.

    Returns labels (n, H, W) int64, 0 for background and 1 .. K counted through all maps, and for each label 0 .. K the
    index of its map, (K + 1,) int64 (0 for the background). Labels are made on the CPU, wherever the mask lives.
    """
    # Outer planes of zeros keep the maps of the batch apart while they are labelled as one three-dimensional picture.
    structure = ndimage.generate_binary_structure(3, 3)
    if connectivity == 4:
        structure = ndimage.generate_binary_structure(3, 1)
    structure[[0, 2]] = False
    found, count = ndimage.label(mask.cpu().numpy(), structure=structure)
    labels = torch.from_numpy(found).to(mask.device, torch.int64)
    owner = labels.new_zeros(count + 1)
    maps = torch.arange(len(mask), device=mask.device).view(-1, 1, 1).expand_as(labels)
    owner[labels.flatten()] = maps.flatten()
    owner[0] = 0
    return labels, owner
